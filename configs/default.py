"""The default experiment: professor forcing on Python's language reference."""

from ml_collections import config_dict


def get_config() -> config_dict.ConfigDict:
    """The settings of one experiment, each with its default."""
    config = config_dict.ConfigDict()

    config.seed = 0  # seed of parameters, batches and samples
    # What the generator is trained for: "teacher_forcing", "professor_forcing",
    # "scheduled_sampling", "state_matching", "input_noise" or "noisy_professor_forcing".
    config.objective = "professor_forcing"
    config.dtype = "float32"  # type of matrix products: "float32" or "bfloat16"

    config.data = data = config_dict.ConfigDict()
    data.name = "python_reference"  # one of the README's table, or MODULE:FUNCTION
    data.path = ""  # file or folder, for the data sets that are read from one
    data.tfds_manual_dir = ""  # original files for TensorFlow Datasets; "": a network
    data.units = "characters"  # tokens of a text: "characters", "bytes" or "words"
    data.min_count = 1  # symbols seen fewer times in training are unknown
    data.lowercase = False  # read the texts of data.name=parallel in lower case
    data.source = ""  # suffix of a parallel data set's source files, such as "de"
    data.target = ""  # suffix of its target files, such as "en"; both empty: .tsv files
    data.source_length = 0  # most tokens of a source, with its end; 0: no limit
    # Sources longer than that, and conditional sequences longer than
    # train.sequence_length: "drop" or "cut".
    data.too_long = "drop"
    data.labels = False  # class labels of digits and mnist are conditions
    data.task = "reverse"  # of data.name=transduction: "reverse", "copy" or "numbers"
    data.length = 20  # longest source of its training and valid splits
    data.test_length = 60  # longest source of its test split
    data.sample_rate = 1000  # samples a second of a waveform
    data.num_bins = 256  # number of values that a sample of a waveform can take
    data.companding = "mu_law"  # spacing of a waveform's bins: "mu_law" or "linear"
    # Sounds with samples beyond full scale, of floats: "clip", "normalize" or "skip".
    data.too_loud = "clip"
    data.frames_per_second = 2.0  # speed at which piano rolls are played
    data.max_offset = 10.0  # longest pen offset, in standard deviations: clips the rest
    data.pen_states = 2  # states of a pen: down, lifted; 3: and the end of a drawing

    data.columns = ()  # columns of a series' file, names or numbers; empty: all
    data.observed = ()  # observed coordinates of a Lorenz system, from 0; empty: all
    data.noise = (
        0.05  # noise on what is observed of it, in deviations of the coordinate
    )

    config.generator = generator = config_dict.ConfigDict()
    generator.cell = "gru"  # recurrent cell of every layer: "gru" or "lstm"
    generator.num_layers = 1  # number of recurrent layers
    generator.hidden_size = 256  # units of each layer
    generator.embedding_size = 64  # size of an input's embedding
    generator.num_components = 20  # components of the mixture of strokes and series
    generator.encoder_size = 128  # units of each direction of a source's encoder
    generator.attention = "none"  # to a source: "none", "dot" or "additive"
    generator.dropout = 0.0  # share dropped of the embedding and the readout's input
    # Initial bias of the readout: "data", the training split's frequencies; or "zeros".
    generator.readout_bias = "data"
    # Value that a free run feeds back: "sample", constant to differentiation; or one that
    # carries gradients: "soft" (expected embedding), "straight_through" (Gumbel softmax),
    # "reparameterized" (pen strokes and series alone, which have no other).
    generator.feedback = "sample"
    generator.feedback_temperature = 1.0  # softmax temperature of "soft" feedback etc.
    generator.feedback_steps = 0  # steps a feedback gradient goes back; 0: all the way
    generator.unroll = 0  # steps in the body of a loop over time; 0: 4 on a GPU, else 1
    # Kernels that loops over time run as: "auto", "cuda", "cuda_l2" (CUDA without clusters)
    # and "triton" on a GPU; "tpu" on a TPU; or "none". "auto" chooses the fastest among
    # those that a device of the kind has run: no TPU's.
    generator.kernels = "auto"
    generator.recompute = False  # save memory: recompute gates in the backward pass

    config.behavior = behavior = config_dict.ConfigDict()
    # Inputs of the discriminator: any of "preactivation", "outputs", "hidden"; and
    # "context", the mean of a row's encoded condition, for data with labels or sources.
    behavior.fields = ("preactivation", "outputs")

    config.discriminator = discriminator = config_dict.ConfigDict()
    discriminator.kind = "recurrent"  # or "convolutional", for images
    discriminator.hidden_size = 128  # units of each direction's GRU, or first channels
    discriminator.mlp_size = 128  # units of the MLP's three layers, or their channels
    # Optimizer of the discriminator, where it differs from that of section `train`; None:
    # the same.
    discriminator.learning_rate = config_dict.placeholder(float)
    discriminator.schedule = config_dict.placeholder(str)
    discriminator.warmup_steps = config_dict.placeholder(int)
    discriminator.weight_decay = config_dict.placeholder(float)
    discriminator.max_gradient_norm = config_dict.placeholder(float)

    config.adversarial = adversarial = config_dict.ConfigDict()
    adversarial.weight = 1.0  # weight of the adversarial loss; the likelihood's is 1
    adversarial.warmup_steps = 0  # updates after start_step in which the weight rises
    adversarial.teacher_forced_term = (
        False  # add C_t: teacher-forced looks free-running
    )
    adversarial.start_step = 0  # number of updates with teacher forcing alone, before
    # Number of steps of a free run, a multiple of train.sequence_length: the discriminator
    # sees it in windows of that length; 0: one window.
    adversarial.free_running_steps = 0

    config.gate = gate = config_dict.ConfigDict()
    # Accuracies of the discriminator between which the generator gets the adversarial
    # gradient; with an upper bound of 1.0, however high the accuracy is.
    gate.generator_lower = 0.75
    gate.generator_upper = 0.99
    gate.discriminator_upper = 0.99  # accuracy above which the discriminator pauses
    gate.average_decay = 0.0  # decay of the accuracy's moving average; 0: no average

    # Read by the objective "scheduled_sampling": the probability that a step reads data,
    # at update i, falls from 1 to 0.
    config.scheduled_sampling = scheduled = config_dict.ConfigDict()
    # "linear": max(floor, start - slope * i); "exponential": decay ** i;
    # "inverse_sigmoid": speed / (speed + exp(i / speed)).
    scheduled.schedule = "linear"
    scheduled.start = 1.0  # probability at the first update, of "linear"
    scheduled.slope = 1e-4  # decrease of the probability per update, of "linear"
    scheduled.floor = 0.0  # lowest probability, of "linear"
    scheduled.decay = 0.9999  # factor on the probability per update, of "exponential"
    scheduled.speed = (
        1000.0  # number of updates that sets the pace of "inverse_sigmoid"
    )

    # Read by the objective "state_matching".
    config.state_matching = matching = config_dict.ConfigDict()
    matching.distance = "energy"  # distance between both modes' states: or "mse"
    matching.weight = 1.0  # weight of the distance; the likelihood's is 1
    matching.teacher_forced_gradient = (
        False  # let it move the teacher-forced states too
    )

    # Read by the objectives "input_noise" and "noisy_professor_forcing".
    config.input_noise = noise = config_dict.ConfigDict()
    noise.probability = 0.1  # probability that an input token is replaced by another
    noise.deviation = 0.1  # standard deviation of the noise added to input numbers

    config.train = train = config_dict.ConfigDict()
    train.num_steps = 500  # number of updates
    train.batch_size = 32  # sequences in an update, over all devices
    train.sequence_length = 100  # steps of a sequence
    train.chunks = "consecutive"  # starts of sequences: "consecutive" or "random"
    # First carry of a sequence: "zeros"; or "passed_on", what the sequence left that ends
    # where this one starts: batches then go through the data in order.
    train.carry = "zeros"
    train.learning_rate = 1e-3  # learning rate of Adam, for both players
    train.schedule = "constant"  # or "cosine", "linear": to 0 over num_steps
    train.warmup_steps = 0  # updates in which the learning rate rises linearly
    train.weight_decay = 0.0  # weight decay of AdamW, on matrices; biases keep theirs
    # Largest norm of a player's gradient, which is summed over the steps of a sequence:
    # longer ones are scaled down to it; 0: never.
    train.max_gradient_norm = 0.0
    train.update = "joint"  # or "separate": one pass for both players, or two
    # Largest number of updates that run on the device without the host; fewer where they
    # would take more than half a second, so that a request to stop is answered soon.
    train.updates_per_dispatch = 10
    train.log_every = 50  # updates averaged in one line of metrics
    train.eval_every = 250  # updates between two validations
    train.checkpoint_every = 250  # updates between two checkpoints
    train.keep_checkpoints = 3  # number of newest checkpoints kept, beside the best
    train.patience = 0  # validations without a better one that end training; 0: never
    # FROM,TO: steps between which jax.profiler writes a trace to WORKDIR/profile; empty:
    # none.
    train.profile = ()

    config.evaluation = evaluation = config_dict.ConfigDict()
    evaluation.num_streams = 32  # pieces of the split that are read in parallel
    evaluation.context = 512  # steps that a piece reads before those it scores
    evaluation.sample_length = 200  # steps of the sample shown at validation
    return config
