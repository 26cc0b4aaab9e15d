"""`unlearn compare` on the command line; tests/plugin/test_comparison.py has what it does."""

import json
from pathlib import Path

import pytest
from click.testing import Result

from tests.plugin.cli.invoke import invoke
from tests.plugin.small_job import INPUT
from unlearn_plugin import comparison
from unlearn_plugin.comparison import Comparison
from unlearn_plugin.job import Job

Compared = tuple[Job, Comparison]


def words_of(job: Job, **changes: str) -> list[str]:
    flags = {
        name: str(getattr(job, name)) for name in ("model", "arch", "data", "forget", "record", "device", "method")
    }
    flags |= {"input-size": str(INPUT["input_size"]), "mean": "0.5", "std": "0.5", "out": job.out, **changes}
    return [word for name, value in flags.items() for word in (f"--{name}", value)]


def rerun(compared: Compared, *more: str) -> Result:
    """The finished comparison again: nothing but the method that failed is tried."""
    return invoke("compare", *words_of(compared[0]), "-o", "retrain.epochs=3", *more)


def test_the_table_names_every_method_and_says_what_the_distance_is_to(compared: Compared) -> None:
    done = rerun(compared)
    assert done.exit_code == 1  # one method failed
    assert "retrain was done before; its result is kept." in done.output
    lines = {line.split()[0]: line for line in done.output.splitlines() if line.split()}
    assert "of retrain  verdict" in done.output
    assert lines["retrain"].endswith("EXACT_BY_PROCESS")
    assert lines["mini:parameters=none*"].endswith("FAILED")
    assert "distance: to retrain, retrain:seed=1, which are" in done.output
    assert "mini:parameters=none* failed:" in done.output


def test_one_document_for_other_programs_without_the_sentence_that_may_name_samples(compared: Compared) -> None:
    done = rerun(compared, "--json")
    document = json.loads(done.stdout)
    assert document["schema"] == "urn:unlearn-plugin:compare:1"
    assert document["failed"] == ["mini:parameters=none*"]
    assert [row["label"] for row in document["comparison"]["rows"]][0] == "retrain"
    assert "fits none" not in done.stdout


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(compared: Compared, tmp_path: Path) -> None:
    done = invoke(
        "compare", *words_of(compared[0], method="mini:steps=2,retrain", out=str(tmp_path / "o")), "--dry-run"
    )
    assert done.exit_code == 0, done.output
    assert "method     retrain: start=fresh" in done.output
    assert "method     mini:steps=2: window=none, steps=2" in done.output
    assert "forget     24 samples" in done.output
    assert not (tmp_path / "o").exists()
    again = rerun(compared, "--dry-run")
    assert "method     retrain:seed=1: is there already" in again.output


@pytest.mark.parametrize(("released", "code"), [(True, 0), (False, 3)])
def test_the_exit_code_says_whether_any_result_may_be_released(
    compared: Compared, monkeypatch: pytest.MonkeyPatch, released: bool, code: int
) -> None:
    content = json.loads(json.dumps(compared[1].content))
    for row in content["rows"]:
        row["released"] = released and row["label"] == "retrain"
    found = Comparison(compared[1].folder, content, {}, {}, ())
    monkeypatch.setattr(comparison, "compare", lambda job, signer: found)
    assert invoke("compare", *words_of(compared[0])).exit_code == code


def test_the_help_has_the_flags_of_apply_in_words_for_several_methods() -> None:
    text = " ".join(invoke("compare", "--help").output.split())
    for words in ("--method NAME,NAME", "[NAME.]KEY=VALUE", "one output folder per method", "--reference MODEL"):
        assert words in text
    assert invoke("compare", "--method", "mini").exit_code == 2
