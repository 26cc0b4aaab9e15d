import inspect
import runpy
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from tests.hooks.frameworks.pixel_truth import BATCH, CLASSES, SIDE, N, Named, Pairs, grouped, image, recorded, rows_in
from tests.hooks.frameworks.two_processes import check_resumed, check_whole, run_in_two, tell
from unlearn_hooks import TrainingRecord, UnlearnError
from unlearn_hooks.capture import find_head, head_input
from unlearn_hooks.features import recorded_features
from unlearn_hooks.frameworks.transformers import TrainerRecorder
from unlearn_hooks.journal import read_journal
from unlearn_hooks.samples import recorded_samples
from unlearn_hooks.schedule import recorded_schedule
from unlearn_hooks.training_record import weights_digest
from unlearn_hooks.updates import recorded_updates

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning", "ignore::DeprecationWarning")
STEPS = 6  # batches an epoch


def vit(**settings: Any) -> Any:
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    config = transformers.ViTConfig(image_size=SIDE, patch_size=4, num_labels=CLASSES, **sizes, **settings)
    torch.manual_seed(0)
    return transformers.ViTForImageClassification(config)


class Truthful(transformers.Trainer):  # type: ignore[misc]
    """Remembers what it was trained on; `trained` is the truth, one entry per micro-batch."""

    trained: list[list[int]]
    dies_at = -1

    def training_step(self, model: Any, inputs: Any, *rest: Any) -> Tensor:
        if self.state.global_step == self.dies_at:
            raise KeyError("the user's own bug")
        self.trained.append(rows_in(inputs["pixel_values"]))
        loss: Tensor = super().training_step(model, inputs, *rest)
        return loss


def trainer(
    folder: Path, callbacks: Any = (), kind: Any = Truthful, model: Any = None, data: Any = None, **settings: Any
) -> Any:
    arguments = {
        "output_dir": str(folder / "out"),
        "per_device_train_batch_size": BATCH,
        "num_train_epochs": 2,
        "use_cpu": True,
        "report_to": [],
        "save_strategy": "no",
        "disable_tqdm": True,
        "logging_strategy": "no",
        "learning_rate": 0.05,
        "dataloader_pin_memory": False,
    } | settings
    collate = arguments.pop("data_collator", None)
    made = kind(
        model=model or vit(),
        args=transformers.TrainingArguments(**arguments),
        train_dataset=Named() if data is None else data,
        eval_dataset=Named(),
        data_collator=collate,
        callbacks=list(callbacks),
    )
    made.trained = []
    return made


def train(folder: Path, **settings: Any) -> Any:
    made = trainer(folder, [TrainerRecorder(folder / "rec")], **settings)
    made.train()
    return made


@pytest.fixture(autouse=True)
def _leaves_no_trace() -> Iterator[None]:
    before = DataLoader._get_iterator
    yield
    assert DataLoader._get_iterator is before


@pytest.mark.parametrize(("workers", "persistent"), [(0, False), (2, True)])
def test_a_training_with_evaluation_is_recorded_exactly(tmp_path: Path, workers: int, persistent: bool) -> None:
    recorder = TrainerRecorder(tmp_path / "rec", recipe={"augmentation": "none"}, key=lambda row: f"person-{row}")
    settings = {"dataloader_num_workers": workers, "dataloader_persistent_workers": persistent}
    made = trainer(tmp_path, [recorder], num_train_epochs=3, eval_strategy="steps", eval_steps=4, **settings)
    made.train()
    found = TrainingRecord.open(tmp_path / "rec")
    assert recorded(tmp_path / "rec") == grouped(made.trained, 1, STEPS)
    assert found.complete
    assert recorded_schedule(found).epochs.tolist() == [0] * 6 + [1] * 6 + [2] * 6
    assert (found.recipe["epochs"], found.recipe["user"]) == (3, {"augmentation": "none"})
    assert recorded_features(found).n == 3 * N
    assert [sorted(epoch.rows.tolist()) for epoch in recorded_samples(found)] == [list(range(N))] * 3
    assert len(recorded_updates(found)) > 0
    assert found.manifest["head"] == "classifier"
    assert found.manifest["final_weights"] == weights_digest(made.model.state_dict())
    assert found.ids is not None
    assert found.ids[5] == "person-5"
    assert recorder.recorder is not None
    assert recorder.recorder.status().unknown == {}


