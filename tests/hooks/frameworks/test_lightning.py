import inspect
import logging
import os
import runpy
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from tests.hooks.frameworks.pixel_truth import BATCH, CLASSES, N, Pairs, grouped, image, recorded, rows_in
from tests.hooks.frameworks.two_processes import check_resumed, check_whole, run_in_two, tell
from unlearn_hooks import TrainingRecord, UnlearnError
from unlearn_hooks.features import recorded_features
from unlearn_hooks.frameworks.lightning import LightningRecorder
from unlearn_hooks.samples import recorded_samples
from unlearn_hooks.schedule import recorded_schedule
from unlearn_hooks.training_record import weights_digest
from unlearn_hooks.updates import recorded_updates

lightning = pytest.importorskip("lightning.pytorch")
STEPS = 6  # batches an epoch


def net() -> nn.Sequential:
    return nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, CLASSES))


class Module(lightning.LightningModule):  # type: ignore[misc]
    """An ordinary module; `trained` is the truth, one entry per micro-batch."""

    def __init__(self, **sizes: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = net()
        self.trained: list[list[int]] = []

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.net(images)
        return logits

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        self.trained.append(rows_in(images))
        return nn.functional.cross_entropy(self(images), labels)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return self.loss(batch[0], batch[1])

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("validation", nn.functional.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


def loader(workers: int = 0, *, persistent: bool = False) -> DataLoader[Any]:
    return DataLoader(Pairs(), BATCH, shuffle=True, num_workers=workers, persistent_workers=persistent)


def trainer(folder: Path, *callbacks: Any, **settings: Any) -> Any:
    settings = {"max_epochs": 2, "devices": 1, "logger": False, "enable_checkpointing": False} | settings
    return lightning.Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        callbacks=list(callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        **settings,
    )


@pytest.fixture(autouse=True)
def _leaves_no_trace() -> Iterator[None]:
    before = DataLoader._get_iterator
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning)
        warnings.filterwarnings("ignore", category=FutureWarning)
        yield
    assert DataLoader._get_iterator is before


def fit(folder: Path, module: Module | None = None, data: Any = None, **settings: Any) -> Module:
    module = module or Module()
    trainer(folder, LightningRecorder(folder / "rec"), **settings).fit(module, loader() if data is None else data)
    return module


@pytest.mark.parametrize(("workers", "persistent"), [(0, False), (2, False), (2, True)])
def test_a_fit_with_evaluation_is_recorded_exactly(tmp_path: Path, workers: int, persistent: bool) -> None:
    module = Module()
    recorder = LightningRecorder(tmp_path / "rec", recipe={"augmentation": "none"}, key=lambda row: f"person-{row}")
    data = loader(workers, persistent=persistent)
    trainer(tmp_path, recorder, max_epochs=3).fit(module, data, data if workers == 0 else loader())
    found = TrainingRecord.open(tmp_path / "rec")
    assert recorded(tmp_path / "rec") == grouped(module.trained, 1, STEPS)
    assert found.complete
    assert recorded_schedule(found).epochs.tolist() == [0] * 6 + [1] * 6 + [2] * 6
    assert (found.recipe["epochs"], found.recipe["user"]) == (3, {"augmentation": "none"})
    assert recorded_features(found).n == 3 * N
    assert [sorted(epoch.rows.tolist()) for epoch in recorded_samples(found)] == [list(range(N))] * 3
    assert len(recorded_updates(found)) > 0
    assert found.manifest["head"] == "4"
    assert found.manifest["final_weights"] == weights_digest(module.net.state_dict())  # the names of an exported net
    assert found.ids is not None
    assert found.ids[5] == "person-5"
    assert recorder.recorder is not None
    assert recorder.recorder.status().unknown == {}


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_accumulation_and_clipping_are_recorded_as_they_were_applied(tmp_path: Path, precision: str) -> None:
    settings = {"accumulate_grad_batches": 4, "gradient_clip_val": 0.01, "precision": precision}
    module = fit(tmp_path, **settings)
    assert recorded(tmp_path / "rec") == grouped(module.trained, 4, STEPS)
    assert [len(step or []) for step in recorded(tmp_path / "rec")] == [4, 2, 4, 2]
    for update in recorded_updates(TrainingRecord.open(tmp_path / "rec")):
        norm = torch.cat([part.flatten() for part in update.gradient().values()]).norm()
        assert norm <= 0.0101


@pytest.mark.parametrize("workers", [0, 2])
def test_weights_and_random_numbers_are_the_same_with_and_without_the_callback(tmp_path: Path, workers: int) -> None:
    ends = []
    for callbacks in ([LightningRecorder(tmp_path / "rec")], []):
        module = Module()
        trainer(tmp_path, *callbacks).fit(module, loader(workers), loader())
        ends.append((weights_digest(module.state_dict()), module.trained, torch.get_rng_state().tolist()))
    assert ends[0] == ends[1]


class DiesAt(lightning.Callback):  # type: ignore[misc]
    def __init__(self, step: int) -> None:
        self._step = step

    def on_train_batch_end(self, trainer: Any, *rest: Any) -> None:
        if trainer.global_step == self._step:
            raise KeyError("the user's own bug")


@pytest.mark.parametrize("every", [1, 4])
def test_a_fit_that_died_goes_on_from_the_checkpoint_and_counts_nothing_twice(tmp_path: Path, every: int) -> None:
    def saving() -> Any:
        return lightning.callbacks.ModelCheckpoint(tmp_path / "ckpt", every_n_train_steps=every * 2, save_top_k=-1)

    first = Module()
    with pytest.raises(KeyError):
        trainer(tmp_path, LightningRecorder(tmp_path / "rec"), saving(), DiesAt(9), enable_checkpointing=True).fit(
            first, loader()
        )
    assert not TrainingRecord.open(tmp_path / "rec").complete
    second = Module()
    last = max((tmp_path / "ckpt").iterdir(), key=lambda path: int(path.stem.split("step=")[1]))
    recorder = LightningRecorder(tmp_path / "rec")
    going_on = trainer(tmp_path, saving(), recorder, enable_checkpointing=True, max_epochs=3)
    going_on.fit(second, loader(), ckpt_path=last)
    truth = grouped(first.trained[:8] + second.trained, 1, 100)
    assert recorded(tmp_path / "rec") == truth
    found = TrainingRecord.open(tmp_path / "rec")
    assert found.complete
    assert recorded_features(found).n == sum(len(step[0]) for step in truth)
    assert recorded_schedule(found).epochs.tolist() == [0] * 6 + [1] * (len(truth) - 12) + [2] * 6
    going_on.save_checkpoint(tmp_path / "end.ckpt")  # the recorder is closed, its state is still known
    third = Module()
    trainer(tmp_path, recorder, max_epochs=4).fit(third, loader(), ckpt_path=tmp_path / "end.ckpt")
    assert recorded(tmp_path / "rec") == truth + grouped(third.trained, 1, 100)


def test_a_second_fit_from_scratch_does_not_overwrite_a_finished_record(tmp_path: Path) -> None:
    module = fit(tmp_path)
    with pytest.raises(UnlearnError, match="record of a finished training; record to another folder"):
        fit(tmp_path)
    assert recorded(tmp_path / "rec") == grouped(module.trained, 1, STEPS)


def test_a_checkpoint_that_was_only_tested_is_not_gone_on_from(tmp_path: Path) -> None:
    module, recorder = Module(), LightningRecorder(tmp_path / "rec")
    first = trainer(tmp_path, recorder)
    first.fit(module, loader())
    first.save_checkpoint(tmp_path / "end.ckpt")
    first.validate(module, loader(), ckpt_path=tmp_path / "end.ckpt")
    with pytest.raises(UnlearnError, match="record of a finished training"):
        trainer(tmp_path, recorder).fit(Module(), loader())
    assert recorded(tmp_path / "rec") == grouped(module.trained, 1, STEPS)


def test_nothing_stays_behind_after_a_fit_that_failed(tmp_path: Path) -> None:
    module = Module()
    failing = trainer(tmp_path, LightningRecorder(tmp_path / "rec"), DiesAt(9))
    with pytest.raises(KeyError):
        failing.fit(module, loader())
    optimizer = failing.optimizers[0]
    assert not optimizer._optimizer_step_post_hooks
    assert not optimizer._optimizer_step_pre_hooks
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())
    assert "process_dataloader" not in vars(failing.strategy)
    assert recorded(tmp_path / "rec") == grouped(module.trained, 1, STEPS)


