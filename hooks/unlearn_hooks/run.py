"""``python -m unlearn_hooks.run [--record DIR] train.py ARGS``: record a script without changing a line of it."""

import argparse
import gc
import runpy
import sys
import warnings
import weakref
from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from unlearn_hooks.capture import innermost_optimizer, watch_training_entry
from unlearn_hooks.errors import UnlearnError
from unlearn_hooks.feed import Arrival, Feed, Origin, Tag
from unlearn_hooks.ids import batch_labels, first_tensor
from unlearn_hooks.loader_tags import listening
from unlearn_hooks.plan import Plan
from unlearn_hooks.recorder import Recorder, record

__all__ = ["Launcher", "main"]

_UNKNOWN = "the model's input is no batch of the training loader"


class _Sample:
    """Some values of a tensor, spread over it: enough to recognise a batch."""

    def __init__(self, tensor: Tensor) -> None:
        self._shape = tensor.shape
        places = torch.linspace(0, max(tensor.numel() - 1, 0), 64).long()  # no random numbers: they are the training's
        self._values = tensor.detach()[torch.unravel_index(places, tensor.shape)].cpu()

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, _Sample) and self._shape == other._shape and bool((self._values == other._values).all())
        )

    __hash__ = None  # type: ignore[assignment]  # compared, never a key


@dataclass
class _Waiting:
    sample: _Sample | None
    labels: Tensor | None


class _Inlet:
    """Batches that one pass of a torch loader gave out and that have not entered the model yet."""

    def __init__(self, origin: Origin) -> None:
        self.origin = origin
        self._feed = Feed()
        self._waiting: deque[_Waiting] = deque()
        self._given = 0
        self._fresh = self._unsure = False

    def push(self, tag: Tag, batch: Any) -> None:  # noqa: ANN401  # whatever the user's loader gives
        self._feed.push(self.origin, tag, batch)
        images, labels = first_tensor(batch), batch_labels(batch)
        self._waiting.append(
            _Waiting(None if images is None else _Sample(images), None if labels is None else labels.clone())
        )
        self._given += 1
        self._fresh = True

    def find(self, sample: _Sample) -> int | None:
        """Find the batch that the model's input is, if nothing changed it on the way."""
        return next((place for place, waiting in enumerate(self._waiting) if waiting.sample == sample), None)

    def take(self, place: int, length: int | None) -> Arrival:
        """Take the batch at a place; those before it were left out by the loop."""
        for _ in range(place):
            self._feed.match(None, self._waiting.popleft().labels)
        self._fresh = False
        return self._feed.match(length, self._waiting.popleft().labels)

    def take_oldest(self, length: int | None) -> Arrival | None:
        """Take the oldest batch, as long as the model takes one for each that the loader gives.

        Only then is it sure how far the loop reads ahead of the model.

        Returns:
            The batch, or ``None`` if the model was called again for the same one.
        """
        if not self._waiting:
            return None
        loader = self.origin.loader()
        self._unsure |= not self._fresh and (loader is None or self._given < len(loader))
        arrival = self.take(0, length)
        return Arrival(None, None, _UNKNOWN) if self._unsure else arrival


