import pytest

from unlearn_hooks.errors import UnlearnError


def test_one_finding_is_the_message_itself() -> None:
    assert str(UnlearnError.of(["The door is locked."])) == "The door is locked."


def test_several_findings_are_a_numbered_list() -> None:
    assert str(UnlearnError.of(["No key.", "No door."])) == "2 things to mend:\n  1. No key.\n  2. No door."


def test_it_can_be_told_apart_from_bugs() -> None:
    with pytest.raises(UnlearnError):
        raise UnlearnError.of(["No key."])
    assert not issubclass(UnlearnError, (ValueError, RuntimeError, OSError))