class Manual(Module):
    """Trains a second net as well, with an optimizer of its own and by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.other = net()
        self.automatic_optimization = False

    def training_step(self, batch: list[Tensor], batch_idx: int) -> None:  # type: ignore[override]
        for optimizer, part in zip(self.optimizers(), (self.net, self.other), strict=True):
            loss = self.loss(*batch) if part is self.net else part(batch[0]).sum()
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(part.parameters(), lr=0.1) for part in (self.net, self.other)]


def test_of_several_optimizers_the_one_that_trains_the_named_part_is_recorded(tmp_path: Path) -> None:
    with pytest.raises(UnlearnError, match="Manual is trained by 2 optimizers, and a record is about one"):
        fit(tmp_path / "unnamed", Manual())
    module = Manual()
    trainer(tmp_path, LightningRecorder(tmp_path / "rec", model="net")).fit(module, loader())
    found = TrainingRecord.open(tmp_path / "rec")
    assert recorded(tmp_path / "rec") == grouped(module.trained, 1, STEPS)
    assert [parameter["name"] for parameter in found.manifest["parameters"]] == [
        name for name, _ in net().named_parameters()
    ]
    with pytest.raises(UnlearnError, match="no part 'nte'.* one of net, other, or ''"):
        trainer(tmp_path, LightningRecorder(tmp_path / "b", model="nte")).fit(Manual(), loader())


class Averaged(Module):
    """Keeps an average of its net, which is called in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.average = torch.optim.swa_utils.AveragedModel(self.net)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        with torch.no_grad():
            self.average(batch[0])
        self.average.update_parameters(self.net)
        return super().training_step(batch, batch_idx)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.net.parameters(), lr=0.1)


