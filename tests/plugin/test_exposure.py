"""ROC curve and low-false-positive tail, within classes and by data subject, by hand and by simulation."""

import numpy as np
import pytest

from tests.plugin.test_statistics import matched
from unlearn_plugin.exposure import stratified_roc, tail_rate
from unlearn_plugin.statistics import proportion


def test_the_roc_runs_from_corner_to_corner_and_never_falls() -> None:
    curve = stratified_roc(matched(np.linspace(0.3, 1.5, 40), np.linspace(0, 1, 80)), points=21)
    rates, caught = zip(*curve, strict=True)
    assert len(curve) == 21
    assert (rates[0], rates[-1], caught[-1]) == (0.0, 1.0, 1.0)
    assert list(caught) == sorted(caught)
    assert caught[0] == pytest.approx((np.linspace(0.3, 1.5, 40) > 1).mean())


def test_the_roc_is_the_share_above_each_classs_own_threshold() -> None:
    forget_labels, control_labels = np.repeat([0, 1], 30), np.repeat([0, 1], 100)
    generator = np.random.default_rng(6)
    forget = generator.normal(1, 1, 60) + 50 * forget_labels
    controls = generator.normal(0, 1, 200) + 50 * control_labels
    curve = dict(stratified_roc(matched(forget, controls, forget_labels, control_labels), points=11))
    caught = sum(
        (forget[forget_labels == c] > np.sort(controls[control_labels == c])[-11]).sum() for c in (0, 1)
    )  # 10 of 100 controls may lie above
    assert curve[0.1] == pytest.approx(caught / 60, abs=1e-4)


def test_a_sample_counts_that_at_most_one_per_cent_of_the_controls_of_its_class_reach() -> None:
    controls = np.arange(1000.0)
    found = tail_rate(matched([989.0, 990.0, 990.5, 2000.0], controls), 0.01)
    assert found is not None
    assert found.value == 0.5  # 990 itself is the threshold: nine controls lie above it, and the sample is one of 1,001
    assert found.fpr_high == pytest.approx(proportion(9, 1000).high)
    assert (found.low, found.high) == pytest.approx((proportion(2, 4).low, proportion(2, 4).high))
    assert found.n == 4


def test_ties_at_the_threshold_are_not_caught() -> None:
    found = tail_rate(matched(np.ones(50), np.concatenate([np.zeros(900), np.ones(100)])), 0.01)
    assert found is not None
    assert found.value == 0.0


@pytest.mark.parametrize(
    ("n", "fpr", "measured"), [(498, 0.01, False), (499, 0.01, True), (4998, 0.001, False), (4999, 0.001, True)]
)
def test_a_low_rate_is_measured_only_with_enough_controls(n: int, fpr: float, measured: bool) -> None:
    assert (tail_rate(matched(np.zeros(5), np.arange(float(n))), fpr) is not None) == measured


def test_samples_of_a_hard_class_do_not_hide_behind_the_controls_of_easy_ones() -> None:
    """Thirty of the hard class lie above every control of theirs, and below most controls of the easy class."""
    controls = np.r_[np.linspace(-1, 1, 500), np.linspace(9, 11, 500)]
    forget, labels = np.r_[np.full(30, 2.0), np.zeros(70)], np.zeros(100)
    found = tail_rate(matched(forget, controls, labels, np.repeat([0, 1], 500)), 0.01)
    both = tail_rate(matched(np.r_[forget, 10], controls, np.r_[labels, 1], np.repeat([0, 1], 500)), 0.01)
    assert found is not None
    assert both is not None
    assert found.value == 0.3
    assert both.value == pytest.approx(30 / 101)


def test_an_innocent_request_of_an_easy_class_is_caught_as_often_as_it_should_be() -> None:
    generator, labels = np.random.default_rng(0), np.repeat([0, 1], [20, 280])
    others = np.repeat([0, 1], 1000)
    rates = [
        tail_rate(
            matched(generator.normal(size=300) + 3 * labels, generator.normal(size=2000) + 3 * others, labels, others),
            0.01,
        )
        for _ in range(100)
    ]
    assert np.mean([rate.value for rate in rates if rate]) == pytest.approx(0.01, abs=0.002)


def test_classes_too_small_for_a_threshold_are_compared_as_one() -> None:
    labels, others = np.arange(50) % 25, np.arange(1000) % 25  # 40 controls in each class
    controls = np.arange(1000.0)
    found = tail_rate(matched(np.r_[[995.0] * 5, np.zeros(45)], controls, labels, others), 0.01)
    assert found is not None
    assert found.value == 0.1


def test_nothing_is_said_where_a_tenth_of_the_request_has_no_threshold() -> None:
    others = np.repeat([0, 1], [600, 50])
    few, many = ([0] * (100 - n) + [1] * n for n in (9, 10))
    assert tail_rate(matched(np.zeros(100), np.arange(650.0), few, others), 0.01) is not None
    assert tail_rate(matched(np.zeros(100), np.arange(650.0), many, others), 0.01) is None


def test_one_exposed_subject_of_forty_is_one_of_forty() -> None:
    subjects = np.repeat(np.arange(40), 10)
    forget = np.where(subjects == 0, 5.0, 0.0)
    controls = np.linspace(-1, 1, 1000)
    by_subject, by_image = (tail_rate(matched(forget, controls), 0.01, one) for one in (subjects, None))
    assert by_subject is not None
    assert by_image is not None
    assert (by_subject.value, by_subject.n) == (0.025, 40)
    assert by_subject.high == pytest.approx(proportion(1, 40).high)
    assert by_image.high < 0.05 < by_subject.high
