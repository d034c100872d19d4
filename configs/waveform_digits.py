"""Spoken digits as raw waveforms, 8,000 samples a second.

Set `--config.data.path` to the folder `recordings` of the Free Spoken Digit Dataset.
"""

from ml_collections import config_dict

from configs import waveform


def get_config() -> config_dict.ConfigDict:
    """One GRU of 256 units, windows of a sixteenth of a second."""
    config = waveform.get_config()
    config.data.path = "data/fsdd/recordings"
    config.data.sample_rate = 8000
    config.generator.hidden_size = 256
    config.discriminator.hidden_size = 128
    config.discriminator.mlp_size = 128
    config.train.learning_rate = 1e-3
    config.train.num_steps = 5000
    config.train.eval_every = 500
    config.train.checkpoint_every = 500
    return config
