"""The test on scores of any kind: bounds, counts, tails and coarse pictures of exactly these scores."""

import numpy as np
import pytest

from tests.plugin.metrics.test_membership import normal, trial_of
from unlearn_plugin.exposure import stratified_roc
from unlearn_plugin.metrics._attack import attack, histogram_edges
from unlearn_plugin.statistics import Matched, match_classes, stratified_auc


def matched_of(forget: int, controls: int = 300) -> Matched:
    found = match_classes(
        normal(forget, 1, 0).numpy(), np.arange(forget) % 4, normal(controls, 0, 1).numpy(), np.arange(controls) % 4
    )
    assert found is not None
    return found


def test_value_bounds_and_counts_are_those_of_the_scores() -> None:
    matched, trial = (
        matched_of(60),
        trial_of(normal(60, 0, 2), normal(300, 0, 3)),
    )  # the trial's own margins do not count
    found, expected = attack(matched, trial, np.linspace(-3, 3, 21)), stratified_auc(matched)
    assert (found.value, found.low, found.high, found.n) == (expected.value, expected.low, expected.high, 60)
    assert found.details["lower975"] == expected.low
    assert [found.details[name] for name in ("lower95", "upper95")] == [expected.lower95, expected.upper95]
    assert found.details["roc"] == [list(point) for point in stratified_roc(matched)]


def test_the_histogram_holds_every_score_once_and_the_outer_bins_the_rest() -> None:
    edges = np.linspace(-1, 1, 21)
    details = attack(matched_of(60), trial_of(normal(60, 0, 2), normal(300, 0, 3)), edges).details
    assert (sum(details["histogram"]["forget"]), sum(details["histogram"]["controls"])) == (60, 300)
    assert details["histogram"]["edges"] == edges.tolist()
    assert details["histogram"]["forget"][-1] > 10


@pytest.mark.parametrize("scores", [np.zeros(50), np.linspace(-3.2, 7.9, 500)])
def test_edges_are_whole_at_the_ends_and_rise(scores: np.ndarray) -> None:
    edges = histogram_edges(scores)
    assert len(edges) == 21
    assert (edges[0], edges[-1]) == (int(edges[0]), int(edges[-1]))
    assert bool((np.diff(edges) > 0).all())
