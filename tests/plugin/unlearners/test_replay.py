"""replay against trainings that really never had F: equal in every bit of every parameter and buffer."""

from pathlib import Path

import pytest

from tests.conftest import fresh_net
from tests.plugin.unlearners.live_runs import FORGET, LiveRun, adamw, same
from unlearn_plugin.unlearners.replay import Replay

RUNS = {
    "sgd": {},
    "adamw": {"optimize": adamw},
    "augmented": {"noisy": True},
    "augmented in workers": {"noisy": True, "workers": 2, "epochs": 2},
    "accumulated": {"accumulate": 2, "noisy": True},
}


@pytest.mark.parametrize("name", RUNS)
def test_the_result_is_the_run_that_never_had_the_samples(tmp_path: Path, name: str) -> None:
    run = LiveRun(tmp_path / "record", **RUNS[name]).recorded()
    model = fresh_net(1)
    facts = Replay().unlearn(model, run.evidence())
    assert same(model, run.without(FORGET))
    assert not same(model, run.model)
    assert facts["reproduces_the_run"] is True
    assert facts["not_reproduced"] == []
