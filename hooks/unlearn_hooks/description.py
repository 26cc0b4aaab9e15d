"""What the JSON files of a record say: about the model, the optimizer, the data and the software."""

import platform
import uuid
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor, distributed, nn
from torch.optim import Optimizer

from unlearn_hooks.controls import SealedHoldout, read_holdout
from unlearn_hooks.errors import UnlearnError
from unlearn_hooks.feed import Arrival
from unlearn_hooks.ids import data_fingerprint, dataset_labels, first_tensor, root_count, root_keys
from unlearn_hooks.journal import write_json
from unlearn_hooks.plan import Plan
from unlearn_hooks.training_record import SCHEMA, RecordWriter, TrainingRecord

__all__ = ["DataDescription", "Names", "describe_model", "describe_recipe", "process_rank", "run_id"]

Names = Callable[[int], str] | Sequence[str]
"""Names of root rows: a function of the row, or a list of all of them."""


def run_id(folder: Path) -> str:
    """Return the id of the run that a folder holds, or a new one for a new folder."""
    if (folder / "manifest.json").exists():
        return str(TrainingRecord.open(folder).manifest["run_id"])
    return uuid.uuid4().hex


def process_rank() -> int:
    """Return the number of this process among those that train together; 0 where it trains alone."""
    return distributed.get_rank() if distributed.is_available() and distributed.is_initialized() else 0


def describe_model(
    model: nn.Module, head: tuple[str, nn.Module], trained: Mapping[str, nn.Parameter], plan: Plan
) -> dict[str, Any]:
    """Describe the model for manifest.json.

    Args:
        model: The model being trained.
        head: Name and module of its classifier head.
        trained: Its parameters that the optimizer trains.
        plan: What is recorded.

    Returns:
        world (number of processes), plan, parameters (name, shape, dtype, recorded), head, classes and versions.
    """
    parameters = [
        {
            "name": name,
            "shape": list(parameter.shape),
            "dtype": str(parameter.dtype).removeprefix("torch."),
            "recorded": plan.updates and name in trained and any(fnmatchcase(name, glob) for glob in plan.parameters),
        }
        for name, parameter in model.named_parameters()
    ]
    module = head[1]
    return {
        "world": distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1,
        "plan": plan.as_dict(),
        "parameters": parameters,
        "head": head[0],
        "classes": getattr(module, "out_features", None) or getattr(module, "out_channels", None),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
    }


