"""Statistics against published values, brute force and simulation."""

import math

import numpy as np
import pytest
from scipy.stats import beta, mannwhitneyu, norm

from unlearn_plugin.statistics import (
    Auc,
    Matched,
    effective_number,
    match_classes,
    paired_difference,
    pooled_auc,
    proportion,
    stratified_auc,
)

# Ratings of 58 normal and 51 abnormal CT images: Hanley and McNeil 1982, Radiology 143:29-36, table I.
NORMAL = np.repeat(np.arange(5.0), [33, 6, 6, 11, 2])
ABNORMAL = np.repeat(np.arange(5.0), [3, 2, 2, 11, 33])


def matched(forget, controls, forget_labels=None, control_labels=None) -> Matched:
    forget, controls = np.asarray(forget, float), np.asarray(controls, float)
    first = np.zeros(len(forget), np.int64) if forget_labels is None else np.asarray(forget_labels, np.int64)
    second = np.zeros(len(controls), np.int64) if control_labels is None else np.asarray(control_labels, np.int64)
    found = match_classes(forget, first, controls, second)
    assert found is not None
    return found


def standard_error(auc: Auc) -> float:
    """What the logit interval was made of."""
    width = math.log(auc.high / (1 - auc.high)) - math.log(auc.low / (1 - auc.low))
    return width / (2 * norm.ppf(0.975)) * auc.value * (1 - auc.value)


# ---- proportions


@pytest.mark.parametrize(("hits", "n"), [(0, 10), (1, 10), (7, 20), (300, 300), (2, 1000)])
def test_a_proportion_has_the_interval_that_the_beta_quantiles_give(hits: int, n: int) -> None:
    found = proportion(hits, n)
    assert found.value == hits / n
    assert found.low == pytest.approx(beta.ppf(0.025, hits, n - hits + 1) if hits else 0.0)
    assert found.high == pytest.approx(beta.ppf(0.975, hits + 1, n - hits) if hits < n else 1.0)


def test_no_hit_in_a_hundred_still_leaves_3_6_per_cent() -> None:
    assert proportion(0, 100).high == pytest.approx(1 - 0.025 ** (1 / 100))


def paired(both: int, gained: int, lost: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    before = np.repeat([True, False, True, False], [both, gained, lost, neither])
    after = np.repeat([True, True, False, False], [both, gained, lost, neither])
    return before, after


@pytest.mark.parametrize(
    ("table", "low", "high"),
    [
        ((36, 12, 2, 0), 0.0569, 0.3404),  # Newcombe 1998, Statistics in Medicine 17:2635, table II, method 10
        ((59, 16, 6, 80), 0.0046, 0.1186),  # Cavo et al. 2012 as in Fagerland et al., contingencytables, chapter 8
    ],
)
def test_a_paired_difference_has_the_published_interval(table, low: float, high: float) -> None:
    found = paired_difference(*paired(*table))
    assert found.value == pytest.approx((table[1] - table[2]) / sum(table))
    assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)


def test_swapping_before_and_after_mirrors_the_difference() -> None:
    before, after = paired(50, 3, 9, 20)
    there, back = paired_difference(before, after), paired_difference(after, before)
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low))


@pytest.mark.parametrize("right", [True, False])
def test_without_any_change_the_interval_is_around_zero_and_not_a_point(right: bool) -> None:
    same = np.full(40, right)
    found = paired_difference(same, same)
    assert found.value == 0
    assert found.low < 0 < found.high


def test_more_confidence_widens_a_paired_interval() -> None:
    narrow, wide = (paired_difference(*paired(50, 3, 9, 20), confidence) for confidence in (0.95, 0.995))
    assert wide.low < narrow.low < narrow.high < wide.high


def test_paired_intervals_cover_the_truth() -> None:
    generator = np.random.default_rng(0)
    missed = 0
    for _ in range(300):
        before = generator.random(150) < 0.9
        flips = np.where(before, generator.random(150) < 0.08, generator.random(150) < 0.3)
        found = paired_difference(before, before ^ flips)
        missed += not found.low <= -0.9 * 0.08 + 0.1 * 0.3 <= found.high
    assert missed <= 24  # 15 expected; 24 is exceeded with probability 0.01


# ---- AUC


def brute_auc(forget: np.ndarray, controls: np.ndarray) -> float:
    return float(np.mean((forget[:, None] > controls) + 0.5 * (forget[:, None] == controls)))


