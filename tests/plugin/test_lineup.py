"""The words of a comparison become jobs, and every mistake is said at once."""

from pathlib import Path

import pytest

from unlearn_hooks.errors import UnlearnError
from unlearn_plugin.job import Job
from unlearn_plugin.lineup import line_up


def job(method: str, **options: str) -> Job:
    renamed = {name.replace("__", "."): value for name, value in options.items()}
    return Job(model="m", forget="f.txt", method=method, options=renamed, out="runs/out", seed=3)


def findings(method: str, **options: str) -> tuple[str, ...]:
    with pytest.raises(UnlearnError) as caught:
        line_up(job(method, **options))
    return caught.value.findings


def test_each_method_gets_a_job_of_its_own_and_those_that_retrain_come_first() -> None:
    found = line_up(job(" mini, muda ,retrain,"))
    assert [one.label for one in found] == ["retrain", "mini", "muda"]
    assert [one.job.method for one in found] == ["retrain", "mini", "muda"]
    assert [one.folder for one in found] == [Path("runs/out") / name for name in ("retrain", "mini", "muda")]
    assert {one.job.seed for one in found} == {3}


def test_the_nearest_word_wins() -> None:
    found = line_up(job("mini,mini:steps=12,finetune", epochs="2", mini__steps="6", mini__batches="1", batch_size="8"))
    options = {one.label: dict(one.job.options) for one in found}
    assert options == {
        "mini": {"steps": "6", "batches": "1", "batch_size": "8"},
        "mini:steps=12": {"steps": "12", "batches": "1", "batch_size": "8"},
        "finetune": {"epochs": "2", "batch_size": "8"},
    }


def test_a_method_twice_is_told_apart_by_its_options_and_written_to_a_plain_name() -> None:
    found = line_up(job("mini:parameters=*.weight:steps=2,mini:steps=2"))
    assert [one.folder.name for one in found] == ["mini-parameters=-.weight-steps=2", "mini-steps=2"]
    assert found[0].job.options == {"parameters": "*.weight", "steps": "2"}


def test_all_mistakes_are_said_at_once_with_what_there_is() -> None:
    told = findings("retrane,mini:steps,finetune", epoch="3", muda__rounds="2")
    assert len(told) == 4
    text = " ".join(told)
    for words in (
        "'steps' is not of the form KEY=VALUE",
        "no unlearner called 'retrane' (did you mean 'retrain'?)",
        "None of the methods has an option 'epoch' (did you mean 'epochs'?)",
        "'muda' is none of the methods compared: finetune, mini",
    ):
        assert words.split(":")[0] in text


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("mini,mini", "'mini' and 'mini', and both would be written to 'mini'"),
        ("mini:parameters=a*,mini:parameters=a?", "both would be written to 'mini-parameters=a-'"),
        (" , ", "No method is named"),
    ],
)
def test_two_outputs_never_share_a_folder(method: str, words: str) -> None:
    assert any(words in finding for finding in findings(method))
