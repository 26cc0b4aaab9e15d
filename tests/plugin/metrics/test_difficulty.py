"""Difficulty against normal theory, against pairs counted by hand, and where it is what a verdict must know."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import norm

from tests.plugin.metrics.test_calibration import CLASSES, auc, made_trial
from tests.plugin.trials import HeadOnly, make_trial, with_margins
from unlearn_plugin.metrics._difficulty import out_of_sample_difficulty, recorded_difficulty


@pytest.mark.parametrize("harder", [0.0, 2.0, -4.0])
def test_difficulty_is_the_auc_of_normal_theory_whatever_the_model_remembers(harder: float) -> None:
    """o of F is N(2 - harder, 4) and that of the controls N(2, 4): the AUC is Phi(-harder / (4 sqrt 2))."""
    found = [
        out_of_sample_difficulty(made_trial(3.0, harder=harder, n=800, sizes=2000, seed=seed)) for seed in range(3)
    ]
    assert np.mean(found) == pytest.approx(norm.cdf(-harder / (4 * math.sqrt(2))), abs=0.02)


def test_where_out_of_sample_margins_are_noisy_a_harder_request_hides_a_residual_and_difficulty_shows_it() -> None:
    """o = t + noise for a difficulty t: the level falls back to the mean, and F looks less known than it is."""
    generator, parts, references = torch.Generator().manual_seed(0), {}, {}
    for split, count, harder, known in (("forget", 400, 6, 2.1), ("controls", 1000, 0, 0), ("tuning", 1000, 0, 0)):
        hard = 3 * torch.randn(count, generator=generator) - harder
        references[split] = hard + 2 * torch.randn(count, generator=generator)
        labels = [row % CLASSES for row in range(count)]
        margins = hard + known + torch.randn(count, generator=generator)
        parts[split] = (with_margins(margins, labels, CLASSES), labels)
    trial = make_trial(
        parts["forget"], parts["tuning"], parts["controls"], tuning=parts["tuning"], references=references,
        original=HeadOnly(CLASSES, CLASSES), classes=CLASSES,
    )  # fmt: skip
    assert auc(trial) == pytest.approx(0.5, abs=0.03), "though every sample of F is known by 2.1"
    assert out_of_sample_difficulty(trial) < 0.2


def test_without_references_or_a_record_nothing_is_known_of_difficulty() -> None:
    trial = made_trial()
    trial.references.clear()
    assert out_of_sample_difficulty(trial) is None
    assert recorded_difficulty(trial) is None


def test_recorded_losses_are_compared_within_classes_and_those_never_recorded_left_out() -> None:
    """Class 0: F has the higher loss in 3 of 4 pairs; class 1: in none. Half of F is in each: (1/4 + 1) / 2."""
    labels = [0, 0, 1, 1]
    vectors = with_margins(torch.zeros(4), labels, 2)
    many = 6  # of each loss, since fewer than five of a class are not compared
    rows = torch.arange(4).repeat_interleave(many)
    retain = (vectors[rows], [labels[row] for row in rows.tolist()])
    trial = replace(
        make_trial((vectors, labels), retain, (vectors, labels), original=HeadOnly(2, 2), classes=2),
        recorded_loss={
            "forget": torch.tensor([2.0, 4.0, 0.1, 0.2]),
            "retain": torch.tensor([1.0, 3.0, 5.0, 6.0])[rows],
        },
    )
    assert recorded_difficulty(trial) == pytest.approx((1 / 4 + 1) / 2)
    trial.recorded_loss["forget"][:2] = torch.nan
    assert recorded_difficulty(trial) == 1.0
    assert recorded_difficulty(replace(trial, recorded_loss={})) is None
