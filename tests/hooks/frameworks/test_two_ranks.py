"""Lightning and the Hugging Face Trainer in two processes that really talk (gloo), with and without recording."""

import json
import logging
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.hooks.frameworks.pixel_truth import N, grouped, recorded
from unlearn_hooks import TrainingRecord
from unlearn_hooks.features import recorded_features
from unlearn_hooks.samples import recorded_samples
from unlearn_hooks.training_record import weights_digest
from unlearn_hooks.updates import recorded_updates

pytest.importorskip("lightning.pytorch")
pytest.importorskip("transformers")
ROOT = Path(__file__).parents[3]
NAMES = ["lightning", "transformers"]
STEPS = 3  # batches an epoch and process: 44 rows, padded to 2 times 3 batches of 8


def lightning_fit(folder: Path, *, on: bool) -> dict[str, Any]:
    from lightning.pytorch.strategies import DDPStrategy

    from tests.hooks.frameworks.test_lightning import LightningRecorder, Module, loader, trainer

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    recorders = [LightningRecorder(folder / "lightning")] if on else []
    module = Module()
    made = trainer(folder, *recorders, devices=2, strategy=DDPStrategy(process_group_backend="gloo"))
    made.fit(module, loader())
    unknown = dict(recorders[0].recorder.status().unknown) if recorders else None
    return {"weights": weights_digest(module.net.state_dict()), "trained": module.trained, "unknown": unknown}


def transformers_fit(folder: Path, *, on: bool) -> dict[str, Any]:
    from tests.hooks.frameworks.test_transformers import TrainerRecorder, trainer

    recorders = [TrainerRecorder(folder / "transformers")] if on else []
    made = trainer(folder, recorders, ddp_backend="gloo")
    made.train()
    unknown = dict(recorders[0].recorder.status().unknown) if recorders else None
    return {"weights": weights_digest(made.model.state_dict()), "trained": made.trained, "unknown": unknown}


def one_of_two(folder: Path) -> None:
    """What each of the two processes runs."""
    told = {
        name: [fit(folder, on=on) for on in (True, False)]
        for name, fit in (("transformers", transformers_fit), ("lightning", lightning_fit))
    }
    (folder / f"truth{os.environ['RANK']}.json").write_text(json.dumps(told))
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("ranks")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", __file__]
    paths = os.pathsep.join([str(ROOT / "hooks"), str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [*command, str(folder)], check=False, capture_output=True, text=True, timeout=600,
        env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return folder, [json.loads((folder / f"truth{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.parametrize("name", NAMES)
def test_two_processes_are_recorded_exactly_and_train_the_same(
    ranks: tuple[Path, list[dict[str, Any]]], name: str
) -> None:
    folder, told = ranks
    runs = [one[name] for one in told]
    assert len({run["weights"] for both in runs for run in both}) == 1
    found = TrainingRecord.open(folder / name)
    own = [grouped(both[0]["trained"], 1, STEPS) for both in runs]
    assert recorded(folder / name) == [[*first, *second] for first, second in zip(*own, strict=True)]
    assert found.complete
    assert found.manifest["world"] == 2
    assert found.manifest["final_weights"] == runs[0][0]["weights"]
    assert [both[0]["unknown"] for both in runs] == [{}, {}]
    times = Counter(row for steps in own for step in steps[:STEPS] for rows in step for row in rows)
    assert sorted(times) == list(range(N))
    assert recorded_features(found).n == 2 * sum(times.values())
    assert [sorted(set(epoch.rows.tolist())) for epoch in recorded_samples(found)] == [list(range(N))] * 2
    assert len(recorded_updates(found)) > 0


if __name__ == "__main__":
    one_of_two(Path(sys.argv[1]))
