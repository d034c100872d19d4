"""Penn Treebank characters in the paper's set-up (section 4.1).

Set `--config.data.path` to the folder with Mikolov's `ptb.{train,valid,test}.txt`.
"""

from ml_collections import config_dict

from configs import default


def get_config() -> config_dict.ConfigDict:
    """One GRU of 1024 units, sequences of 500 characters, Adam at 1e-4."""
    config = default.get_config()
    config.data.name = "ptb_char"
    config.data.path = "data/ptb"
    config.generator.hidden_size = 1024
    config.discriminator.hidden_size = 512
    config.discriminator.mlp_size = 512
    config.train.sequence_length = 500
    config.train.learning_rate = 1e-4
    config.train.num_steps = 50_000
    config.train.eval_every = 1000
    config.train.checkpoint_every = 1000
    return config
