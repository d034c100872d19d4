"""The readout's first bias: the frequencies of the training split.

A new generator whose readout has this bias starts from what the simplest model reaches,
in place of a uniform distribution, and spends no updates on learning frequencies.
"""

import numpy as np


def log_frequencies(tokens: np.ndarray, num_outputs: int) -> np.ndarray:
    """The logarithm of each token's frequency, float32 `[V]`; their exponentials add to 1.

        log((count + 1) / (N + V))

    One is added to every count, so that a token that never occurs has a finite logarithm.

    Args:
        tokens: `[N]` integers from 0 to `V - 1`.
        num_outputs: `V`.

    Raises:
        ValueError: If a token is out of range.
    """
    counts = np.bincount(tokens, minlength=num_outputs)
    if len(counts) > num_outputs:
        raise ValueError(
            f"token {len(counts) - 1}: must be from 0 to {num_outputs - 1}, since "
            f"num_outputs is {num_outputs}"
        )
    frequencies = (counts + 1) / (len(tokens) + num_outputs)
    return np.log(frequencies).astype(np.float32)


def log_odds(values: np.ndarray, num_outputs: int) -> np.ndarray:
    """The log odds of a 1 for each output, float32 `[D]`.

        log((ones + 1/2) / (zeros + 1/2))

    The halves keep the odds of a value that never or always occurs finite.

    Args:
        values: `[N, D]`, or `[N]` where `D` is 1; numbers 0 or 1.
        num_outputs: `D`.
    """
    values = np.reshape(values, (len(values), num_outputs))
    ones = np.count_nonzero(values, axis=0)
    return np.log((ones + 0.5) / (len(values) - ones + 0.5)).astype(np.float32)
