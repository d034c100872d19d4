"""Timing, and the peers it is compared with."""
