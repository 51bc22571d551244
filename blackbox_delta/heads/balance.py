"""Classes of different sizes made to count alike."""

from __future__ import annotations

import numpy as np

from blackbox_delta.types import IntArray, Vector


def balanced_mean(values: Vector, labels: IntArray) -> Vector:
    """(q,) the mean of the class means of values (n, q)."""
    means: Vector = np.stack([values[labels == k].mean(axis=0) for k in np.unique(labels)])
    mean: Vector = means.mean(axis=0)
    return mean


def held_out_balanced_means(values: Vector, labels: IntArray) -> Vector:
    """(n, q) :func:`balanced_mean` without each of the n >= 2 examples in turn."""
    counts = np.bincount(labels)
    classes = np.count_nonzero(counts)
    mean = balanced_mean(values, labels)
    result = np.empty_like(values)
    for k in np.flatnonzero(counts):
        own = labels == k
        if counts[k] > 1:  # the class mean moves by (class mean - value)/(count - 1)
            shift = (values[own].mean(axis=0) - values[own]) / (counts[k] - 1)
            result[own] = mean + shift / classes
        else:  # the class is gone
            result[own] = (classes * mean - values[own]) / (classes - 1)
    return result


def vote_weights(counts: IntArray) -> Vector:
    """(..., c) what one example's vote counts, so that all classes present have an equal say.

    Over the examples the weights have mean 1.

    Args:
        counts: (..., c) examples of each class, at least one in each row.
    """
    seen = np.count_nonzero(counts, axis=-1, keepdims=True)
    weights: Vector = counts.sum(axis=-1, keepdims=True) / seen / np.maximum(counts, 1)
    return weights
