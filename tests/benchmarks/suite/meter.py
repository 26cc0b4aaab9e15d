"""Meter: what a piece of work of the benchmarks takes."""

import time
from collections.abc import Callable
from pathlib import Path


class Meter:
    """Processor time and peak memory of what runs inside.

    Attributes:
        seconds: Of the processor.
        steps: The same as a number of training steps, which are timed before and after: on a busy machine all becomes
            slower together.
        peak: Bytes of memory held at most above what was held before; ``None`` where the system does not tell.
    """

    def __init__(self, time_of_a_step: Callable[[], float]) -> None:
        self._time_of_a_step = time_of_a_step

    def __enter__(self) -> "Meter":
        self._step = self._time_of_a_step()
        _forget_peak()
        self._held = _memory("VmRSS")
        self._started = time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.process_time() - self._started
        peak = _memory("VmHWM")
        self.peak = None if peak is None or self._held is None else peak - self._held
        self.steps = self.seconds / ((self._step + self._time_of_a_step()) / 2)

    @property
    def costs(self) -> dict[str, float | int | None]:
        """All of it by name."""
        return {"seconds": self.seconds, "steps": self.steps, "peak": self.peak}


def _memory(name: str) -> int | None:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(name)), None)


def _forget_peak() -> None:
    """Give freed memory back and let the system measure the peak anew."""
    import ctypes

    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return
