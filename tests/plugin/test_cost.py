"""What a piece of work took."""

import time
from pathlib import Path

import pytest
import torch

from unlearn_plugin import cost
from unlearn_plugin.cost import measured_cost

CPU = torch.device("cpu")


def test_waiting_takes_time_and_no_processor_and_computing_takes_both() -> None:
    with measured_cost(CPU) as waited:
        time.sleep(0.15)
    with measured_cost(CPU) as computed:
        end = time.process_time() + 0.15
        while time.process_time() < end:
            pass
    assert waited.seconds >= 0.15
    assert waited.cpu_seconds < 0.1
    assert computed.seconds >= computed.cpu_seconds * 0.9
    assert computed.cpu_seconds >= 0.15


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="this system does not tell")
def test_the_peak_of_the_memory_is_seen_although_it_is_free_again() -> None:
    with measured_cost(CPU) as small:
        pass
    with measured_cost(CPU) as large:
        block = torch.ones(40_000_000)  # 160 MB
        time.sleep(0.1)
        del block
    assert small.peak_memory is not None
    assert large.peak_memory is not None
    assert large.peak_memory - small.peak_memory > 100_000_000


def test_where_memory_cannot_be_read_it_is_not_invented(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cost, "_STATUS", tmp_path / "absent")
    with measured_cost(CPU) as found:
        pass
    assert found.peak_memory is None


def test_work_that_fails_is_measured_and_its_error_goes_on() -> None:
    with pytest.raises(ValueError, match="no"), measured_cost(CPU) as found:
        raise ValueError("no")
    assert found.seconds > 0
