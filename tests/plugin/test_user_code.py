"""Functions named on the command line."""

import sys
from pathlib import Path

import pytest

from unlearn_hooks.errors import UnlearnError
from unlearn_plugin.user_code import is_function_name, load_function


@pytest.mark.parametrize("name", ["module:function", "package.module:function", "module:Class.method"])
def test_a_module_a_colon_and_a_function_are_a_name(name: str) -> None:
    assert is_function_name(name)


@pytest.mark.parametrize(
    "name", ["resnet18", "hf-hub:org/name", "local-dir:/x", "C:\\x", "a:b:c", ":f", "m:", "a..b:f", ""]
)
def test_other_things_are_no_name(name: str) -> None:
    assert not is_function_name(name)


def test_a_function_and_a_nested_one_are_found() -> None:
    assert load_function("pathlib:Path", "--data") is Path
    assert load_function("pathlib:Path.cwd", "--data")() == Path.cwd()


def test_modules_of_the_current_folder_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_own_module.py").write_text("def build():\n    return 7\n")
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    assert load_function("my_own_module:build", "--arch")() == 7


def test_the_current_folder_does_not_shadow_installed_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "wsgiref.py").write_text("def validate():\n    return 'wrong'\n")
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    assert load_function("wsgiref.validate:validator", "--arch").__module__ == "wsgiref.validate"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nonsense", "write it as package.module:function"),
        ("no_such_package.module:f", "in the folder that holds 'no_such_package'"),
        ("unlearn_plugin.user_code:nothing", "it has .*is_function_name, load_function"),
        ("unlearn_plugin.user_code:__doc__", "has no function '__doc__'"),
    ],
)
def test_what_is_not_there_is_named_with_the_flag(name: str, words: str) -> None:
    with pytest.raises(UnlearnError, match=words) as caught:
        load_function(name, "--flag")
    assert str(caught.value).startswith(f"--flag {name!r}")


def test_a_mistake_inside_the_users_module_keeps_its_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_broken_module.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ZeroDivisionError):
        load_function("my_broken_module:f", "--arch")
