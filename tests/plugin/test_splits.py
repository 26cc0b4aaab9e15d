"""Splits: who is forgotten, what is kept, and what is held back for the judge."""

import dataclasses
from collections import Counter
from datetime import date
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unlearn_hooks.errors import UnlearnError
from unlearn_plugin.data import ImageData
from unlearn_plugin.manifest import ForgetEntry, ForgetManifest
from unlearn_plugin.splits import SealedIds, Splits

CLASSES = ("cat", "dog", "emu")


def image_data(counts: tuple[int, ...], prefix: str, *, copies: dict[int, int] | None = None) -> ImageData:
    """Ids are ``class/prefixN.png``; row r shows r, but for the rows in `copies`, which show another one."""
    labels = [label for label, count in enumerate(counts) for _ in range(count)]
    ids = [f"{CLASSES[label]}/{prefix}{row}.png" for row, label in enumerate(labels)]
    shown = [float((copies or {}).get(row, row)) for row in range(len(labels))]
    items = [(torch.full((1, 1, 1), value), label) for value, label in zip(shown, labels, strict=True)]
    return ImageData(items, tuple(ids), torch.tensor(labels, dtype=torch.int64), CLASSES, True)


def request(*names: str | tuple[str, str]) -> ForgetManifest:
    """Entries by id, ``class=NAME``, or (entry, subject); in lines 1, 2, ..."""
    pairs = [(name, None) if isinstance(name, str) else name for name in names]
    entries = [
        ForgetEntry("class" if name.startswith("class=") else "id", name.removeprefix("class="), subject, line)
        for line, (name, subject) in enumerate(pairs, start=1)
    ]
    return ForgetManifest(tuple(entries), "R-1", date(2026, 1, 5))


TRAIN, HELDOUT = image_data((20, 10, 5), "t"), image_data((9, 6, 4), "h")


def findings(manifest: ForgetManifest, train: ImageData = TRAIN, heldout: ImageData = HELDOUT) -> list[str]:
    with pytest.raises(UnlearnError) as caught:
        Splits.make(manifest, train, heldout, seed=0)
    return list(caught.value.findings)


def test_requested_samples_are_forgotten_and_all_others_kept() -> None:
    splits = Splits.make(request("dog/t21.png", "cat/t3.png"), TRAIN, HELDOUT, seed=0)
    assert splits.forget.ids == ("cat/t3.png", "dog/t21.png")
    assert set(splits.retain.ids) == set(TRAIN.ids) - set(splits.forget.ids)
    assert splits.forgotten_classes == ()
    assert splits.subjects is None


def test_a_class_means_all_its_training_samples_also_beside_single_ones() -> None:
    splits = Splits.make(request("class=emu", "cat/t0.png", "emu/t30.png", "class=dog"), TRAIN, HELDOUT, seed=0)
    assert Counter(splits.forget.labels.tolist()) == {0: 1, 1: 10, 2: 5}
    assert splits.forgotten_classes == (1, 2)


def test_classes_of_which_a_tenth_was_requested_are_known() -> None:
    splits = Splits.make(request("class=emu", "cat/t0.png", "dog/t20.png"), TRAIN, HELDOUT, seed=0)
    assert splits.largely_requested() == (1,), "1 of 20 cats is little, 1 of 10 dogs is a tenth, emus go as a whole"
    assert Splits.make(request("cat/t0.png", "cat/t1.png"), TRAIN, HELDOUT, seed=0).largely_requested() == (0,)


def test_the_held_out_halves_are_apart_and_stratified_and_cover_everything() -> None:
    splits = Splits.make(request("cat/t0.png"), TRAIN, HELDOUT, seed=0)
    assert Counter(splits.tuning.labels.tolist()) == {0: 4, 1: 3, 2: 2}
    assert Counter(splits.verdict.labels.tolist()) == {0: 5, 1: 3, 2: 2}
    assert sorted(splits.tuning.ids + splits.verdict.ids) == sorted(HELDOUT.ids)
    assert splits.tuning.data is splits.verdict.data is HELDOUT


def test_the_halves_depend_on_the_seed_and_not_on_the_request() -> None:
    one = Splits.make(request("cat/t0.png"), TRAIN, HELDOUT, seed=0)
    two = Splits.make(request("class=dog"), TRAIN, HELDOUT, seed=0, retain_fraction=0.5)
    other = Splits.make(request("cat/t0.png"), TRAIN, HELDOUT, seed=1)
    assert one.verdict.ids == two.verdict.ids
    assert one.verdict.ids != other.verdict.ids


