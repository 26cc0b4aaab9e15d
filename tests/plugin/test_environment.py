"""The environment says which software ran, and nothing about whose machine it was."""

import getpass
import hashlib
import json
import os
import platform
import re
import socket
import stat
from pathlib import Path

import safetensors
import torch
from accelerate import Accelerator

import unlearn_hooks
from unlearn_plugin.environment import describe_environment, write_environment


def test_it_names_python_torch_and_every_package_that_is_needed() -> None:
    found = describe_environment(Accelerator(cpu=True))
    assert found["python"] == platform.python_version()
    assert found["packages"]["torch"] == torch.__version__
    assert found["packages"]["safetensors"] == safetensors.__version__
    assert {"timm", "safetensors", "numpy", "scikit-learn", "unlearn-plugin"} <= found["packages"].keys()
    assert not {"pytest", "ruff", "mypy"} & found["packages"].keys()


def test_it_says_on_what_kind_of_device_and_how_it_was_computed() -> None:
    device = describe_environment(Accelerator(cpu=True))["device"]
    assert (device["type"], device["name"]) == ("cpu", None)
    assert device["threads"] == torch.get_num_threads()
    assert device["deterministic"] is False
    torch.use_deterministic_algorithms(True)
    try:
        assert describe_environment(Accelerator(cpu=True))["device"]["deterministic"] is True
    finally:
        torch.use_deterministic_algorithms(False)


def test_the_digest_of_the_code_is_what_sha256sum_makes_of_it() -> None:
    root = Path(unlearn_hooks.__file__).parent
    names = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.py"))
    lines = [f"{hashlib.sha256((root / name).read_bytes()).hexdigest()}  {name}\n" for name in names]
    found = describe_environment(Accelerator(cpu=True))["code"]
    assert found["unlearn_hooks"] == hashlib.sha256("".join(lines).encode()).hexdigest()
    assert re.fullmatch("[0-9a-f]{64}", found["unlearn_plugin"])


def test_nothing_in_it_is_a_path_a_name_or_a_time(tmp_path: Path) -> None:
    write_environment(Accelerator(cpu=True), tmp_path)
    text = (tmp_path / "evidence" / "environment.json").read_text()
    assert str(Path.home()) not in text
    assert os.getcwd() not in text
    for name in (getpass.getuser(), socket.gethostname()):
        assert f'"{name}"' not in text
    assert not re.search(r"\d\d:\d\d", text)
    assert platform.release() not in text  # a kernel built for one company names it


def test_the_file_is_sorted_json_and_the_same_each_time(tmp_path: Path) -> None:
    path = tmp_path / "evidence" / "environment.json"
    write_environment(Accelerator(cpu=True), tmp_path)
    first = path.read_bytes()
    write_environment(Accelerator(cpu=True), tmp_path)
    assert path.read_bytes() == first
    assert first.decode() == json.dumps(json.loads(first), indent=2, sort_keys=True) + "\n"
    assert [entry.name for entry in path.parent.iterdir()] == ["environment.json"]
    assert stat.S_IMODE(path.stat().st_mode) & 0o400
