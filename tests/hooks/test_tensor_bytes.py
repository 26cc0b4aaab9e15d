import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor

from unlearn_hooks.tensor_bytes import safetensors_parts, tensor_bytes

TENSORS: dict[str, Tensor] = {
    "flags": torch.tensor([True, False, True]),
    "half": torch.randn(3, 5).half(),
    "bfloat": torch.randn(7).bfloat16(),
    "weights": torch.randn(4, 3, 2),
    "wide": torch.randn(2).double(),
    "rows": torch.arange(5),
    "scalar": torch.tensor(3.5),
    "empty": torch.zeros(0, 4),
    "bytes": torch.arange(3, dtype=torch.uint8),
    "small": torch.arange(3, dtype=torch.int32),
}


def test_the_file_is_read_back_by_safetensors_itself() -> None:
    found = load(b"".join(safetensors_parts(TENSORS)))
    assert found.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


def test_the_file_is_the_one_that_safetensors_would_make() -> None:
    single = {"x": torch.randn(6)}
    assert b"".join(safetensors_parts(single)) == save(single)


def test_a_file_without_tensors_can_be_read() -> None:
    assert load(b"".join(safetensors_parts({}))) == {}


@pytest.mark.parametrize(
    "tensor",
    [torch.randn(3, 4).T, torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last), torch.randn(8)[::2]],
    ids=["transposed", "channels last", "strided"],
)
def test_other_layouts_are_written_in_c_order(tensor: Tensor) -> None:
    assert torch.equal(load(b"".join(safetensors_parts({"x": tensor})))["x"], tensor)
    assert bytes(tensor_bytes(tensor)) == tensor.contiguous().numpy().tobytes()


def test_the_bytes_are_those_of_the_tensor_itself_and_not_a_copy() -> None:
    tensor = torch.zeros(4)
    view = tensor_bytes(tensor)
    tensor[0] = 1.0
    assert bytes(view[:4]) == b"\x00\x00\x80?"
    assert tensor_bytes(torch.nn.Parameter(tensor)).nbytes == 16
