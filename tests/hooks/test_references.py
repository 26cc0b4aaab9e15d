"""Reference models: what is kept of them is what they say about samples they never saw, and nothing else."""

import multiprocessing
import os
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

from unlearn_hooks import TrainingRecord, UnlearnError, add_reference, halves, holdout, record
from unlearn_hooks import references as module
from unlearn_hooks.controls import Holdout
from unlearn_hooks.references import OutOfSample, incomplete_pairs, log_odds, recorded_references, without_judge

N, CLASSES = 90, 3
GENERATOR = torch.Generator().manual_seed(0)
IMAGES, LABELS = torch.randn(N, 6, generator=GENERATOR), torch.arange(N) % CLASSES
DATA = TensorDataset(IMAGES, LABELS)


class Net(nn.Module):
    def __init__(self, classes: int = CLASSES) -> None:
        super().__init__()
        self.body, self.norm, self.drop = nn.Linear(6, 64), nn.BatchNorm1d(64), nn.Dropout(0.1)
        self.head = nn.Linear(64, classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.drop(self.norm(self.body(images)).relu()))


def trained(dataset: Dataset, seed: int, epochs: int = 40) -> Net:
    torch.manual_seed(seed)
    model = Net()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    for _ in range(epochs):
        for images, labels in DataLoader(dataset, 16, shuffle=True):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
    return model.train()


def recorded(folder: Path, held: Holdout | None, *, close: bool = True) -> Path:
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    rec = record(folder, model, optimizer, holdout=held)
    for images, labels in rec.batches(DataLoader(held.train if held else DATA, 16)):
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    rec.close() if close else rec.abandon()
    return folder


@pytest.fixture(scope="module")
def held() -> Holdout:
    return holdout(DATA, 20, 0)


@pytest.fixture(scope="module")
def models(held: Holdout) -> list[list[Net]]:
    """Two pairs."""
    return [[trained(half, 10 * pair + half.side) for half in halves(held.train, pair, 0)] for pair in (0, 1)]


def logits_of(model: nn.Module) -> Tensor:
    modes = [part.training for part in model.modules()]
    found = model.eval()(IMAGES).detach()
    for part, mode in zip(model.modules(), modes, strict=True):
        part.training = mode
    return found


@pytest.fixture
def full(tmp_path: Path, held: Holdout, models: list[list[Net]]) -> tuple[Path, OutOfSample]:
    folder = recorded(tmp_path / "record", held)
    for pair, two in enumerate(models):
        for half, model in zip(halves(held.train, pair, 0), two, strict=True):
            add_reference(folder, model, DATA, half, batch_size=7)
    found = recorded_references(TrainingRecord.open(folder), "judge")
    assert found is not None
    return folder, found


