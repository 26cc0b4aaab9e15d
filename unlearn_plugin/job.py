"""Job: what the user asked for. The one place that names the flags; the command line and job.yaml are made from it."""

import dataclasses
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Annotated, Any, Literal

__all__ = ["Flag", "Group", "Job", "Setting", "Shape", "settings"]


class Group(Enum):
    """Under which heading a flag stands in the help; in that order."""

    MODEL = "model"
    DATA = "data"
    REQUEST = "request"
    METHOD = "method"
    JUDGE = "judge"
    OUTPUT = "output"


@dataclass(frozen=True)
class Flag:
    """What a field of `Job` means.

    Attributes:
        group: Its heading in the help.
        metavar: What its value is called.
        help: One sentence or two.
        path: The value is a path, or may be one; in a file, it is relative to the folder of that file.
        or_name: It is a path only where there is one; else it is the name of a model.
        public: The value may be published. Nothing may, unless it says so here.
    """

    group: Group
    metavar: str
    help: str
    path: bool = False
    or_name: bool = False
    public: bool = False


class Shape(Enum):
    """How many values a field of `Job` takes."""

    ONE = "one"
    LIST = "list"
    MAPPING = "mapping"


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A field of `Job` as the command line and the job file see it.

    Attributes:
        name: Of the field.
        kind: Type of a value: ``str``, ``int``, ``float``, ``bool`` or a ``Literal``.
        shape: How many of them.
        default: What holds when nothing is given.
        required: Whether something must be given.
        optional: Whether it may be ``None``.
        flag: What it means.
    """

    name: str
    kind: Any
    shape: Shape
    default: Any
    required: bool
    optional: bool
    flag: Flag

    @property
    def spelling(self) -> str:
        """How it is written on the command line: ``--data-dir`` for ``data_dir``."""
        return "-o" if self.shape is Shape.MAPPING else f"--{self.name.replace('_', '-')}"


@dataclass(frozen=True, kw_only=True)
class Job:
    """One unlearning request.

    Every field is a flag of ``unlearn apply`` (``data_dir`` is ``--data-dir``, ``options`` is ``-o``), a key of
    job.yaml and an argument of `unlearn_plugin.apply`; its meaning stands beside it.
    """

    model: Annotated[
        str,
        Flag(
            Group.MODEL,
            "MODEL",
            "timm name, hf-hub:ORG/NAME, local-dir:FOLDER, or a weights file.",
            path=True,
            or_name=True,
        ),
    ]
    arch: Annotated[
        str | None,
        Flag(Group.MODEL, "ARCH", "Architecture of a weights file: a timm name, or package.module:function."),
    ] = None
    num_classes: Annotated[
        int | None, Flag(Group.MODEL, "N", "Size of the head, where it cannot be read off the weights.", public=True)
    ] = None
    in_chans: Annotated[
        int | None, Flag(Group.MODEL, "N", "Image channels, where they cannot be read off the weights.", public=True)
    ] = None
    input_size: Annotated[int | None, Flag(Group.MODEL, "PIXELS", "Side of the square input.", public=True)] = None
    crop_pct: Annotated[
        float | None,
        Flag(Group.MODEL, "SHARE", "Share of the resized image that the centre crop keeps.", public=True),
    ] = None
    mean: Annotated[
        tuple[float, ...] | None,
        Flag(Group.MODEL, "M", "Mean to normalise with; once, or once per channel.", public=True),
    ] = None
    std: Annotated[
        tuple[float, ...] | None,
        Flag(Group.MODEL, "S", "Standard deviation to normalise with; likewise.", public=True),
    ] = None
    data_dir: Annotated[
        str | None,
        Flag(
            Group.DATA,
            "DIR",
            "Folder with train/ and validation/ of class folders, or the root of --dataset.",
            path=True,
        ),
    ] = None
    dataset: Annotated[
        str,
        Flag(
            Group.DATA,
            "KIND",
            "hfds/NAME or hfds (Hugging Face), wds (shards), csv, tsv or jsonl (tables of paths and labels), or a timm "
            "reader name such as torch/cifar10; leave out for class folders.",
        ),
    ] = ""
    train_split: Annotated[str, Flag(Group.DATA, "NAME", "Split the model was trained on.")] = "train"
    val_split: Annotated[str, Flag(Group.DATA, "NAME", "Split it was never trained on.")] = "validation"
    class_map: Annotated[str | None, Flag(Group.DATA, "FILE", "File that maps class names to indices.", path=True)] = (
        None
    )
    input_key: Annotated[
        str | None, Flag(Group.DATA, "COLUMN", "Column, or extension in a shard, of the image; found if it can be.")
    ] = None
    target_key: Annotated[
        str | None, Flag(Group.DATA, "COLUMN", "Column, or field of a shard's JSON, of the label; likewise.")
    ] = None
    id_key: Annotated[str | None, Flag(Group.DATA, "COLUMN", "Column that names the sample; `row` for its number.")] = (
        None
    )
    data: Annotated[
        str | None,
        Flag(Group.DATA, "PKG.MOD:FUNC", "Function returning (train, held-out) data sets, instead of --data-dir."),
    ] = None
    forget: Annotated[
        str,
        Flag(Group.REQUEST, "FILE", "Forget manifest: CSV, JSONL or text of sample ids or class=NAME.", path=True),
    ]
    earlier: Annotated[
        tuple[str, ...],
        Flag(
            Group.REQUEST,
            "FILE",
            "Manifest of a request that the model was cleaned of before; repeatable. Found by itself where --model is "
            "an output folder with its private folder beside it.",
            path=True,
        ),
    ] = ()
    method: Annotated[str, Flag(Group.METHOD, "NAME", "The unlearner; see `unlearn methods`.", public=True)]
    options: Annotated[
        Mapping[str, str],
        Flag(Group.METHOD, "KEY=VALUE", "Option of the method, repeatable; see `unlearn methods NAME`.", public=True),
    ] = field(default_factory=dict)
    record: Annotated[str | None, Flag(Group.METHOD, "DIR", "What the training hook recorded.", path=True)] = None
    retain_fraction: Annotated[
        float, Flag(Group.METHOD, "SHARE", "Share of the retained data the method may use.", public=True)
    ] = 1.0
    seed: Annotated[int, Flag(Group.METHOD, "N", "Randomness of the method and of the judge.", public=True)] = 0
    device: Annotated[
        str | None,
        Flag(Group.METHOD, "DEVICE", "cpu, cuda, cuda:1 or mps; the best there is when left out.", public=True),
    ] = None
    reference: Annotated[
        str | None,
        Flag(
            Group.JUDGE,
            "MODEL",
            "Model retrained without the forget data; the judge alone sees it.",
            path=True,
            or_name=True,
        ),
    ] = None
    tier: Annotated[
        Literal["A", "B"] | None,
        Flag(
            Group.JUDGE,
            "A|B",
            "Tests to make: A needs the model alone, B a record with a holdout and references; the most there is when "
            "left out.",
            public=True,
        ),
    ] = None
    surrogates: Annotated[
        int,
        Flag(
            Group.JUDGE,
            "N",
            "Pseudo-requests like this one that the procedure is run on as well; 0 for none.",
            public=True,
        ),
    ] = 0
    batch_size: Annotated[int, Flag(Group.JUDGE, "N", "Samples per forward pass of the judge.", public=True)] = 256
    out: Annotated[
        str, Flag(Group.OUTPUT, "OUT", "Folder to write: weights, report.json, report.html, model card.", path=True)
    ]

    def as_dict(self) -> dict[str, Any]:
        """The job as plain JSON values; it holds paths, so it is kept in private."""
        return dataclasses.asdict(self)

    @property
    def has_data(self) -> bool:
        """Whether it is said where the data are."""
        return bool(self.data_dir or self.data or self.dataset.lower().startswith(("hfds/", "hfids/")))


def settings() -> dict[str, Setting]:
    """The fields of `Job`, in the order of their groups.

    Returns:
        What each is, by name.
    """
    hints = typing.get_type_hints(Job, include_extras=True)
    found = [_setting(entry, *typing.get_args(hints[entry.name])) for entry in dataclasses.fields(Job)]
    order = list(Group)
    return {setting.name: setting for setting in sorted(found, key=lambda setting: order.index(setting.flag.group))}


def _setting(entry: "dataclasses.Field[Any]", hint: Any, flag: Flag) -> Setting:  # noqa: ANN401  # any annotation
    optional = type(None) in typing.get_args(hint)
    kind = next(one for one in typing.get_args(hint) if one is not type(None)) if optional else hint
    origin = typing.get_origin(kind)
    shape = {tuple: Shape.LIST, Mapping: Shape.MAPPING}.get(origin, Shape.ONE)
    plain = {Shape.ONE: kind, Shape.LIST: typing.get_args(kind)[:1], Shape.MAPPING: str}[shape]
    required = entry.default is dataclasses.MISSING and entry.default_factory is dataclasses.MISSING
    return Setting(
        name=entry.name,
        kind=plain[0] if shape is Shape.LIST else plain,
        shape=shape,
        default=None if required or shape is Shape.MAPPING else entry.default,
        required=required,
        optional=optional,
        flag=flag,
    )
