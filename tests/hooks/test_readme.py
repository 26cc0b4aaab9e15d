"""The examples of hooks/README.md run as they are written, in their order."""

import re
from pathlib import Path

import pytest

from unlearn_hooks.features import recorded_features
from unlearn_hooks.schedule import recorded_schedule
from unlearn_hooks.training_record import TrainingRecord
from unlearn_hooks.updates import recorded_updates

README = (Path(__file__).parents[2] / "hooks" / "README.md").read_text()
EXAMPLES = [compile(code, "hooks/README.md", "exec") for code in re.findall(r"```python\n(.*?)```", README, re.DOTALL)]


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")
def test_the_examples_run_and_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for example in EXAMPLES:
        exec(example, {})
    frameworks = dict.fromkeys(("lightning", "transformers", "accelerate", "averaged"), 12)
    for run, steps in ({"a": 24, "c": 18, "d": 4, "e": 26} | frameworks).items():
        record = TrainingRecord.open(f"runs/{run}/record")
        assert record.complete
        assert record.recipe["steps"] == steps
        assert all(update.rows is not None for update in recorded_updates(record))
        assert recorded_features(record).n == recorded_schedule(record).batch_sizes.sum()


def test_the_resuming_example_goes_on_where_a_dead_run_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n((?:(?!```).)*load_state_dict.*?)```", README, re.DOTALL)
    dies = code.replace(
        "            optimizer.step()\n",
        "            optimizer.step()\n            steps += 1\n            1 / (steps - 9)\n",
    )
    with pytest.raises(ZeroDivisionError):
        exec(compile(dies, "dies", "exec"), {"steps": 0})
    assert not TrainingRecord.open("runs/c/record").complete
    exec(compile(code, "again", "exec"), {})
    record = TrainingRecord.open("runs/c/record")
    assert record.complete
    assert record.recipe["steps"] == 18
    assert [update.step for update in recorded_updates(record)] == list(range(18))
