"""What several jobs have in common is measured once, and is what each would have measured alone."""

from dataclasses import replace
from pathlib import Path

import pytest
from sklearn.datasets import load_digits
from torch import nn

from tests.conftest import World
from tests.plugin.conftest import job_for
from tests.plugin.small_job import small_job
from unlearn_plugin.demo import Scene
from unlearn_plugin.judging import Bench, make_trial, measure_all
from unlearn_plugin.metrics.base import Trial
from unlearn_plugin.metrics.membership import Membership
from unlearn_plugin.metrics.utility import Utility
from unlearn_plugin.preparation import Prepared, prepare
from unlearn_plugin.progress import Progress

QUIET = Progress(enabled=False)


@pytest.fixture(scope="module")
def prepared(world: World, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return prepare(small_job(world, tmp_path_factory.mktemp("judging"), [str(row) for row in range(24)]))


def test_the_trial_is_made_once_and_its_fixed_models_are_measured_once(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[nn.Module] = []
    plain = Utility.measure

    def measure(self: Utility, model: nn.Module, trial: Trial) -> object:
        asked.append(model)
        return plain(self, model, trial)

    monkeypatch.setattr(Utility, "measure", measure)
    bench = Bench()
    trial = bench.trial_of(prepared, QUIET)
    assert bench.trial_of(prepared, QUIET) is trial
    found = [measure_all(trial, None, QUIET, known=bench.measured) for _ in range(2)]
    assert asked == [prepared.checkpoint.model]
    assert found[0] == found[1]
    alone = measure_all(make_trial(prepared, QUIET), None, QUIET)
    assert alone == found[0]


def test_of_very_few_samples_nothing_is_measured_that_would_be_about_a_single_one(world: World, tmp_path: Path) -> None:
    few = prepare(small_job(world, tmp_path, ["0", "1", "2", "3"]))
    found = measure_all(make_trial(few, QUIET), None, QUIET)
    told = {name for name, one in found.items() if one["before"]["value"] is not None}
    assert told <= {"utility", "change"}
    assert "fewer than 5" in found["membership"]["before"]["note"]
    assert found["utility"]["before"]["details"]["forget"] is None


def test_wrongly_labelled_samples_are_known_to_be_hard_by_the_losses_of_the_record(
    scene: Scene, tmp_path: Path
) -> None:
    """Digits are named by their rows, so it is known which of them lie in the folder of another one."""
    truth = load_digits().target
    paths = [path.relative_to(scene.data / "train") for path in (scene.data / "train").rglob("*.png")]
    wrong = {path.as_posix(): int(path.parent.name) != truth[int(path.stem.partition("-")[2])] for path in paths}
    difficulty = {}
    for kind in (True, False):
        (tmp_path / f"{kind}.csv").write_text(
            "\n".join(["id", *sorted(n for n, one in wrong.items() if one == kind)[::3]])
        )
        prepared = prepare(job_for(scene, tmp_path / "out", forget=str(tmp_path / f"{kind}.csv")))
        trial = make_trial(prepared, QUIET)
        difficulty[kind] = Membership().measure(trial.original, trial).details["difficulty"]
    assert difficulty[True] < 0.15
    assert difficulty[False] > 0.5


def test_another_reference_is_measured_anew(prepared: Prepared) -> None:
    bench = Bench(measured={("utility", "before"): {"value": 1}, ("utility", "reference"): {"value": 2}})
    bench.trial_of(prepared, QUIET)
    other = replace(prepared, reference=prepared.checkpoint)
    trial = bench.trial_of(other, QUIET)
    assert trial.reference is prepared.checkpoint.model
    assert list(bench.measured) == [("utility", "before")]


def test_outputs_of_a_judged_model_are_let_go_and_those_of_the_original_kept(prepared: Prepared) -> None:
    trial = make_trial(prepared, QUIET)
    model = prepared.checkpoint.copy()
    kept = trial.outputs(trial.original, "forget")
    trial.outputs(model, "forget")
    trial.release(model)
    assert [one is trial.original for one, _ in trial._outputs.values()] == [True]
    assert trial.outputs(trial.original, "forget") is kept