def test_an_average_beside_the_net_is_asked_about_and_not_counted(tmp_path: Path) -> None:
    with pytest.raises(
        UnlearnError, match=r"average of Averaged is not trained.* say LightningRecorder\(model='net'\)"
    ):
        fit(tmp_path / "unnamed", Averaged())
    module = Averaged()
    trainer(tmp_path, LightningRecorder(tmp_path / "rec", model="net")).fit(module, loader())
    assert recorded_features(TrainingRecord.open(tmp_path / "rec")).n == 2 * N
    assert recorded(tmp_path / "rec") == grouped(module.trained, 1, STEPS)


class ChannelsLast(Module):
    """Convolutions over channels-last pictures; the net is compiled if wanted."""

    def __init__(self, compiled: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        layers = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, CLASSES)
        self.net = nn.Sequential(*layers).to(memory_format=torch.channels_last)
        if compiled == "its net":
            self.net.compile(backend="eager")

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        self.trained.append(rows_in(images))
        return nn.functional.cross_entropy(self(images.to(memory_format=torch.channels_last)), labels)


@pytest.mark.parametrize("compiled", ["nothing", "its net", "the module"])
def test_averages_channels_last_bf16_and_compiled_nets_change_nothing(tmp_path: Path, compiled: str) -> None:
    ends = []
    for recorders in ([LightningRecorder(tmp_path / "rec")], []):
        torch._dynamo.reset()
        module = ChannelsLast(compiled)
        average = lightning.callbacks.EMAWeightAveraging(decay=0.9)
        made = torch.compile(module, backend="eager") if compiled == "the module" else module
        trainer(tmp_path, *recorders, average, precision="bf16-mixed").fit(made, loader())
        ends.append((weights_digest(module.state_dict()), module.trained))
    found = TrainingRecord.open(tmp_path / "rec")
    assert ends[0] == ends[1]
    assert recorded(tmp_path / "rec") == grouped(ends[0][1], 1, STEPS)
    assert recorded_features(found).n == 2 * N
    assert [sorted(epoch.rows.tolist()) for epoch in recorded_samples(found)] == [list(range(N))] * 2
    assert len(recorded_updates(found)) > 0


