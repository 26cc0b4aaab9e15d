"""Trial: every model is run once on every split, and the outputs are kept apart."""

import torch
from torch import nn

from tests.plugin.trials import HeadOnly, make_trial, with_margins
from unlearn_plugin.registry import metrics


class Counting(HeadOnly):
    """Counts its forward passes."""

    def __init__(self) -> None:
        super().__init__(2, 2)
        self.passes = 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.passes += 1
        return super().forward(images)


def trial_of(original: nn.Module, **changes):
    parts = [(with_margins(torch.full((size,), float(size)), [0] * size, 2), [0] * size) for size in (2, 3, 4)]
    return make_trial(*parts, original=original, classes=2, **changes)


def test_outputs_are_computed_once_for_each_model_and_split() -> None:
    model = Counting()
    trial = trial_of(model)
    first = trial.outputs(model, "forget")
    assert trial.outputs(model, "forget") is first
    assert model.passes == 1
    trial.outputs(model, "controls")
    assert model.passes == 2


def test_each_split_gives_its_own_samples() -> None:
    trial = trial_of(Counting())
    sizes = [len(trial.outputs(trial.original, split).labels) for split in ("forget", "retain", "controls")]
    assert sizes == [2, 3, 4]


def test_two_models_do_not_share_outputs() -> None:
    trial = trial_of(Counting())
    other = HeadOnly(2, 2, weight=torch.zeros(2, 2))
    assert not torch.equal(trial.outputs(trial.original, "forget").logits, trial.outputs(other, "forget").logits)


def test_a_model_that_nobody_else_holds_keeps_its_outputs() -> None:
    trial = trial_of(Counting())
    for scale in (1.0, 2.0, 3.0):  # freed models would give their ids away to the next
        model = HeadOnly(2, 2, weight=torch.eye(2) * scale)
        assert trial.outputs(model, "forget").logits.max().item() == 2 * scale
        del model


def test_references_are_given_by_split_and_only_where_there_are_any() -> None:
    model = Counting()
    trial = trial_of(model, references={"forget": torch.tensor([1.0, float("nan")])})
    assert trial.out_of_sample("forget")[0] == 1.0
    assert trial.out_of_sample("controls") is None
    assert model.passes == 0


def test_a_metric_needs_nothing_but_the_model_unless_it_says_so() -> None:
    tiers = {name: metrics().get(name).tier for name in metrics().names()}
    assert {name for name, tier in tiers.items() if tier == "B"} == {
        "calibrated_membership", "calibrated_null_control", "completeness", "relearning", "three_way"
    }  # fmt: skip
    assert set(tiers.values()) == {"A", "B"}