def test_the_global_random_state_is_left_alone() -> None:
    state = torch.get_rng_state()
    Splits.make(request("cat/t0.png"), TRAIN, HELDOUT, seed=0, retain_fraction=0.5)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_fraction_of_the_retained_data_is_stratified_and_keeps_every_class() -> None:
    half = Splits.make(request("cat/t0.png", "cat/t1.png"), TRAIN, HELDOUT, seed=0, retain_fraction=0.5)
    assert Counter(half.retain.labels.tolist()) == {0: 9, 1: 5, 2: 2}
    few = Splits.make(request("cat/t0.png"), TRAIN, HELDOUT, seed=0, retain_fraction=0.01)
    assert Counter(few.retain.labels.tolist()) == {0: 1, 1: 1, 2: 1}
    again = Splits.make(request("cat/t0.png"), TRAIN, HELDOUT, seed=5, retain_fraction=0.5)
    assert not set(half.retain.ids) & set(half.forget.ids)
    assert half.retain.ids != again.retain.ids


@pytest.mark.parametrize("fraction", [0.0, -0.5, 1.01, float("nan")])
def test_a_fraction_out_of_range_is_refused(fraction: float) -> None:
    with pytest.raises(UnlearnError, match="above 0 and up to 1"):
        Splits.make(request("cat/t0.png"), TRAIN, HELDOUT, seed=0, retain_fraction=fraction)


def test_subjects_are_numbered_and_unnamed_samples_stand_for_themselves() -> None:
    manifest = request(
        ("dog/t20.png", "anna"), "cat/t5.png", ("cat/t1.png", "bert"), ("cat/t2.png", "anna"), "cat/t9.png"
    )
    splits = Splits.make(manifest, TRAIN, HELDOUT, seed=0)
    by_id = dict(zip(splits.forget.ids, splits.subjects.tolist(), strict=True))
    assert by_id["dog/t20.png"] == by_id["cat/t2.png"]
    assert len(set(by_id.values())) == 4 == max(by_id.values()) + 1


def test_a_class_may_belong_to_a_subject_and_a_sample_of_it_to_another() -> None:
    splits = Splits.make(request(("emu/t30.png", "bert"), ("class=emu", "anna")), TRAIN, HELDOUT, seed=0)
    assert splits.subjects.tolist() == [0, 1, 1, 1, 1]


def test_unknown_ids_are_listed_with_the_nearest_and_their_lines() -> None:
    (found,) = findings(request("cat/t0.png", "cat/t3.jpg", "dgo/t21.png"))
    assert "2 requested ids are not in the training data" in found
    assert "'cat/t3.jpg' (line 2, nearest: 'cat/t3.png'" in found
    assert "'dgo/t21.png' (line 3, nearest: 'dog/t21.png'" in found


def test_many_unknown_ids_are_cut_and_counted() -> None:
    (found,) = findings(request(*[f"x{number}" for number in range(40)]))
    assert "40 requested ids" in found
    assert "and 35 more" in found


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../secret.png", "cat/../../x.png", "C:\\x.png", "..\\x.png", "\\\\host\\x"]
)
def test_a_path_outside_the_data_is_named_as_such(name: str) -> None:
    (found,) = findings(request(name))
    assert "paths outside the data" in found
    assert "write them like 'cat/t0.png'" in found


def test_ids_of_held_out_samples_are_named_as_such() -> None:
    (found,) = findings(request("cat/h3.png"))
    assert "held-out data, never trained on: 'cat/h3.png' (line 1)" in found


def test_an_id_that_both_splits_have_means_the_training_sample() -> None:
    both = image_data((4, 4, 4), "t")
    assert Splits.make(request("cat/t0.png"), TRAIN, both, seed=0).forget.ids == ("cat/t0.png",)


def test_unknown_and_empty_classes_are_findings() -> None:
    (unknown,) = findings(request("class=cta"))
    assert "'cta' (line 1, nearest: 'cat')" in unknown
    (empty,) = findings(request("class=emu"), train=image_data((5, 5, 0), "t"))
    assert "no training sample: 'emu' (line 1)" in empty


@pytest.mark.parametrize("manifest", [request("class=cat", "class=dog", "class=emu"), request(*TRAIN.ids)])
def test_all_of_the_data_cannot_be_forgotten(manifest: ForgetManifest) -> None:
    assert findings(manifest) == [
        "The request names all of the training data, so nothing is left to keep; delete the model."
    ]


def test_everything_wrong_with_the_request_is_listed_at_once() -> None:
    found = findings(request("nothing.png", "cat/h0.png", "/x", "class=cow", "class=cat", "class=dog", "class=emu"))
    assert len(found) == 5


