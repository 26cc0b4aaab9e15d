"""What a purge takes away, and what it must never touch; no network."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unlearn_plugin.purge import Inventory, differing, plan_purge

NEW, OLD, OLDER = "a" * 64, "b" * 64, "c" * 64
GIT = "d" * 40
KEEP = {"model.safetensors": (NEW, "e" * 40), "README.md": ("f" * 64, GIT)}
PUBLISHED = {"model.safetensors": NEW, "README.md": GIT, ".gitattributes": "0" * 40}
CLEAN = Inventory(
    repository="clinic/classifier",
    public=True,
    head="c2",
    files=PUBLISHED,
    lfs={NEW: "model.safetensors"},
    commits=("c2",),
)


def kinds(inventory: Inventory) -> list[tuple[str, tuple[str, ...]]]:
    return [(step.kind, step.names) for step in plan_purge(inventory, KEEP).steps]


def test_a_repository_with_nothing_but_the_published_files_needs_no_purge() -> None:
    plan = plan_purge(CLEAN, KEEP)
    assert (plan.steps, plan.commits, plan.files, plan.left) == ((), (), (), ())


def test_steps_come_in_the_order_in_which_they_must_be_done() -> None:
    found = replace(
        CLEAN,
        files={"model.safetensors": OLD, "pytorch_model.bin": OLDER},
        lfs={OLD: "model.safetensors", OLDER: "pytorch_model.bin"},
        commits=("c2", "c1"),
        tags=("v1",),
        branches=("dev",),
    )
    assert kinds(found) == [
        ("file", ("pytorch_model.bin",)),
        ("tag", ("v1",)),
        ("branch", ("dev",)),
        ("lfs", (OLD, OLDER)),
        ("history", ("main",)),
    ]
    assert plan_purge(found, KEEP).commits == ("c2", "c1")


def test_what_was_published_already_is_no_earlier_commit_but_the_history_before_it_is() -> None:
    plan = plan_purge(replace(CLEAN, commits=("c2", "c1")), KEEP)
    assert plan.commits == ("c1",)
    assert [step.kind for step in plan.steps] == ["history"]


def test_a_single_commit_with_other_content_is_history_too() -> None:
    plan = plan_purge(replace(CLEAN, files={"README.md": "9" * 40}, lfs={}), KEEP)
    assert plan.commits == ("c2",)
    assert [step.kind for step in plan.steps] == ["history"]


@given(st.dictionaries(st.sampled_from([NEW, OLD, OLDER, "f" * 64]), st.sampled_from(["model.safetensors", "x.bin"])))
def test_an_object_with_the_content_of_a_published_file_is_never_deleted_whatever_its_name(lfs: dict[str, str]) -> None:
    doomed = {name for kind, names in kinds(replace(CLEAN, lfs=lfs)) if kind == "lfs" for name in names}
    assert doomed == lfs.keys() - {NEW, "f" * 64}


@pytest.mark.parametrize(
    ("name", "digest", "goes"),
    [
        ("small.pt", GIT, True),  # small weights may be git blobs
        ("export/MODEL.ONNX", GIT, True),
        ("figure.png", OLD, True),  # in LFS, and every other LFS object is deleted
        ("figure.png", GIT, False),
        ("LICENSE", GIT, False),
        (".gitattributes", GIT, None),  # belongs to the Hub
    ],
)
def test_other_files_of_main_go_if_they_may_hold_weights_and_are_told_otherwise(
    name: str, digest: str, goes: bool | None
) -> None:
    plan = plan_purge(replace(CLEAN, files={**PUBLISHED, name: digest}), KEEP)
    assert plan.files == ((name,) if goes else ())
    assert plan.left == ((name,) if goes is False else ())
    assert [step.kind for step in plan.steps] == (["file", "history"] if goes else [])


def test_what_no_call_can_purge_is_listed_and_some_of_it_always_is() -> None:
    found = replace(
        CLEAN, pull_requests=("refs/pr/3",), converts=("refs/convert/onnx",), derived=("someone/finetuned",)
    )
    *told, elsewhere = plan_purge(found, KEEP).unreachable
    assert [line.split(" ")[0] for line in told] == ["refs/pr/3", "refs/convert/onnx", "someone/finetuned"]
    assert "discussion 3 of clinic/classifier" in told[0]
    assert plan_purge(CLEAN, KEEP).unreachable == (elsewhere,)
    assert "caches" in elsewhere


def test_files_differ_if_they_are_missing_or_have_neither_digest() -> None:
    assert differing(PUBLISHED, KEEP) == ()
    assert differing({**PUBLISHED, "model.safetensors": "e" * 40}, KEEP) == ()  # as a git blob
    assert differing({"model.safetensors": OLD}, KEEP) == ("README.md", "model.safetensors")
