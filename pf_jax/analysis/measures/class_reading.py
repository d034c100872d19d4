"""Which class a classifier of real images reads samples as, for images with labels."""

import numpy as np

from pf_jax.analysis.measures.intervals import accuracy_interval
from pf_jax.analysis.measures.measurement import Measurement, Subject
from pf_jax.data import training_values

NUM_FIT = 10_000
"""Largest number of training images that the classifier learns from."""


def read_classes(
    samples: np.ndarray, labels: np.ndarray, images: np.ndarray, subject: Subject
) -> Measurement | None:
    """The share of samples that a classifier reads as their class.

    The classifier is a support vector machine with Gaussian kernels; it learns from real
    training images alone. The reference is its accuracy on real held-out images.

    Args:
        samples: Sampled images `[N, P]`.
        labels: Class of each sample, `[N]`.
        images: Training images `[M, P]`; at most `NUM_FIT` of them, at equal distances, are
            used.
        subject: The model and its data.

    Returns:
        The measurement; None where training images are all of one class.
    """
    from sklearn.svm import SVC  # takes a second

    chosen = np.linspace(0, len(images) - 1, min(NUM_FIT, len(images))).astype(int)
    classes = np.asarray(subject.train.conditions)[chosen]
    if len(np.unique(classes)) < 2:
        return None
    model = SVC().fit(images[chosen].astype(np.float32), classes)

    def num_read(points: np.ndarray, labels: np.ndarray) -> int:
        return int(np.sum(model.predict(points.astype(np.float32)) == labels))

    held_out = training_values(subject.split).reshape(-1, images.shape[1])
    num_right = num_read(samples, labels)
    real = num_read(held_out, np.asarray(subject.split.conditions)) / len(held_out)
    return Measurement(
        "samples that a classifier reads as their class, share",
        num_right / len(samples),
        real,
        "higher",
        accuracy_interval(num_right, len(samples)),
    )
