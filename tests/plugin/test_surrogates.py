"""Surrogate requests: drawn like the real one, and pooled to what the procedure is known to leave."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.plugin.reference_world import POOL, ReferenceWorld, reference_job
from tests.plugin.test_verdict import good_report, membership
from unlearn_hooks import UnlearnError
from unlearn_plugin.data import Samples
from unlearn_plugin.judging import make_trial
from unlearn_plugin.pipeline import _evidence, run
from unlearn_plugin.preparation import prepare
from unlearn_plugin.progress import Progress
from unlearn_plugin.report.report import read_report
from unlearn_plugin.report.schema import misfits, report_schema
from unlearn_plugin.statements import remarks, statement
from unlearn_plugin.surrogates import audit, draw
from unlearn_plugin.unlearners.base import Unlearner
from unlearn_plugin.verdict import decide

QUIET = Progress(enabled=False)


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_pseudo_requests_have_the_classes_of_the_real_one_and_share_no_sample(data: st.DataObject) -> None:
    labels = torch.tensor(data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=20)))
    count = data.draw(st.integers(1, 5))
    pool = labels.repeat(count)[torch.randperm(count * len(labels), generator=torch.Generator().manual_seed(0))]
    hard = torch.randn(len(labels)) if data.draw(st.booleans()) else None
    others = None if hard is None else torch.randn(len(pool))
    drawn = draw(count, labels, hard, pool, others, torch.Generator().manual_seed(data.draw(st.integers(0, 9))))
    assert torch.equal(pool[drawn], labels.expand(count, -1))
    assert sorted(drawn.flatten().tolist()) == list(range(len(pool)))


def test_they_are_as_difficult_as_the_real_one() -> None:
    generator = torch.Generator().manual_seed(0)
    pool_hardness = torch.randn(2000, generator=generator)
    labels, pool = torch.zeros(50, dtype=torch.int64), torch.zeros(2000, dtype=torch.int64)
    hard = torch.linspace(-2, 1, 50)
    hard[0] = torch.nan  # counts as ordinary
    drawn = draw(8, labels, hard, pool, pool_hardness, generator)
    assert float((pool_hardness[drawn[:, 1:]].mean(0) - hard[1:]).abs().max()) < 0.3
    assert float(pool_hardness[drawn[:, 1:]].mean(1).std()) < 0.05  # one like the other
    assert float(pool_hardness[drawn[:, 0]].abs().max()) < 0.1
    alone = draw(8, labels, None, pool, None, generator)
    assert float(pool_hardness[alone].mean()) == pytest.approx(0, abs=0.2)
    assert not torch.equal(drawn, draw(8, labels, hard, pool, pool_hardness, generator))


class Known(Unlearner):
    """A procedure whose outcome is known: whatever is asked, the same weights."""

    def __init__(self, weights: Mapping[str, torch.Tensor]) -> None:
        self.weights, self.shown = weights, []

    def unlearn(self, model: nn.Module, evidence: Any) -> dict[str, Any]:
        model.load_state_dict(self.weights)
        self.shown.append((evidence.forget.ids, evidence.retain.ids, evidence.seed))
        return {}


def audited(
    references: ReferenceWorld, out: Path, outcome: nn.Module, real: nn.Module | None = None, **changes: Any
) -> tuple[dict[str, Any], Known]:
    """The audit of a procedure that always gives `outcome`, on requests among the rows that `retrained` never saw.

    Only the real request may have come out otherwise.
    """
    rows = references.train_rows[:POOL]
    labels = references.data.labels[rows].tolist()
    wanted = torch.tensor([labels.index(label) for label in range(10)])  # one of each class
    others = torch.tensor([place for place in range(POOL) if place not in wanted.tolist()])
    prepared = prepare(reference_job(references, rows[wanted], out, surrogates=10, **changes))
    method = Known(outcome.state_dict())
    splits = dataclasses.replace(prepared.splits, retain=Samples(prepared.train, rows[others]))
    prepared = dataclasses.replace(prepared, method=method, splits=splits)
    return audit(prepared, _evidence(prepared, QUIET), make_trial(prepared, QUIET), real or outcome), method


def test_of_a_procedure_that_leaves_nothing_at_most_a_little_is_left(
    references: ReferenceWorld, tmp_path: Path
) -> None:
    found, method = audited(references, tmp_path / "out", references.retrained)
    assert (found["count"], found["samples"], found["test"]) == (10, 100, "calibrated_membership")
    assert found["matched_by"] == "class and out-of-sample margin"
    assert found["after"]["low"] < 0.5
    assert found["after"]["value"] == pytest.approx(0.5, abs=0.06)
    assert found["after"]["upper95"] < 0.6  # ten samples alone leave 0.65
    assert found["before"]["lower95"] > 0.6
    assert 1 <= found["rank"] <= 11
    assert len({seed for *_, seed in method.shown}) == 10
    for forget, retain, _ in method.shown:
        assert len(forget) == 10
        assert not set(forget) & set(retain)
        assert len(set(forget) | set(retain)) == POOL - 10  # and nothing of the real request


def test_of_a_procedure_that_does_nothing_all_is_left(references: ReferenceWorld, tmp_path: Path) -> None:
    found, _ = audited(references, tmp_path / "out", references.original)
    assert found["after"] == found["before"]
    assert found["after"]["low"] > 0.5


def test_a_request_with_much_left_ranks_among_the_first_and_one_with_little_among_the_last(
    references: ReferenceWorld, tmp_path: Path
) -> None:
    most, _ = audited(references, tmp_path / "most", references.retrained, references.original)
    least, _ = audited(references, tmp_path / "least", references.original, references.retrained)
    assert most["rank"] <= 3 < 9 <= least["rank"] <= 11  # ten samples leave room for luck


def test_without_references_the_recorded_loss_is_matched_and_the_plain_test_made(
    references: ReferenceWorld, tmp_path: Path
) -> None:
    found, _ = audited(references, tmp_path / "out", references.retrained, tier="A")
    assert (found["test"], found["matched_by"]) == ("membership", "class and recorded loss")
    assert found["after"]["value"] == pytest.approx(0.5, abs=0.12)


def test_outcomes_that_are_not_finite_are_not_counted_and_too_few_give_no_number(
    references: ReferenceWorld, tmp_path: Path
) -> None:
    broken = {name: value * torch.nan for name, value in references.original.state_dict().items()}
    rows = references.train_rows[:12]
    prepared = prepare(reference_job(references, rows, tmp_path / "out", surrogates=5))
    prepared = dataclasses.replace(prepared, method=Known(broken))
    found = audit(prepared, _evidence(prepared, QUIET), make_trial(prepared, QUIET), references.retrained)
    assert (found["count"], found["before"], found["after"], found["rank"]) == (0, None, None, None)


@pytest.mark.parametrize(
    ("count", "rows", "why"), [(4, 12, "5 or more"), (-1, 12, "5 or more"), (5, 400, "room for 0")]
)
def test_what_cannot_be_drawn_is_a_finding(
    references: ReferenceWorld, tmp_path: Path, count: int, rows: int, why: str
) -> None:
    with pytest.raises(UnlearnError, match=why):
        prepare(reference_job(references, references.train_rows[:rows], tmp_path / "out", surrogates=count))


@pytest.mark.slow
def test_a_job_with_surrogates_reports_them_and_keeps_its_status(references: ReferenceWorld, tmp_path: Path) -> None:
    outcome = run(reference_job(references, references.train_rows[:8], tmp_path / "out", surrogates=5, tier="A"))
    report = read_report(outcome.folder)
    assert misfits(report, report_schema()) == []
    assert report["surrogates"]["count"] == 5
    alone = {name: part for name, part in report.items() if name != "surrogates"}
    assert decide(report).status == decide(alone).status == report["overall"]["status"]
    assert any("5 pseudo-requests" in reason for reason in report["overall"]["reasons"])


def pooled(low: float, value: float, high: float) -> dict[str, Any]:
    bounds = {"value": value, "low": low, "high": high, "lower95": low, "upper95": high}
    return bounds | {"n_forget": 100, "n_controls": 500}


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (pooled(0.7, 0.75, 0.8), pooled(0.45, 0.5, 0.55), "leaves at most an AUC of 0.550"),
        (pooled(0.7, 0.75, 0.8), pooled(0.55, 0.6, 0.65), "leaves a residual on requests like this one"),
        (pooled(0.49, 0.55, 0.6), pooled(0.45, 0.5, 0.55), "so nothing follows"),
    ],
)
def test_what_is_said_is_about_the_procedure(before: dict[str, Any], after: dict[str, Any], said: str) -> None:
    report = good_report()
    report["surrogates"] = {
        "count": 20, "samples": 100, "test": "membership", "matched_by": "class", "before": before, "after": after,
        "rank": 3,
    }  # fmt: skip
    (remark,) = remarks(report, "INCONCLUSIVE")
    assert said in remark
    assert "number 3 of 21" in remark
    assert said in statement(report, "INCONCLUSIVE", ["Too few."], exact=False)
    assert said not in statement(report, "RESIDUAL_DETECTED", ["Seen."], exact=False)
    report["measurements"]["membership"]["after"] = membership(0.5, 0.3, 0.7, n=5)
    assert decide(report).status == "INCONCLUSIVE"
