"""Penn Treebank words: 10,000 types, perplexity.

Set `--config.data.path` to the folder with Mikolov's `ptb.{train,valid,test}.txt`. The
paper found no gain here; its gains are on long sequences.
"""

from ml_collections import config_dict

from configs import default


def get_config() -> config_dict.ConfigDict:
    """One GRU of 512 units, sequences of 50 words."""
    config = default.get_config()
    config.data.name = "ptb_word"
    config.data.path = "data/ptb"
    config.generator.hidden_size = 512
    config.generator.embedding_size = 256
    # Without the outputs: with 10,000 probabilities a step, twenty times the activations,
    # the discriminator's first matrix product would be the most expensive of all.
    config.behavior.fields = ("preactivation",)
    config.discriminator.hidden_size = 256
    config.discriminator.mlp_size = 256
    config.train.sequence_length = 50
    config.train.max_gradient_norm = 5.0
    config.train.num_steps = 5000
    config.train.eval_every = 500
    config.train.checkpoint_every = 500
    config.evaluation.context = 100
    config.evaluation.sample_length = 50
    return config