class Soft(Module):
    """Mixes the batch on its way to the device, as CutMix on a GPU does."""

    def on_after_batch_transfer(self, batch: list[Tensor], dataloader_idx: int) -> list[Tensor]:
        self.truth = rows_in(batch[0])
        targets = nn.functional.one_hot(batch[1], CLASSES).float()
        return [0.6 * batch[0] + 0.4 * batch[0].flip(0), 0.6 * targets + 0.4 * targets.flip(0)]

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        self.trained.append(self.truth)
        return nn.functional.cross_entropy(self(images), labels)


class Relabelled(Module):
    def on_after_batch_transfer(self, batch: list[Tensor], dataloader_idx: int) -> list[Tensor]:
        return [batch[0], (batch[1] + 1) % CLASSES]


def test_mixing_after_the_loader_keeps_the_rows_and_says_that_losses_are_left_out(tmp_path: Path) -> None:
    module = fit(tmp_path, Soft(), max_epochs=1)
    found = TrainingRecord.open(tmp_path / "rec")
    assert recorded(tmp_path / "rec") == grouped(module.trained, 1, STEPS)
    assert recorded_samples(found) == []
    assert "samples_left_out" in (tmp_path / "rec" / "rank00000" / "journal.jsonl").read_text()


class NamedStream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return ((image(row), row % CLASSES, f"person-{row}") for row in range(N))


def test_a_stream_tells_its_rows_by_the_names_in_its_batches(tmp_path: Path) -> None:
    module, names = Module(), [f"person-{row}" for row in range(N)]
    recorder = LightningRecorder(tmp_path / "rec", key=names)
    trainer(tmp_path, recorder, max_epochs=1).fit(module, DataLoader(NamedStream(), BATCH, num_workers=2))
    assert recorded(tmp_path / "rec") == grouped(module.trained, 1, 100)


class MixesInside(Module):
    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        self.trained.append(rows_in(images))
        return nn.functional.cross_entropy(self(0.6 * images + 0.4 * images.flip(0)), labels)


def test_mixing_inside_the_training_step_keeps_the_rows_and_is_not_seen(tmp_path: Path) -> None:
    module = fit(tmp_path, MixesInside(), max_epochs=1)
    assert recorded(tmp_path / "rec") == grouped(module.trained, 1, STEPS)
    assert len(recorded_samples(TrainingRecord.open(tmp_path / "rec"))[0].rows) == N  # hence Plan(samples=False)


