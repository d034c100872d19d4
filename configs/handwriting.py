"""Handwriting: pen strokes, trained on short windows, sampled long (paper, section 4).

Set `--config.data.path` to the folder of IAM-OnDB with `lineStrokes/` and the split files.
`--config.data.name=sketch_rnn` reads a `.npz` of drawings instead: Kanji, Omniglot,
QuickDraw.
"""

from ml_collections import config_dict

from configs import default


def get_config() -> config_dict.ConfigDict:
    """Windows of 50 points; free runs of 500 points, cut into windows of 50."""
    config = default.get_config()
    config.data.name = "iam_ondb"
    config.data.path = "data/iam_ondb"
    config.generator.hidden_size = 512
    config.generator.embedding_size = 64
    config.discriminator.hidden_size = 256
    config.discriminator.mlp_size = 256
    config.adversarial.free_running_steps = 500
    config.train.sequence_length = 50
    config.train.max_gradient_norm = 5.0
    config.train.num_steps = 20_000
    config.train.eval_every = 1000
    config.train.checkpoint_every = 1000
    config.evaluation.sample_length = 500
    return config
