"""Completeness on models whose margins of F are moved by a known share."""

import numpy as np
import pytest
import torch

from tests.plugin.metrics.test_calibration import CLASSES, bent, made_trial
from tests.plugin.trials import HeadOnly
from unlearn_plugin.metrics.base import Trial
from unlearn_plugin.metrics.completeness import Completeness


class Moved(HeadOnly):
    """Says what the original says, less a share of what F was above its level."""

    def __init__(self, trial: Trial, shift: float, share: float | np.ndarray) -> None:
        super().__init__(CLASSES, CLASSES)
        images = trial.forget.data.images(trial.forget.rows).flatten(1)
        down = shift * torch.as_tensor(share).expand(len(images))
        known = zip(images, trial.forget.labels, down, strict=True)
        self.known = {tuple(image.tolist()): (label, less) for image, label, less in known}

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits = super().forward(images).clone()
        for row, image in enumerate(images.flatten(1)):
            label, less = self.known.get(tuple(image.tolist()), (0, 0.0))
            logits[row, label] -= less
        return logits


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0, 1.5])
def test_the_share_that_is_gone_is_the_share_that_was_taken(share: float) -> None:
    trial = made_trial(6.0, noise=0.3, tuning=1500)
    found = Completeness().measure(Moved(trial, 6.0, share), trial)
    assert found.value == pytest.approx(share, abs=0.05)
    assert found.n == found.details["n_requested"] == 200
    assert found.details["tenth_percentile"] == pytest.approx(share, abs=0.12)


def test_nothing_has_gone_from_the_original() -> None:
    trial = made_trial(3.0)
    found = Completeness().measure(trial.original, trial)
    assert found.value == 0.0
    assert 0 < found.n < found.details["n_requested"]  # only what clearly stood out


def test_only_samples_more_than_two_spreads_above_their_level_count() -> None:
    trial = made_trial(2.0, n=400, tuning=6000)  # the spread is 1, which about 340 exceed
    margins, level = trial.outputs(trial.original, "forget").margins, bent(trial.references["forget"])
    found = Completeness().measure(trial.original, trial)
    assert found.n == pytest.approx(int((margins - level > 2).sum()), abs=15)


def test_the_tenth_percentile_is_that_of_the_samples_from_which_least_has_gone() -> None:
    trial = made_trial(6.0, noise=0.05, tuning=1500)
    found = Completeness().measure(Moved(trial, 6.0, np.linspace(0, 1, 200)), trial)
    assert found.value == pytest.approx(0.5, abs=0.02)
    assert found.details["tenth_percentile"] == pytest.approx(0.1, abs=0.02)


def test_where_nothing_stood_out_or_nothing_is_known_there_is_no_share() -> None:
    trial = made_trial(-3.0)
    assert "stood out" in Completeness().measure(trial.original, trial).note
    trial = made_trial(3.0)
    trial.references["forget"][:] = np.nan
    assert "stood out" in Completeness().measure(trial.original, trial).note
    trial.references.clear()
    assert "reference models" in Completeness().measure(trial.original, trial).note


def test_the_level_is_that_of_the_model_and_not_of_the_half_models() -> None:
    """o is far below the level of unseen samples here; with o in place of g(o), half of it would seem to be left."""
    trial = made_trial(6.0, noise=0.3, tuning=1500)
    gap = bent(trial.references["forget"]) - trial.references["forget"]
    assert float(gap.abs().mean()) > 1
    assert Completeness().measure(Moved(trial, 6.0, 1.0), trial).value == pytest.approx(1.0, abs=0.05)
