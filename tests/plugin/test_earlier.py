"""Which requests were served before; tests/plugin/test_request_kinds.py follows them through whole runs."""

import json
from pathlib import Path

import pytest

from tests.plugin.report.example import example_report
from unlearn_hooks.errors import UnlearnError
from unlearn_plugin.earlier import Earlier, find_earlier
from unlearn_plugin.job import Job
from unlearn_plugin.job_file import write_job_file
from unlearn_plugin.manifest import ForgetManifest


def manifest(path: Path, *lines: str) -> str:
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def job(model: str, *earlier: str) -> Job:
    return Job(model=model, forget="now.txt", method="mini", out="out", earlier=earlier)


@pytest.fixture
def cleaned(tmp_path: Path) -> Path:
    """An output folder as far as this matters: of a second request, with its private folder."""
    folder, private = tmp_path / "cleaned", tmp_path / "cleaned.private"
    folder.mkdir()
    private.mkdir()
    report = example_report()
    report["request"]["earlier"] = {"requests": 1, "n_samples": 2, "commitments": ["ab" * 32]}
    (folder / "report.json").write_text(json.dumps(report))
    first, second = manifest(tmp_path / "first.txt", "a", "b"), manifest(tmp_path / "second.txt", "c")
    write_job_file(
        Job(model="m", forget=second, method="mini", out=str(folder), earlier=(first,)), private / "job.yaml"
    )
    return folder


def test_most_models_were_not_cleaned_before(tmp_path: Path) -> None:
    assert find_earlier(job("resnet18")).manifests == {}
    assert find_earlier(job(f"local-dir:{tmp_path}")).manifests == {}


def test_requests_are_read_from_the_flag_each_once(tmp_path: Path) -> None:
    path = manifest(tmp_path / "first.txt", "a", "b")
    found = find_earlier(job("resnet18", path, path))
    assert found.paths == (path,)
    assert [entry.name for entry in found.manifests[path].entries] == ["a", "b"]


@pytest.mark.parametrize("form", ["local-dir:{}", "{}", "{}/model.safetensors"])
def test_the_private_folder_of_a_cleaned_model_names_all_before_it(cleaned: Path, form: str) -> None:
    (cleaned / "model.safetensors").touch()
    found = find_earlier(job(form.format(cleaned)))
    assert [Path(path).name for path in found.paths] == ["first.txt", "second.txt"]


def test_a_request_that_is_not_known_any_more_is_an_error_with_a_remedy(cleaned: Path, tmp_path: Path) -> None:
    (tmp_path / "cleaned.private" / "job.yaml").unlink()
    with pytest.raises(UnlearnError, match="2 earlier requests.*none are known; give each by --earlier FILE"):
        find_earlier(job(f"local-dir:{cleaned}"))
    given = [str(tmp_path / name) for name in ("first.txt", "second.txt")]
    assert find_earlier(job(f"local-dir:{cleaned}", *given)).paths == tuple(given)


def test_manifests_that_cannot_be_read_are_all_named(tmp_path: Path) -> None:
    with pytest.raises(UnlearnError) as caught:
        find_earlier(job("resnet18", str(tmp_path / "absent.txt"), manifest(tmp_path / "empty.txt", "")))
    assert len(caught.value.findings) == 2
    assert all(finding.startswith("Earlier request: ") for finding in caught.value.findings)
    assert "check --earlier" in caught.value.findings[0]


def test_only_what_a_request_named_may_be_missing_from_the_data(tmp_path: Path) -> None:
    by_id = Earlier({"one": ForgetManifest.read(manifest(tmp_path / "one.txt", "a", "b"))})
    by_class = Earlier({"two": ForgetManifest.read(manifest(tmp_path / "two.txt", "class=3"))})
    assert by_id.explains(["a"])
    assert not by_id.explains(["a", "c"])
    assert by_class.explains(["3/unknown.png"])
    assert not Earlier({}).explains(["a"])


def test_commitments_depend_on_the_key_and_not_on_the_order(tmp_path: Path) -> None:
    one, two = (ForgetManifest.read(manifest(tmp_path / f"{name}.txt", name)) for name in "ab")
    key = bytes(32)
    assert Earlier({"1": one, "2": two}).commitments(key) == Earlier({"1": two, "2": one}).commitments(key)
    assert Earlier({"1": one}).commitments(key) == [one.commitment(key)]
    assert Earlier({"1": one}).commitments(key) != Earlier({"1": one}).commitments(bytes(31) + b"1")
