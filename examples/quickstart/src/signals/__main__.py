"""Prints how much of a noisy sine is left after smoothing, as JSON."""

import json

import numpy as np

from signals import peaks, rms, smooth

noise = np.random.default_rng(seed=7).normal(0, 0.2, 1000)
sine = np.sin(np.linspace(0, 8 * np.pi, 1000))
smoothed = smooth(sine + noise, 25)
print(json.dumps({"error_before": rms(noise), "error_after": rms(smoothed - sine), "peaks": len(peaks(smoothed, 0.9))}))