def test_accumulation_reads_ahead_and_is_recorded_as_it_was_trained_and_clipped(tmp_path: Path) -> None:
    made = train(tmp_path, gradient_accumulation_steps=4, max_grad_norm=0.01, bf16=True)
    assert recorded(tmp_path / "rec") == grouped(made.trained, 4, STEPS)
    assert [len(step or []) for step in recorded(tmp_path / "rec")] == [4, 2, 4, 2]
    for update in recorded_updates(TrainingRecord.open(tmp_path / "rec")):
        assert torch.cat([part.flatten() for part in update.gradient().values()]).norm() <= 0.0101


@pytest.mark.parametrize("workers", [0, 2])
def test_weights_and_random_numbers_are_the_same_with_and_without_the_callback(tmp_path: Path, workers: int) -> None:
    ends = []
    for callbacks in ([TrainerRecorder(tmp_path / "rec")], []):
        dropout = vit(hidden_dropout_prob=0.1)
        made = trainer(tmp_path, callbacks, model=dropout, dataloader_num_workers=workers)
        made.train()
        ends.append((weights_digest(made.model.state_dict()), made.trained, torch.get_rng_state().tolist()))
    assert ends[0] == ends[1]


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_training_that_died_in_an_epoch_goes_on_from_the_checkpoint(tmp_path: Path, accumulation: int) -> None:
    settings = {"save_strategy": "steps", "save_steps": 4, "gradient_accumulation_steps": accumulation}
    first = trainer(tmp_path, [TrainerRecorder(tmp_path / "rec")], num_train_epochs=4, **settings)
    first.dies_at = 5
    with pytest.raises(KeyError):
        first.train()
    first.pop_callback(TrainerRecorder).stop()
    second = trainer(tmp_path, [TrainerRecorder(tmp_path / "rec")], num_train_epochs=4, **settings)
    second.train(resume_from_checkpoint=True)
    truth = first.trained[: 4 * accumulation] + second.trained
    assert len(truth) == 4 * STEPS
    assert recorded(tmp_path / "rec") == grouped(truth, accumulation, STEPS)
    assert sorted(sum(truth[:STEPS], [])) == list(range(N))  # the epoch that died is whole
    found = TrainingRecord.open(tmp_path / "rec")
    assert found.complete
    assert recorded_features(found).n == 4 * N
    per_epoch = STEPS // accumulation
    assert recorded_schedule(found).epochs.tolist() == [epoch for epoch in range(4) for _ in range(per_epoch)]


def test_a_checkpoint_saved_without_the_callback_can_be_gone_on_from_and_the_record_says_it_began_late(
    tmp_path: Path,
) -> None:
    settings = {"save_strategy": "steps", "save_steps": 4}
    trainer(tmp_path, num_train_epochs=1, **settings).train()
    shutil.rmtree(tmp_path / "out" / "checkpoint-6", ignore_errors=True)
    made = trainer(tmp_path, [TrainerRecorder(tmp_path / "rec")], **settings)
    made.train(resume_from_checkpoint=True)
    assert recorded(tmp_path / "rec") == grouped(made.trained, 1, 100)
    events, _ = read_journal(tmp_path / "rec" / "rank00000" / "journal.jsonl")
    assert "began_late" in [event["event"] for event in events]


def test_a_failed_training_that_nobody_stopped_is_forgotten_by_the_next(tmp_path: Path) -> None:
    made = trainer(tmp_path, [TrainerRecorder(tmp_path / "rec")])
    made.dies_at = 3
    with pytest.raises(KeyError):
        made.train()
    made.dies_at, made.trained, made.optimizer = -1, [], None
    made.train()
    assert recorded(tmp_path / "rec") == grouped(made.trained, 1, STEPS)
    model = made.model
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())
    assert not made.optimizer.optimizer._optimizer_step_post_hooks


def test_callbacks_made_anew_from_a_checkpoint_would_lose_the_plan_and_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnlearnError, match="leave it at False, the record goes on after a checkpoint all the same"):
        train(tmp_path, restore_callback_states_from_checkpoint=True)