def test_log_odds_are_those_of_the_true_class() -> None:
    logits = torch.randn(50, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    chance = logits.softmax(1).gather(1, (torch.arange(50) % 7)[:, None]).squeeze(1)
    assert torch.allclose(log_odds(logits, torch.arange(50) % 7), chance.log() - (1 - chance).log())


def test_a_half_models_logits_are_those_of_evaluation_on_what_it_never_saw(full, held, models) -> None:
    _, found = full
    logits = found.logits(torch.arange(N))
    assert logits.shape == (4, N, CLASSES)
    for place in range(4):
        pair, side = divmod(place, 2)
        seen = halves(held.train, pair, 0)[side].rows()
        unseen = torch.ones(N, dtype=torch.bool)
        unseen[seen] = False
        assert torch.equal(logits[place][unseen], logits_of(models[pair][side])[unseen].half())
        assert bool(logits[place][seen].isnan().all())


def test_margins_average_the_models_that_never_saw_a_row(full, held, models) -> None:
    _, found = full
    own = torch.stack([log_odds(logits_of(model), LABELS) for two in models for model in two])
    saw = torch.zeros(4, N, dtype=torch.bool)
    for place in range(4):
        saw[place, halves(held.train, place // 2, 0)[place % 2].rows()] = True
    expected = own.masked_fill(saw, torch.nan).nanmean(0)
    rows = torch.randperm(N, generator=torch.Generator().manual_seed(3))
    assert torch.allclose(found.margins(rows), expected[rows], atol=0.02)
    sealed = held.sealed()
    outside = torch.zeros(N, dtype=torch.bool)
    outside[sealed.tuning] = outside[sealed.verdict] = True
    assert found.count(torch.arange(N)).tolist() == torch.where(outside, 4, 2).tolist()
    assert len(found.models) == 4


def test_one_of_each_pair_is_what_a_training_row_has_and_a_coin_for_a_held_out_one(full, held) -> None:
    _, found = full
    train, out = torch.tensor(held.train.indices), held.sealed().verdict
    assert torch.allclose(found.one_of_each_pair(train, 0), found.margins(train))
    first = found.one_of_each_pair(out, 0)
    assert torch.equal(found.one_of_each_pair(out.flip(0), 0), first.flip(0))  # whoever else is asked for
    assert torch.equal(found.one_of_each_pair(out, 0), first)
    assert not torch.equal(found.one_of_each_pair(out, 1), first)
    single = torch.stack([model.margins[[model.rows.tolist().index(row) for row in out]] for model in found.models])
    choices = torch.stack([(single[a] + single[b]) / 2 for a in (0, 1) for b in (2, 3)])
    chosen = (choices - first).abs().argmin(0)
    assert float((choices - first).abs().amin(0).max()) < 1e-5
    assert len(set(chosen.tolist())) == 4  # all combinations come up among ten rows


def test_of_many_classes_the_largest_logits_and_the_margin_are_kept(tmp_path: Path) -> None:
    data = TensorDataset(IMAGES, torch.arange(N))
    torch.manual_seed(0)
    model = Net(classes=N)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with record(tmp_path / "r", model, optimizer) as rec:
        for images, labels in rec.batches(DataLoader(data, 16)):
            nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
    for half in halves(data, 0, 0):
        add_reference(tmp_path / "r", model, data, half)
    found = recorded_references(TrainingRecord.open(tmp_path / "r"), "judge")
    own = model.eval()(IMAGES).detach()
    assert torch.allclose(found.margins(torch.arange(N)), log_odds(own, torch.arange(N)), atol=0.02)
    kept = found.logits(torch.arange(N))[0]
    unseen = halves(data, 0, 0)[1].rows()
    assert torch.equal(kept[unseen].isfinite().sum(1), torch.full((len(unseen),), 10))
    assert torch.equal(kept[unseen].nan_to_num(-torch.inf).argmax(1), own[unseen].argmax(1))
    assert "logits" not in found.models[0].shard.tensors()


def test_a_loaders_collate_function_is_used_and_its_order_is_not(tmp_path: Path, held, models) -> None:
    folder = recorded(tmp_path / "r", held)
    first, second = halves(held.train, 0, 0)

    def named(items: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
        return {"pixels": torch.stack([i for i, _ in items]), "labels": torch.stack([label for _, label in items])}

    add_reference(folder, models[0][0], DataLoader(DATA, 8, shuffle=True, collate_fn=named), first)
    add_reference(folder, models[0][1], Subset(DATA, list(range(N - 1, -1, -1))), second)  # any view of the data
    found = recorded_references(TrainingRecord.open(folder), "judge")
    rows = second.rows()
    assert torch.allclose(found.margins(rows), log_odds(logits_of(models[0][0])[rows], LABELS[rows]), atol=0.02)
    assert torch.allclose(
        found.margins(first.rows()), log_odds(logits_of(models[0][1])[first.rows()], LABELS[first.rows()]), atol=0.02
    )


def test_model_and_random_state_are_left_as_they_were(tmp_path: Path, held, models) -> None:
    folder = recorded(tmp_path / "r", held)
    model = models[0][0]
    model.norm.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes, state = [part.training for part in model.modules()], torch.random.get_rng_state()
    add_reference(folder, model, DATA, halves(held.train, 0, 0)[0])
    assert [part.training for part in model.modules()] == modes
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None or parameter.requires_grad for parameter in model.parameters())
    model.norm.train()


def test_a_pair_counts_when_both_halves_are_there(tmp_path: Path, held, models) -> None:
    folder = recorded(tmp_path / "r", held)
    first, second = halves(held.train, 0, 0)
    add_reference(folder, models[0][0], DATA, first)
    found = TrainingRecord.open(folder)
    assert recorded_references(found, "judge") is None
    assert incomplete_pairs(found) == [0]
    add_reference(folder, models[0][1], DATA, second)
    found = TrainingRecord.open(folder)
    assert incomplete_pairs(found) == []
    assert found.complete


def test_the_judge_and_the_methods_never_share_a_pair(tmp_path: Path, held, models) -> None:
    folder = recorded(tmp_path / "r", held)
    for pair, purpose in enumerate(("judge", "method")):
        for half, model in zip(halves(held.train, pair, 0), models[pair], strict=True):
            add_reference(folder, model, DATA, half, purpose=purpose)
    found = TrainingRecord.open(folder)
    judge, method = (recorded_references(found, purpose) for purpose in ("judge", "method"))
    assert {model.pair for model in judge.models} == {0}
    assert {model.pair for model in method.models} == {1}
    shown = without_judge(found)
    assert recorded_references(shown, "judge") is None
    assert {model.pair for model in recorded_references(shown, "method").models} == {1}
    assert len(shown.shards("update")) == len(found.shards("update")) > 0
    with pytest.raises(UnlearnError, match="in the record already"):
        add_reference(folder, models[0][0], DATA, halves(held.train, 0, 0)[0])


def test_a_half_of_another_purpose_split_or_data_set_is_refused(tmp_path: Path, held, models) -> None:
    folder = recorded(tmp_path / "r", held)
    first, second = halves(held.train, 0, 0)
    add_reference(folder, models[0][0], DATA, first)
    for half, purpose, data, why in (
        (second, "method", DATA, "for the judge"),
        (second, "nobody", DATA, "judge, method"),
        (halves(held.train, 0, 1)[1], "judge", DATA, "not of one split"),
        (halves(DATA, 1, 0)[1], "judge", DATA, "samples of the holdout"),
        (second, "judge", TensorDataset(IMAGES, LABELS.flip(0)), "other labels"),
        (second, "judge", TensorDataset(IMAGES[1:], LABELS[1:]), "is of 90 samples"),
    ):
        with pytest.raises(UnlearnError, match=why):
            add_reference(folder, models[0][1], data, half, purpose=purpose)
    assert incomplete_pairs(TrainingRecord.open(folder)) == [0]


def test_halves_that_were_mixed_up_are_noticed(tmp_path: Path, held, models) -> None:
    folder = recorded(tmp_path / "r", held)
    with pytest.raises(UnlearnError, match="mixed up"):
        add_reference(folder, models[0][1], DATA, halves(held.train, 0, 0)[0])
    assert incomplete_pairs(TrainingRecord.open(folder)) == []


@pytest.mark.parametrize("broken", ["nan", "no logits", "no labels"])
def test_what_gives_no_logits_or_labels_is_refused(tmp_path: Path, held, broken: str) -> None:
    folder = recorded(tmp_path / "r", held)
    model, data = Net(), DATA
    if broken == "nan":
        model.head.weight.data.fill_(torch.nan)
    elif broken == "no logits":
        model = nn.Flatten(0)
    else:
        data = DataLoader(DATA, collate_fn=lambda items: torch.stack([image for image, _ in items]))
    with pytest.raises(UnlearnError, match="logits|labels"):
        add_reference(folder, model, data, halves(held.train, 0, 0)[0])
    assert TrainingRecord.open(folder).complete


def test_references_are_added_while_training_goes_on_and_outlive_its_death(tmp_path: Path, held, models) -> None:
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    rec = record(tmp_path / "r", model, optimizer, holdout=held)
    for number, (images, labels) in enumerate(rec.batches(DataLoader(held.train, 16))):
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
        if number == 1:
            for half, other in zip(halves(held.train, 0, 0), models[0], strict=True):
                add_reference(tmp_path / "r", other, DATA, half)
    rec.abandon()
    recorded(tmp_path / "r", held)  # from the start again
    found = TrainingRecord.open(tmp_path / "r")
    assert found.complete
    assert recorded_references(found, "judge") is not None


def _dies_while_writing(folder: str) -> None:
    held = holdout(DATA, 20, 0)
    module.RecordWriter._journal_line = lambda self, event, **fields: os._exit(9) if event == "shard" else None
    add_reference(folder, trained(halves(held.train, 0, 0)[0], 0, epochs=2), DATA, halves(held.train, 0, 0)[0])


def test_a_crash_while_adding_leaves_the_record_as_it_was(tmp_path: Path, held, models) -> None:
    folder = recorded(tmp_path / "r", held)
    process = multiprocessing.get_context("fork").Process(target=_dies_while_writing, args=(str(folder),))
    process.start()
    process.join(60)
    assert process.exitcode == 9
    assert list(folder.glob("reference*/*.safetensors"))  # written, and named by no line
    found = TrainingRecord.open(folder)
    assert found.complete
    assert incomplete_pairs(found) == []
    add_reference(folder, models[0][0], DATA, halves(held.train, 0, 0)[0])
    assert incomplete_pairs(TrainingRecord.open(folder)) == [0]


def test_what_is_added_changes_the_digest_and_a_damaged_shard_is_found_out(full, tmp_path: Path) -> None:
    folder, _ = full
    plain = recorded(tmp_path / "plain", None)
    assert TrainingRecord.open(plain).digest() != TrainingRecord.open(folder).digest()
    path = next(folder.glob("reference-00001-0/*.safetensors"))
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    with pytest.raises(UnlearnError, match="damaged"):
        recorded_references(TrainingRecord.open(folder), "judge")


def test_what_is_kept_is_readable_by_its_owner_only(full) -> None:
    folder, _ = full
    for path in folder.glob("reference*/**/*"):
        assert path.stat().st_mode & 0o077 == 0
