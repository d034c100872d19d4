"""Penn Treebank characters at a size for a CPU.

Set `--config.data.path` to the folder with Mikolov's `ptb.{train,valid,test}.txt`.
"""

from ml_collections import config_dict

from configs import default


def get_config() -> config_dict.ConfigDict:
    """One GRU of 256 units, batches of 32 sequences of 100 characters, Adam at 1e-3."""
    config = default.get_config()
    config.data.name = "ptb_char"
    config.data.path = "data/ptb"
    config.train.num_steps = 2500
    return config
