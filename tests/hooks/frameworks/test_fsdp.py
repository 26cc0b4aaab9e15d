"""Parameters that are sharded over two real processes: what is recorded, what is not, and that training ends well."""

import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.utils.data import DataLoader, DistributedSampler

from tests.hooks.frameworks.pixel_truth import BATCH, CLASSES, N, Pairs, recorded, rows_in
from tests.hooks.frameworks.two_processes import run_in_two, tell, together
from unlearn_hooks import TrainingRecord, record
from unlearn_hooks.features import recorded_features
from unlearn_hooks.journal import read_journal
from unlearn_hooks.samples import recorded_samples
from unlearn_hooks.training_record import weights_digest
from unlearn_hooks.updates import recorded_updates

REASON = "parameters are sharded over processes"


def two_ranks(folder: Path) -> None:
    """What each of the two processes runs: the same training with the recorder and without."""
    torch.distributed.init_process_group("gloo")
    told: dict[str, Any] = {"weights": []}
    for recording in (True, False):
        torch.manual_seed(0)
        net = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 6), nn.ReLU(), nn.Linear(6, CLASSES))
        mesh = init_device_mesh("cpu", (2,))
        for part in (net[2], net):
            fully_shard(part, mesh=mesh)
        optimizer = torch.optim.AdamW(net.parameters(), lr=0.01)
        sampler: DistributedSampler[Any] = DistributedSampler(Pairs(), 2, int(os.environ["RANK"]))
        loader, trained = DataLoader(Pairs(), BATCH, sampler=sampler), []
        with record(folder / f"recorded-{recording}", net, optimizer) as rec:
            for epoch in range(2):
                sampler.set_epoch(epoch)
                for images, labels in rec.batches(loader) if recording else loader:
                    trained.append(rows_in(images))
                    optimizer.zero_grad()
                    nn.functional.cross_entropy(net(images), labels).backward()
                    optimizer.step()
        if recording:
            told |= {"trained": trained, "unknown": dict(rec.status().unknown), "steps": rec.status().step}
        told["weights"].append(weights_digest({name: part.to_local() for name, part in net.state_dict().items()}))
    tell(folder, told)
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("ranks")
    return folder, run_in_two(__file__, folder)


def test_rows_features_and_losses_are_recorded_and_weights_are_not(ranks: tuple[Path, list[dict[str, Any]]]) -> None:
    folder, told = ranks
    found = TrainingRecord.open(folder / "recorded-True")
    assert recorded(found.folder) == together([one["trained"] for one in told])
    assert found.complete
    assert recorded_features(found).n == 2 * N
    assert [sorted(epoch.rows.tolist()) for epoch in recorded_samples(found)] == [list(range(N))] * 2
    assert [one["unknown"] for one in told] == [{}, {}]
    assert recorded_updates(found) == []
    assert found.manifest["final_weights"] is None
    events, _ = read_journal(found.folder / "rank00000" / "journal.jsonl")
    limited = {event["event"]: event["reason"] for event in events if event["event"].endswith("_limited")}
    assert limited == {"updates_limited": REASON, "snapshots_limited": REASON}


def test_weights_are_the_same_with_and_without_the_recorder(ranks: tuple[Path, list[dict[str, Any]]]) -> None:
    for one in ranks[1]:
        with_recorder, without = one["weights"]
        assert with_recorder == without
        assert with_recorder is not None


if __name__ == "__main__":
    two_ranks(Path(sys.argv[1]))
