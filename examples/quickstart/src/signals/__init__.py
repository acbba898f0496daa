"""Smoothing and peak finding for evenly sampled signals."""

import numpy as np


def smooth(samples, window):
    """Moving average of `window` samples; the ends are averaged over what is there."""
    if window < 1:
        raise ValueError("window must be at least 1")
    samples = np.asarray(samples, dtype=float)
    kernel = np.ones(window)
    return np.convolve(samples, kernel, "same") / np.convolve(np.ones_like(samples), kernel, "same")


def peaks(samples, threshold=0.0):
    """Indices of the samples above `threshold` that are higher than both neighbours."""
    samples = np.asarray(samples, dtype=float)
    inner = samples[1:-1]
    higher = (inner > samples[:-2]) & (inner > samples[2:]) & (inner > threshold)
    return np.flatnonzero(higher) + 1


def rms(samples):
    """Root mean square."""
    return float(np.sqrt(np.mean(np.square(samples))))
