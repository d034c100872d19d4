"""Sequential digits, 8 x 8: sequential MNIST at a size for a CPU, without a download."""

from ml_collections import config_dict

from configs import seq_mnist


def get_config() -> config_dict.ConfigDict:
    """One GRU of 128 units on scikit-learn's digits; minutes on two CPU cores."""
    config = seq_mnist.get_config()
    config.data.name = "digits"
    config.generator.num_layers = 1
    config.generator.hidden_size = 128
    config.generator.embedding_size = 16
    config.discriminator.hidden_size = 32
    config.discriminator.mlp_size = 32
    config.train.sequence_length = 8 * 8
    config.train.learning_rate = 2e-3
    config.train.num_steps = 2000
    config.train.log_every = 100
    config.train.eval_every = 200
    config.train.checkpoint_every = 500
    return config
