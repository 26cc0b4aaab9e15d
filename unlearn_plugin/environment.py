"""Environment: with which software and on what kind of machine a job ran."""

import hashlib
import json
import platform
import re
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from unlearn_plugin.evidence import write_whole

__all__ = ["ENVIRONMENT", "code_digests", "describe_environment", "write_environment", "written_by"]

ENVIRONMENT = "evidence/environment.json"


def write_environment(accelerator: Accelerator, folder: Path) -> None:
    """Write ``evidence/environment.json``.

    Args:
        accelerator: What the job ran on.
        folder: The output folder.
    """
    path = folder / ENVIRONMENT
    path.parent.mkdir(exist_ok=True)
    write_whole(path, (json.dumps(describe_environment(accelerator), indent=2, sort_keys=True) + "\n").encode())


def describe_environment(accelerator: Accelerator) -> dict[str, Any]:
    """Describe the software and the kind of machine; never whose machine it is.

    Args:
        accelerator: What the job ran on.

    Returns:
        Content of environment.json.
    """
    device = accelerator.device
    return {
        "schema": "urn:unlearn-plugin:environment:1",
        "python": platform.python_version(),
        "system": platform.system(),
        "machine": platform.machine(),
        "device": {
            "type": device.type,
            "name": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
            "cpu_capability": torch.backends.cpu.get_cpu_capability(),
            "cuda": torch.version.cuda,
            "threads": torch.get_num_threads(),
            "deterministic": torch.are_deterministic_algorithms_enabled(),
        },
        "packages": _packages(),
        "code": code_digests(),
    }


def code_digests() -> dict[str, str]:
    """Digests of the code that runs here.

    Returns:
        By package.
    """
    return {name: _code_digest(name) for name in ("unlearn_plugin", "unlearn_hooks")}


def written_by(folder: Path) -> dict[str, str] | None:
    """Read which code an output folder says that it was written by.

    Args:
        folder: The output folder.

    Returns:
        As `code_digests`; ``None`` if it does not say.
    """
    try:
        told = json.loads((folder / ENVIRONMENT).read_text(encoding="utf-8"))["code"]
        return {str(name): str(digest) for name, digest in told.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):  # the forms damage takes
        return None


def _packages() -> dict[str, str]:
    """Versions of what this package needs or, by an extra, can use; not of what tests and linters need."""
    found = {"unlearn-plugin": version("unlearn-plugin")}
    for line in requires("unlearn-plugin") or []:
        name = re.match(r"[\w.-]+", line)
        if name and not re.search(r"extra == ['\"](test|lint)", line):
            try:
                found[name[0]] = version(name[0])
            except PackageNotFoundError:  # an extra that is not installed
                continue
    return {**found, "torch": str(torch.__version__)}  # with the build, which the package's metadata leave out


def _code_digest(package: str) -> str:
    """SHA-256 over the path and the SHA-256 of every Python file of a package, in the order of the paths."""
    root = Path(str(files(package)))
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py"), key=lambda path: path.relative_to(root).as_posix()):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{content}  {path.relative_to(root).as_posix()}\n".encode())
    return digest.hexdigest()
