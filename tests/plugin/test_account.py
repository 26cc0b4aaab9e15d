"""What a report says of its job: no names of code, and nothing about single samples."""

from pathlib import Path

from tests.conftest import World
from tests.plugin.small_job import small_job
from unlearn_plugin.account import describe_method, without_single_samples
from unlearn_plugin.preparation import prepare
from unlearn_plugin.user_code import OWN_CODE, without_names_of_code


def test_names_of_the_users_own_code_are_not_published() -> None:
    options = {"data": "clinic.lindqvist:loader", "rate": 0.1, "schedule": "cosine", "steps": None}
    assert without_names_of_code(options) == options | {"data": OWN_CODE}


def test_nor_do_they_stand_in_the_account_of_the_method(world: World, tmp_path: Path) -> None:
    options = {"data": "clinic.lindqvist:loader", "check": "false"}
    job = small_job(world, tmp_path, [str(row) for row in range(24)], method="replay", options=options)
    told = describe_method(prepare(job))["options"]
    assert (told["data"], told["check"]) == (OWN_CODE, False)


def test_of_very_few_samples_a_method_reports_counts_and_words_only() -> None:
    facts = {"steps": 4, "stopped": "early", "confidence": 2.80435, "losses": [0.1], "target": {"mean": 0.3, "n": 1}}
    assert without_single_samples(facts, 4) == {"steps": 4, "stopped": "early", "target": {"n": 1}}
    assert without_single_samples(facts, 5) == facts
