"""Completion, asked for by real shells."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

from tests.plugin.cli.invoke import invoke
from unlearn_plugin.cli.compare import compare

ROOT = Path(__file__).parents[3]


@pytest.fixture
def shell_environment(tmp_path: Path) -> dict[str, str]:
    """A PATH that starts with a folder in which `unlearn` is this checkout."""
    program = tmp_path / "bin" / "unlearn"
    program.parent.mkdir()
    code = "import sys; from unlearn_plugin.cli import main; main(prog_name='unlearn')"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "{code}" "$@"\n')
    program.chmod(0o755)
    return {
        **os.environ,
        "PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'hooks'}",
    }


def run(shell: str, script: str, environment: dict[str, str]) -> str:
    if not shutil.which(shell):
        pytest.skip(f"{shell} is not installed here")
    start = [shell, "--norc", "-c"] if shell == "bash" else [shell, "-c"]
    done = subprocess.run([*start, script], env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def bash(line: str, environment: dict[str, str]) -> list[str]:
    """What a real bash offers at the end of the line."""
    words = line.split(" ")
    script = (
        'eval "$(unlearn completion bash)"; '
        f"COMP_WORDS=({' '.join(words[:-1])} {words[-1] or chr(39) * 2}); COMP_CWORD={len(words) - 1}; "
        '_unlearn_completion unlearn; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    return run("bash", script, environment).split()


def test_bash_completes_commands_options_and_methods(shell_environment: dict[str, str]) -> None:
    assert bash("unlearn ap", shell_environment) == ["apply"]
    assert bash("unlearn apply --forg", shell_environment) == ["--forget"]
    assert bash("unlearn apply --method m", shell_environment) == ["matching", "mini", "mixunlearn", "muda"]
    assert bash("unlearn methods ret", shell_environment) == ["retrain"]
    assert bash("unlearn completion ", shell_environment) == ["bash", "zsh", "fish"]


def test_bash_completes_the_options_of_the_chosen_method_with_their_defaults(
    shell_environment: dict[str, str],
) -> None:
    assert bash("unlearn apply --method finetune -o e", shell_environment) == ["epochs=5"]
    assert bash("unlearn apply -o e", shell_environment) == []


def test_methods_of_a_comparison_are_completed_one_after_the_other() -> None:
    ctx = click.Context(compare)
    method, option = (next(one for one in compare.params if one.name == name) for name in ("method", "options"))
    assert [item.value for item in method.shell_complete(ctx, "retrain,mu")] == ["retrain,muda"]
    assert "retrain,finetune:epochs=5" in [item.value for item in method.shell_complete(ctx, "retrain,finetune:ep")]
    later = [item.value for item in method.shell_complete(ctx, "finetune:epochs=2:sc")]
    assert later == ["finetune:epochs=2:schedule=cosine"]
    ctx.params["method"] = "finetune,retrain:seed=1"
    assert [item.value for item in option.shell_complete(ctx, "ep")] == ["epochs=5", "epochs=none"]
    assert [item.value for item in option.shell_complete(ctx, "finetune.ep")] == ["finetune.epochs=5"]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_the_script_is_one_the_shell_reads(shell: str, shell_environment: dict[str, str]) -> None:
    script = {"zsh": "autoload -U compinit; compinit -D; ", "fish": ""}[shell]
    load = {"zsh": 'eval "$(unlearn completion zsh)"', "fish": "unlearn completion fish | source"}[shell]
    run(shell, script + load, shell_environment)


def test_fish_completes_commands_and_methods(shell_environment: dict[str, str]) -> None:
    offered = [
        run("fish", f'unlearn completion fish | source; complete -C "unlearn {line}"', shell_environment)
        for line in ("ap", "apply --method m", "apply --method finetune -o e")
    ]
    assert [[line.split("\t")[0] for line in lines.splitlines()] for lines in offered] == [
        ["apply"],
        ["matching", "mini", "mixunlearn", "muda"],
        ["epochs=5"],
    ]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_script_asks_this_program(shell: str) -> None:
    script = invoke("completion", shell).output
    assert "_UNLEARN_COMPLETE" in script
    assert "unlearn" in script
    assert invoke("completion", "tcsh").exit_code == 2
