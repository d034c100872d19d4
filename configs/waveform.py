"""Raw waveforms at 1 kHz (paper, section 4).

Set `--config.data.path` to a folder of wav files, of any rate, mono or stereo.
"""

from ml_collections import config_dict

from configs import default


def get_config() -> config_dict.ConfigDict:
    """One GRU of 1024 units, windows of half a second, samples of 256 values."""
    config = default.get_config()
    config.data.name = "wav"
    config.data.path = "data/wav"
    config.generator.hidden_size = 1024
    config.discriminator.hidden_size = 512
    config.discriminator.mlp_size = 512
    config.train.sequence_length = 500
    config.train.learning_rate = 1e-4
    config.train.max_gradient_norm = 5.0
    config.train.num_steps = 20_000
    config.train.eval_every = 1000
    config.train.checkpoint_every = 1000
    config.evaluation.sample_length = 1000
    return config
