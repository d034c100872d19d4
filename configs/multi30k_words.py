"""Multi30k, German to English, in words.

Set `--config.data.path` to the folder with `train.de`, `train.en`, `val.de`, `val.en` and
one test split, such as `test_2016_flickr.de` and `.en`.
"""

from ml_collections import config_dict

from configs import default


def get_config() -> config_dict.ConfigDict:
    """One GRU of 320 units with attention, batches of 64 pairs, 10 epochs."""
    config = default.get_config()
    config.data.name = "parallel"
    config.data.path = "data/multi30k"
    config.data.source = "de"
    config.data.target = "en"
    config.data.units = "words"
    config.data.min_count = 3
    config.data.source_length = 26  # leaves out 1 % of the pairs
    config.generator.hidden_size = 320
    config.generator.encoder_size = 160
    config.generator.embedding_size = 192
    config.generator.attention = "dot"
    config.generator.dropout = 0.3
    # Without the outputs: with 4,800 probabilities a step, the discriminator's first matrix
    # product would be the most expensive of all.
    config.behavior.fields = ("preactivation",)
    config.train.sequence_length = 24  # leaves out 1 % more
    config.train.batch_size = 64
    config.train.learning_rate = 1.5e-3
    config.train.schedule = "cosine"
    config.train.warmup_steps = 100
    config.train.num_steps = 4500
    config.train.log_every = 100
    config.train.eval_every = 450
    config.train.checkpoint_every = 450
    config.evaluation.num_streams = 200
    config.evaluation.sample_length = 41  # the longest target of the data
    return config
