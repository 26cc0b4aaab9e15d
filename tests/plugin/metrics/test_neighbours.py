"""Neighbours: known changes, the mean of their margins, and the retained samples nearest to F by brute force."""

import pytest
import torch

from tests.plugin.trials import HeadOnly, make_trial
from unlearn_plugin.metrics._contest import Contest
from unlearn_plugin.metrics.neighbours import CHANGES, Neighbours, _changed, nearest_retained
from unlearn_plugin.outputs import Outputs

CLASSES, SIZE = 2, 12


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_noise_is_a_tenth_of_the_images_own_spread() -> None:
    image = 7 * torch.randn(3, 40, 40, generator=seeded(1))
    added = CHANGES["noise"](image, seeded()) - image
    assert float(added.std()) == pytest.approx(0.1 * float(image.std()), rel=0.05)


def test_a_shift_moves_by_a_sixteenth_along_a_diagonal_and_repeats_the_border() -> None:
    image = torch.arange(32.0)[:, None] * 100 + torch.arange(48.0)[None, :]
    seen = set()
    for seed in range(40):
        moved = CHANGES["shift"](image[None], seeded(seed))[0]
        assert moved.shape == image.shape
        down, right = divmod(int(moved[10, 10]) - 1010 + 5050, 100)
        seen.add((down - 50, right - 50))
        rows = (torch.arange(32) + down - 50).clamp(0, 31)
        columns = (torch.arange(48) + right - 50).clamp(0, 47)
        assert torch.equal(moved, image[rows][:, columns])
    assert seen == {(-2, -3), (-2, 3), (2, -3), (2, 3)}


def test_a_flip_mirrors_left_and_right() -> None:
    image = torch.arange(6.0).reshape(1, 2, 3)
    assert CHANGES["flip"](image, seeded()).tolist() == [[[2, 1, 0], [5, 4, 3]]]


def clusters(size: int, seed: int, remembered: float = 0.0) -> tuple[torch.Tensor, list[int]]:
    labels = torch.arange(size) % CLASSES
    strength = torch.randn(size, generator=seeded(seed)) + 1 + remembered
    return strength[:, None] * (1.0 - 2.0 * labels[:, None]) * torch.linspace(0.5, 1.5, SIZE), labels.tolist()


def trial_of(remembered: float, n: int = 80, seed: int = 0, **changes):
    weight = torch.stack([torch.ones(SIZE), -torch.ones(SIZE)]) / SIZE
    return make_trial(
        clusters(n, 0, remembered), clusters(300, 1), clusters(300, 2),
        original=HeadOnly(SIZE, CLASSES, weight=weight), classes=CLASSES, seed=seed, **changes,
    )  # fmt: skip


def measure(trial, **settings):
    return Neighbours(**settings).measure(trial.original, trial)


