"""Lorenz-63 with all three coordinates observed, with 5 % noise."""

from ml_collections import config_dict

from configs import lorenz


def get_config() -> config_dict.ConfigDict:
    """The settings of `configs/lorenz.py` for three coordinates."""
    config = lorenz.get_config()
    config.data.observed = ()
    return config
