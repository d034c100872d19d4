"""Multi30k, German to English, in characters; see `configs/multi30k_words.py`."""

from ml_collections import config_dict

from configs import multi30k_words


def get_config() -> config_dict.ConfigDict:
    """One GRU of 320 units with attention, batches of 64 pairs."""
    config = multi30k_words.get_config()
    config.data.units = "characters"
    config.data.min_count = 1
    config.data.source_length = 0
    config.generator.embedding_size = 64
    config.behavior.fields = ("preactivation", "outputs")
    config.train.sequence_length = 206  # the longest target of the training split
    config.evaluation.sample_length = 206
    return config