class Parts(Module):
    """Calls its parts one by one, and never itself."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.head = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 5)), nn.Linear(5, 3)

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        self.trained.append(rows_in(images))
        return nn.functional.cross_entropy(self.head(self.net(images)), labels)


def test_a_classifier_that_is_never_called_as_a_whole_has_rows_and_no_features(tmp_path: Path) -> None:
    module = fit(tmp_path, Parts())
    found = TrainingRecord.open(tmp_path / "rec")
    assert recorded(tmp_path / "rec") == grouped(module.trained, 1, STEPS)
    assert {parameter["name"] for parameter in found.manifest["parameters"]} == dict(module.named_parameters()).keys()
    assert found.shards("features") == []


def problems(folder: Path, module: Module, data: Any = None) -> dict[str, int]:
    recorder = LightningRecorder(folder / "rec")
    trainer(folder, recorder, max_epochs=1).fit(module, loader() if data is None else data)
    assert recorder.recorder is not None
    assert set(map(str, recorded(folder / "rec"))) == {"None"}
    assert recorder.recorder.status().step == STEPS
    return dict(recorder.recorder.status().unknown)


class Both(Module):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.loss(*batch["a"]) + self.loss(*batch["b"])


class Fetches(Module):
    def training_step(self, dataloader_iter: Iterator[Any]) -> Tensor:  # type: ignore[override]
        batch, _, _ = next(dataloader_iter)
        return self.loss(*batch)


@pytest.mark.parametrize(
    ("make", "data", "problem"),
    [
        (Relabelled, loader, "the labels changed on the way"),
        (Both, lambda: {"a": loader(), "b": loader()}, "a batch comes from several loaders"),
        (Fetches, loader, "training_step fetches its batches itself, by dataloader_iter"),
    ],
)
def test_batches_whose_rows_are_not_sure_are_recorded_without_rows(
    tmp_path: Path, make: Callable[[], Module], data: Callable[[], Any], problem: str
) -> None:
    assert problems(tmp_path, make(), data()) == {problem: STEPS}


class SkipsEpoch(Module):
    def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
        return -1 if batch_idx == 3 else None


def test_an_epoch_that_the_user_ends_early_does_not_disturb_the_next(tmp_path: Path) -> None:
    module = fit(tmp_path, SkipsEpoch())
    assert len(module.trained) == 6
    assert recorded(tmp_path / "rec") == grouped(module.trained, 1, STEPS)


def test_loaders_made_anew_are_followed(tmp_path: Path) -> None:
    module = Module()
    module.train_dataloader = loader
    recorder = LightningRecorder(tmp_path / "rec")
    trainer(tmp_path, recorder, reload_dataloaders_every_n_epochs=1).fit(module)
    assert recorded(tmp_path / "rec") == grouped(module.trained, 1, STEPS)


def test_under_distributed_data_parallel_a_sample_counts_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", os.environ.copy())  # Lightning leaves its ranks there
    module = fit(tmp_path, strategy=lightning.strategies.DDPStrategy(process_group_backend="gloo"))
    torch.distributed.destroy_process_group()
    assert recorded(tmp_path / "rec") == grouped(module.trained, 1, STEPS)
    assert recorded_features(TrainingRecord.open(tmp_path / "rec")).n == 2 * N


def two_ranks(folder: Path) -> None:
    """What each of the two processes runs: to the end in one go, and after a crash from a checkpoint."""
    from lightning.pytorch.callbacks import ModelCheckpoint

    def made(name: str, *callbacks: Any, **settings: Any) -> tuple[Any, LightningRecorder]:
        recorder = LightningRecorder(folder / name)
        strategy = lightning.strategies.DDPStrategy(process_group_backend="gloo")
        sizes: dict[str, Any] = {"devices": 2, "strategy": strategy} | settings
        return trainer(folder, recorder, *callbacks, **sizes), recorder

    whole, first, second = Module(), Module(), Module()
    straight, recorder = made("whole", accumulate_grad_batches=2)
    straight.fit(whole, loader(), loader())
    saving = ModelCheckpoint(folder / "ckpt", every_n_train_steps=4, save_top_k=-1)
    broken, _ = made("resumed", saving, DiesAt(5), enable_checkpointing=True, max_epochs=3)
    with pytest.raises(KeyError):
        broken.fit(first, loader())
    going_on, again = made("resumed", max_epochs=3)
    going_on.fit(second, loader(), ckpt_path=next((folder / "ckpt").iterdir()))
    tell(
        folder,
        {
            "whole": whole.trained,
            "resumed": first.trained[:4] + second.trained,
            "unknown": [dict(one.recorder.status().unknown) for one in (recorder, again) if one.recorder is not None],
            "weights": weights_digest(whole.net.state_dict()),
        },
    )


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("ranks")
    return folder, run_in_two(__file__, folder)


def test_two_processes_record_their_own_rows(ranks: tuple[Path, list[dict[str, Any]]]) -> None:
    check_whole(*ranks)


def test_two_processes_that_died_go_on_in_the_same_record(ranks: tuple[Path, list[dict[str, Any]]]) -> None:
    check_resumed(*ranks)


def test_without_lightning_the_import_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lightning.pytorch", None)
    with pytest.raises(
        UnlearnError, match="LightningRecorder needs Lightning, which is not installed; run pip install"
    ):
        runpy.run_path(inspect.getfile(LightningRecorder))


if __name__ == "__main__":
    two_ranks(Path(sys.argv[1]))
