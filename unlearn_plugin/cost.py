"""Cost: what a piece of work took, in seconds, processor time and memory."""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

__all__ = ["Cost", "measured_cost"]

_STATUS = Path("/proc/self/statm")
_INTERVAL = 0.02  # seconds between two looks at the memory


@dataclass
class Cost:
    """What was used; complete when the work has ended.

    Attributes:
        seconds: By the clock on the wall.
        cpu_seconds: Of this process, all threads together.
        peak_memory: Largest memory in bytes: allocated on the graphics card where the work is there; else resident in
            main memory, everything in this process counted, looked at every 20 ms. ``None`` where it cannot be read.
    """

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_memory: int | None = None


@contextmanager
def measured_cost(device: torch.device) -> Iterator[Cost]:
    """Measure what happens inside.

    Args:
        device: Where the work is done.

    Yields:
        The cost; its numbers are set at the end.
    """
    cost = Cost()
    watch = _OnCard(device) if device.type == "cuda" else _InMain()
    wall, processor = time.perf_counter(), time.process_time()
    try:
        yield cost
    finally:
        cost.peak_memory = watch.end()  # waits for the card
        cost.seconds, cost.cpu_seconds = time.perf_counter() - wall, time.process_time() - processor


class _OnCard:
    def __init__(self, device: torch.device) -> None:
        self._device = device
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)

    def end(self) -> int:
        torch.cuda.synchronize(self._device)
        return int(torch.cuda.max_memory_allocated(self._device))


class _InMain:
    """Looks from a thread: the kernel's own high-water mark would have to be reset, and is not ours to reset."""

    def __init__(self) -> None:
        self._most = _resident()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        if self._most is not None:
            self._thread.start()

    def _look(self) -> None:
        while not self._ended.wait(_INTERVAL):
            self._most = max(self._most or 0, _resident() or 0)

    def end(self) -> int | None:
        if self._most is None:
            return None
        self._ended.set()
        self._thread.join()
        return max(self._most, _resident() or 0)


def _resident() -> int | None:
    try:
        return int(_STATUS.read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):  # another system than Linux
        return None
