"""`unlearn audit`, tier C: an output folder judged by many retrained models, and the game of many against many."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Float64
from torch import Tensor, nn

from unlearn_hooks.errors import UnlearnError
from unlearn_plugin.audit.distances import energy_test, excess_klom
from unlearn_plugin.audit.equivalence import Place, centred_alignment, place_among
from unlearn_plugin.audit.games import bounded_epsilon, largest_epsilon, likelihood_ratio_auc
from unlearn_plugin.audit.relearning import relearning_steps
from unlearn_plugin.data import Samples
from unlearn_plugin.evidence import private_folder
from unlearn_plugin.job_file import JOB_FILE, read_job
from unlearn_plugin.judging import make_trial
from unlearn_plugin.measurement import FEWEST
from unlearn_plugin.metrics.base import Split
from unlearn_plugin.outputs import Outputs, compute_outputs
from unlearn_plugin.preparation import Prepared, load_model, prepare
from unlearn_plugin.progress import Progress
from unlearn_plugin.report.report import read_report, rounded
from unlearn_plugin.statistics import match_classes, stratified_auc

__all__ = ["FEWEST_MODELS", "SCHEMA", "audit"]

SCHEMA = "urn:unlearn-plugin:audit:1"
FEWEST_MODELS = 8  # models of each kind that make a game
_KLOM_FROM = 100  # models of each kind
_SPLITS: tuple[Split, ...] = ("forget", "retain", "controls")
_LOOKED_AT = 1000  # samples of each split, at most


Margins = Mapping[Split, Float32[Tensor, " _"]]  # as many samples as each split has


@dataclass(frozen=True)
class _Seen:
    """What is kept of one model."""

    margins: Margins
    numbers: Mapping[str, float | None]
    answers: Tensor
    features: Float32[Tensor, "n d"]


def audit(
    out: Path,
    retrained: Sequence[str],
    unlearned: Sequence[str] = (),
    *,
    private: Path | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Judge an output folder by models that were really retrained, and by models that were unlearned as it was.

    With three retrained models or more every number of the model after is placed within what one more retrained model
    would give. With eight of each kind U-LiRA is played on F, on R and on the controls: can an attacker tell models
    that unlearned from models that never knew? With 100 of each kind KLoM is added.

    Args:
        out: An output folder of ``unlearn apply``.
        retrained: Models trained without the forget data: anything ``--model`` takes.
        unlearned: Models that were trained on all data, each in its own run, and unlearned by the same procedure.
        private: The private folder; beside `out` when not given.
        progress: Wraps long loops in a bar.

    Returns:
        The audit, of schema `SCHEMA`: plain values, no sample ids and no scores of single samples.

    Raises:
        UnlearnError: If there are fewer than three retrained models, one of them is the model before or after, or the
            request is so small that the audit would speak of single samples.

    Source: Hayes et al. 2024, arXiv 2403.01218 (games); Georgiev et al., arXiv 2410.23232 (KLoM).
    """
    if len(retrained) < 3:
        raise UnlearnError(
            f"{len(retrained)} retrained models say nothing about how much retrained models differ; give 3 or more."
        )
    report, progress = read_report(out), progress or Progress()
    if not report["model"]["after"]:
        raise UnlearnError(f"{out} holds no weights: they were refused. There is nothing to audit.")
    job = read_job((private or private_folder(out)) / JOB_FILE)
    prepared = prepare(replace(job, out=str(out)), writing=False)
    if (n_forget := len(prepared.splits.forget)) < FEWEST:
        raise UnlearnError(
            f"The request has {n_forget} sample(s), and an audit would tell what the models say of each; "
            f"audit a request of {FEWEST} samples or more."
        )
    judge = _Judge(prepared, progress)
    after = load_model(job, f"local-dir:{out}").model
    references = [judge.look(_load(prepared, name, report)) for name in progress(retrained, "retrained models")]
    margins = [judge.margins(_load(prepared, name, report)) for name in progress(unlearned, "unlearned models")]
    found = {
        "schema": SCHEMA,
        "report_id": report["report_id"],
        "models": {"retrained": len(retrained), "unlearned": len(unlearned)},
        "equivalence": _places(judge.look(after), references),
        "games": _games(margins, [one.margins for one in references], job.seed),
    }
    return dict(rounded(found))


def _load(prepared: Prepared, name: str, report: Mapping[str, Any]) -> nn.Module:
    folder = (Path(name) / "config.json").exists()
    checkpoint = load_model(prepared.job, f"local-dir:{name}" if folder else name)
    for who in ("before", "after"):
        if checkpoint.digest == report["model"][who]["digest"]:
            raise UnlearnError(f"{name} is the model {who} itself; give models of other training runs.")
    return checkpoint.model


