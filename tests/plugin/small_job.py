"""The tiny world as a job: a weights file, data by a function, and the record; a run takes about a second."""

from collections.abc import Sequence
from pathlib import Path

from safetensors.torch import save_file

from tests.conftest import HELD_OUT, TRAINED, Net, Rows, World, digits
from unlearn_plugin.job import Job

INPUT = {"input_size": 8, "mean": (0.5,), "std": (0.5,)}


class Named(Rows):
    """The data of the tiny world as a data set that names its samples, and whose they are."""

    def __init__(self, first: int, last: int) -> None:
        images, labels = digits()
        super().__init__(images[first:last], labels[first:last])
        self.ids = [str(row) for row in range(last - first)]
        self.classes = [str(label) for label in range(10)]
        self.subjects = [f"person {row % 8}" for row in range(last - first)]


def data() -> tuple[Named, Named]:
    """Training and held-out data, as ``--data tests.plugin.small_job:data`` loads them."""
    return Named(0, TRAINED), Named(TRAINED, TRAINED + HELD_OUT)


def net() -> Net:
    """The architecture, as ``--arch tests.plugin.small_job:net`` builds it."""
    return Net()


def small_job(world: World, folder: Path, lines: Sequence[str], **changes: object) -> Job:
    """A sound job on the tiny world.

    Args:
        world: The fixture.
        folder: Where the weights file, the request and the output go.
        lines: Of the forget manifest, a text file.
        changes: Fields of the job that are to be others.

    Returns:
        The job.
    """
    weights, forget = folder / "net.safetensors", folder / "forget.txt"
    if not weights.exists():
        save_file(world.trained.state_dict(), weights)
    forget.write_text("\n".join(lines) + "\n")
    fields = {
        "model": str(weights), "arch": "tests.plugin.small_job:net", "data": "tests.plugin.small_job:data",
        "forget": str(forget), "record": str(world.record.folder), "method": "finetune", "options": {},
        "device": "cpu", "out": str(folder / "out"), **INPUT,
    }  # fmt: skip
    return Job(**{**fields, **changes})
