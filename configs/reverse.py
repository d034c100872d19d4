"""Reversed letters: computed, with lengths to 20 in training and to 60 in test.

`--config.data.task=copy` or `numbers` are other tasks. Numbers in words are longer:
`--config.data.length=6 --config.data.test_length=9 --config.train.sequence_length=66`.
"""

from ml_collections import config_dict

from configs import default


def get_config() -> config_dict.ConfigDict:
    """One GRU of 128 units, batches of 64 pairs."""
    config = default.get_config()
    config.data.name = "transduction"
    config.data.task = "reverse"
    config.generator.hidden_size = 128
    config.generator.encoder_size = 64
    config.generator.attention = "dot"
    config.generator.embedding_size = 32
    config.discriminator.hidden_size = 64
    config.discriminator.mlp_size = 64
    config.train.sequence_length = 20 + 1  # the end of a target is one more
    config.train.batch_size = 64
    config.train.learning_rate = 2e-3
    config.train.schedule = "cosine"
    config.train.num_steps = 5000
    config.train.log_every = 100
    config.train.eval_every = 500
    config.train.checkpoint_every = 500
    config.evaluation.num_streams = 200
    config.evaluation.sample_length = 21
    return config
