"""The default experiment: professor forcing on Python's language reference."""

from ml_collections import config_dict


def get_config() -> config_dict.ConfigDict:
    """The settings of one experiment, each with its default."""
    config = config_dict.ConfigDict()

    config.seed = 0  # of parameters, batches and samples
    config.objective = "professor_forcing"  # or "teacher_forcing"
    config.dtype = "float32"  # of matrix products: "float32" or "bfloat16"

    config.data = data = config_dict.ConfigDict()
    data.name = "python_reference"  # or "text", "ptb_char", "tiny_shakespeare"
    data.path = ""  # a file or folder, for the data sets that are read from one

    config.generator = generator = config_dict.ConfigDict()
    generator.num_layers = 1  # GRUs, one upon the other
    generator.hidden_size = 256  # units of each
    generator.embedding_size = 64  # of an input token
    generator.unroll = 1  # steps that the body of a loop over time holds
    generator.recompute = False  # save memory: rebuild the gates in the backward pass

    config.behavior = behavior = config_dict.ConfigDict()
    # What the discriminator sees: any of "preactivation", "outputs", "hidden".
    behavior.fields = ("preactivation", "outputs")

    config.discriminator = discriminator = config_dict.ConfigDict()
    discriminator.hidden_size = 128  # units of each direction's GRU
    discriminator.mlp_size = 128  # units of the three layers behind it

    config.adversarial = adversarial = config_dict.ConfigDict()
    adversarial.weight = 1.0  # of the adversarial terms beside the likelihood
    adversarial.teacher_forced_term = False  # add C_t, which moves the other mode too
    adversarial.start_step = 0  # plain teacher forcing before this step

    config.gate = gate = config_dict.ConfigDict()
    gate.generator_lower = 0.75  # generator hears the discriminator above this accuracy
    gate.generator_upper = 0.99  # and below this one; 1.0: however good it is
    gate.discriminator_upper = 0.99  # discriminator learns up to this accuracy
    gate.average_decay = 0.0  # of a moving average of the accuracy; 0: the batch's own

    config.train = train = config_dict.ConfigDict()
    train.num_steps = 500
    train.batch_size = 32  # sequences in an update, over all devices
    train.sequence_length = 100  # steps of a sequence
    train.chunks = "consecutive"  # or "random": where the sequences start
    train.learning_rate = 1e-3  # of Adam, for both players
    train.max_gradient_norm = 0.0  # clip each player's gradient to it; 0: never
    train.update = "joint"  # or "separate": one pass for both players, or two
    train.updates_per_dispatch = 10  # updates that run between two looks at the host
    train.log_every = 50
    train.eval_every = 250
    train.checkpoint_every = 250
    train.keep_checkpoints = 3  # the newest ones, beside the best by validation

    config.evaluation = evaluation = config_dict.ConfigDict()
    evaluation.num_streams = 32  # pieces of the split that are read side by side
    evaluation.context = 512  # steps each piece reads before those it scores
    evaluation.sample_length = 200  # steps of the sample printed at validation
    return config