class _Judge:
    """Looks at one model at a time and keeps only numbers, so that a hundred models fit into memory."""

    def __init__(self, prepared: Prepared, progress: Progress) -> None:
        trial = make_trial(prepared, progress)
        generator = torch.Generator().manual_seed(prepared.job.seed)
        everything: dict[Split, Samples] = {"forget": trial.forget, "retain": trial.retain, "controls": trial.controls}
        self._samples: dict[Split, Samples] = {
            split: samples.select(torch.randperm(len(samples), generator=generator)[:_LOOKED_AT].sort().values)
            for split, samples in everything.items()
        }
        self._trial = trial
        self._known = float(trial.outputs(trial.original, "forget").correct.float().mean())

    def look(self, model: nn.Module) -> _Seen:
        outputs, trial = self._outputs(model), self._trial
        steps = relearning_steps(model, self._samples["forget"], self._known, trial.accelerator, seed=trial.seed)
        return _Seen(
            margins={split: outputs[split].margins for split in _SPLITS},
            numbers={**_numbers(outputs), "relearning_steps": float(steps)},
            answers=outputs["controls"].logits.argmax(1),
            features=outputs["forget"].features,
        )

    def margins(self, model: nn.Module) -> Margins:
        return {split: one.margins for split, one in self._outputs(model).items()}

    def _outputs(self, model: nn.Module) -> dict[Split, Outputs]:
        trial, quiet = self._trial, Progress(enabled=False)
        return {
            split: compute_outputs(model, samples, trial.accelerator, batch_size=trial.batch_size, progress=quiet)
            for split, samples in self._samples.items()
        }


def _places(after: _Seen, retrained: Sequence[_Seen]) -> dict[str, Any]:
    """Each number of the model after, and its likeness to retrained models, within their spread."""
    found: dict[str, Place | None] = {}
    for name, value in after.numbers.items():
        others = [number for one in retrained if (number := one.numbers[name]) is not None]
        found[name] = None if value is None else place_among(value, others)
    for name, likeness in (("agreement", _agreement), ("feature_alignment", _alignment)):
        among = [fmean(likeness(one, other) for other in retrained if other is not one) for one in retrained]
        found[name] = place_among(fmean(likeness(after, other) for other in retrained), among, likeness=True)
    return {name: place.as_dict() for name, place in found.items() if place}


def _numbers(outputs: Mapping[Split, Outputs]) -> dict[str, float | None]:
    forget, controls = outputs["forget"], outputs["controls"]
    matched = match_classes(
        forget.margins.numpy(), forget.labels.numpy(), controls.margins.numpy(), controls.labels.numpy()
    )
    return {
        **{f"accuracy_{split}": float(outputs[split].correct.float().mean()) for split in _SPLITS},
        "membership": stratified_auc(matched).value if matched else None,
    }


def _agreement(one: _Seen, other: _Seen) -> float:
    return float((one.answers == other.answers).float().mean())


def _alignment(one: _Seen, other: _Seen) -> float:
    return centred_alignment(one.features, other.features)


def _games(unlearned: Sequence[Margins], retrained: Sequence[Margins], seed: int) -> dict[str, Any] | None:
    if min(len(unlearned), len(retrained)) < FEWEST_MODELS:
        return None
    return {split: _game(*(_stacked(group, split) for group in (unlearned, retrained)), seed=seed) for split in _SPLITS}


def _stacked(group: Sequence[Margins], split: Split) -> Float64[np.ndarray, "models n"]:
    return np.stack([one[split].double().numpy() for one in group])


def _game(unlearned: Float64[np.ndarray, "u n"], retrained: Float64[np.ndarray, "r n"], *, seed: int) -> dict[str, Any]:
    aucs, fewest = likelihood_ratio_auc(unlearned, retrained), min(len(unlearned), len(retrained))
    epsilon = bounded_epsilon(unlearned, retrained)
    together = bounded_epsilon(unlearned, retrained, level=1 - 0.05 / len(aucs))
    return {
        "auc": float(aucs.mean()),
        "auc_worst_tenth": float(np.quantile(aucs, 0.9)),
        "energy": asdict(energy_test(unlearned, retrained, seed=seed)),
        "excess_klom": asdict(excess_klom(unlearned, retrained, seed=seed)) if fewest >= _KLOM_FROM else None,
        "epsilon": {
            "largest_for_sure": float(together.max()),
            "worst_twentieth": float(np.quantile(epsilon, 0.95)),
            "share_above_one": float((epsilon > 1).mean()),
            "ceiling": largest_epsilon(fewest // 2),
        },
    }
