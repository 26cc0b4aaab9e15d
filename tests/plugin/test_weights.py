"""Weights files: what is read, what is refused, and that nothing in them is ever run."""

import argparse
import json
import pickle
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from unlearn_hooks.errors import UnlearnError
from unlearn_plugin.weights import describe_differences, fits, read_weights, without_wrappers

WEIGHTS = {"fc.weight": torch.arange(6.0).reshape(2, 3), "fc.bias": torch.tensor([1.0, -1.0])}


class Hostile:
    """Makes a file when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, str]]:
        return open, (str(self.trace), "w")


def same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor] = WEIGHTS) -> bool:
    return found.keys() == expected.keys() and all(
        found[name].dtype == value.dtype and torch.equal(found[name], value) for name, value in expected.items()
    )


def write(path: Path, content: object) -> Path:
    if path.suffix == ".safetensors":
        save_file(content, path)
    else:
        torch.save(content, path)
    return path


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt", "w.pth", "w.th", "w.bin", "w.ckpt", "w.pth.tar", "W.PT"])
def test_every_kind_of_file_gives_the_tensors_back(tmp_path: Path, name: str) -> None:
    assert same(read_weights(write(tmp_path / name, WEIGHTS)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int64])
def test_the_precision_in_the_file_is_kept(tmp_path: Path, dtype: torch.dtype) -> None:
    cast = {name: value.to(dtype) for name, value in WEIGHTS.items()}
    assert same(read_weights(write(tmp_path / "w.safetensors", cast)), cast)
    assert same(read_weights(write(tmp_path / "w.pt", cast)), cast)


def test_the_old_format_of_torch_save_is_read(tmp_path: Path) -> None:
    torch.save(WEIGHTS, tmp_path / "w.th", _use_new_zipfile_serialization=False)
    assert same(read_weights(tmp_path / "w.th"))


@pytest.mark.parametrize("key", ["state_dict", "model", "model_ema", "state_dict_ema"])
def test_wrapped_weights_are_found(tmp_path: Path, key: str) -> None:
    content = {key: WEIGHTS, "epoch": 3, "optimizer": {"state": {0: torch.ones(1)}}, "args": argparse.Namespace(lr=0.1)}
    assert same(read_weights(write(tmp_path / "w.pth", content)))
    assert same(read_weights(write(tmp_path / "w.pth", {"model": {key: WEIGHTS}})))


def test_averaged_weights_are_preferred_as_in_timm(tmp_path: Path) -> None:
    raw = {name: value + 1 for name, value in WEIGHTS.items()}
    assert same(read_weights(write(tmp_path / "w.pth", {"state_dict": raw, "state_dict_ema": WEIGHTS})))
    assert same(read_weights(write(tmp_path / "w.pth", {"model": raw, "model_ema": WEIGHTS})))
    assert same(read_weights(write(tmp_path / "w.pth", {"model": WEIGHTS, "model_ema": None})))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_with_code_is_refused_in_one_sentence_and_does_not_run(tmp_path: Path, zipped: bool) -> None:
    torch.save({"w": Hostile(tmp_path / "ran")}, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(UnlearnError, match=r"is refused: it holds the Python object io\.open") as caught:
        read_weights(tmp_path / "w.pth")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


def test_a_whole_pickled_model_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UnlearnError, match=r"Linear.*save only model\.state_dict\(\)"):
        read_weights(write(tmp_path / "w.pt", nn.Linear(2, 2)))


@pytest.mark.parametrize(
    "content", [b"", b"no weights at all", bytes(range(256)) * 9, pickle.dumps([1]), b"PK\x03\x04"]
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_garbage_is_called_damaged(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"w{suffix}"
    path.write_bytes(content)
    with pytest.raises(UnlearnError, match="damaged|cut off|holds no weights"):
        read_weights(path)


@pytest.mark.parametrize("kept", [4, 8, 60, -1])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_truncated_file_is_called_damaged(tmp_path: Path, kept: int, suffix: str) -> None:
    path = write(tmp_path / f"w{suffix}", WEIGHTS)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(UnlearnError, match="damaged|cut off"):
        read_weights(path)


def safetensors_bytes(header: bytes, data: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header + data


def test_a_tensor_named_twice_is_refused_although_the_library_takes_it(tmp_path: Path) -> None:
    first, second = (
        f'"w": {json.dumps({"dtype": "F32", "shape": [1], "data_offsets": place})}' for place in ([0, 4], [4, 8])
    )
    path = tmp_path / "w.safetensors"
    path.write_bytes(safetensors_bytes(f"{{{first}, {second}}}".encode(), struct.pack("<ff", 1, 2)))
    with pytest.raises(UnlearnError, match="names w more than once"):
        read_weights(path)


@pytest.mark.parametrize("header", [b"[]", b"3", b'"x"', b'{"w":', b"[" * 99_999, b'{"w": {"dtype": "F32"}}'])
def test_a_header_that_is_no_table_of_tensors_is_called_damaged(tmp_path: Path, header: bytes) -> None:
    (tmp_path / "w.safetensors").write_bytes(safetensors_bytes(header, b"\0" * 4))
    with pytest.raises(UnlearnError, match="damaged|holds no weights"):
        read_weights(tmp_path / "w.safetensors")


def test_a_header_longer_than_the_file_takes_no_memory(tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_bytes(struct.pack("<Q", 2**62) + b"{}")
    with pytest.raises(UnlearnError, match="cut off"):
        read_weights(tmp_path / "w.safetensors")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_that_are_not_finite_are_refused_by_name(tmp_path: Path, value: float, dtype: torch.dtype) -> None:
    bad = {**WEIGHTS, "fc.bias": torch.tensor([0.0, value], dtype=dtype)}
    with pytest.raises(UnlearnError, match=r"1 of 2 tensors.*not finite: fc\.bias"):
        read_weights(write(tmp_path / "w.safetensors", bad))


def test_a_file_without_tensors_names_what_is_in_it(tmp_path: Path) -> None:
    with pytest.raises(UnlearnError, match="holds no weights, only epoch, lr"):
        read_weights(write(tmp_path / "w.pt", {"epoch": 1, "lr": 0.1}))
    with pytest.raises(UnlearnError, match="holds no weights"):
        read_weights(write(tmp_path / "w.pt", torch.ones(3)))


def test_a_missing_file_and_an_unknown_ending_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnlearnError, match="There is no weights file"):
        read_weights(tmp_path / "none.pth")
    (tmp_path / "w.h5").touch()
    with pytest.raises(UnlearnError, match=r"ends in \.safetensors, \.pt, \.pth"):
        read_weights(tmp_path / "w.h5")


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "model.", "net.0."]
)
def test_prefixes_of_wrappers_are_taken_off(prefix: str) -> None:
    wrapped = {prefix + name: value for name, value in WEIGHTS.items()}
    assert same(without_wrappers(wrapped, set(WEIGHTS)))


def test_compiled_submodules_and_the_counter_of_averaging_are_recognised() -> None:
    wrapped = {"module.fc._orig_mod.weight": WEIGHTS["fc.weight"], "module.fc._orig_mod.bias": WEIGHTS["fc.bias"]}
    assert same(without_wrappers({**wrapped, "n_averaged": torch.tensor(3)}, set(WEIGHTS)))


def test_a_prefix_that_belongs_to_the_model_stays() -> None:
    assert same(without_wrappers(dict(WEIGHTS), {"fc.weight", "fc.bias"}))
    assert same(without_wrappers(dict(WEIGHTS), {"fc.other.weight"}))


def test_names_that_do_not_fit_at_all_are_not_eaten_up() -> None:
    assert without_wrappers({"a.b": torch.ones(1)}, {"x"}).keys() == {"b"}


def test_differences_name_shapes_missing_and_left_over_tensors() -> None:
    model = {"fc.weight": torch.ones(4, 3), "fc.bias": torch.ones(2), "bn.weight": torch.ones(1)}
    clauses = describe_differences({**WEIGHTS, "x": torch.ones(1)}, model)
    assert clauses == [
        "of another shape (1): 'fc.weight' is (2, 3) in the file and (4, 3) in the model",
        "missing (1): bn.weight",
        "not part of the model (1): x",
    ]
    assert not fits({**WEIGHTS, "x": torch.ones(1)}, model)


def test_long_differences_are_cut_and_counted() -> None:
    many = {f"layer{number}": torch.ones(1) for number in range(9)}
    assert describe_differences({}, many) == ["missing (9): layer0, layer1, layer2, and 6 more"]


def test_only_the_counters_of_batch_normalisation_may_be_missing() -> None:
    model = {**WEIGHTS, "bn.num_batches_tracked": torch.tensor(0)}
    assert fits(WEIGHTS, model)
    assert not fits({"fc.weight": WEIGHTS["fc.weight"]}, model)