def test_a_callback_that_joins_late_is_told_where_it_belongs(tmp_path: Path) -> None:
    with pytest.raises(UnlearnError, match=r"joined a training that had begun; give it to Trainer\(callbacks"):
        TrainerRecorder(tmp_path).on_epoch_begin()


def pairs_collate(samples: list[tuple[Tensor, int]]) -> dict[str, Tensor]:
    images, labels = zip(*samples, strict=True)
    return {"pixel_values": torch.stack(images), "labels": torch.tensor(labels)}


def hub_dataset() -> Any:
    datasets = pytest.importorskip("datasets")
    columns = {"pixel_values": [image(row).tolist() for row in range(N)], "labels": [row % CLASSES for row in range(N)]}
    return datasets.Dataset.from_dict(columns | {"file": [f"{row}.png" for row in range(N)]})


@pytest.mark.parametrize(
    "settings",
    [
        lambda: {"data": Pairs(), "data_collator": pairs_collate, "remove_unused_columns": False},
        lambda: {"data": hub_dataset()},
        lambda: {"label_smoothing_factor": 0.1},
    ],
    ids=["collator", "datasets with a column that is dropped", "labels taken out before the model"],
)
def test_rows_and_losses_are_recorded_however_the_batch_is_made(
    tmp_path: Path, settings: Callable[[], dict[str, Any]]
) -> None:
    made = train(tmp_path, num_train_epochs=1, **settings())
    assert recorded(tmp_path / "rec") == grouped(made.trained, 1, STEPS)
    assert [len(epoch.rows) for epoch in recorded_samples(TrainingRecord.open(tmp_path / "rec"))] == [N]


class Twice(Truthful):
    def compute_loss(self, model: Any, inputs: Any, *args: Any, **named: Any) -> Any:
        model(**inputs)
        return super().compute_loss(model, inputs, *args, **named)


def test_two_passes_for_a_micro_batch_count_once(tmp_path: Path) -> None:
    made = train(tmp_path, kind=Twice, gradient_accumulation_steps=2)
    assert recorded(tmp_path / "rec") == grouped(made.trained, 2, STEPS)
    assert recorded_features(TrainingRecord.open(tmp_path / "rec")).n == 2 * N


class EarlyEpoch(transformers.TrainerCallback):  # type: ignore[misc]
    def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        control.should_epoch_stop = state.global_step == 1


def test_batches_that_were_read_and_not_trained_on_do_not_disturb_the_next_epoch(tmp_path: Path) -> None:
    made = trainer(tmp_path, [TrainerRecorder(tmp_path / "rec"), EarlyEpoch()], gradient_accumulation_steps=2)
    made.train()
    assert len(made.trained) == 2 + STEPS
    truth = grouped(made.trained[:2], 2, STEPS) + grouped(made.trained[2:], 2, STEPS)
    assert recorded(tmp_path / "rec") == truth
    assert recorded_schedule(TrainingRecord.open(tmp_path / "rec")).epochs.tolist() == [0, 1, 1, 1]


class Mixed(Truthful):
    """Mixes images and targets after the loader."""

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **named: Any) -> Any:
        images, targets = inputs["pixel_values"], nn.functional.one_hot(inputs["labels"], CLASSES).float()
        mixed = 0.6 * images + 0.4 * images.flip(0)
        logits = model(pixel_values=mixed, labels=0.6 * targets + 0.4 * targets.flip(0)).logits
        return nn.functional.cross_entropy(logits, targets)


def test_mixing_after_the_loader_keeps_the_rows_and_says_that_losses_are_left_out(tmp_path: Path) -> None:
    made = train(tmp_path, kind=Mixed, num_train_epochs=1, model=vit(problem_type="multi_label_classification"))
    assert recorded(tmp_path / "rec") == grouped(made.trained, 1, STEPS)
    assert recorded_samples(TrainingRecord.open(tmp_path / "rec")) == []
    assert "samples_left_out" in (tmp_path / "rec" / "rank00000" / "journal.jsonl").read_text()


