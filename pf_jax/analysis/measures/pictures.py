"""Measures of images: Frechet distance, classes, nearest training image.

Most images have no labels, so the classes of histograms are those of a small classifier
that learns to tell clusters of training images apart.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from pf_jax.analysis.measures.class_reading import read_classes
from pf_jax.analysis.measures.compared import (
    SequenceSet,
    compared_sets,
    distance,
    held_out_conditions,
    statistic,
)
from pf_jax.analysis.measures.distances import frechet, jensen_shannon
from pf_jax.analysis.measures.measurement import Measured, Subject
from pf_jax.data import Sequences, training_values
from pf_jax.data.pixels import Pixels

NUM_IMAGES = 500
"""Images of a set: 7 for each of the covariances' 64 dimensions, and no more, since a model
takes most of the time to draw them."""

NUM_CLASSES = 10
NUM_FEATURES = 64

NUM_FIT = 5000
"""Largest number of training images that the classifier learns from: a second or two."""

NUM_EPOCHS = 20

CHUNK = 5000
"""Training images that are searched at a time, which bounds the memory."""


class Classifier(NamedTuple):
    """A classifier of images by the clusters of a training split.

    Attributes:
        features: Function from images `[N, P]` to the features `[N, 64]` it decides by.
        classes: Function from images `[N, P]` to their classes `[N]`.
    """

    features: Callable[[np.ndarray], np.ndarray]
    classes: Callable[[np.ndarray], np.ndarray]


def measure_pictures(subject: Subject) -> Measured:
    """Measures of images; see `docs/measures.md`.

    Args:
        subject: The model and its data, with the encoding `Pixels`.

    Returns:
        `frechet` and `classes`, both missing where training images are all alike,
        `nearest`, and of images with labels `read_as_class`.
    """
    encoding = subject.encoding
    assert isinstance(encoding, Pixels)
    compared = compared_sets(
        subject, num_sequences=NUM_IMAGES, length=encoding.sequence_length
    )
    if compared is None:
        return Measured()
    images = training_images(subject.train, encoding)
    classifier = fit_classifier(images)
    numbers = {}
    if classifier is not None:
        numbers["frechet"] = distance(
            "Frechet distance of a classifier's features",
            lambda x, y: frechet(*(classifier.features(_stacked(z)) for z in (x, y))),
            compared,
        )
        numbers["classes"] = distance(
            "Jensen-Shannon distance of class histograms, 0 to 1",
            lambda x, y: jensen_shannon(
                *(
                    np.bincount(classifier.classes(_stacked(z)), minlength=NUM_CLASSES)
                    for z in (x, y)
                )
            ),
            compared,
        )
    numbers["nearest"] = statistic(
        "pixels that differ from the nearest training image, mean",
        lambda z: float(np.mean(nearest_distances(_stacked(z), images))),
        compared,
    )
    if encoding.num_classes:
        labels = held_out_conditions(
            subject, num_sequences=NUM_IMAGES, length=encoding.sequence_length
        )
        reading = read_classes(_stacked(compared.samples), labels, images, subject)
        if reading is not None:
            numbers["read_as_class"] = reading
    return Measured(numbers)


def training_images(train: Sequences, encoding: Pixels) -> np.ndarray:
    """The images of a training split, `[N, P]`."""
    return training_values(train).reshape(-1, encoding.sequence_length)


def _stacked(images: SequenceSet) -> np.ndarray:
    return np.stack(list(images))


def fit_classifier(images: np.ndarray) -> Classifier | None:
    """A perceptron of `NUM_FEATURES` hidden units that tells clusters of images apart.

    The clusters are those of k-means. The result depends on the images alone, so it is the
    same for all models of one data set.

    Args:
        images: Training images `[N, P]`, 0 or 1; at most `NUM_FIT` of them, at equal
            distances, are used.

    Returns:
        The classifier; None if the images are all alike.
    """
    from sklearn.cluster import KMeans  # takes a second
    from sklearn.neural_network import MLPClassifier
    from threadpoolctl import threadpool_limits  # scikit-learn's own

    count = min(NUM_FIT, len(images))
    chosen = np.linspace(0, len(images) - 1, count).astype(int)
    points = images[chosen].astype(np.float32)
    num_classes = min(NUM_CLASSES, len(np.unique(images[chosen], axis=0)))
    if num_classes < 2:
        return None
    model = MLPClassifier((NUM_FEATURES,), batch_size=min(200, count), random_state=0)
    # Steps are so small that threads wait for each other: on busy cores 12 times as long.
    with threadpool_limits(1):
        clusters = KMeans(num_classes, n_init=3, random_state=0).fit(points)
        for _ in range(NUM_EPOCHS):
            model.partial_fit(points, clusters.labels_, classes=np.arange(num_classes))
    kernel, bias = model.coefs_[0], model.intercepts_[0]
    return Classifier(
        lambda images: np.maximum(images.astype(np.float32) @ kernel + bias, 0),
        lambda images: model.predict(images.astype(np.float32)),
    )


def nearest_distances(images: np.ndarray, train: np.ndarray) -> np.ndarray:
    """The number of pixels in which each image differs from its nearest training image.

    Args:
        images: Images `[N, P]`, 0 or 1.
        train: Training images `[M, P]`, 0 or 1; all of them are searched.

    Returns:
        Distances `[N]`; 0 for a copy.
    """
    points = images.astype(np.float32)
    nearest = np.full(len(points), np.inf)
    for start in range(0, len(train), CHUNK):
        part = train[start : start + CHUNK].astype(np.float32)
        # Of bits, |x - y|^2 is the number of those that differ; exact in float32.
        differing = points.sum(1)[:, None] + part.sum(1) - 2 * points @ part.T
        nearest = np.minimum(nearest, differing.min(axis=1))
    return nearest