def test_the_ct_images_of_hanley_and_mcneil_have_auc_0_8932_and_delong_error_0_0307() -> None:
    found = stratified_auc(matched(ABNORMAL, NORMAL))
    assert found.value == pytest.approx(0.8932, abs=5e-5)
    assert standard_error(found) == pytest.approx(0.0307, abs=5e-5)  # as Stata's roctab prints for the same data


def test_the_variance_is_delongs_direct_double_sum() -> None:
    generator = np.random.default_rng(1)
    forget, controls = generator.normal(0.7, 1, 45).round(1), generator.normal(0, 1, 60).round(1)
    wins = (forget[:, None] > controls) + 0.5 * (forget[:, None] == controls)
    expected = wins.mean(1).var(ddof=1) / 45 + wins.mean(0).var(ddof=1) / 60
    assert standard_error(stratified_auc(matched(forget, controls))) ** 2 == pytest.approx(expected)


def test_classes_are_compared_within_and_combined_by_their_share_of_the_request() -> None:
    generator = np.random.default_rng(2)
    forget_labels, control_labels = generator.integers(0, 3, 80), generator.integers(0, 4, 200)
    forget = generator.normal(0.5, 1, 80) + 5 * forget_labels
    controls = generator.normal(0, 1, 200) + 5 * control_labels
    found = stratified_auc(matched(forget, controls, forget_labels, control_labels))
    by_class = [brute_auc(forget[forget_labels == c], controls[control_labels == c]) for c in range(3)]
    assert found.value == pytest.approx(np.average(by_class, weights=np.bincount(forget_labels)))
    assert (found.n_forget, found.n_controls) == (80, int((control_labels < 3).sum()))


def test_the_variance_over_classes_weighs_each_by_the_square_of_its_share() -> None:
    generator = np.random.default_rng(8)
    forget_labels, control_labels = np.repeat([0, 1], [60, 20]), np.repeat([0, 1], [40, 90])
    forget, controls = generator.normal(0.4, 1, 80), generator.normal(0, 1, 130)
    wins = (forget[:, None] > controls).astype(float)
    own = np.array([wins[row, control_labels == label].mean() for row, label in enumerate(forget_labels)])
    expected = own.var(ddof=1) / 80
    for label, share in ((0, 0.75), (1, 0.25)):
        by_control = wins[np.ix_(forget_labels == label, control_labels == label)].mean(0)
        expected += share**2 * by_control.var(ddof=1) / len(by_control)
    found = stratified_auc(matched(forget, controls, forget_labels, control_labels))
    assert standard_error(found) ** 2 == pytest.approx(expected)


def test_comparing_across_classes_would_have_hidden_the_effect() -> None:
    forget_labels, control_labels = np.repeat([0, 1], [40, 0]), np.repeat([0, 1], [40, 40])
    forget, controls = np.linspace(1, 2, 40), np.concatenate([np.linspace(0, 1, 40), np.linspace(5, 6, 40)])
    assert stratified_auc(matched(forget, controls, forget_labels, control_labels)).value > 0.99
    assert brute_auc(forget, controls) == pytest.approx(0.5, abs=0.01)


def test_classes_without_enough_controls_are_left_out_and_told() -> None:
    found = match_classes(np.arange(6.0), np.array([0, 0, 1, 1, 2, 2]), np.arange(9.0), np.array([0] * 5 + [1] * 4))
    assert found is not None
    assert found.kept.tolist() == [True, True, False, False, False, False]
    assert len(found.controls) == 5
    assert match_classes(np.arange(2.0), np.array([3, 3]), np.arange(9.0), np.zeros(9, np.int64)) is None


def test_scores_of_32_bits_and_labels_with_gaps_are_fine() -> None:
    forget, controls = np.linspace(0, 1, 40, dtype=np.float32), np.linspace(0, 1, 50, dtype=np.float32)
    found = match_classes(forget, np.full(40, 700), controls, np.full(50, 700))
    assert found is not None
    assert stratified_auc(found).value == pytest.approx(brute_auc(forget, controls))


def test_the_one_sided_bounds_lie_inside_the_two_sided_interval() -> None:
    for size in (10, 60):
        found = stratified_auc(matched(np.linspace(0.2, 1.2, size), np.linspace(0, 1, 100)))
        assert 0 < found.low < found.lower95 < found.value < found.upper95 < found.high < 1


