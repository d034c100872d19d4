"""Rating: people compare samples of two runs without knowing whose they are."""
