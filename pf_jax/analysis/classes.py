"""Which class each sample is of, for data with labels."""

import numpy as np

from pf_jax.data.encoding import Encoding

SAMPLES_OF_CLASS, MOST_OF_ALL = 8, 640
"""Default number of samples of each class, fewer where that is more than so many."""


def num_classes(encoding: Encoding) -> int:
    """Number of classes; 0 for data without labels."""
    condition = encoding.condition
    return condition.size if condition and condition.kind == "label" else 0


def default_samples(encoding: Encoding, label: int | None) -> int | None:
    """The default number of samples of data with labels.

    Args:
        encoding: Encoding of the run.
        label: Class of all samples; None for all classes.

    Returns:
        As many of each class; None where the kind of data says how many.
    """
    count = num_classes(encoding)
    if not count or label is not None:
        return None
    return count * min(SAMPLES_OF_CLASS, max(1, MOST_OF_ALL // count))


def sampled_labels(
    encoding: Encoding, label: int | None, num_samples: int
) -> np.ndarray | None:
    """The class of each sample.

    Args:
        encoding: Encoding of the run.
        label: Class of all samples; None for the classes in turn.
        num_samples: Number of samples `N`.

    Returns:
        Labels `[N]` int32; None for data without labels.
    """
    count = num_classes(encoding)
    if not count:
        return None
    if label is not None:
        return np.full(num_samples, label, np.int32)
    return np.arange(num_samples, dtype=np.int32) % count


def by_class(images: np.ndarray, labels: np.ndarray, count: int) -> np.ndarray:
    """Images in rows of a class each.

    Args:
        images: Images `[N, H, W]`.
        labels: Class of each image, `[N]`.
        count: Number of classes `K`.

    Returns:
        `[K, C, H, W]`, with empty images where a class has fewer than the most.
    """
    columns = max(1, int(np.bincount(labels, minlength=count).max()))
    rows = np.zeros((count, columns, *images.shape[1:]), images.dtype)
    for row in range(count):
        own = images[labels == row]
        rows[row, : len(own)] = own
    return rows
