from __future__ import annotations

import mmap
import threading

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
    """Fresh pages from the system: what a library frees may serve the next one."""
    size = 64 * 10**6
    with PeakMemory() as memory:
        held = mmap.mmap(-1, size)
        held.write(bytes(size))
        memory._look()
        held.close()
    # Not with what was there before: a system may take back what is long unused meanwhile.
    with PeakMemory() as after:
        pass
    assert memory.bytes - after.bytes > 40 * 10**6