@pytest.mark.parametrize(
    ("counts", "cited"), [((9, 0, 4), "'dog' (0)"), ((9, 1, 4), "'dog' (1)"), ((0, 0, 0), "'dog' (0)")]
)
def test_a_requested_class_needs_two_held_out_samples(counts: tuple[int, ...], cited: str) -> None:
    (found,) = findings(request("dog/t20.png"), heldout=image_data(counts, "h"))
    assert cited in found
    assert "give more held-out data" in found


def test_a_class_that_is_not_requested_may_lack_held_out_samples() -> None:
    splits = Splits.make(request("cat/t0.png"), TRAIN, image_data((4, 1, 0), "h"), seed=0)
    assert Counter(splits.verdict.labels.tolist()) == {0: 2, 1: 1}


def test_retained_copies_of_forgotten_pictures_are_found() -> None:
    train = image_data((20, 10, 5), "t", copies={3: 0, 25: 0, 7: 8})
    splits = Splits.make(request("cat/t0.png"), train, HELDOUT, seed=0)
    assert splits.copies().ids == ("cat/t3.png", "dog/t25.png")
    assert len(Splits.make(request("cat/t1.png"), train, HELDOUT, seed=0).copies()) == 0


def test_copies_are_not_looked_for_among_too_many_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unlearn_plugin.data.MEMORY_BUDGET", 1)
    assert Splits.make(request("cat/t0.png"), image_data((4, 4, 4), "t"), HELDOUT, seed=0).copies() is None


