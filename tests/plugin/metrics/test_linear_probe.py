"""Linear probe: it sees what the head hides, and nothing where there is nothing."""

import pytest
import torch

from tests.plugin.trials import HeadOnly, make_trial
from unlearn_plugin.metrics.linear_probe import LinearProbe
from unlearn_plugin.metrics.membership import Membership

CLASSES, SIZE = 3, 8


def clusters(size: int, seed: int, *, remembered: float = 0.0) -> tuple[torch.Tensor, list[int]]:
    """Noisy class directions; `remembered` samples lie farther out along their own."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(size) % CLASSES
    directions = torch.eye(SIZE)[:CLASSES]
    strength = 1 + remembered * torch.ones(size)
    noise = torch.randn(size, SIZE, generator=generator)
    return directions[labels] * strength[:, None] * 1.5 + noise, labels.tolist()


def trial_of(*, remembered: float, model=None, forgotten_classes=(), retain=None, **changes):
    return make_trial(
        clusters(120, 0, remembered=remembered),
        retain or clusters(600, 1),
        clusters(600, 2),
        original=model or HeadOnly(SIZE, CLASSES),
        classes=CLASSES,
        forgotten_classes=forgotten_classes,
        **changes,
    )


def measure(trial, **settings):
    return LinearProbe(**settings).measure(trial.original, trial)


def test_remembered_features_are_found_behind_a_head_that_says_nothing() -> None:
    silent = HeadOnly(SIZE, CLASSES, weight=torch.zeros(CLASSES, SIZE))
    trial = trial_of(remembered=1.0, model=silent)
    assert Membership().measure(silent, trial).value == 0.5
    found = measure(trial)
    assert found.low > 0.5
    assert found.value == found.details["auc"]["value"]
    assert found.n == 120


def test_features_like_those_of_unseen_data_give_one_half() -> None:
    found = measure(trial_of(remembered=0.0))
    assert found.low < 0.5 < found.high
    assert found.details["separability"] is None


def test_two_classes_work_as_well() -> None:
    features, labels = clusters(600, 3)
    two = [row for row, label in enumerate(labels) if label < 2]
    found = measure(trial_of(remembered=1.0, retain=(features[two], [labels[row] for row in two])))
    assert found.n == 80  # of the third class the probe knows nothing
    assert found.low > 0.5


def test_subjects_reach_the_interval() -> None:
    alone = measure(trial_of(remembered=1.0))
    one = measure(trial_of(remembered=1.0, subjects=[0] * 120))
    assert one.value == alone.value
    assert one.low < 0.5 < alone.low


def class_request(spread: float):
    forget, retain, controls = clusters(120, 4), clusters(600, 5), clusters(600, 6)

    def only(samples, keep):
        rows = [row for row, label in enumerate(samples[1]) if keep(label)]
        return samples[0][rows] * spread, [samples[1][row] for row in rows]

    return make_trial(
        only(forget, lambda label: label == 2),
        only(retain, lambda label: label != 2),
        only(controls, lambda label: True),
        original=HeadOnly(SIZE, CLASSES),
        classes=CLASSES,
        forgotten_classes=(2,),
    )


def test_for_a_whole_class_the_value_is_how_often_held_out_images_of_it_are_recognised() -> None:
    found = measure(class_request(1.0))
    assert found.details["auc"] is None
    assert found.value == found.details["separability"]["value"]
    assert found.n == 200
    assert found.low <= found.value <= found.high


def test_a_class_without_features_of_its_own_cannot_be_separated() -> None:
    clear, gone = class_request(1.0), class_request(0.0)
    assert measure(clear).value > measure(gone).value + 0.2


def test_one_class_in_the_retained_data_gives_no_probe() -> None:
    found = measure(trial_of(remembered=1.0, retain=(torch.randn(30, SIZE), [1] * 30)))
    assert found.value is None
    assert found.note


def test_the_number_of_fitted_features_is_limited_and_the_choice_is_seeded() -> None:
    trial = trial_of(remembered=0.5)
    small, again, large = measure(trial, samples=60), measure(trial, samples=60), measure(trial)
    assert small == again
    assert small.value != pytest.approx(large.value, abs=1e-6)