def describe_recipe(
    optimizer: Optimizer, trained: Mapping[str, nn.Parameter], user: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Describe how the model is trained for recipe.json.

    Args:
        optimizer: The optimizer.
        trained: Its parameters, by name in the model.
        user: Whatever the user wants to be kept: augmentation, schedule, seeds.

    Returns:
        optimizer, groups with their settings and parameter names, the torch seed, and the user's own values.
    """
    names = {id(parameter): name for name, parameter in trained.items()}
    groups = [
        {"names": [names[id(p)] for p in group["params"] if id(p) in names]}
        | {name: _plain(value) for name, value in group.items() if name != "params"}
        for group in optimizer.param_groups
    ]
    return {
        "optimizer": type(optimizer).__name__,
        "groups": groups,
        "torch_seed": torch.initial_seed(),
        "user": {str(name): _plain(value) for name, value in (user or {}).items()},
    }


def _plain(value: Any) -> Any:  # noqa: ANN401  # a setting of any type
    """Make a value that JSON can hold."""
    if isinstance(value, Tensor):
        return value.tolist()
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


class DataDescription:
    """The training data: how many samples, which labels, which names.

    Args:
        dataset: The loader's data set, or ``None`` if there is no torch loader.
        key: Gives a stable name to a root row, or is the list of all names in the order of the root rows; ``None``
            takes `root_keys`. A list makes rows of a stream, whose batches then tell them by name.
        holdout: Rows that training is not to see.

    Raises:
        UnlearnError: If a name is listed twice, or there is not one for each row of the data set; or if the holdout
            was drawn from other data.
    """

    def __init__(
        self,
        dataset: Any,  # noqa: ANN401
        key: Names | None,
        holdout: SealedHoldout | None = None,
    ) -> None:
        self.dataset = dataset
        self.key = key
        self.holdout = holdout
        self._broken = False
        self._n: int | None = None
        self._row_of: dict[str, int] = {}
        self._labels: np.ndarray[Any, Any] | None = None
        self._complete = False
        with suppress(UnlearnError):  # a stream
            self._n = None if dataset is None else root_count(dataset)
        known = None if self._n is None else dataset_labels(dataset)
        if key is not None and not callable(key):
            self._take_names(key)
        if self._n is not None:
            if holdout is not None and holdout.n != self._n:
                raise UnlearnError(
                    f"The holdout was drawn from {holdout.n} samples, and the training data have {self._n} behind "
                    f"them; draw it from the data set that is trained on."
                )
            self._labels = np.full(self._n, -1) if known is None else known.numpy()
            self._complete = known is not None

    def _take_names(self, names: Sequence[str]) -> None:
        self._row_of = {str(name): row for row, name in enumerate(names)}
        if self._n not in (None, len(names)):
            raise UnlearnError(
                f"key= lists {len(names)} names, and the data set has {self._n} rows; list the names of all its rows."
            )
        if len(self._row_of) < len(names):
            twice = next(name for name, times in Counter(map(str, names)).items() if times > 1)
            raise UnlearnError(f"key= lists {twice!r} more than once; give every sample a name of its own.")
        self._n = len(names)

    def find_by_name(self, batch: Any, arrival: Arrival) -> Arrival:  # noqa: ANN401  # whatever the user's loader gives
        """Find the rows of a batch of a stream by the names that travel in it, such as ``__key__``.

        Args:
            batch: A mapping or tuple with a list of names, one a sample, among its parts.
            arrival: What is known without names.

        Returns:
            `arrival`, with the rows if its rows were unknown and every name is one that ``key=`` lists.
        """
        if arrival.rows is not None or not self._row_of:
            return arrival
        parts = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, (tuple, list)) else ()
        images = first_tensor(batch)
        for part in parts:
            if not isinstance(part, (tuple, list)) or images is None or len(part) != len(images):
                continue
            rows = [self._row_of.get(name) for name in part if isinstance(name, str)]
            if len(rows) == len(part) and None not in rows:
                return Arrival(torch.tensor(rows, dtype=torch.int64), arrival.labels, None)
        return arrival._replace(problem=f"{arrival.problem}, and the batch holds no names that key= lists")

    def saw(self, rows: Int64[Tensor, " n"], labels: Int64[Tensor, " n"] | None, out: RecordWriter) -> None:
        """Learn the labels of rows that are trained on, and say so, once, if some of them were to be held out.

        Args:
            rows: What arrived in the training loop.
            labels: Their classes, where the data set may not tell them without loading images.
            out: The record.
        """
        if labels is not None and self._labels is not None and not self._complete:
            self._labels[rows.numpy()] = labels.numpy()
        if self.holdout is None or self._broken or not bool(self.holdout.contains(rows).any()):
            return
        self._broken = True
        out.note("holdout_trained")
        warnings.warn(
            f"Training sees samples of the holdout, so the holdout of the record {out.folder} cannot serve as "
            f"control; train on the `train` part of holdout(...).",
            RuntimeWarning,
            stacklevel=2,
        )

    def seal(self, out: RecordWriter) -> None:
        """Write the holdout down before training begins; that of an earlier attempt stays.

        Args:
            out: The record.

        Raises:
            UnlearnError: If another holdout is sealed there.
            OSError: If the disk is full.
        """
        self.holdout = self.holdout or read_holdout(out.folder)
        if self.holdout is not None and out.rank == 0:
            self.holdout.write(out.folder)
            out.note("holdout", digest=self.holdout.digest)

    def write(self, folder: Path, *, ids: bool) -> None:
        """Write data.json, and ids.json where asked for.

        Args:
            folder: The record.
            ids: Write the name of each row, too.

        Raises:
            OSError: If the disk is full.
        """
        known = self._labels is not None and bool((self._labels >= 0).all())
        write_json(
            folder / "data.json",
            {
                "schema": SCHEMA,
                "n": self._n,
                "dataset": None if self.dataset is None else type(self.dataset).__name__,
                "id_kind": "key" if self.key else "sample_keys",
                "fingerprint": data_fingerprint(torch.from_numpy(self._labels)) if known else None,
            },
        )
        if ids and self._n is not None:
            write_json(folder / "ids.json", {"schema": SCHEMA, "ids": list(self._keys(self._n))})

    def _keys(self, n: int) -> Sequence[str]:
        if self._row_of:
            return list(self._row_of)
        return [str(self.key(row)) for row in range(n)] if callable(self.key) else root_keys(self.dataset)
