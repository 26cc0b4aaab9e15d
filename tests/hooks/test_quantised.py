import pytest
import torch
from torch import Tensor

from unlearn_hooks.quantised import BLOCK, dequantise, quantise, quantised_bytes


def numbers(*shape: int, seed: int = 0) -> Tensor:
    """Numbers whose blocks differ much in scale."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator) * torch.rand(shape, generator=generator).pow(8)


def there_and_back(tensor: Tensor, step: int) -> Tensor:
    return dequantise(*quantise(tensor, step), step)


@pytest.mark.parametrize("shape", [(), (1,), (127,), (128,), (3, 5, 7, 11), (1000,)])
@pytest.mark.parametrize("step", [0, 1, 4095, 10**9])
def test_an_error_is_half_the_scale_of_its_block_at_most(shape: tuple[int, ...], step: int) -> None:
    tensor = numbers(*shape)
    codes, scales = quantise(tensor, step)
    assert (codes.shape, codes.dtype) == (tensor.shape, torch.int8)
    assert scales.numel() == -(-tensor.numel() // BLOCK)
    errors = (dequantise(codes, scales, step) - tensor).abs().reshape(-1)
    bounds = scales.repeat_interleave(BLOCK)[: tensor.numel()] / 2
    assert (errors <= bounds * (1 + 1e-4)).all()
    largest = tensor.reshape(-1).abs().split(BLOCK)
    torch.testing.assert_close(scales, torch.stack([block.max() / 127 for block in largest]))


def test_known_codes() -> None:
    """Without u the codes of the largest, its negative and zero are 127, -127 and 0; u moves them by half at most."""
    codes, scales = quantise(torch.tensor([2.54, -2.54, 0.0, 1.27]), 0)
    assert float(scales) == pytest.approx(0.02)
    assert (codes - torch.tensor([127, -127, 0, 63])).abs().max() <= 1
    first = quantise(torch.zeros(1) + 1.0, 0)[0]  # u is -1/2 there, and 127 - 1/2 is rounded to even
    assert int(first) == 126


def test_the_largest_numbers_stay_within_a_byte() -> None:
    for step in range(50):
        tensor = torch.tensor([1.0, -1.0]).repeat(BLOCK)
        torch.testing.assert_close(there_and_back(tensor, step), tensor, rtol=0, atol=0.51 / 127)


@pytest.mark.parametrize("every", [1, 2, 8, 64, 1024])
def test_over_the_steps_that_thinning_keeps_the_errors_cancel_as_if_each_were_carried_to_the_next(every: int) -> None:
    """A mean over K steps of one tensor is off by about 1 / K of what one step is off, not by 1 / sqrt(K)."""
    tensor = numbers(5000)
    total, one = torch.zeros(5000), (there_and_back(tensor, 0) - tensor).norm()
    for count in range(1, 28):
        total += there_and_back(tensor, every * (count - 1))
        off = (total / count - tensor).norm() / one
        assert off < {9: 1.6, 27: 1.6}.get(count, 2.5) / count


def test_the_errors_of_one_step_do_not_all_point_the_same_way() -> None:
    tensor = torch.full((BLOCK * 50,), 0.3)
    tensor[::BLOCK] = 1.0
    errors = (there_and_back(tensor, 7) - tensor) * 127
    assert abs(float(errors.mean())) < 0.01
    assert float(errors.square().mean()) == pytest.approx(1 / 12, rel=0.1)


def test_errors_do_not_depend_on_what_is_written() -> None:
    """Small numbers beside a large one are not all rounded to zero, as they would be without dither."""
    tensor = torch.cat([torch.tensor([1.0]), torch.full((BLOCK - 1,), 0.001)])
    mean = sum(there_and_back(tensor, step) for step in range(64)) / 64
    torch.testing.assert_close(mean[1:], tensor[1:], rtol=0, atol=5e-4)


def test_a_block_of_zeros_comes_back_as_zeros() -> None:
    assert not there_and_back(torch.zeros(300), 3).any()


def test_what_is_not_finite_is_still_seen_to_be_so() -> None:
    tensor = torch.zeros(2 * BLOCK)
    tensor[5] = torch.nan
    read = there_and_back(tensor, 1)
    assert read[:BLOCK].isnan().all()
    assert not read[BLOCK:].any()


def test_the_same_step_gives_the_same_codes_and_another_step_others() -> None:
    tensor = numbers(500)
    assert torch.equal(quantise(tensor, 8)[0], quantise(tensor.clone(), 8)[0])
    assert not torch.equal(quantise(tensor, 8)[0], quantise(tensor, 9)[0])


def test_double_precision_and_views_are_taken() -> None:
    tensor = numbers(40, 30)
    torch.testing.assert_close(there_and_back(tensor.double().T, 2), there_and_back(tensor.T.contiguous(), 2))


def test_it_takes_a_little_more_than_a_byte_a_number() -> None:
    for count in (1, 127, 128, 129, 10**6):
        codes, scales = quantise(torch.ones(count), 0)
        assert quantised_bytes(count) == codes.nbytes + scales.nbytes
    assert quantised_bytes(10**6) < 0.26 * 4 * 10**6
