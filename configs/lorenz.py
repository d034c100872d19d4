"""Lorenz-63 with one coordinate observed: x alone, with 5 % noise.

The state cannot be read off one number, so the model has to keep it. The series is
computed, no file is read. `configs/lorenz_full.py` observes all three coordinates.
"""

from ml_collections import config_dict

from configs import default


def get_config() -> config_dict.ConfigDict:
    """One GRU of 64 units and a Gaussian, windows of 100 steps (0.9 Lyapunov times)."""
    config = default.get_config()
    config.data.name = "lorenz63"
    config.data.observed = (0,)
    config.data.noise = 0.05
    config.generator.hidden_size = 64
    config.generator.num_components = 1
    config.discriminator.hidden_size = 32
    config.discriminator.mlp_size = 32
    config.train.num_steps = 3000
    config.train.chunks = "random"
    config.train.max_gradient_norm = 1.0
    config.train.log_every = 100
    config.train.eval_every = 500
    config.train.checkpoint_every = 500
    config.evaluation.sample_length = 1000
    return config
