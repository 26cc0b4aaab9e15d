"""Suppression: shares counted by hand, entropies known in closed form."""

import math

import pytest
import torch
from scipy.stats import binomtest
from scipy.stats import entropy as scipy_entropy

from tests.plugin.trials import HeadOnly, make_trial, with_margins
from unlearn_plugin.metrics.suppression import Suppression, entropy

CLASSES = 4


def trial_of(forget: torch.Tensor, controls: torch.Tensor, others: int = 0):
    """F and the first controls are of class 1, `others` more controls with tiny margins of class 2."""
    labels = [1] * len(controls) + [2] * others
    margins = torch.cat([controls, torch.full((others,), -50.0)])
    ones = [1] * len(forget)
    return make_trial(
        (with_margins(forget, ones, CLASSES), ones),
        (torch.zeros(2, CLASSES), [0, 1]),
        (with_margins(margins, labels, CLASSES), labels),
        original=HeadOnly(CLASSES, CLASSES), classes=CLASSES,
    )  # fmt: skip


def measure(trial, **settings):
    return Suppression(**settings).measure(trial.original, trial)


def test_the_share_below_the_first_percentile_is_counted_with_its_exact_interval() -> None:
    forget = torch.cat([torch.full((7,), 8.5), torch.full((33,), 9.5)])
    found = measure(trial_of(forget, torch.arange(1000.0), others=500))
    exact = binomtest(7, 40).proportion_ci(method="exact")
    assert found.value == 7 / 40  # below control 9, the 10th smallest; those of another class do not count
    assert (found.low, found.high) == (pytest.approx(exact.low), pytest.approx(exact.high))
    assert found.n == 40
    assert found.details["below"]["0.05"]["value"] == 1.0


def test_with_fewer_controls_the_threshold_is_the_fifth_percentile_and_details_say_so() -> None:
    found = measure(trial_of(torch.tensor([8.5, 9.5, 11.0, 20.0]), torch.arange(200.0)))
    assert found.value == 1 / 4
    assert found.details["below"]["0.01"] is None
    assert found.details["below"]["0.05"]["value"] == 1 / 4


def test_with_fewer_still_there_is_no_number() -> None:
    found = measure(trial_of(torch.zeros(10), torch.arange(98.0)))
    assert found.value is None
    assert "99" in found.note
    assert found.details["flat"]["controls"]["n"] == 98


def test_a_request_of_a_hard_class_is_not_called_suppressed() -> None:
    """Controls of another, easier class say nothing about it."""
    generator = torch.Generator().manual_seed(1)
    others = [0] * 1000 + [1] * 1000
    labels = [0] * 490 + [1] * 10
    sides = [
        (with_margins(torch.randn(len(one), generator=generator) + 5 * torch.tensor(one), one, CLASSES), one)
        for one in (labels, others)
    ]
    rest = (torch.zeros(2, CLASSES), [0, 1])
    found = measure(make_trial(sides[0], rest, sides[1], original=HeadOnly(CLASSES, CLASSES), classes=CLASSES))
    assert found.low < 0.01 < found.high


def test_data_like_the_controls_give_about_one_percent() -> None:
    generator = torch.Generator().manual_seed(0)
    found = measure(trial_of(torch.randn(2000, generator=generator), torch.randn(3000, generator=generator)))
    assert found.low < 0.01 < found.high


def test_flat_predictions_are_counted_beside_those_of_the_controls() -> None:
    flat = torch.full((6,), -math.log(CLASSES - 1))  # all logits nought
    found = measure(trial_of(torch.cat([flat, torch.full((18,), 8.0)]), torch.full((250,), 8.0), others=40))
    assert found.details["flat"]["forget"]["value"] == 6 / 24
    assert found.details["flat"]["controls"]["value"] == 0
    assert found.details["flat"]["controls"]["n"] == 250


def test_the_limit_of_flatness_is_a_setting() -> None:
    trial = trial_of(torch.full((10,), 1.0), torch.full((250,), 8.0))
    share = float(entropy(with_margins(torch.tensor([1.0]), [1], CLASSES))[0]) / math.log(CLASSES)
    assert measure(trial, flatness=share - 0.01).details["flat"]["forget"]["value"] == 1
    assert measure(trial, flatness=share + 0.01).details["flat"]["forget"]["value"] == 0


def test_entropy_is_scipys_and_survives_certainty() -> None:
    logits = torch.randn(50, 7, generator=torch.Generator().manual_seed(1)) * 3
    known = torch.tensor(scipy_entropy(logits.double().softmax(1).numpy(), axis=1))
    torch.testing.assert_close(entropy(logits).double(), known, atol=1e-5, rtol=1e-5)
    assert float(entropy(torch.zeros(1, 7))[0]) == pytest.approx(math.log(7))
    assert float(entropy(torch.tensor([[1e4, 0.0]]))[0]) == 0.0