@settings(deadline=None, max_examples=40)
@given(
    st.tuples(*[st.integers(2, 9)] * 3), st.tuples(*[st.integers(2, 9)] * 3), st.integers(0, 99), st.data(),
    st.floats(0.01, 1.0),
)  # fmt: skip
def test_any_request_leaves_disjoint_sets_of_the_right_size(
    counts: tuple[int, ...], held: tuple[int, ...], seed: int, data: st.DataObject, fraction: float
) -> None:
    train, heldout = image_data(counts, "t"), image_data(held, "h")
    ids = data.draw(st.lists(st.sampled_from(train.ids), min_size=1, max_size=sum(counts) - 1, unique=True))
    splits = Splits.make(request(*ids), train, heldout, seed=seed, retain_fraction=fraction)
    assert set(splits.forget.ids) == set(ids)
    assert not set(splits.retain.ids) & set(ids)
    assert len(splits.tuning) == sum(count // 2 for count in held)
    assert not set(splits.tuning.ids) & set(splits.verdict.ids)
    left = Counter(label for name, label in zip(train.ids, train.labels.tolist(), strict=True) if name not in ids)
    assert Counter(splits.retain.labels.tolist()) == {
        label: count if fraction == 1 else max(1, round(fraction * count)) for label, count in left.items()
    }


def test_a_manifest_file_and_a_folder_meet(tmp_path: Path) -> None:
    (tmp_path / "forget.csv").write_text("id,class\ncat/t0.png,\n,emu\n")
    splits = Splits.make(ForgetManifest.read(tmp_path / "forget.csv"), TRAIN, HELDOUT, seed=0)
    assert len(splits.forget) == 6


# people whom the data name

PEOPLE = dataclasses.replace(TRAIN, subjects=tuple("anna" if row % 5 == 0 else "" for row in range(35)))


def of_subject(name: str) -> ForgetManifest:
    return ForgetManifest((ForgetEntry("subject", name, name, 1), *request("cat/t1.png").entries))


def test_a_subject_means_all_training_samples_that_the_data_say_are_theirs() -> None:
    splits = Splits.make(of_subject("anna"), PEOPLE, HELDOUT, seed=0)
    assert splits.forget.rows.tolist() == [0, 1, 5, 10, 15, 20, 25, 30]
    assert splits.subjects is not None
    assert splits.subjects.tolist() == [0, 1, 0, 0, 0, 0, 0, 0]


def test_a_subject_whom_the_data_do_not_name_is_a_finding_with_the_nearest() -> None:
    assert "1 requested subjects are not in the column 'subject'" in findings(of_subject("ana"), PEOPLE)[0]
    assert "nearest: 'anna'" in findings(of_subject("ana"), PEOPLE)[0]
    assert "'anna' (line 1)" in findings(of_subject("anna"))[0]


def test_subjects_of_the_data_count_for_requested_samples_and_the_manifest_goes_before_them() -> None:
    manifest = request("cat/t0.png", "cat/t5.png", ("cat/t10.png", "bert"))
    splits = Splits.make(manifest, PEOPLE, HELDOUT, seed=0)
    assert splits.subjects is not None
    assert splits.subjects.tolist() == [0, 0, 1]


def sealed(tuning: str, verdict: str) -> SealedIds:
    return SealedIds(tuple(tuning.split()), tuple(verdict.split()))


APART = sealed("cat/t0.png cat/t1.png dog/t20.png emu/t30.png", "cat/t2.png cat/t3.png dog/t21.png emu/t31.png")


def test_sealed_samples_are_the_controls_and_neither_forgotten_nor_kept() -> None:
    splits = Splits.make(request("class=emu", "cat/t5.png"), TRAIN, HELDOUT, seed=0, sealed=APART)
    assert (splits.tuning.ids, splits.verdict.ids, splits.sealed) == (APART.tuning, APART.verdict, True)
    assert splits.forget.ids == ("cat/t5.png", "emu/t32.png", "emu/t33.png", "emu/t34.png")
    everything = [*splits.forget.ids, *splits.retain.ids, *splits.tuning.ids, *splits.verdict.ids]
    assert sorted(everything) == sorted(TRAIN.ids)
    assert not Splits.make(request("cat/t5.png"), TRAIN, HELDOUT, seed=0).sealed


def test_what_earlier_requests_named_is_neither_forgotten_nor_kept_and_sealed_samples_were_never_theirs() -> None:
    before = [request("class=emu"), request("cat/t5.png", "cat/t6.png")]
    splits = Splits.make(request("cat/t7.png"), TRAIN, HELDOUT, seed=0, sealed=APART, earlier=before)
    assert splits.earlier.ids == ("cat/t5.png", "cat/t6.png", "emu/t32.png", "emu/t33.png", "emu/t34.png")
    assert [TRAIN.classes[label] for label in splits.earlier_classes] == ["emu"]
    everything = [*splits.forget.ids, *splits.retain.ids, *splits.earlier.ids, *APART.tuning, *APART.verdict]
    assert sorted(everything) == sorted(TRAIN.ids)
    with pytest.raises(UnlearnError, match=r"named by an earlier request: 'cat/t5.png' \(line 2\)"):
        Splits.make(request("cat/t7.png", "cat/t5.png"), TRAIN, HELDOUT, seed=0, sealed=APART, earlier=before)


def test_the_seed_has_no_part_in_sealed_controls() -> None:
    first, second = (Splits.make(request("cat/t5.png"), TRAIN, HELDOUT, seed=s, sealed=APART) for s in (0, 1))
    assert first.verdict.ids == second.verdict.ids == APART.verdict


def test_a_request_for_a_sealed_sample_is_refused_with_its_line() -> None:
    with pytest.raises(UnlearnError, match=r"in the holdout of the record.*'dog/t21.png' \(line 2\)"):
        Splits.make(request("cat/t5.png", "dog/t21.png"), TRAIN, HELDOUT, seed=0, sealed=APART)


def test_sealed_samples_that_are_not_in_the_data_are_refused() -> None:
    with pytest.raises(UnlearnError, match=r"1 samples of the record's holdout.*'cat/gone.png'"):
        Splits.make(request("cat/t5.png"), TRAIN, HELDOUT, seed=0, sealed=sealed("cat/gone.png", "cat/t2.png"))


def test_all_that_was_trained_on_is_too_much_to_forget_also_with_sealed_samples() -> None:
    with pytest.raises(UnlearnError, match="nothing is left to keep"):
        Splits.make(request("class=cat", "class=dog", "class=emu"), TRAIN, HELDOUT, seed=0, sealed=APART)


def test_requested_classes_need_sealed_samples_of_their_own() -> None:
    few = sealed("cat/t0.png cat/t1.png dog/t20.png", "cat/t2.png dog/t21.png")
    with pytest.raises(UnlearnError, match=r"two of each are needed.*'emu' \(0\)"):
        Splits.make(request("emu/t33.png"), TRAIN, HELDOUT, seed=0, sealed=few)


def test_the_kind_of_request_is_class_before_subject_before_sample() -> None:
    """What presets are chosen by: one named subject for all of F, or at least one class as a whole."""
    kinds = {
        "sample": request("cat/t0.png", "cat/t1.png"),
        "subject": request(("cat/t0.png", "anna"), ("cat/t1.png", "anna")),
        "class": request(("class=cat", "anna")),
    }
    assert {kind: Splits.make(one, TRAIN, HELDOUT, seed=0).request for kind, one in kinds.items()} == {
        kind: kind for kind in kinds
    }
    two = request(("cat/t0.png", "anna"), ("cat/t1.png", "ben"))
    unnamed = request(("cat/t0.png", "anna"), "cat/t1.png")
    assert {Splits.make(one, TRAIN, HELDOUT, seed=0).request for one in (two, unnamed)} == {"sample"}
