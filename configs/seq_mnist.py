"""Sequential MNIST: binary pixels, one a step (paper, section 4).

`--config.data.path` is the folder with Larochelle's `binarized_mnist_*.amat`, or TensorFlow
Datasets' `data_dir`. `--config.data.name=mnist` thresholds the original digits instead.
"""

from ml_collections import config_dict

from configs import default


def get_config() -> config_dict.ConfigDict:
    """Three GRUs of 512 units, whole images, a convolutional discriminator."""
    config = default.get_config()
    config.data.name = "binarized_mnist"
    config.generator.num_layers = 3
    config.generator.hidden_size = 512
    config.discriminator.kind = "convolutional"
    config.discriminator.hidden_size = 64
    config.discriminator.mlp_size = 128
    config.train.sequence_length = 28 * 28
    config.train.batch_size = 64
    config.train.learning_rate = 3e-4  # at 1e-3 the first updates overshoot
    config.train.max_gradient_norm = 1.0
    config.train.num_steps = 100_000
    config.train.eval_every = 2000
    config.train.checkpoint_every = 1000
    config.evaluation.num_streams = 200
    return config