class Relabelled(Truthful):
    def training_step(self, model: Any, inputs: Any, *rest: Any) -> Tensor:
        return super().training_step(model, inputs | {"labels": (inputs["labels"] + 1) % CLASSES}, *rest)


class Stream(IterableDataset[dict[str, object]]):
    def __iter__(self) -> Iterator[dict[str, object]]:
        return (Named()[row] for row in range(N))


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"kind": Relabelled, "num_train_epochs": 1}, "the labels changed on the way"),
        ({"data": Stream(), "max_steps": STEPS}, "the data set is a stream"),
    ],
)
def test_batches_whose_rows_are_not_sure_are_recorded_without_rows(
    tmp_path: Path, settings: dict[str, Any], problem: str
) -> None:
    recorder = TrainerRecorder(tmp_path / "rec")
    trainer(tmp_path, [recorder], **settings).train()
    assert recorded(tmp_path / "rec") == [None] * STEPS
    assert recorder.recorder is not None
    assert recorder.recorder.status().unknown == {problem: STEPS}


@pytest.mark.slow
def test_under_compile_everything_is_recorded_and_the_weights_are_the_same(tmp_path: Path) -> None:
    settings = {"torch_compile": True, "torch_compile_backend": "eager", "num_train_epochs": 1}
    made, without = (
        trainer(tmp_path, callbacks, gradient_accumulation_steps=2, **settings)
        for callbacks in ([TrainerRecorder(tmp_path / "rec")], [])
    )
    for one in (made, without):
        torch._dynamo.reset()
        one.train()
    assert weights_digest(made.model.state_dict()) == weights_digest(without.model.state_dict())
    found = TrainingRecord.open(tmp_path / "rec")
    assert recorded(tmp_path / "rec") == grouped(made.trained, 2, STEPS)
    assert recorded_features(found).n == N
    assert [sorted(epoch.rows.tolist()) for epoch in recorded_samples(found)] == [list(range(N))]


def two_ranks(folder: Path) -> None:
    """What each of the two processes runs: to the end in one go, and after a crash from a checkpoint."""
    whole = trainer(folder / "a", [straight := TrainerRecorder(folder / "whole")], gradient_accumulation_steps=2)
    whole.train()
    saved = {"save_strategy": "steps", "save_steps": 4, "num_train_epochs": 3}
    first = trainer(folder / "b", [broken := TrainerRecorder(folder / "resumed")], **saved)
    first.dies_at = 5
    with pytest.raises(KeyError):
        first.train()
    broken.stop()
    second = trainer(folder / "b", [again := TrainerRecorder(folder / "resumed")], **saved)
    second.train(resume_from_checkpoint=True)
    tell(
        folder,
        {
            "whole": whole.trained,
            "resumed": first.trained[:4] + second.trained,
            "unknown": [dict(one.recorder.status().unknown) for one in (straight, again) if one.recorder is not None],
            "weights": weights_digest(whole.model.state_dict()),
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


TINY = {"num_labels": 4, "image_size": 32}
ARCHITECTURES = {
    "ViT": {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8},
    "DeiT": {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8},
    "ResNet": {"embedding_size": 8, "hidden_sizes": [8, 8], "depths": [1, 1], "layer_type": "basic"},
    "Swin": {"embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4},
    "ConvNextV2": {"hidden_sizes": [8, 8], "depths": [1, 1], "num_stages": 2},
}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_head_of_an_image_classifier_is_found_and_its_input_gives_the_logits(name: str) -> None:
    config = getattr(transformers, f"{name}Config")(**TINY, **ARCHITECTURES[name])
    model = getattr(transformers, f"{name}ForImageClassification")(config).eval()
    head = find_head(model)[1]
    assert isinstance(head, nn.Linear)
    with head_input(model) as seen:
        logits = model(pixel_values=torch.randn(2, 3, 32, 32)).logits
        assert torch.allclose(head(seen.features), logits, atol=1e-5)


def test_without_transformers_the_import_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(
        UnlearnError, match="TrainerRecorder needs transformers, which is not installed; run pip install"
    ):
        runpy.run_path(inspect.getfile(TrainerRecorder))


if __name__ == "__main__":
    two_ranks(Path(sys.argv[1]))
