"""Conformal: p-values counted by hand, discoveries by the definition, and no count over few samples."""

import numpy as np
import pytest
import torch

from tests.plugin.trials import HeadOnly, make_trial, with_margins
from unlearn_plugin.metrics.conformal import Conformal, conformal_p_values, discoveries

CLASSES = 2


def trial_of(forget: torch.Tensor, labels: list[int], controls: torch.Tensor, others: list[int]):
    return make_trial(
        (with_margins(forget, labels, CLASSES), labels), (torch.zeros(2, CLASSES), [0, 1]),
        (with_margins(controls, others, CLASSES), others), original=HeadOnly(CLASSES, CLASSES), classes=CLASSES,
    )  # fmt: skip


def test_p_values_are_counted_within_the_class() -> None:
    controls, others = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 90.0, 91.0]), [0, 0, 0, 0, 0, 1, 1]
    trial = trial_of(torch.tensor([6.0, 3.0, 0.0, 2.5, 99.0]), [0, 0, 0, 0, 1], controls, others)
    found = conformal_p_values(trial.original, trial)
    assert found[:4].tolist() == pytest.approx([1 / 6, 4 / 6, 6 / 6, 4 / 6])  # an equal control counts against it
    assert np.isnan(found[4])  # two controls of its class are too few


def test_discoveries_are_those_of_benjamini_and_hochberg() -> None:
    """Their own example of 1995: fifteen p-values, of which four are found at 5 %."""
    p_values = np.array(
        [0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459, 0.3240, 0.4262, 0.5719, 0.6528,
         0.7590, 1.0]
    )  # fmt: skip
    assert discoveries(p_values).sum() == 4
    shuffled = np.append(p_values[::-1], np.nan)
    assert discoveries(shuffled).tolist() == [False] * 11 + [True] * 4 + [False]
    assert not discoveries(np.array([np.nan])).any()


def test_remembered_samples_are_counted() -> None:
    generator = torch.Generator().manual_seed(0)
    forget = torch.cat([torch.full((10,), 20.0), torch.randn(30, generator=generator)])
    trial = trial_of(forget, [0] * 40, torch.randn(999, generator=generator), [0] * 999)
    found = Conformal().measure(trial.original, trial)
    assert found.details == {"found": 10, "q": 0.05, "smallest_p": 0.001}
    assert found.value == 10 / 40
    assert found.n == 40


def test_samples_never_seen_are_found_hardly_ever() -> None:
    runs = 0
    for seed in range(30):
        generator = torch.Generator().manual_seed(seed)
        trial = trial_of(
            torch.randn(25, generator=generator), [0] * 25, torch.randn(400, generator=generator), [0] * 400
        )
        runs += Conformal().measure(trial.original, trial).details["found"] > 0
    assert runs <= 6  # 5 % of 30 are 1.5


def test_over_few_samples_nothing_is_counted() -> None:
    trial = trial_of(torch.full((19,), 20.0), [0] * 19, torch.zeros(99), [0] * 99)
    found = Conformal().measure(trial.original, trial)
    assert found.value is None
    assert found.details == {}


def test_nothing_to_compare_with_gives_no_number() -> None:
    trial = trial_of(torch.zeros(30), [0] * 30, torch.zeros(9), [1] * 9)
    assert conformal_p_values(trial.original, trial) is None
    assert Conformal().measure(trial.original, trial).value is None
