import pytest
import torch

from unlearn_hooks.copies import Blocks


def test_copies_have_their_own_memory_dtype_and_shape() -> None:
    shared = torch.arange(12.0)
    wanted = {
        "weights": (shared[:6].view(2, 3), None),
        "gradient": (shared[6:], torch.bfloat16),
        "count": (torch.tensor(7), None),
        "flags": (torch.tensor([True, False, True]), None),
        "wide": (torch.tensor([1.5, 2.5]), torch.float64),
    }
    copies = Blocks().copy(wanted).tensors
    shared.zero_()
    assert torch.equal(copies["weights"], torch.arange(6.0).view(2, 3))
    assert torch.equal(copies["gradient"], torch.arange(6, 12).bfloat16())
    assert copies["count"].item() == 7
    assert copies["flags"].tolist() == [True, False, True]
    assert torch.equal(copies["wide"], torch.tensor([1.5, 2.5]).double())


@pytest.mark.parametrize("tensor", [torch.randn(3, 4).T, torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last)])
def test_tensors_of_any_layout_are_copied(tensor: torch.Tensor) -> None:
    assert torch.equal(Blocks().copy({"x": (tensor, None)}).tensors["x"], tensor)


def test_a_parameter_is_copied_without_its_graph() -> None:
    copy = Blocks().copy({"x": (torch.nn.Parameter(torch.ones(2)), None)}).tensors["x"]
    assert not copy.requires_grad


def test_memory_is_used_again_only_after_it_was_given_back_and_only_where_it_fits() -> None:
    blocks, wanted = Blocks(), {"x": (torch.ones(5), None)}
    first, second = blocks.copy(wanted), blocks.copy(wanted)
    assert first.block.data_ptr() != second.block.data_ptr()
    blocks.give_back(first)
    assert blocks.copy({"x": (torch.ones(9), None)}).block.data_ptr() != first.block.data_ptr()
    assert blocks.copy(wanted).block.data_ptr() == first.block.data_ptr()


def test_nothing_can_be_copied() -> None:
    assert Blocks().copy({}).tensors == {}