class Launcher:
    """Finds the training in a script as it runs: the model, its optimizer, and the loader that feeds it.

    The model is the outermost module that runs in training mode and holds parameters of an optimizer; the loader is
    the one whose batch enters the model first. Evaluation, averaged copies and other loaders are left alone.

    Args:
        folder: Where to record.
        plan: What to record.
    """

    def __init__(self, folder: Path, plan: Plan = Plan()) -> None:  # noqa: B008  # frozen
        self._folder, self._plan = folder, plan
        self._inlets: dict[Origin, _Inlet] = {}
        self._loader: weakref.ref[Any] | None = None
        self._seen: weakref.WeakSet[nn.Module] = weakref.WeakSet()
        self._current: tuple[_Inlet | None, _Sample | None] = (None, None)
        self._recognised = False
        self._passes = 0
        self._search = ExitStack()
        self.recorder: Recorder | None = None

    def run(self, script: str) -> None:
        """Run a script as ``__main__``, and record its training.

        Args:
            script: Path of the script.

        Raises:
            UnlearnError: If the record cannot be written.
        """
        with ExitStack() as stack:
            stack.push(self._finish)
            stack.enter_context(listening(self.push))
            stack.enter_context(self._search)
            self._search.enter_context(watch_training_entry(self._entered))
            runpy.run_path(script, run_name="__main__")

    def push(self, origin: Origin, tag: Tag, batch: Any) -> None:  # noqa: ANN401  # whatever the user's loader gives
        """Take the tag of a batch that a torch loader just gave out."""
        chosen = None if self._loader is None else self._loader()
        if chosen is not None and origin.loader() is not chosen:
            return
        inlet = self._inlets.pop(origin, None) or _Inlet(origin)
        inlet.push(tag, batch)
        self._inlets[origin] = inlet  # the last one is the one that gave a batch last
        if chosen is not None and len(self._inlets) > 2:  # a pass, and perhaps an evaluation in the midst of it
            del self._inlets[next(iter(self._inlets))]

    def _entered(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        """Look whether a module that runs in training mode is the model."""
        if module in self._seen:  # a part of something that was looked at
            return
        optimizer = _optimizer_of(module)
        if optimizer is None:
            self._seen.update(child for child in module.modules() if child is not module)
            return
        self._search.close()
        self.recorder = record(self._folder, module, optimizer, plan=self._plan)
        self._search.enter_context(watch_training_entry(self._arrived, module))
        self._arrived(module, args)

    def _arrived(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        """Tell the recorder which batch enters the model."""
        if self.recorder is None:
            return
        images = first_tensor(args)
        sample = None if images is None else _Sample(images)
        inlet, arrival = self._match(sample, None if images is None else len(images))
        if arrival is None:
            return
        if inlet is not None and inlet is not self._current[0]:
            self.recorder.describe_data(inlet.origin.dataset)
            self.recorder.epoch(self._passes)
            self._loader = inlet.origin.loader
            self._passes += 1
        self._current = (inlet or self._current[0], sample)
        self.recorder.arrived(arrival)

    def _match(self, sample: _Sample | None, length: int | None) -> tuple[_Inlet | None, Arrival | None]:
        """Find the batch by its content, or, where it is changed before it enters the model, by its turn."""
        newest_first = list(reversed(self._inlets.values()))
        for inlet in newest_first:
            place = None if sample is None else inlet.find(sample)
            if place is not None:
                self._recognised = True
                return inlet, inlet.take(place, length)
        if sample is not None and sample == self._current[1]:
            return None, None  # the same batch once more
        if self._recognised or not newest_first:
            return None, Arrival(None, None, _UNKNOWN)
        return newest_first[0], newest_first[0].take_oldest(length)

    def _finish(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        left_well = kind is None or (isinstance(error, SystemExit) and error.code in (None, 0))
        if self.recorder is None:
            if left_well:
                warnings.warn("No training was seen, so nothing was recorded.", RuntimeWarning, stacklevel=2)
        elif left_well:
            self.recorder.close()
        else:
            self.recorder.abandon()


def _optimizer_of(module: nn.Module) -> Optimizer | None:
    """Find the optimizer that trains most of a module's parameters.

    All objects of the process are gone through, once: a hook on the optimizers would see the first step only after the
    forward pass that belongs to it.
    """
    own = {id(parameter) for parameter in module.parameters()}
    best, most = None, 0
    for thing in gc.get_objects() if own else ():
        if issubclass(type(thing), Optimizer):  # not isinstance: that would wake up lazy modules
            optimizer = innermost_optimizer(thing)
            shared = sum(id(p) in own for group in optimizer.param_groups for p in group["params"])
            best, most = (optimizer, shared) if shared > most else (best, most)
    return best


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        arguments: What follows ``python -m unlearn_hooks.run``; ``None`` takes it from the process.
    """
    parser = argparse.ArgumentParser(
        prog="python -m unlearn_hooks.run",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Record the training of a script that stays as it is: the weights come out the same.",
        epilog="example:\n  python -m unlearn_hooks.run --record runs/b/record train.py --epochs 90 --lr 0.1\n\n"
        "Afterwards: unlearn inspect runs/b/record. The record is personal data; keep it where the training data are.",
    )
    parser.add_argument("--record", type=Path, default=Path("record"), help="folder of the record (default: record)")
    parser.add_argument(
        "--plan",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="what to record, part by part: steps=24, budget=4GiB, samples=false (for mixup within the loop), ...",
    )
    parser.add_argument("script", help="the training script")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...", help="the script's own arguments")
    options = parser.parse_args(arguments)
    sys.argv = [options.script, *options.arguments]
    sys.path[0] = str(Path(options.script).resolve().parent)  # where python itself would look for the script's modules
    try:
        Launcher(options.record, Plan.parse(options.plan)).run(options.script)
    except UnlearnError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
