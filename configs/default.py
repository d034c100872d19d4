"""The default experiment: professor forcing on Python's language reference."""

from ml_collections import config_dict


def get_config() -> config_dict.ConfigDict:
    """The settings of one experiment, each with its default."""
    config = config_dict.ConfigDict()

    config.seed = 0  # of parameters, batches and samples
    config.objective = "professor_forcing"  # or "teacher_forcing"
    config.dtype = "float32"  # of matrix products: "float32" or "bfloat16"

    config.data = data = config_dict.ConfigDict()
    data.name = "python_reference"  # or another one of the README's table
    data.path = ""  # a file or folder, for the data sets that are read from one
    data.tfds_manual_dir = ""  # original files for TensorFlow Datasets, not a network
    data.sample_rate = 1000  # of waveforms, in samples a second
    data.num_bins = 256  # values that a sample of a waveform can take
    data.companding = "mu_law"  # or "linear": how the bins of a waveform lie
    data.frames_per_second = 2.0  # at which piano rolls are played
    data.max_offset = 10.0  # longer pen offsets are clipped; in standard deviations

    config.generator = generator = config_dict.ConfigDict()
    generator.num_layers = 1  # GRUs, one upon the other
    generator.hidden_size = 256  # units of each
    generator.embedding_size = 64  # of an input token
    generator.num_components = 20  # of the mixture that a pen offset is drawn from
    generator.unroll = 0  # steps that a loop's body holds; 0: 4 on a GPU, else 1
    generator.kernels = True  # run loops as one kernel each, on GPUs that can
    generator.recompute = False  # save memory: rebuild the gates in the backward pass

    config.behavior = behavior = config_dict.ConfigDict()
    # What the discriminator sees: any of "preactivation", "outputs", "hidden".
    behavior.fields = ("preactivation", "outputs")

    config.discriminator = discriminator = config_dict.ConfigDict()
    discriminator.kind = "recurrent"  # or "convolutional", for images
    discriminator.hidden_size = 128  # units of each direction's GRU, or first channels
    discriminator.mlp_size = 128  # units of the three layers behind, or their channels

    config.adversarial = adversarial = config_dict.ConfigDict()
    adversarial.weight = 1.0  # of the adversarial terms beside the likelihood
    adversarial.teacher_forced_term = False  # add C_t, which moves the other mode too
    adversarial.start_step = 0  # plain teacher forcing before this step
    # A longer free run, which the discriminator sees in windows of train.sequence_length:
    # a multiple of that; 0: as long.
    adversarial.free_running_steps = 0

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
