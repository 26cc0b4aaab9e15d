"""The program as a whole."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from tests.plugin.cli.invoke import invoke
from unlearn_plugin.cli import main

ROOT = Path(__file__).parents[3]


def python_m(*words: str, **more: str) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'hooks'}", **more}
    command = [sys.executable, "-m", "unlearn_plugin", *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)


def test_a_wrong_flag_is_a_usage_error_that_names_the_nearest() -> None:
    done = invoke("apply", "--modle", "x")
    assert done.exit_code == 2
    assert "--model" in done.output


def test_a_wrong_command_is_a_usage_error_that_names_the_nearest() -> None:
    done = invoke("aply")
    assert done.exit_code == 2
    assert "There is no command 'aply' (did you mean 'apply'?)" in done.output


def test_commands_are_listed_in_the_order_of_use() -> None:
    lines = invoke("--help").output.split("Commands:\n")[1].splitlines()
    names = [line.split()[0] for line in lines]
    assert names == [
        "demo", "apply", "compare", "verify", "audit", "sign", "keygen", "push", "inspect", "methods", "completion",
    ]  # fmt: skip


def processor_seconds() -> float:
    """Seconds that child processes have computed; a busy machine makes them wait, but not compute, longer."""
    times = os.times()
    return times.children_user + times.children_system


def test_python_m_is_the_same_program_and_answers_before_one_can_wait() -> None:
    before = processor_seconds()
    done = python_m("--help")
    assert done.returncode == 0
    assert "unlearn apply" in done.stdout
    assert processor_seconds() - before < 0.5  # 0.15 s here; loading torch alone takes more than one


def test_python_m_refuses_to_run_in_several_processes(tmp_path: Path) -> None:
    words = ("--model", "missing.pth", "--forget", "f.csv", "--method", "finetune", "--out", str(tmp_path / "out"))
    done = python_m("apply", *words, WORLD_SIZE="2", RANK="0")
    assert done.returncode == 1
    assert "was started in 2 processes" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_commands_of_the_readme_parse() -> None:
    blocks = "".join(re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)).replace("\\\n", " ")
    lines = [shlex.split(line.split(">")[0], comments=True) for line in blocks.splitlines()]
    commands = [words[words.index("apply") :] for words in lines if "apply" in words]
    assert len(commands) == 4
    for command in commands:
        main.commands["apply"].make_context("apply", command[1:]).close()
