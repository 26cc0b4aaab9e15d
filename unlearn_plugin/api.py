"""The commands as Python functions, with the same words; here models and data may also be in memory."""

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from timm.models import save_for_hf
from torch import nn

from unlearn_hooks.errors import UnlearnError
from unlearn_plugin import comparison, hub, inspection, verification
from unlearn_plugin.evidence import private_folder
from unlearn_plugin.job import Job, settings
from unlearn_plugin.pipeline import Outcome, run
from unlearn_plugin.progress import Progress
from unlearn_plugin.reading import MapDataset
from unlearn_plugin.registry import unlearners
from unlearn_plugin.signing import PublicKey, Signer
from unlearn_plugin.values import as_text, nearest

__all__ = ["apply", "compare", "inspect", "methods", "push", "verify"]

Place = str | os.PathLike[str]
DataPair = tuple[MapDataset, MapDataset]


def apply(
    *,
    model: Place | nn.Module,
    forget: Place,
    method: str,
    out: Place,
    data: str | DataPair | None = None,
    options: Mapping[str, Any] | None = None,
    signer: Signer | None = None,
    progress: bool = True,
    **flags: Any,  # noqa: ANN401  # the other fields of Job
) -> Outcome:
    """Unlearn a forget manifest from a model, judge the result, and write weights and report; ``unlearn apply``.

    >>> import unlearn_plugin
    >>> outcome = unlearn_plugin.apply(
    ...     model="local-dir:model", data_dir="data", forget="forget.csv",
    ...     method="finetune", options={"epochs": 1}, out="cleaned")
    >>> outcome.verdict.released
    False

    Args:
        model: As ``--model``. Or a module: its weights are copied to OUT.private, and it is not changed; give `arch`,
            unless timm made it.
        forget: The forget manifest.
        method: One of `methods`.
        out: Folder to write; must not exist yet.
        data: As ``--data``. Or (train, held-out) data sets of (image tensor, label), with ``ids`` and ``classes`` if
            they have them; the job file cannot name these, so `verify` needs them again.
        options: Options of the method, by name.
        signer: Signs what is written, as ``--sign-key`` does: ``unlearn_plugin.signing.Signer.load("key.pem")``.
        progress: Show bars, on a terminal.
        flags: Any other flag of ``unlearn apply``, with underscores: ``record="record"``, ``seed=1``.

    Returns:
        The outcome; in a notebook it shows the verdict and the report.

    Raises:
        UnlearnError: If the job cannot be done, with every finding at once.
    """
    flags |= {"forget": forget, "method": method, "out": out}
    with _job(model, data, options, flags) as (job, pair):
        return run(job, progress=Progress(enabled=progress), signer=signer, data=pair)


def compare(
    *,
    model: Place | nn.Module,
    forget: Place,
    method: str | Sequence[str],
    out: Place,
    data: str | DataPair | None = None,
    options: Mapping[str, Any] | None = None,
    signer: Signer | None = None,
    progress: bool = True,
    **flags: Any,  # noqa: ANN401  # the other fields of Job
) -> comparison.Comparison:
    """Run the same job by several methods, and put what came of it side by side; ``unlearn compare``.

    As in::

        found = unlearn_plugin.compare(
            model="local-dir:model", data_dir="data", forget="forget.csv",
            method=["retrain", "finetune:epochs=1"], out="compared")
        found.content["rows"]

    Args:
        model: As for `apply`.
        forget: The forget manifest.
        method: Several of `methods`, each as ``name`` or ``name:option=value``; or all in one text, with commas.
        out: Folder to write; or one that an interrupted call wrote to.
        data: As for `apply`.
        options: Options of all methods that have them, by name; ``"mini.steps"`` for one method alone.
        signer: Signs what each method wrote.
        progress: Show bars, on a terminal.
        flags: Any other flag of ``unlearn apply``, with underscores.

    Returns:
        The comparison, with every method's report; in a notebook it shows the page.

    Raises:
        UnlearnError: If the job cannot be done, with every finding at once; or if every method failed.
    """
    names = method if isinstance(method, str) else ",".join(method)
    flags |= {"forget": forget, "method": names, "out": out}
    with _job(model, data, options, flags) as (job, pair):
        return comparison.compare(job, progress=Progress(enabled=progress), signer=signer, data=pair)


def verify(
    out: Place,
    *,
    reference: str | None = None,
    private: Place | None = None,
    key: Place | None = None,
    data: DataPair | None = None,
    progress: bool = True,
) -> verification.Verification:
    """Check an output folder, and measure again where the job is at hand; ``unlearn verify``.

    >>> import unlearn_plugin
    >>> unlearn_plugin.verify("cleaned").findings
    []

    Args:
        out: An output folder of `apply`.
        reference: A retrained model to measure against as well.
        private: Where OUT.private lies, if not beside `out`.
        key: Public key whose signature must be there.
        data: The data sets `apply` was given in memory.
        progress: Show bars, on a terminal.

    Returns:
        What was checked, skipped and found.

    Raises:
        UnlearnError: If `out` holds no readable report, or the job's parts cannot be loaded any more.
    """
    return verification.verify(
        Path(out),
        reference=reference,
        private=Path(private) if private else None,
        key=PublicKey.load(Path(key)) if key else None,
        progress=Progress(enabled=progress),
        data=data,
    )


