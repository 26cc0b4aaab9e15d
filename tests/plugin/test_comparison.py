"""Several methods side by side: what is shared, what is kept, and what is refused."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests.conftest import World
from tests.plugin.small_job import small_job
from unlearn_hooks.errors import UnlearnError
from unlearn_plugin import comparison
from unlearn_plugin.comparison import Comparison, compare, prepare_comparison
from unlearn_plugin.job import Job
from unlearn_plugin.pipeline import Outcome
from unlearn_plugin.progress import Progress
from unlearn_plugin.report.compared import compare_schema, read_compared
from unlearn_plugin.report.report import read_report
from unlearn_plugin.report.schema import misfits
from unlearn_plugin.verification import verify

QUIET = Progress(enabled=False)
Compared = tuple[Job, Comparison]


def copied(compared: Compared, place: Path) -> Job:
    """The finished comparison under another name, as if it had been written there."""
    shutil.copytree(Path(compared[0].forget).parent, place, dirs_exist_ok=True)
    old, new = str(Path(compared[0].forget).parent), str(place)
    for path in (place / "out").glob("*.private/job.yaml"):
        path.write_text(path.read_text().replace(old, new))
    return replace(compared[0], model=f"{place}/net.safetensors", forget=f"{place}/forget.txt", out=f"{place}/out")


def test_each_method_leaves_an_output_folder_whose_numbers_are_those_it_would_have_alone(compared: Compared) -> None:
    folder = compared[1].folder
    made = {path.name for path in folder.iterdir()}
    names = ("retrain", "retrain-seed=1", "finetune-epochs=1")
    assert made == {
        "compare.json", "compare.html", "mini-parameters=none-.private", *names, *(f"{name}.private" for name in names),
    }  # fmt: skip
    assert verify(folder / "finetune-epochs=1", progress=QUIET).findings == []


def test_the_first_retrained_model_is_the_reference_of_all_that_follow(compared: Compared) -> None:
    reports = compared[1].reports
    assert list(reports) == ["retrain", "retrain:seed=1", "finetune:epochs=1"]
    assert reports["retrain"]["model"]["reference"] is None
    for label in ("retrain:seed=1", "finetune:epochs=1"):
        assert reports[label]["model"]["reference"] == reports["retrain"]["model"]["after"]
        told = reports[label]["measurements"]["utility"]["reference"]
        assert told["value"] == reports["retrain"]["measurements"]["utility"]["after"]["value"]
    assert reports["retrain"]["model"]["after"] != reports["retrain:seed=1"]["model"]["after"]


def test_a_method_that_fails_stops_no_other_and_its_reason_is_private(compared: Compared) -> None:
    found = compared[1]
    assert list(found.failures) == ["mini:parameters=none*"]
    assert "fits none of" in found.failures["mini:parameters=none*"]
    private = found.folder / "mini-parameters=none-.private" / "failure.txt"
    assert "fits none of" in private.read_text()
    assert "fits none of" not in (found.folder / "compare.html").read_text()
    row = {row["label"]: row for row in found.content["rows"]}["mini:parameters=none*"]
    assert (row["status"], row["measured"], row["released"]) == ("FAILED", None, False)


def test_what_is_written_fits_its_schema_and_says_what_it_cost(compared: Compared) -> None:
    content = read_compared(compared[1].folder)
    assert content == compared[1].content
    assert misfits(content, compare_schema()) == []
    assert content["exact"]["labels"] == ["retrain", "retrain:seed=1"]
    assert content["exact"]["spread"]["models"] == 2
    for row in content["rows"][:3]:
        assert row["cost"]["cpu_seconds"] > 0
        assert row["cost"]["share_of_retraining"] > 0
    assert sum(row["cost"]["share_of_retraining"] for row in content["rows"][:2]) == pytest.approx(2, rel=1e-4)


def test_the_same_call_again_goes_on_where_it_was(
    compared: Compared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = copied(compared, tmp_path)
    shutil.rmtree(Path(job.out) / "finetune-epochs=1")
    (Path(job.out) / "compare.json").unlink()
    carried: list[str] = []
    plain = comparison.carry_out

    def carry_out(prepared: comparison.Prepared, *words: object, **more: object) -> Outcome:
        carried.append(prepared.job.method)
        return plain(prepared, *words, **more)

    monkeypatch.setattr(comparison, "carry_out", carry_out)
    found = compare(job, progress=QUIET)
    assert found.skipped == ("retrain", "retrain:seed=1")
    assert sorted(carried) == ["finetune", "mini"]  # what failed is tried again
    again = {row["label"]: row["measured"] for row in found.content["rows"]}
    assert again == {row["label"]: row["measured"] for row in compared[1].content["rows"]}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": 5}, r"made with other settings \(seed\)"),
        ({"options": {"retrain.epochs": "4"}}, r"'.*/retrain' was made with other settings \(options\)"),
        ({"method": "retrain"}, "holds 'finetune-epochs=1', which is of none of these methods"),
    ],
)
def test_what_another_job_left_is_neither_used_nor_overwritten(
    compared: Compared, tmp_path: Path, change: dict[str, object], words: str
) -> None:
    job = copied(compared, tmp_path)
    before = read_report(Path(job.out) / "retrain")
    with pytest.raises(UnlearnError, match=words):
        compare(replace(job, **change), progress=QUIET)
    assert read_report(Path(job.out) / "retrain") == before


def test_another_request_under_the_same_name_is_noticed(compared: Compared, tmp_path: Path) -> None:
    job = copied(compared, tmp_path)
    Path(job.forget).write_text("50\n51\n")
    with pytest.raises(UnlearnError, match="made of another model, request or record"):
        compare(job, progress=QUIET)


def test_everything_is_checked_for_every_method_before_any_starts(world: World, tmp_path: Path) -> None:
    job = small_job(world, tmp_path, ["1", "no such sample"], method="finetune:epochs=x,mini:steps=0,muda:rond=1")
    with pytest.raises(UnlearnError) as caught:
        compare(job, progress=QUIET)
    text = "\n".join(caught.value.findings)
    for words in ("epochs='x'", "steps=0 is out of range", "no option 'rond'", "no such sample"):
        assert words in text
    assert not Path(job.out).exists()


def test_a_method_that_needs_a_record_is_found_out_before_any_starts(world: World, tmp_path: Path) -> None:
    job = small_job(world, tmp_path, ["1", "2"], method="finetune,mini", record=None)
    with pytest.raises(UnlearnError, match="'mini' needs the record"):
        compare(job, progress=QUIET)


def test_parts_are_loaded_once_and_shared(world: World, tmp_path: Path) -> None:
    todo = prepare_comparison(small_job(world, tmp_path, ["1", "2"], method="finetune,retrain,scrub"))
    first = todo[0][1]
    assert [one.label for one, _, _ in todo] == ["retrain", "finetune", "scrub"]
    for _, prepared, report in todo:
        assert report is None
        assert prepared.splits is first.splits
        assert prepared.checkpoint is first.checkpoint


def test_if_all_methods_fail_that_is_an_error_with_every_reason(world: World, tmp_path: Path) -> None:
    job = small_job(world, tmp_path, ["1", "2"], method="mini:parameters=a*,mini:parameters=b*")
    with pytest.raises(UnlearnError) as caught:
        compare(job, progress=QUIET)
    assert [finding.partition(":p")[0] for finding in caught.value.findings] == ["mini", "mini"]
    assert not (Path(job.out) / "compare.json").exists()


def test_a_notebook_shows_the_page(compared: Compared) -> None:
    shown = compared[1]._repr_html_()
    assert 'sandbox=""' in shown
    assert "4 methods" in shown
