"""Equivalence against known intervals and invariances."""

import numpy as np
import pytest
import torch

from unlearn_plugin.audit.equivalence import centred_alignment, place_among


def test_the_interval_is_the_textbook_prediction_interval() -> None:
    found = place_among(0.5, [1.0, 2.0, 3.0])
    assert found is not None
    assert (found.mean, found.spread) == (2.0, 1.0)
    assert (found.low, found.high) == pytest.approx((2 - 4.303 * (4 / 3) ** 0.5, 2 + 4.303 * (4 / 3) ** 0.5), abs=1e-3)
    assert found.inside
    assert not place_among(7.1, [1.0, 2.0, 3.0]).inside


def test_one_more_retrained_model_lies_inside_as_often_as_promised() -> None:
    drawn = np.random.default_rng(0).normal(0.8, 0.02, (2000, 5))
    inside = np.mean([place_among(value, others).inside for value, *others in drawn.tolist()])
    assert inside == pytest.approx(0.95, abs=0.015)


@pytest.mark.parametrize("n", [3, 5, 10])
@pytest.mark.parametrize(("of_models", "of_pairs"), [(0.02, 0.0), (0.02, 0.02), (0.0, 0.02)])
def test_a_likeness_of_one_more_retrained_model_lies_inside_as_often_as_promised(
    n: int, of_models: float, of_pairs: float
) -> None:
    generator, inside = np.random.default_rng(0), 0
    for _ in range(2000):
        own, pairs = generator.normal(0, of_models, n + 1), generator.normal(0, of_pairs, (n + 1, n + 1))
        likeness = 0.8 + own[:, None] + own + np.triu(pairs, 1) + np.triu(pairs, 1).T
        np.fill_diagonal(likeness, 0)
        among = likeness[1:, 1:].sum(1) / (n - 1)
        inside += place_among(float(likeness[0, 1:].mean()), among.tolist(), likeness=True).inside
    assert inside / 2000 >= 0.935
    if of_pairs == 0:
        assert inside / 2000 == pytest.approx(0.95, abs=0.015)


def test_two_retrained_models_have_no_spread_to_speak_of() -> None:
    assert place_among(0.5, [0.4, 0.6]) is None


def test_places_are_json_values() -> None:
    assert place_among(1.0, [1.0, 1.0, 1.0]).as_dict() == {
        "value": 1.0, "mean": 1.0, "spread": 0.0, "low": 1.0, "high": 1.0, "models": 3, "inside": True,
    }  # fmt: skip


def test_alignment_ignores_rotation_scale_and_shift_and_nothing_else() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(200, 8, generator=generator)
    rotation = torch.linalg.qr(torch.randn(8, 8, generator=generator)).Q
    assert centred_alignment(features, 3 * features @ rotation + 5) == pytest.approx(1.0)
    assert centred_alignment(features, torch.randn(200, 8, generator=generator)) < 0.15
    assert centred_alignment(features, torch.zeros(200, 3)) == 0.0


def test_alignment_of_two_columns_is_their_squared_correlation() -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(50, 1, generator=generator)
    y = x + torch.randn(50, 1, generator=generator)
    correlation = float(np.corrcoef(x[:, 0].numpy(), y[:, 0].numpy())[0, 1])
    assert centred_alignment(x, y) == pytest.approx(correlation**2, rel=1e-4)
