"""Calibration where the truth is made: margins are a function of difficulty, plus noise, plus what is remembered."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch import Tensor

from tests.plugin.trials import HeadOnly, make_trial, with_margins
from unlearn_plugin.metrics._calibration import FEWEST_TUNING, calibrate, matched_scores
from unlearn_plugin.metrics.base import Trial

CLASSES = 4


def bent(outside: Tensor) -> Tensor:
    """What half the data and another training do to a margin: monotone, and no straight line."""
    return 6 * torch.tanh(outside / 5) + 1


def made_trial(
    shift: float = 0.0,
    *,
    n: int = 200,
    tuning: int = 400,
    seed: int = 0,
    noise: float = 1.0,
    harder: float = 0.0,
    sizes: int = 600,
    **changes: object,
) -> Trial:
    """phi = bent(o) + noise, and `shift` more for F; F is `harder` by so many nats."""
    generator = torch.Generator().manual_seed(seed)
    parts, references = {}, {}
    for split, count in (("forget", n), ("controls", sizes), ("tuning", tuning), ("retain", 8)):
        outside = 4 * torch.randn(count, generator=generator) + 2 - (harder if split == "forget" else 0)
        margins = bent(outside) + noise * torch.randn(count, generator=generator)
        labels = [row % CLASSES for row in range(count)]
        parts[split] = (with_margins(margins + (shift if split == "forget" else 0), labels, CLASSES), labels)
        references[split] = outside
    return make_trial(
        parts["forget"], parts["retain"], parts["controls"], tuning=parts["tuning"], references=references,
        original=HeadOnly(CLASSES, CLASSES), classes=CLASSES, **changes,
    )  # fmt: skip


def auc(trial: Trial) -> float:
    matched = matched_scores(trial.original, trial)
    assert matched is not None
    return float((matched.forget[:, None] > matched.controls[None]).mean())


@pytest.mark.parametrize("shift", [0.0, 0.5, 1.5, -1.0])
def test_a_shift_gives_the_auc_of_normal_theory_whatever_the_difficulty(shift: float) -> None:
    """s = shift + N(0, 1) against N(0, 1): the AUC is Phi(shift / sqrt 2)."""
    found = np.mean([auc(made_trial(shift, n=400, tuning=1500, sizes=1500, seed=seed)) for seed in range(4)])
    assert found == pytest.approx(norm.cdf(shift / math.sqrt(2)), abs=0.02)


def test_a_request_that_is_harder_than_the_controls_gives_no_signal() -> None:
    trial = made_trial(n=400, tuning=1500, harder=4.0)
    assert auc(trial) == pytest.approx(0.5, abs=0.06)
    plain = trial.outputs(trial.original, "forget").margins, trial.outputs(trial.original, "controls").margins
    assert float((plain[0][:, None] > plain[1][None]).float().mean()) < 0.3


def test_each_model_has_its_own_level() -> None:
    """A model that is twice as sure of everything gives the same answer."""
    trial = made_trial(0.8)
    surer = HeadOnly(CLASSES, CLASSES, weight=2 * torch.eye(CLASSES))
    first, second = (calibrate(model, trial) for model in (trial.original, surer))
    assert np.corrcoef(first.forget, second.forget)[0, 1] > 0.98
    assert second.spread > 1.5 * first.spread


def test_the_spread_is_what_noise_does() -> None:
    assert calibrate((trial := made_trial(tuning=2000, noise=0.7)).original, trial).spread == pytest.approx(
        0.7, abs=0.05
    )


def test_scores_rise_with_the_margin_and_fall_with_what_was_expected() -> None:
    trial = made_trial()
    scores = calibrate(trial.original, trial)
    own = trial.outputs(trial.original, "controls").margins.numpy()
    expected = own - scores.controls
    order = np.argsort(trial.references["controls"].numpy())
    assert bool((np.diff(expected[order]) >= -1e-9).all())


def test_samples_without_an_out_of_sample_margin_are_left_out_and_the_others_keep_their_place() -> None:
    trial = made_trial(n=40, subjects=range(40))
    trial.references["forget"][::2] = torch.nan
    trial.references["controls"][5:9] = torch.nan
    matched = matched_scores(trial.original, trial)
    assert matched.kept.tolist() == [bool(row % 2) for row in range(40)]
    assert len(matched.forget) == 20
    assert matched.forget_class.tolist() == [row % 2 for row in range(20)]  # labels 1 and 3 are left
    scores = calibrate(trial.original, trial)
    assert np.array_equal(scores.forget[1::2], matched.forget)
    assert np.isnan(scores.forget[::2]).all()


@pytest.mark.parametrize("missing", ["forget", "controls", "tuning"])
def test_without_references_of_any_part_there_are_no_scores(missing: str) -> None:
    trial = made_trial()
    del trial.references[missing]
    assert calibrate(trial.original, trial) is None
    assert matched_scores(trial.original, trial) is None


def test_too_few_tuning_controls_give_no_scores() -> None:
    for count in (FEWEST_TUNING - 1, FEWEST_TUNING):
        trial = made_trial(tuning=count)
        assert (calibrate(trial.original, trial) is None) == (count < FEWEST_TUNING)


def test_few_tuning_controls_do_not_break_the_test_on_an_ordinary_request() -> None:
    found = [auc(made_trial(tuning=FEWEST_TUNING, n=100, seed=seed)) for seed in range(30)]
    assert np.mean(found) == pytest.approx(0.5, abs=0.02)
    assert max(abs(np.array(found) - 0.5)) < 0.12


def test_a_sample_beyond_the_tuning_controls_is_expected_at_their_end() -> None:
    trial = made_trial()
    trial.references["forget"][:2] = torch.tensor([-1000.0, 1000.0])
    scores = calibrate(trial.original, trial)
    own = trial.outputs(trial.original, "forget").margins.numpy()
    level = own[:2] - scores.forget[:2]
    assert -7 < level[0] < level[1] < 9
