"""The full audit on real folders: models that know the request, models that never saw it, and their spread."""

import copy
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import t as student
from timm.models import save_for_hf
from torch import nn

from tests.plugin.conftest import job_for
from unlearn_hooks.errors import UnlearnError
from unlearn_plugin.audit.full import _SPLITS, FEWEST_MODELS, _games, _places, _Seen, audit
from unlearn_plugin.checkpoint import Checkpoint
from unlearn_plugin.demo import Scene
from unlearn_plugin.measurement import FEWEST
from unlearn_plugin.pipeline import Outcome, run


def relatives(model: nn.Module, folder: Path, count: int, seed: int) -> list[str]:
    """Checkpoints around a model: its weights, each changed by three hundredths of its tensor's spread."""
    generator = torch.Generator().manual_seed(seed)
    names = []
    for number in range(count):
        relative = copy.deepcopy(model)
        with torch.no_grad():
            for parameter in relative.parameters():
                spread = parameter.std() if parameter.numel() > 1 else parameter.abs().mean()
                parameter += 0.03 * spread * torch.randn(parameter.shape, generator=generator)
        save_for_hf(relative, folder / str(number), model_args={"in_chans": 1}, safe_serialization=True)
        names.append(str(folder / str(number)))
    return names


@pytest.fixture(scope="module")
def original(scene: Scene) -> nn.Module:
    return Checkpoint.load(f"local-dir:{scene.model}").model


@pytest.fixture(scope="module")
def retrained(scene: Scene, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("retrained")
    run(job_for(scene, folder / "out", method="retrain", options={"epochs": "8"}))
    return relatives(Checkpoint.load(f"local-dir:{folder / 'out'}").model, folder, FEWEST_MODELS, 1)


@pytest.fixture(scope="module")
def audited(finetuned: Outcome, retrained: list[str], original: nn.Module, tmp_path_factory: pytest.TempPathFactory):  # noqa: ANN201
    knowing = relatives(original, tmp_path_factory.mktemp("knowing"), FEWEST_MODELS, 2)
    return audit(finetuned.folder, retrained, knowing)


def test_models_that_know_the_request_are_told_from_models_that_never_saw_it(audited) -> None:  # noqa: ANN001
    forget = audited["games"]["forget"]
    assert forget["auc"] > 0.9
    assert forget["energy"]["p_value"] == pytest.approx(1 / 1000)
    assert forget["excess_klom"] is None, "too few models"
    assert audited["games"]["controls"]["auc"] < forget["auc"]
    assert 0 <= forget["epsilon"]["largest_for_sure"] <= forget["epsilon"]["ceiling"] + 1e-9


def test_the_place_of_a_short_finetune_is_outside_what_retrained_models_do(audited) -> None:  # noqa: ANN001
    places = audited["equivalence"]
    assert not places["accuracy_forget"]["inside"]
    assert places["accuracy_forget"]["value"] > places["accuracy_forget"]["mean"]
    assert places["membership"]["value"] > places["membership"]["high"]
    assert places["relearning_steps"]["value"] < places["relearning_steps"]["mean"]
    assert set(places) == {
        "accuracy_forget", "accuracy_retain", "accuracy_controls", "membership", "relearning_steps", "agreement",
        "feature_alignment",
    }  # fmt: skip


def test_the_audit_is_plain_and_names_no_sample_and_no_path(audited, scene: Scene) -> None:  # noqa: ANN001
    text = json.dumps(audited)
    assert "digit-" not in text
    assert str(scene.data) not in text
    assert audited["schema"] == "urn:unlearn-plugin:audit:1"
    assert audited["models"] == {"retrained": FEWEST_MODELS, "unlearned": FEWEST_MODELS}


def test_two_retrained_models_are_too_few(finetuned: Outcome, retrained: list[str]) -> None:
    with pytest.raises(UnlearnError, match="2 retrained models say nothing .* give 3 or more"):
        audit(finetuned.folder, retrained[:2])


def test_the_model_itself_is_no_reference(finetuned: Outcome, retrained: list[str]) -> None:
    with pytest.raises(UnlearnError, match="is the model after itself"):
        audit(finetuned.folder, [str(finetuned.folder), *retrained[:2]])


def test_a_request_so_small_that_the_audit_would_speak_of_single_samples_is_refused(
    scene: Scene, retrained: list[str], tmp_path: Path
) -> None:
    lines = scene.forget.read_text().splitlines()[: 1 + FEWEST - 1]
    (tmp_path / "request.csv").write_text("\n".join(lines))
    outcome = run(job_for(scene, tmp_path / "out", forget=str(tmp_path / "request.csv")))
    with pytest.raises(UnlearnError, match="The request has 4 sample.* audit a request of 5 samples or more"):
        audit(outcome.folder, retrained)


def test_fewer_than_eight_of_each_kind_make_no_game() -> None:
    margins = {split: torch.zeros(3) for split in ("forget", "retain", "controls")}
    assert _games([margins] * (FEWEST_MODELS - 1), [margins] * FEWEST_MODELS, 0) is None


def test_the_largest_epsilon_holds_for_all_samples_at_once() -> None:
    """Models that are all told apart: Clopper and Pearson's bounds of 32 of 32, at 5 % over the 10 samples."""
    known, unknown = (
        [{split: torch.full((10,), level) + 0.01 * number for split in _SPLITS} for number in range(64)]
        for level in (100.0, 0.0)
    )

    def bound(missed: float) -> float:
        low = (missed / 2) ** (1 / 32)
        return math.log((low - 0.01) / (1 - low))

    epsilon = _games(known, unknown, 0)["forget"]["epsilon"]
    assert epsilon["largest_for_sure"] == pytest.approx(bound(0.05 / 10))
    assert epsilon["worst_twentieth"] == epsilon["ceiling"] == pytest.approx(bound(0.05))
    assert bound(0.05 / 10) < bound(0.05) - 0.5


def seen(answers: list[int], feature: list[float]) -> _Seen:
    return _Seen({}, {}, torch.tensor(answers), torch.tensor(feature)[:, None])


def test_a_retrained_model_is_likened_to_the_others_and_not_to_itself() -> None:
    retrained = [
        seen([0, 0, 0, 0], [1.0, 2.0, 3.0, 4.0]),
        seen([0, 0, 0, 1], [1.0, 3.0, 2.0, 4.0]),
        seen([0, 0, 1, 1], [2.0, 1.0, 4.0, 3.0]),
    ]
    places = _places(seen([1, 1, 1, 1], [1.0, 2.0, 3.0, 4.0]), retrained)
    agreement, alignment = places["agreement"], places["feature_alignment"]  # one feature: the squared correlation
    assert agreement["value"] == pytest.approx((0 + 1 / 4 + 2 / 4) / 3)
    assert (agreement["mean"], agreement["spread"]) == pytest.approx((2 / 3, np.std([5 / 8, 6 / 8, 5 / 8], ddof=1)))
    reach = student.ppf(0.975, 2) * 2 * agreement["spread"] * (4 / 3) ** 0.5  # 2 is (n - 1) / (n - 2)
    assert agreement["high"] - agreement["mean"] == pytest.approx(reach)
    assert alignment["value"] == pytest.approx((1 + 0.8**2 + 0.6**2) / 3)
    assert alignment["mean"] == pytest.approx((0.8**2 + 0.6**2 + 0.0**2) / 3)
