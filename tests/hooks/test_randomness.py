import random

import numpy as np
import pytest
import torch
from safetensors.torch import load

from unlearn_hooks.randomness import RandomStates, random_states_kept
from unlearn_hooks.tensor_bytes import safetensors_parts


def draws() -> list[object]:
    """Normal deviates come in pairs, of which one is kept: an odd number shows whether it is put back."""
    return [torch.randn(5).tolist(), random.random(), random.gauss(0, 1), np.random.random(), np.random.normal()]


def taken() -> RandomStates:
    """Set again at once: what checks signatures in tests draws from `random` after the state is read."""
    states = RandomStates.now()
    states.set()
    return states


def test_what_was_drawn_is_drawn_again() -> None:
    for odd in (False, True):
        if odd:
            random.gauss(0, 1), np.random.normal()
        states = taken()
        first = draws()
        assert draws() != first
        states.set()
        assert draws() == first


def test_states_are_the_same_after_a_file() -> None:
    random.gauss(0, 1), np.random.normal()
    states = taken()
    file = b"".join(bytes(part) for part in safetensors_parts(states.tensors()))
    states.set()
    first = draws()
    RandomStates.of(load(file)).set()
    assert draws() == first
    assert len(file) < 11_000


def test_reading_draws_nothing() -> None:
    before = torch.get_rng_state(), np.random.get_state()[2]
    RandomStates.now()
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[2] == before[1]


def test_the_state_is_that_of_the_moment() -> None:
    states = RandomStates.now()
    torch.randn(3)
    assert not torch.equal(states.torch, torch.get_rng_state())


def test_states_are_put_back_even_after_an_error() -> None:
    states = taken()
    first = draws()
    states.set()
    with pytest.raises(RuntimeError), random_states_kept():
        torch.normal(torch.randn(2), torch.tensor([-1.0, 1.0]))
    assert draws() == first


def test_another_generator_of_numpys_is_left_alone() -> None:
    old = np.random.get_bit_generator()
    try:
        np.random.set_bit_generator(np.random.PCG64(3))
        states = RandomStates.now()
        assert states.numpy is None
        assert "numpy" not in states.tensors()
        after = np.random.random()
        states.set()
        assert np.random.random() != after
    finally:
        np.random.set_bit_generator(old)
