import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unlearn_hooks.errors import UnlearnError
from unlearn_hooks.plan import Plan, parse_bytes


@pytest.mark.parametrize(
    ("text", "size"),
    [
        (7, 7),
        ("7", 7),
        ("512MiB", 2**29),
        ("1 GB", 10**9),
        ("1gib", 2**30),
        (" 1.5 KiB ", 1536),
        ("2kb", 2000),
        ("9B", 9),
    ],
)
def test_a_size_is_read_with_its_unit(text: int | str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", [0, -1, "0.2B", "", "GiB", "12 pizzas", "1e999", "nan", "1GiB extra"])
def test_what_is_no_positive_size_is_refused_with_the_units_there_are(text: int | str) -> None:
    with pytest.raises(UnlearnError, match=r"not a positive size.*GiB.*'512MiB'"):
        parse_bytes(text)


@given(st.text())
def test_any_text_is_a_size_or_an_error_for_the_user(text: str) -> None:
    try:
        size, message = parse_bytes(text), ""
    except UnlearnError as error:
        size, message = 0, str(error)
    assert size > 0 or repr(text) in message


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("steps", 0, "1 or more"),
        ("tail", -1, "0 or more"),
        ("window", 0, "1 or more"),
        ("windows", 0, "1 or more"),
        ("weights_dtype", "fp16", "'bf16', 'fp32', 'int8' or 'native'"),
        ("gradient_dtype", "fp16", "'bf16', 'fp32', 'int8' or 'native'"),
        ("ids", "none", "'all' or 'recorded'"),
        ("parameters", (), r"updates=False"),
        ("parameters", "head.*", r"\('head\.\*',\)"),
        ("budget", "much", "KiB"),
    ],
)
def test_a_wrong_value_is_answered_with_the_allowed_ones(field: str, value: object, allowed: str) -> None:
    plan = Plan()
    object.__setattr__(plan, field, value)  # past the type checker of the tests, which users do not run
    with pytest.raises(UnlearnError, match=allowed):
        plan.__post_init__()


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(UnlearnError, match=r"(?s)2 things to mend.*steps=0.*window=0"):
        Plan(steps=0, window=0)


def test_a_plan_is_plain_values_for_the_manifest() -> None:
    plan = Plan(steps=None, budget="2GiB", parameters=("head.*",))
    values = json.loads(json.dumps(plan.as_dict()))
    assert Plan(**{**values, "parameters": tuple(values["parameters"])}) == plan


def test_a_plan_is_read_from_words() -> None:
    words = ["steps=24", "samples=False", "budget=4GiB", "parameters=head.*,norm.*", "head=none", "weights_dtype=bf16"]
    assert Plan.parse(words) == Plan(
        steps=24, samples=False, budget="4GiB", parameters=("head.*", "norm.*"), weights_dtype="bf16"
    )
    assert Plan.parse(["steps=none"]).steps is None
    assert Plan.parse([]) == Plan()


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("samples", "write KEY=VALUE, such as steps=24, with one of updates, steps,"),
        ("sample=true", "'sample=true' is not understood"),
        ("samples=1", "write samples=true or samples=false"),
        ("window=ten", "window=ten is not understood; it takes a whole number"),
        ("window=0", "must be 1 or more"),
    ],
)
def test_a_word_that_is_no_part_of_a_plan_is_one_sentence(word: str, said: str) -> None:
    with pytest.raises(UnlearnError, match=said):
        Plan.parse([word])
