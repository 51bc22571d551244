from __future__ import annotations

import numpy as np

from blackbox_delta.probing import PROBED, PROBES, SMALLEST, does_no_harm, probe_directions


def test_directions_follow_from_the_seed_alone() -> None:
    first = probe_directions(500, 3)
    assert first.shape == (PROBES, 500)
    np.testing.assert_array_equal(first, probe_directions(500, 3))
    assert not np.array_equal(first, probe_directions(500, 4))
    assert abs(first.std() - 1) < 0.1


def test_steps_become_smaller() -> None:
    steps = [*PROBED, SMALLEST]
    assert steps == sorted(steps, reverse=True)
    assert steps[0] == 1


def test_harm_is_a_rise_of_more_than_one_standard_error() -> None:
    assert does_no_harm(np.array([-1.0, -2.0, 0.5, -0.1]))
    even = np.array([1.0, -1.0, 1.0, -1.0])
    error = even.std(ddof=1) / 2
    assert does_no_harm(even + 0.99 * error)
    assert not does_no_harm(even + 1.01 * error)
    assert not does_no_harm(np.array([0.5, 0.6, 0.5, 0.6]))
