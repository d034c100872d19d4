"""What looks at a trained model: samples, the gap between its modes, pictures."""
