"""Surrogate requests: what does this procedure leave on requests like this one?

A request of a few samples is too small for a verdict of its own. Pseudo-requests drawn from the retained data, unlearnt
in the same way, have together the power of many samples; what they show is about the procedure.
"""

from dataclasses import asdict, replace
from typing import Any

import torch
from jaxtyping import Float32, Int64
from torch import Tensor, nn

from unlearn_plugin.measurement import FEWEST
from unlearn_plugin.metrics._calibration import matched_scores
from unlearn_plugin.metrics.base import Trial
from unlearn_plugin.metrics.membership import matched_margins
from unlearn_plugin.out_of_sample import mean_recorded_loss
from unlearn_plugin.preparation import FEWEST_SURROGATES, Prepared
from unlearn_plugin.primary import CALIBRATED, PLAIN
from unlearn_plugin.statistics import Matched, pooled_auc, stratified_auc
from unlearn_plugin.unlearners.base import Evidence

__all__ = ["audit", "draw"]


def audit(prepared: Prepared, evidence: Evidence, trial: Trial, after: nn.Module) -> dict[str, Any]:
    """Run the procedure on pseudo-requests, from the original each time, and pool what is left.

    Each is drawn from R, with the size and classes of F and samples of like difficulty: margin under the judge's
    reference models, else the mean recorded loss, else any. F itself is not used, not even as retained data.

    Args:
        prepared: The job; ``job.surrogates`` says how many.
        evidence: What the method was shown of the real request.
        trial: What the judge looked at.
        after: The model after the real request.

    Returns:
        The report's ``surrogates``: count, test, what difficulty was matched by, pooled AUC before and after with
        interval, and the rank of the real request among them, 1 being the one with most left, unless it is so small
        that its rank would be that of a single sample.
    """
    job, retain = prepared.job, prepared.splits.retain
    name, hardness, others = _difficulty(prepared, trial)
    score, test = (matched_scores, CALIBRATED) if prepared.tier == "B" else (matched_margins, PLAIN)
    pairs: list[tuple[Matched, Matched]] = []
    generator = torch.Generator().manual_seed(job.seed)
    drawn = draw(job.surrogates, trial.forget.labels, hardness, retain.labels, others, generator)
    for number, chosen in enumerate(trial.progress(drawn, "surrogate requests")):
        model, pseudo = _unlearnt(prepared, evidence, trial, chosen, number)
        before, left = score(trial.original, pseudo), score(model, pseudo) if _is_finite(model) else None
        if before is not None and left is not None:
            pairs.append((before, left))
    real = score(after, trial)
    result = {"count": len(pairs), "samples": len(pairs) * len(trial.forget), "test": test, "matched_by": name}
    if len(pairs) < FEWEST_SURROGATES or real is None:
        return result | {"before": None, "after": None, "rank": None}
    rank = None
    if len(trial.forget) >= FEWEST:
        rank = 1 + sum(stratified_auc(left).value > stratified_auc(real).value for _, left in pairs)
    pooled = {who: asdict(pooled_auc([pair[place] for pair in pairs])) for place, who in enumerate(("before", "after"))}
    return result | pooled | {"rank": rank}


def draw(
    count: int,
    labels: Int64[Tensor, " f"],
    hardness: Float32[Tensor, " f"] | None,
    pool: Int64[Tensor, " r"],
    pool_hardness: Float32[Tensor, " r"] | None,
    generator: torch.Generator,
) -> Int64[Tensor, "count f"]:
    """Draw pseudo-requests that share no sample, each with one sample for each of F: of its class, and as difficult.

    For each sample of F, in random order, the `count` nearest of what is left are dealt out at random. Requests that
    shared samples would seem to agree more than the procedure deserves.

    Args:
        count: How many.
        labels: Classes of F.
        hardness: Difficulty of F, on any scale; ``None`` matches by class alone. nan counts as the median.
        pool: Classes of R, which holds `count` times as many of each.
        pool_hardness: Difficulty of R, on the same scale.
        generator: Randomness.

    Returns:
        Places in R, none twice.
    """
    if hardness is None or pool_hardness is None:
        hardness, pool_hardness = torch.zeros(len(labels)), torch.rand(len(pool), generator=generator)
    middle = pool_hardness.nanmedian().nan_to_num(0.0)
    hardness, pool_hardness = (part.where(~part.isnan(), middle) for part in (hardness, pool_hardness))
    free = torch.ones(len(pool), dtype=torch.bool)
    drawn = torch.empty((count, len(labels)), dtype=torch.int64)
    for place in torch.randperm(len(labels), generator=generator).tolist():
        candidates = (free & (pool == labels[place])).nonzero().flatten()
        distance = (pool_hardness[candidates] - hardness[place]).abs()
        nearest = candidates[distance.argsort(stable=True)[:count]]
        drawn[:, place] = nearest[torch.randperm(count, generator=generator)]
        free[nearest] = False
    return drawn


def _difficulty(
    prepared: Prepared, trial: Trial
) -> tuple[str, Float32[Tensor, " f"] | None, Float32[Tensor, " r"] | None]:
    """What difficulty is matched by, and that of F and of R."""
    retain = prepared.splits.retain
    if prepared.tier == "B" and prepared.references:
        return "class and out-of-sample margin", trial.out_of_sample("forget"), prepared.references.margins(retain)
    losses = mean_recorded_loss(prepared.record, prepared.train) if prepared.record else None
    if losses is None:
        return "class", None, None
    return "class and recorded loss", losses[trial.forget.rows], losses[retain.rows]


def _unlearnt(
    prepared: Prepared, evidence: Evidence, trial: Trial, chosen: Int64[Tensor, " f"], number: int
) -> tuple[nn.Module, Trial]:
    """The model after a pseudo-request, and what the judge looks at then."""
    pool = prepared.splits.retain
    kept = torch.ones(len(pool), dtype=torch.bool)
    kept[chosen] = False
    forget, retain = pool.select(chosen), pool.select(kept.nonzero().flatten())
    model = prepared.checkpoint.copy()
    shown = replace(evidence, forget=forget, retain=retain, seed=evidence.seed + 1 + number)
    prepared.method.unlearn(model, shown)
    prepared.checkpoint.settle(model)
    references = dict(trial.references)
    if references and prepared.references:
        references["forget"] = prepared.references.margins(forget)
    return model, replace(
        trial, forget=forget, retain=retain, subjects=None, references=references, recorded_loss={}, _outputs={}
    )


def _is_finite(model: nn.Module) -> bool:
    return all(bool(parameter.isfinite().all()) for parameter in model.parameters())
