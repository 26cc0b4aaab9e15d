"""Values as people write them."""

from typing import Any, Literal

import pytest

from unlearn_plugin.values import allowed_values, as_text, nearest, read_value


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("5", int, 5),
        ("1e-05", float, 1e-05),
        ("3", float, 3.0),
        ("no", bool, False),
        ("True", bool, True),
        ("none", int | None, None),
        ("none", str, "none"),
        ("a", Literal["a", 2], "a"),
        ("2", Literal["a", 2], 2),
        ("auto", float | Literal["auto"], "auto"),
    ],
)
def test_a_text_becomes_a_value_of_the_type(text: str, kind: Any, value: object) -> None:
    found = read_value(text, kind)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(("text", "kind"), [("5.0", int), ("maybe", bool), ("none", int), ("b", Literal["a"])])
def test_what_is_not_of_the_type_is_refused(text: str, kind: Any) -> None:
    with pytest.raises(ValueError, match=text):
        read_value(text, kind)


@pytest.mark.parametrize("value", [5, 1 / 3, 1e-300, True, False, None, "word"])
def test_a_value_written_as_text_is_read_again(value: object) -> None:
    kind = Any if value is None else type(value)
    assert read_value(as_text(value), int | None if value is None else kind) == value


def test_what_is_allowed_is_said_in_words() -> None:
    assert allowed_values(int | None) == "a whole number or none"
    assert allowed_values(Literal["a", "b"] | float) == "a or b or a number"


def test_a_near_name_is_offered_and_a_far_one_is_not() -> None:
    assert nearest("epoch", ("seed", "epochs")) == " (did you mean 'epochs'?)"
    assert nearest("zzz", ("seed", "epochs")) == ""
