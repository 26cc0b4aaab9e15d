"""Annex: a line for each sample, for each model, and plain JSON."""

import json
import stat
from pathlib import Path

import torch

from tests.plugin.trials import HeadOnly, make_trial, with_margins
from unlearn_plugin.annex import make_annex, write_annex

CLASSES = 2


def trial_of():
    generator = torch.Generator().manual_seed(0)
    labels = [0] * 4 + [1]  # of class 1 there are no controls
    forget = with_margins(torch.tensor([30.0, 30.0, -30.0, 0.0, 0.0]), labels, CLASSES)
    controls = with_margins(torch.randn(99, generator=generator), [0] * 99, CLASSES)
    model = HeadOnly(CLASSES, CLASSES)
    return make_trial(
        (forget, labels), (torch.zeros(2, CLASSES), [0, 1]), (controls, [0] * 99), original=model, classes=CLASSES
    )


def test_each_sample_has_its_p_value_in_each_model() -> None:
    trial = trial_of()
    blank = HeadOnly(CLASSES, CLASSES, weight=torch.zeros(CLASSES, CLASSES))
    annex = make_annex(trial, {"before": trial.original, "after": blank, "reference": None})
    assert [sample["id"] for sample in annex["samples"]] == list(trial.forget.ids)
    assert [sample["before"]["found"] for sample in annex["samples"]] == [True, True, False, False, False]
    assert [sample["before"]["p"] for sample in annex["samples"]][:3] == [0.01, 0.01, 1.0]
    assert all(sample["after"]["p"] == 1.0 for sample in annex["samples"][:4])
    assert annex["samples"][4]["before"] == {"p": None, "found": False}
    assert all("reference" not in sample for sample in annex["samples"])


def test_it_is_plain_json_for_its_owner_and_says_what_it_is(tmp_path: Path) -> None:
    trial = trial_of()
    annex = make_annex(trial, {"before": trial.original})
    write_annex(annex, tmp_path)
    assert json.loads((tmp_path / "annex.json").read_text()) == annex
    assert stat.S_IMODE((tmp_path / "annex.json").stat().st_mode) == 0o600
    assert annex["note"].startswith("Personal data")


def test_where_nothing_can_be_compared_the_ids_stand_alone() -> None:
    few = (torch.zeros(3, CLASSES), [0, 0, 1])
    model = HeadOnly(CLASSES, CLASSES)
    annex = make_annex(make_trial(few, few, few, original=model, classes=CLASSES), {"before": model})
    assert [list(sample) for sample in annex["samples"]] == [["id"]] * 3
