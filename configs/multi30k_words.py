"""Multi30k, German to English, in words.

Set `--config.data.path` to the folder with `train.de`, `train.en`, `val.de`, `val.en` and
one test split, such as `test_2016_flickr.de` and `.en`.
"""

from ml_collections import config_dict

from configs import default


def get_config() -> config_dict.ConfigDict:
    """One GRU of 256 units, batches of 64 pairs."""
    config = default.get_config()
    config.data.name = "parallel"
    config.data.path = "data/multi30k"
    config.data.source = "de"
    config.data.target = "en"
    config.data.units = "words"
    config.data.min_count = 2
    config.generator.embedding_size = 256
    # Without the outputs: with 6,000 probabilities a step, the discriminator's first matrix
    # product would be the most expensive of all.
    config.behavior.fields = ("preactivation",)
    config.train.sequence_length = 41  # the longest target of the training split
    config.train.batch_size = 64
    config.train.max_gradient_norm = 5.0
    config.train.num_steps = 5000
    config.train.eval_every = 500
    config.train.checkpoint_every = 500
    config.evaluation.num_streams = 200
    config.evaluation.sample_length = 41
    return config
