import numpy as np
import pytest

from signals import peaks, rms, smooth


def test_smoothing_a_constant_changes_nothing():
    assert smooth([2.0] * 10, 3) == pytest.approx([2.0] * 10)


@pytest.mark.parametrize("window", [1, 2, 3, 5, 8])
def test_smoothing_keeps_the_length(window):
    assert len(smooth(np.arange(20), window)) == 20


def test_smoothing_reduces_noise():
    noise = np.random.default_rng(seed=1).normal(0, 1, 500)
    assert rms(smooth(noise, 9)) < rms(noise) / 2


@pytest.mark.parametrize("window", [0, -1])
def test_a_window_below_one_is_refused(window):
    with pytest.raises(ValueError, match="at least 1"):
        smooth([1, 2, 3], window)


def test_peaks_are_found_above_the_threshold():
    assert list(peaks([0, 3, 0, 1, 0, 5, 0], threshold=2)) == [1, 5]


def test_a_plateau_is_no_peak():
    assert list(peaks([0, 1, 1, 0])) == []


def test_rms_of_a_sine():
    assert rms(np.sin(np.linspace(0, 2 * np.pi, 10_001))) == pytest.approx(2**-0.5, abs=1e-3)
