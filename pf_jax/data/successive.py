"""Windows that follow one another, for a carry that is passed on from update to update."""

import numpy as np

from pf_jax.data.sequences import Sequences, Windows, consecutive_windows
from pf_jax.errors import UserError


def successive_windows(
    sequences: Sequences, *, length: int, batch_size: int
) -> Windows:
    """Windows in the order of the data: each row goes on where its last window ended.

    The rows start at equal distances, at a place that the seed chooses, and each reads all
    windows in turn: at the end of the data it goes on with the first one. It starts anew
    with every sequence, and so at the start of the data.

    Args:
        sequences: The training split.
        length: Steps of a window `T`.
        batch_size: Number of rows `B`.

    Returns:
        The windows; their `rows` are `[B, 3]`: the start of each row's window in `values`,
        how many of its steps count, and whether the row starts anew.

    Raises:
        UserError: If no sequence has a second window, or there are fewer windows than rows.
    """
    if sequences.conditions is not None:
        raise UserError(
            "train.carry=passed_on: every sequence has a condition of its own, and is read "
            "from its start: set train.carry=zeros"
        )
    windows = consecutive_windows(sequences, length)
    starts_anew = np.isin(windows[:, 0], sequences.offsets[:-1])
    if starts_anew.all():
        raise UserError(
            "train.carry=passed_on: no sequence of the training split goes on after a "
            f"window of train.sequence_length={length} steps: set train.carry=zeros, or "
            "lower train.sequence_length"
        )
    if len(windows) < batch_size:
        raise UserError(
            f"train.batch_size={batch_size}: the training split has {len(windows)} windows "
            f"of train.sequence_length={length} steps, and with train.carry=passed_on "
            "every row reads another one: lower one of them"
        )
    num_left_out = sequences.num_steps - int(windows[:, 1].sum())
    windows = np.concatenate([windows, starts_anew[:, None]], axis=1, dtype=np.int32)

    def rows(seed: int, step: int, batch_size: int) -> np.ndarray:
        shift = int(np.random.default_rng(seed).integers(len(windows)))
        places = np.arange(batch_size) * len(windows) // batch_size
        return windows[(shift + places + step) % len(windows)]

    are_whole = bool(np.all(windows[:, 1] == length))
    return Windows(rows, are_whole, num_steps_left_out=num_left_out)
