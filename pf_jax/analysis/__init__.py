"""Analysis of a trained model: samples, the gap between its modes, pictures."""