@pytest.mark.parametrize("size", [1, 8, 100])
def test_perfect_separation_has_an_interval_that_is_no_point(size: int) -> None:
    above = stratified_auc(matched(np.full(size, 9.0), np.linspace(0, 1, 200)))
    below = stratified_auc(matched(np.full(size, -9.0), np.linspace(0, 1, 200)))
    assert above.value == above.high == 1.0
    assert 0 < above.low < 1
    assert (below.low, below.high) == pytest.approx((0.0, 1 - above.low))


def test_a_small_request_is_judged_by_the_mann_whitney_null_variance() -> None:
    generator = np.random.default_rng(3)
    agree = 0
    for _ in range(200):
        forget, controls = generator.normal(0.6, 1, 12), generator.normal(0, 1, 80)
        exact = mannwhitneyu(forget, controls, alternative="greater", method="exact").pvalue
        if abs(exact - 0.025) > 0.004:  # at the edge a normal quantile may differ from the exact one
            agree += (stratified_auc(matched(forget, controls)).low > 0.5) == (exact < 0.025)
        else:
            agree += 1
    assert agree == 200


def test_one_sample_alone_is_never_called_a_member() -> None:
    assert stratified_auc(matched([99.0], np.arange(1000.0))).low < 0.5


@pytest.mark.parametrize(("n_forget", "shift"), [(6, 0.0), (15, 1.0), (40, 0.0), (60, 1.2)])
def test_intervals_cover_the_truth(n_forget: int, shift: float) -> None:
    generator = np.random.default_rng(n_forget)
    missed = 0
    for _ in range(300):
        forget_labels, control_labels = generator.integers(0, 4, n_forget), generator.integers(0, 4, 200)
        forget = generator.normal(shift, 1, n_forget) + forget_labels
        controls = generator.normal(0, 1, 200) + control_labels
        found = stratified_auc(matched(forget, controls, forget_labels, control_labels))
        missed += not found.low <= norm.cdf(shift / math.sqrt(2)) <= found.high
    assert missed <= 25  # 15 expected; 25 is exceeded with probability 0.005


# ---- data subjects


def test_every_sample_its_own_subject_changes_nothing() -> None:
    data = matched(np.linspace(0.1, 1.3, 50), np.linspace(0, 1, 100))
    assert stratified_auc(data, np.arange(50)) == stratified_auc(data)


def test_clusters_widen_the_interval_as_obuchowski_says() -> None:
    generator = np.random.default_rng(4)
    subjects = np.repeat(np.arange(40), 5)
    forget = generator.normal(0.3, 1, 40)[subjects] + generator.normal(0, 0.1, 200)
    controls = generator.normal(0, 1, 300)
    wins = (forget[:, None] > controls) + 0.5 * (forget[:, None] == controls)
    residuals = np.bincount(subjects, weights=wins.mean(1) - wins.mean())
    expected = 40 / 39 * (residuals**2).sum() / 200**2 + wins.mean(0).var(ddof=1) / 300
    found, naive = (stratified_auc(matched(forget, controls), given) for given in (subjects, None))
    assert standard_error(found) ** 2 == pytest.approx(expected)
    assert standard_error(found) > 1.8 * standard_error(naive)  # sqrt(5) without the controls' part


def test_the_cluster_variance_agrees_with_a_bootstrap_over_subjects() -> None:
    generator = np.random.default_rng(5)
    subjects = np.repeat(np.arange(50), 4)
    forget = generator.normal(0.5, 1, 50)[subjects] + generator.normal(0, 0.5, 200)
    controls = generator.normal(0, 1, 400)
    draws = []
    for _ in range(400):
        chosen = (4 * generator.integers(0, 50, 50)[:, None] + np.arange(4)).ravel()
        draws.append(brute_auc(forget[chosen], controls[generator.integers(0, 400, 400)]))
    assert standard_error(stratified_auc(matched(forget, controls), subjects)) == pytest.approx(np.std(draws), rel=0.15)


def test_many_images_of_one_person_are_one_observation() -> None:
    forget, controls = np.linspace(0.5, 1.0, 60), np.linspace(0, 1, 500)
    one = stratified_auc(matched(forget, controls), np.full(60, 7))
    assert one.value == pytest.approx(0.75, abs=0.01)
    assert one.low < 0.5 < stratified_auc(matched(forget, controls)).low


def test_a_subject_with_most_of_the_samples_counts_for_little_more_than_one() -> None:
    assert effective_number(np.repeat(np.arange(12), 10)) == pytest.approx(12)
    assert effective_number(np.zeros(50, np.int64)) == 1
    assert effective_number(np.r_[np.zeros(100, np.int64), np.arange(1, 21)]) == pytest.approx(120**2 / 10020)


