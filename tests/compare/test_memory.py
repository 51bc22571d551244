from __future__ import annotations

import threading

import numpy as np

from blackbox_delta.compare.memory import PeakMemory


def test_a_peak_between_beginning_and_end_is_seen() -> None:
    seen = threading.Event()
    values = iter([5, 9])

    def resident() -> int:
        value = next(values, 4)
        if value == 9:
            seen.set()
        return value

    with PeakMemory(resident) as memory:
        assert seen.wait(10)
    assert memory.bytes == 9


def test_memory_that_is_given_back_counts_while_it_was_held() -> None:
    with PeakMemory() as memory:
        held = np.ones(8 * 10**6)
        memory._look()
        del held
    with PeakMemory() as later:
        pass
    assert memory.bytes - later.bytes > 40 * 10**6
