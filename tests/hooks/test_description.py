import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import IterableDataset, Subset, TensorDataset

from unlearn_hooks.capture import find_head
from unlearn_hooks.description import DataDescription, describe_model, describe_recipe, process_rank, run_id
from unlearn_hooks.errors import UnlearnError
from unlearn_hooks.feed import Arrival
from unlearn_hooks.ids import data_fingerprint
from unlearn_hooks.journal import write_json
from unlearn_hooks.plan import Plan
from unlearn_hooks.training_record import RecordWriter

LABELS = torch.tensor([2, 0, 1, 1])


class Told(torch.utils.data.Dataset[int]):
    """Knows its labels only by loading."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, row: int) -> int:
        raise AssertionError("nothing may be loaded")


class Stream(IterableDataset[int]):
    def __iter__(self) -> Iterator[int]:
        return iter(range(3))


def written(data: DataDescription, folder: Path) -> dict[str, object]:
    data.write(folder, ids=False)
    content: dict[str, object] = json.loads((folder / "data.json").read_text())
    return content


def test_the_model_is_described_with_all_its_parameters_and_which_are_recorded() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)).to(torch.bfloat16)
    trained = {name: p for name, p in model.named_parameters() if not name.startswith("0")}
    found = describe_model(model, find_head(model), trained, Plan(parameters=("*.weight",)))
    assert found["parameters"] == [
        {"name": "0.weight", "shape": [3, 4], "dtype": "bfloat16", "recorded": False},
        {"name": "0.bias", "shape": [3], "dtype": "bfloat16", "recorded": False},
        {"name": "1.weight", "shape": [2, 3], "dtype": "bfloat16", "recorded": True},
        {"name": "1.bias", "shape": [2], "dtype": "bfloat16", "recorded": False},
    ]
    assert (found["head"], found["classes"], found["world"]) == ("1", 2, 1)
    assert found["plan"]["parameters"] == ("*.weight",)
    assert found["versions"]["torch"] == torch.__version__
    assert process_rank() == 0


def test_the_recipe_holds_every_setting_as_plain_json() -> None:
    model = nn.Linear(2, 2)
    groups = [{"params": [model.weight], "lr": torch.tensor(0.5)}, {"params": [model.bias], "weight_decay": 0}]
    optimizer = torch.optim.AdamW(groups, lr=0.1, betas=(0.8, 0.9))
    user = {"augment": ("flip", {"p": 0.5}), "path": Path("a")}
    found = json.loads(json.dumps(describe_recipe(optimizer, dict(model.named_parameters()), user)))
    assert found["optimizer"] == "AdamW"
    assert [group["names"] for group in found["groups"]] == [["weight"], ["bias"]]
    assert [group["lr"] for group in found["groups"]] == [0.5, 0.1]
    assert found["groups"][1]["betas"] == [0.8, 0.9]
    assert found["user"] == {"augment": ["flip", {"p": 0.5}], "path": "a"}
    assert found["torch_seed"] == torch.initial_seed()


def test_data_is_described_by_its_root_and_labels(tmp_path: Path) -> None:
    dataset = TensorDataset(torch.zeros(4), LABELS)
    found = written(DataDescription(Subset(dataset, [1]), None), tmp_path)
    assert found["n"] == 4
    assert found["fingerprint"] == data_fingerprint(LABELS)
    assert not (tmp_path / "ids.json").exists()


def test_labels_that_are_only_seen_in_batches_give_a_fingerprint_once_all_were_seen(tmp_path: Path) -> None:
    data = DataDescription(Told(), None)
    data.saw(torch.tensor([3, 0]), LABELS[[3, 0]], RecordWriter(tmp_path))
    assert written(data, tmp_path)["fingerprint"] is None
    data.saw(torch.tensor([1, 2]), LABELS[[1, 2]], RecordWriter(tmp_path))
    assert written(data, tmp_path)["fingerprint"] == data_fingerprint(LABELS)


def test_labels_that_the_data_set_tells_are_not_replaced_by_augmented_ones(tmp_path: Path) -> None:
    data = DataDescription(TensorDataset(torch.zeros(4), LABELS.clone()), None)
    data.saw(torch.tensor([0]), torch.tensor([9]), RecordWriter(tmp_path))
    assert written(data, tmp_path)["fingerprint"] == data_fingerprint(LABELS)


def test_names_are_written_when_asked_for_and_the_users_key_comes_first(tmp_path: Path) -> None:
    persons = ["person-0", "person-1", "person-2", "person-3"]
    for key, expected in ((None, ["0", "1", "2", "3"]), (lambda row: f"person-{row}", persons)):
        DataDescription(Told(), key).write(tmp_path, ids=True)
        assert json.loads((tmp_path / "ids.json").read_text())["ids"] == expected


def test_of_a_stream_or_of_nothing_nothing_is_claimed(tmp_path: Path) -> None:
    for dataset in (Stream(), None):
        data = DataDescription(dataset, None)
        data.saw(torch.tensor([0]), torch.tensor([0]), RecordWriter(tmp_path))
        data.write(tmp_path, ids=True)
        found = written(data, tmp_path)
        assert (found["n"], found["fingerprint"]) == (None, None)
    assert not (tmp_path / "ids.json").exists()


def test_a_run_keeps_its_id_and_another_has_another(tmp_path: Path) -> None:
    assert run_id(tmp_path) != run_id(tmp_path)
    write_json(tmp_path / "manifest.json", {"schema": 1, "run_id": "mine"})
    assert run_id(tmp_path) == "mine"


# names that are listed


def stream_batch(*names: str) -> tuple[torch.Tensor, torch.Tensor, list[str]]:
    return torch.zeros(len(names), 2), torch.zeros(len(names), dtype=torch.int64), list(names)


NOWHERE = Arrival(None, None, "the data set is a stream")


def test_listed_names_number_a_stream_and_are_written(tmp_path: Path) -> None:
    data = DataDescription(Stream(), ["a", "b", "c"])
    data.write(tmp_path, ids=True)
    assert json.loads((tmp_path / "ids.json").read_text())["ids"] == ["a", "b", "c"]
    found = written(data, tmp_path)
    assert (found["n"], found["id_kind"], found["fingerprint"]) == (3, "key", None)


@pytest.mark.parametrize("wrap", [tuple, list, lambda batch: dict(zip(("png", "cls", "__key__"), batch, strict=True))])
def test_a_batch_of_a_stream_tells_its_rows_by_the_names_in_it(wrap: Callable[[Any], Any]) -> None:
    data = DataDescription(Stream(), ["a", "b", "c"])
    arrival = data.find_by_name(wrap(stream_batch("c", "a", "c")), NOWHERE)
    assert arrival.rows is not None
    assert (arrival.rows.tolist(), arrival.problem) == ([2, 0, 2], None)


@pytest.mark.parametrize(
    "batch", [stream_batch("a", "x"), (torch.zeros(2, 2), ["a"]), torch.zeros(2, 2), (["a", "b"], ["a", "b"])]
)
def test_rows_stay_unknown_when_a_name_is_not_listed_or_there_is_not_one_for_each_sample(batch: Any) -> None:
    arrival = DataDescription(Stream(), ["a", "b", "c"]).find_by_name(batch, NOWHERE)
    assert arrival.rows is None
    assert arrival.problem == "the data set is a stream, and the batch holds no names that key= lists"


def test_rows_that_are_known_and_streams_without_names_are_left_as_they_are() -> None:
    known = Arrival(torch.tensor([1]), None, None)
    assert DataDescription(Told(), list("abcd")).find_by_name(stream_batch("d"), known) is known
    assert DataDescription(Stream(), None).find_by_name(stream_batch("d"), NOWHERE) is NOWHERE


def test_a_list_of_names_must_have_one_for_each_row_and_none_twice() -> None:
    with pytest.raises(UnlearnError, match="lists 3 names, and the data set has 4 rows"):
        DataDescription(Told(), list("abc"))
    with pytest.raises(UnlearnError, match="lists 'a' more than once"):
        DataDescription(Stream(), list("abca"))
