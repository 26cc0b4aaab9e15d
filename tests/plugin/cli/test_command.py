"""How every command behaves: help that teaches, errors in a sentence, one JSON document."""

import json
import shlex
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from tests.plugin.cli.invoke import invoke
from unlearn_hooks.errors import UnlearnError
from unlearn_plugin.cli import main
from unlearn_plugin.cli.command import Command, Option, answer, json_option
from unlearn_plugin.job import Group, settings

NAMES = tuple(main.commands)


def help_of(name: str, width: int = 100) -> str:
    done = CliRunner(env={"COLUMNS": str(width)}).invoke(main, [name, "--help"], terminal_width=width)
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.parametrize("name", NAMES)
def test_help_starts_with_one_sentence_and_an_example(name: str) -> None:
    lines = [line.strip() for line in help_of(name).splitlines()]
    assert lines[0].startswith("Usage: ")
    text = " ".join(lines[2 : lines.index("", 2)])
    assert text[-1] in ".?"
    assert text.count(". ") == 0
    assert f"unlearn {name}" in "\n".join(lines[lines.index("", 2) :])


@pytest.mark.parametrize("name", NAMES)
def test_the_examples_in_the_help_are_commands_that_parse(name: str) -> None:
    text = (main.commands[name].help or "").replace("\\\n", " ")
    examples = [line.strip() for line in text.splitlines() if line.strip().startswith(("unlearn ", 'eval "$(unlearn'))]
    assert examples
    for example in examples:
        words = shlex.split(example.removeprefix('eval "$(').split(')"')[0].split(" | ")[0])
        command = main.commands[words[1]]
        command.make_context(words[1], words[2:]).close()


@pytest.mark.parametrize("width", [40, 80, 200])
@pytest.mark.parametrize("name", NAMES)
def test_help_fits_the_terminal(name: str, width: int) -> None:
    examples = main.commands[name].help or ""
    for line in help_of(name, width).splitlines():
        assert len(line) <= max(width, 50) or line.strip() in examples or line.startswith("Usage"), line


def test_options_stand_in_groups_with_what_is_required_the_default_and_the_allowed_values() -> None:
    text = help_of("apply", 200)
    headings = [line.rstrip(":").lower() for line in text.splitlines() if line.endswith(":") and line[0] != " "]
    assert headings == [*(group.value for group in Group), "more"]
    assert "One of: finetune, l1_sparse, matching, mini," in text
    assert "[default: 256]" in text
    assert text.count("[required]") == sum(setting.required for setting in settings().values())


def test_in_a_narrow_terminal_the_explanation_stands_below() -> None:
    lines = help_of("apply", 40).splitlines()
    assert lines[lines.index("  --seed N") + 1].startswith("    Randomness of the method")


@click.command(cls=Command)
@click.option("--level", cls=Option, group="model", values=lambda: ("low", "high"), help="How.")
@click.option("--fail", is_flag=True)
@json_option
def example(level: str | None, fail: bool) -> None:
    """Do it."""
    click.echo("for people")
    print("from other code")  # noqa: T201
    if fail:
        raise UnlearnError("anna/1.png is unknown.", "It rains.")
    answer("example", level=level)


def call(*words: str) -> Result:
    return CliRunner().invoke(example, list(words))


def test_with_json_there_is_one_document_and_people_read_standard_error() -> None:
    done = call("--json", "--level", "low")
    assert json.loads(done.stdout) == {"schema": "urn:unlearn-plugin:example:1", "level": "low"}
    assert done.stderr == "for people\nfrom other code\n"


def test_without_json_nothing_changes() -> None:
    done = call()
    assert (done.stdout, done.stderr) == ("for people\nfrom other code\n", "")


def test_a_mistake_is_counted_in_the_document_and_told_on_standard_error_only() -> None:
    done = call("--json", "--fail")
    assert done.exit_code == 1
    document = json.loads(done.stdout)
    assert document == {"schema": "urn:unlearn-plugin:error:1", "command": "example", "findings": 2}
    assert "anna/1.png is unknown." in done.stderr


def test_a_bug_keeps_its_traceback_and_prints_no_document() -> None:
    @click.command(cls=Command)
    @json_option
    def broken() -> None:
        raise ZeroDivisionError

    done = CliRunner().invoke(broken, ["--json"])
    assert isinstance(done.exception, ZeroDivisionError)
    assert done.stdout == ""


def test_an_option_completes_the_values_its_help_names() -> None:
    option = next(option for option in example.params if option.name == "level")
    with click.Context(example) as context:
        assert [item.value for item in option.shell_complete(context, "l")] == ["low"]
        assert "One of: low, high." in example.get_help(context)


@pytest.mark.parametrize("words", [("methods",), ("methods", "mini"), ("inspect", "{forget}")])
def test_the_commands_that_only_look_answer_in_json(words: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "forget.txt").write_text("3/anna.png\n")
    done = invoke(*(word.format(forget=tmp_path / "forget.txt") for word in words), "--json")
    document = json.loads(done.stdout)
    assert document["schema"].startswith("urn:unlearn-plugin:")
    assert "anna" not in done.stdout
    if words[0] == "methods":
        mini = next(method for method in document["methods"] if method["name"] == "mini")
        assert {"summary", "needs", "exact", "source", "options"} < set(mini)
        assert {option["name"] for option in mini["options"]} >= {"steps", "curvature"}


@pytest.mark.parametrize("command", ["audit", "sign"])
def test_what_is_required_is_said_once(command: str) -> None:
    assert invoke(command, "--help").output.count("[required]") == 1
