"""Clusters: perfect groups, groups without meaning, and scikit-learn's numbers."""

import pytest
import torch
from sklearn.metrics import f1_score, normalized_mutual_info_score

from tests.plugin.trials import HeadOnly, make_trial
from unlearn_plugin.metrics import clusters
from unlearn_plugin.metrics.clusters import Clusters

CLASSES, SIZE = 3, 4


def grouped(size: int, seed: int, noise: float, classes: int = CLASSES) -> tuple[torch.Tensor, list[int]]:
    labels = torch.arange(size) % classes
    features = 4 * torch.eye(SIZE)[labels] + noise * torch.randn(
        size, SIZE, generator=torch.Generator().manual_seed(seed)
    )
    return features, labels.tolist()


def trial_of(forget_noise: float, other_noise: float, **changes):
    return make_trial(
        grouped(90, 0, forget_noise), grouped(300, 1, 0.1), grouped(240, 2, other_noise),
        original=HeadOnly(SIZE, CLASSES), classes=CLASSES, **changes,
    )  # fmt: skip


def measure(trial, **settings):
    return Clusters(**{"resamples": 40, **settings}).measure(trial.original, trial)


def test_clear_groups_give_one() -> None:
    found = measure(trial_of(0.1, 0.1))
    assert (found.value, found.low, found.high) == (1, 1, 1)
    assert found.details == {"nmi": 1.0, "controls_f1": 1.0, "controls_nmi": 1.0, "clusters": 3}


def test_remembered_data_group_better_than_unseen_data() -> None:
    found = measure(trial_of(0.1, 4.0))
    assert found.value == 1
    assert found.details["controls_f1"] < found.low
    assert found.details["controls_nmi"] < 0.7


def test_groups_without_meaning_give_little() -> None:
    found = measure(trial_of(50.0, 0.1))
    assert found.value < 0.65
    assert found.details["nmi"] < 0.2
    assert found.low < found.value < found.high


def test_the_numbers_are_scikit_learns_for_the_clusters_that_were_found() -> None:
    trial = trial_of(2.0, 2.0)
    features = torch.cat([grouped(300, 1, 0.1)[0], grouped(90, 0, 2.0)[0]]).double().numpy()
    labels = torch.tensor(grouped(300, 1, 0.1)[1] + grouped(90, 0, 2.0)[1]).numpy()
    means, classes = clusters._fit(features, labels, 0)
    found, wanted = classes[means.predict(features[300:])], labels[300:]
    measured = measure(trial)
    assert measured.value == pytest.approx(f1_score(wanted, found, average="macro"))
    assert measured.details["nmi"] == pytest.approx(normalized_mutual_info_score(wanted, found))


def test_a_whole_class_has_a_cluster_of_its_own_and_no_mutual_information() -> None:
    features, labels = grouped(120, 3, 0.1)
    only = [row for row, label in enumerate(labels) if label == 2]
    kept = [row for row, label in enumerate(labels) if label != 2]
    model = HeadOnly(SIZE, CLASSES)
    trial = make_trial(
        (features[only], [2] * len(only)), (features[kept], [labels[row] for row in kept]), grouped(90, 4, 0.1),
        original=model, classes=CLASSES, forgotten_classes=(2,),
    )  # fmt: skip
    found = measure(trial)
    assert found.value == found.details["controls_f1"] == 1
    assert found.details["nmi"] is found.details["controls_nmi"] is None


def test_identical_features_are_one_cluster_and_no_error() -> None:
    same = (torch.ones(30, SIZE), [row % CLASSES for row in range(30)])
    model = HeadOnly(SIZE, CLASSES)
    found = measure(make_trial(same, same, same, original=model, classes=CLASSES))
    assert found.value < 0.5
    assert found.details["nmi"] == pytest.approx(0, abs=1e-9)


def test_without_controls_of_these_classes_there_is_nothing_beside_it() -> None:
    model = HeadOnly(SIZE, CLASSES)
    others = (torch.zeros(9, SIZE), [0] * 9)
    features, labels = grouped(30, 5, 0.1)
    rows = [row for row, label in enumerate(labels) if label]
    trial = make_trial(
        (features[rows], [labels[row] for row in rows]), grouped(60, 1, 0.1), others, original=model, classes=CLASSES
    )
    assert measure(trial).details["controls_f1"] is None


def test_subjects_and_settings_reach_the_numbers() -> None:
    alone, one, few = (
        trial_of(2.0, 0.1),
        trial_of(2.0, 0.1, subjects=[0] * 90),
        trial_of(2.0, 0.1, subjects=[row // 30 for row in range(90)]),
    )
    assert measure(one).low is None
    assert measure(few).low != measure(alone).low
    assert measure(alone, samples=45).n == 45
    assert measure(alone) == measure(alone)
