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
        KIND: Free runs of the measures of a kind of data.
        STATES: Free runs whose hidden states are saved.
        RECOVERY: Corrupted inputs.
        CRITIC: Weights, batches and free runs of fresh critics.
        JUDGE: Samples that a judge scores by position.
        CONTINUATION: Samples that continue prefixes.
        FORWARD: Samples that a judge scores at several temperatures.
        REVERSE: Samples that new models learn from, and those models' weights and batches.
    """

    PARAMETERS = 0
    TRAINING = 1
    VALIDATION = 2
    SAMPLES = 3
    GAP = 4
    KIND = 5
    STATES = 6
    RECOVERY = 7
    CRITIC = 8
    JUDGE = 9
    CONTINUATION = 10
    FORWARD = 11
    REVERSE = 12
