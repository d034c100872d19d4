"""Sequential digits, 8 x 8, with the class of each as its condition."""

from ml_collections import config_dict

from configs import seq_digits


def get_config() -> config_dict.ConfigDict:
    """`configs/seq_digits.py` with labels."""
    config = seq_digits.get_config()
    config.data.labels = True
    return config