@pytest.mark.parametrize("sizes", [[100] + [1] * 20, [300] + [1] * 200, [60, 60] + [2] * 60, [10] * 12, [5] * 40])
def test_the_interval_covers_whatever_the_sizes_of_the_subjects(sizes: list[int]) -> None:
    """All samples of one subject share one effect, which is the least that they tell."""
    generator, subjects = np.random.default_rng(8), np.repeat(np.arange(len(sizes)), sizes)
    found = [
        stratified_auc(matched(generator.normal(size=len(sizes))[subjects], generator.normal(size=500)), subjects)
        for _ in range(200)
    ]
    assert np.mean([one.low > 0.5 for one in found]) <= 0.06
    assert np.mean([one.low <= 0.5 <= one.high for one in found]) >= 0.9


# ---- how many samples


def requests(count: int, size: int, shift: float, seed: int) -> list[Matched]:
    """Requests compared with the same controls; 4 classes, the second half of the controls' scores is the model's."""
    generator = np.random.default_rng(seed)
    controls, labels = generator.normal(size=200), np.arange(200) % 4
    own = [generator.normal(shift, size=size) for _ in range(count)]
    return [matched(forget, controls, np.arange(size) % 4, labels) for forget in own]


def test_pooled_requests_have_the_mean_auc_and_the_samples_of_all() -> None:
    parts = requests(6, 12, 0.5, 0)
    found = pooled_auc(parts)
    assert found.value == pytest.approx(np.mean([stratified_auc(part).value for part in parts]))
    assert (found.n_forget, found.n_controls) == (72, 200)
    assert found.low < found.lower95 < found.value < found.upper95 < found.high
    assert found.high - found.low < stratified_auc(parts[0]).high - stratified_auc(parts[0]).low


@pytest.mark.parametrize("shift", [0.0, 0.7])
def test_the_pooled_interval_covers_the_truth(shift: float) -> None:
    truth = norm.cdf(shift / np.sqrt(2))
    found = [pooled_auc(requests(8, 8, shift, seed)) for seed in range(200)]
    covered = np.mean([one.low <= truth <= one.high for one in found])
    assert 0.90 <= covered <= 0.99


def test_requests_that_all_agree_still_leave_what_the_controls_leave_open() -> None:
    part = requests(1, 40, 0.3, 3)[0]
    found = pooled_auc([part] * 6)
    assert found.value == pytest.approx(stratified_auc(part).value)
    assert found.high - found.low > 0.05
    perfect = matched([9.0] * 8, np.arange(8.0) / 10)
    assert pooled_auc([perfect] * 5).value == 1.0
    assert pooled_auc([perfect] * 5).low < 0.95


# ---- p-values


@pytest.mark.parametrize(("above", "z"), [(24, 1.85131), (26, 2.31147)])
def test_a_p_value_is_that_of_the_logit_over_its_delong_error(above: int, z: float) -> None:
    """Scores of 0 and 1, so V_i is one of two values that lie 1/2 apart: its variance is share (1 - share) / 4."""
    share, other = above / 40, 20 / 50
    value = 0.5 + (share - other) / 2
    error = math.sqrt(share * (1 - share) / (4 * 39) + other * (1 - other) / (4 * 49))
    expected = math.log(value / (1 - value)) * value * (1 - value) / error
    found = stratified_auc(matched(np.arange(40) < above, np.arange(50) < 20))
    assert found.value == pytest.approx(value)
    assert expected == pytest.approx(z, abs=1e-5)
    assert found.p_value == pytest.approx(math.erfc(z / math.sqrt(2)) / 2, abs=1e-6)


@pytest.mark.parametrize("pooled", [False, True])
def test_the_p_value_is_below_0_025_exactly_where_the_lower_bound_is_above_one_half(pooled: bool) -> None:
    shifts = np.tile(np.linspace(0, 0.6, 20), 20)
    parts = [requests(4 if pooled else 1, 80, shift, seed) for seed, shift in enumerate(shifts)]
    found = [pooled_auc(part) if pooled else stratified_auc(part[0]) for part in parts]
    assert [one.p_value < 0.025 for one in found] == [one.low > 0.5 for one in found]
    near = [one.p_value < 0.025 for one in found if 0.01 < one.p_value < 0.05]
    assert min(sum(near), len(near) - sum(near)) >= 10  # on both sides
