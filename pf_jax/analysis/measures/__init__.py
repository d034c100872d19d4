"""Measures of a trained generator, each beside real data that is scored the same way."""