def push(
    out: Place, repository: str, *, private: bool = False, revision: str | None = None, create_pr: bool = False
) -> hub.Pushed:
    """Publish an output folder on the Hub and note it in OUT.private; ``unlearn push`` without purging.

    Args:
        out: An output folder of `apply` whose verdict allows release.
        repository: ``owner/name``.
        private: Make the repository private, or insist that it is.
        revision: Push to this branch.
        create_pr: Open a pull request on main instead.

    Returns:
        Where the files are.

    Raises:
        UnlearnError: If the folder may not be published, or the Hub does not take it.
    """
    folder = Path(out)
    pushed = hub.push(folder, repository, private=private, revision=revision, create_pr=create_pr)
    hub.note(private_folder(folder), pushed)
    return pushed


def inspect(path: Place, *, arch: str | None = None) -> dict[str, Any]:
    """Say what a checkpoint, record, manifest or output folder is, and whether it is sound; ``unlearn inspect``.

    >>> import unlearn_plugin
    >>> unlearn_plugin.inspect("forget.csv")["entries"]
    100

    Args:
        path: What to look at.
        arch: Architecture, if it is a weights file.

    Returns:
        JSON values by name, the first being ``kind``.

    Raises:
        UnlearnError: If it is none of these, or damaged.
    """
    return inspection.describe(os.fspath(path), arch=arch)


def methods() -> dict[str, dict[str, Any]]:
    """Say what unlearners there are, what each needs, and its options; ``unlearn methods``.

    >>> import unlearn_plugin
    >>> unlearn_plugin.methods()["retrain"]["exact"]
    True

    Returns:
        ``summary``, ``needs``, ``exact``, ``source`` and ``options`` of each, by name.
    """
    family = unlearners()
    return {name: family.facts(name) for name in family.names()}


@contextmanager
def _job(
    model: Place | nn.Module,
    data: str | DataPair | None,
    options: Mapping[str, Any] | None,
    flags: dict[str, Any],
) -> Iterator[tuple[Job, DataPair | None]]:
    """Make the job; what had to be written for it goes again if it fails.

    Yields:
        The job, and the data that it cannot name.
    """
    known = settings()
    if unknown := [name for name in flags if name not in known]:
        raise UnlearnError.of([f"There is no flag {name!r}{nearest(name, known)}." for name in unknown])
    pair = None if data is None or isinstance(data, str) else data
    flags = {**flags, "data": None if pair else data}
    flags = {name: os.fspath(value) if isinstance(value, os.PathLike) else value for name, value in flags.items()}
    flags |= {name: tuple(flags[name]) for name in ("mean", "std") if flags.get(name) is not None}
    earlier = flags.get("earlier", ())
    flags["earlier"] = tuple(os.fspath(one) for one in ([earlier] if isinstance(earlier, str) else earlier))
    flags["options"] = {name: as_text(value) for name, value in (options or {}).items()}
    if not isinstance(model, nn.Module):
        yield Job(model=os.fspath(model), **flags), pair
        return
    kept = private_folder(Path(flags["out"])) / "model"
    earlier = kept.exists()  # of a call that went well, or of a comparison that goes on
    try:
        name = _keep(model, kept, flags.get("arch"))
        if name.startswith("local-dir:"):
            flags.pop("arch", None)  # the folder says it
        yield Job(model=name, **flags), pair
    except BaseException:
        if not earlier and not Path(flags["out"]).exists():
            shutil.rmtree(kept, ignore_errors=True)
            _remove_empty(kept.parent)
        raise


def _keep(model: nn.Module, folder: Path, arch: str | None) -> str:
    """Write a model in memory where a job can name it; a name as ``--model`` takes it."""
    config = getattr(model, "pretrained_cfg", None)
    if arch is None and not config:
        raise UnlearnError(
            "The model in memory does not say of which architecture it is; give arch='package.module:function' "
            "that builds it, or timm's name."
        )
    folder.parent.mkdir(mode=0o700, exist_ok=True)
    if arch is None:
        save_for_hf(model, folder, safe_serialization=True)
        return f"local-dir:{folder}"
    folder.mkdir(exist_ok=True)
    # clones: safetensors writes no two names that share memory
    state = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in model.state_dict().items()}
    save_file(state, folder / "model.safetensors")
    return str(folder / "model.safetensors")


def _remove_empty(folder: Path) -> None:
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
