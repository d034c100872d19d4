"""The random streams of a run, numbered in one place.

The key of a stream is `fold_in(key(seed), stream)`: see `Experiment.key`. What needs many
keys derives them from its own stream's, such as `fold_in(key, step)`. The order in which
batches read the data has a generator of its own, seeded by `(seed, epoch)`.
"""

import enum


class Stream(enum.IntEnum):
    """Random streams of a run: no two purposes share a key.

    Attributes:
        PARAMETERS: Initial weights of both players.
        TRAINING: Free runs of the updates, by the update's number.
        VALIDATION: Free runs that the discriminator is evaluated on.
        SAMPLES: Samples shown at validation and by `evaluate.py`; image completions
            use `fold_in(key, 1)` of it.
        GAP: Free runs that the hidden-state gap is measured on.
    """

    PARAMETERS = 0
    TRAINING = 1
    VALIDATION = 2
    SAMPLES = 3
    GAP = 4