def test_the_same_image_is_always_changed_in_the_same_way_and_another_seed_changes_it_otherwise() -> None:
    contest = Contest.of(trial_of(0.0), 20)
    first, again, other = (_changed(contest, "noise", seed).forget.__getitems__([3, 5])[0] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    single = _changed(contest, "noise", 0).forget[5][0]
    assert torch.equal(first[1:], single)


def test_what_is_remembered_is_known_by_changed_copies_too() -> None:
    found = measure(trial_of(1.0))
    assert found.low > 0.5
    assert found.details["p_value"] < 1e-4
    assert found.n == 80


def test_what_was_never_seen_is_not() -> None:
    found = measure(trial_of(0.0))
    assert found.low < 0.5 < found.high
    assert found.details["p_value"] > 0.025


def test_copies_that_change_nothing_for_the_model_give_the_value_by_themselves() -> None:
    """The model looks at the sum alone, so mirrored images and the mean of all copies are nearly the same."""
    found = measure(trial_of(1.0))
    assert found.details["flip"]["value"] == pytest.approx(found.value, abs=0.01)


def test_the_value_is_the_auc_of_the_mean_over_all_three_copies() -> None:
    """The model looks at the left; there F is remembered, and nothing on the right, which mirroring brings there."""
    labels = torch.arange(300) % CLASSES
    sides = torch.randn(2, 300, 2, generator=seeded(5))  # F and controls, samples, left and right
    sides[0, :, 0] += 1.5
    images = sides.repeat_interleave(SIZE // 2, dim=2) * (1 - 2 * labels[:, None])
    weight = torch.zeros(CLASSES, SIZE)
    weight[:, 2] = torch.tensor([1.0, -1.0])  # a shift by one pixel still shows the left
    forget, controls = ((part, labels.tolist()) for part in images)
    trial = make_trial(forget, controls, controls, original=HeadOnly(SIZE, CLASSES, weight=weight), classes=CLASSES)
    found = measure(trial)

    def auc(shown: torch.Tensor) -> float:
        wins = [shown[0, labels == label, None] > shown[1, None, labels == label] for label in range(CLASSES)]
        return float(torch.stack(wins).float().mean())

    left, right = sides.unbind(2)
    assert found.value == pytest.approx(auc(2 * left + right), abs=0.01)  # two copies show the left, one the right
    assert found.details["shift"]["value"] == pytest.approx(auc(left))
    assert found.details["flip"]["value"] == pytest.approx(auc(right))
    assert auc(left) - 0.03 > auc(2 * left + right) > auc(right) + 0.03


def test_a_model_that_knows_f_by_exact_pixels_alone_does_not_know_noisy_copies() -> None:
    class ByHeart(HeadOnly):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            logits = super().forward(images)
            known = torch.isin(images.flatten(1).amax(1), self.seen)
            return logits + 100 * known[:, None] * logits.sign()

    trial = trial_of(0.0)
    model = ByHeart(SIZE, CLASSES, weight=trial.original.fc.weight.detach())
    model.seen = trial.forget.__getitems__(range(80))[0].flatten(1).amax(1)
    details = Neighbours().measure(model, trial).details
    assert details["flip"]["value"] > 0.6  # mirrored, the same pixels
    assert details["noise"]["value"] == pytest.approx(0.5, abs=0.1)


def outputs(features: list[list[float]], labels: list[int]) -> Outputs:
    return Outputs(torch.zeros(len(labels), CLASSES), torch.tensor(features), torch.tensor(labels))


def test_the_nearest_retained_samples_are_those_of_the_same_class() -> None:
    forget = outputs([[0.0, 0.0], [5.0, 5.0], [5.2, 5.0]], [0, 0, 0])
    retain = outputs([[0.1, 0.0], [0.0, 0.3], [5.0, 4.0], [9.0, 9.0]], [1, 0, 0, 0])
    assert nearest_retained(forget, retain).tolist() == [False, True, True, False]


def test_the_nearest_are_found_by_brute_force_too() -> None:
    generator = seeded(3)
    forget = outputs(torch.randn(40, 5, generator=generator).tolist(), [row % 2 for row in range(40)])
    retain = outputs(torch.randn(90, 5, generator=generator).tolist(), [row % 2 for row in range(90)])
    near = [False] * 90
    for feature, label in zip(forget.features, forget.labels, strict=True):
        distances = [
            float((feature - other).norm()) if int(its) == int(label) else float("inf")
            for other, its in zip(retain.features, retain.labels, strict=True)
        ]
        near[distances.index(min(distances))] = True
    assert nearest_retained(forget, retain).tolist() == near


def test_a_class_that_nobody_keeps_has_no_neighbours() -> None:
    assert not nearest_retained(outputs([[0.0]], [1]), outputs([[0.0]], [0])).any()


def test_neighbours_pulled_along_fall_behind_the_other_retained_samples() -> None:
    trial = trial_of(1.5)
    before = measure(trial).details["retained"]["value"]

    class Damped(HeadOnly):
        """Less sure of what lies where F lay."""

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            logits = super().forward(images)
            return logits * torch.where(logits.abs() > 1.5, 0.1, 1.0)

    damped = Damped(SIZE, CLASSES, weight=trial.original.fc.weight.detach())
    assert before > 0.6
    assert Neighbours().measure(damped, trial).details["retained"]["value"] < before - 0.1


def test_subjects_and_the_number_of_samples_reach_the_comparison() -> None:
    assert measure(trial_of(1.0), samples=30).n == 30
    one = measure(trial_of(1.0, subjects=[0] * 80))
    assert one.low < 0.5
    assert one.details["p_value"] > 0.025


def test_nothing_to_compare_with_gives_no_number() -> None:
    few = clusters(4, 0)
    model = HeadOnly(SIZE, CLASSES)
    found = Neighbours().measure(model, make_trial(few, few, few, original=model, classes=CLASSES))
    assert found.value is None
    assert found.note
