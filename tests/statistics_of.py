"""Logits that are calibrated by construction: labels are drawn from their probabilities."""

import numpy as np
from scipy.special import expit, softmax


def drawn(count, classes, *, seed=0, sharp=2.5, prior=None):
    """(N, K) logits and (N,) labels."""
    random = np.random.default_rng(seed)
    prior = np.full(classes, 1 / classes) if prior is None else np.array(prior)
    centres = random.choice(classes, count, p=prior)
    logits = random.normal(size=(count, classes)) + sharp * np.eye(classes)[centres] + np.log(prior)
    below = softmax(logits, axis=1).cumsum(axis=1)
    return logits, (below < random.random((count, 1))).sum(axis=1).clip(max=classes - 1)


def several(count, labels, *, seed=0, unknown=0.2):
    """(N, K) logits and (N, K) labels with NaN."""
    random = np.random.default_rng(seed)
    logits = 2 * random.normal(size=(count, labels))
    truth = (random.random(logits.shape) < expit(logits)).astype(float)
    truth[random.random(truth.shape) < unknown] = np.nan
    return logits, truth
