"""Preparation: all of a job is checked and loaded, and everything wrong is listed at once, before any work."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import patch_environment

from unlearn_hooks.errors import UnlearnError
from unlearn_hooks.ids import data_fingerprint
from unlearn_hooks.training_record import TrainingRecord
from unlearn_plugin.checkpoint import Checkpoint
from unlearn_plugin.data import DataSource, ImageData, load_data
from unlearn_plugin.earlier import Earlier, find_earlier
from unlearn_plugin.job import Job
from unlearn_plugin.manifest import ForgetManifest
from unlearn_plugin.metrics.base import Tier
from unlearn_plugin.out_of_sample import JudgeReferences, judge_references, sealed_ids
from unlearn_plugin.reading import MapDataset
from unlearn_plugin.registry import SEARCH, searchable, unlearners
from unlearn_plugin.splits import Need, SealedIds, Splits
from unlearn_plugin.unlearners.base import Unlearner

__all__ = ["Prepared", "load_model", "make_accelerator", "prepare", "prepare_alike"]

T = TypeVar("T")

_MOST_TRIALS = 1_000
FEWEST_SURROGATES = 5  # below, the spread between pseudo-requests is hardly known


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A job whose every part was loaded and found sound.

    The method is settled: no option is left to a preset. `trials` is the N of ``-o search=N``, 0 for no search.
    """

    job: Job
    method: Unlearner
    trials: int
    checkpoint: Checkpoint
    reference: Checkpoint | None
    manifest: ForgetManifest
    earlier: Earlier
    train: ImageData
    splits: Splits
    record: TrainingRecord | None
    references: JudgeReferences | None
    accelerator: Accelerator

    @property
    def tier(self) -> Tier:
        """Which tests are made: the most that can be, unless the job asks for less."""
        return self.job.tier or ("A" if self.references is None else "B")


class _Findings:
    """Gathers what is wrong, so that the user hears all of it at once."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def attempt(self, part: Callable[[], T]) -> T | None:
        """Run one check; keep its complaint and go on."""
        try:
            return part()
        except UnlearnError as error:
            self.found.extend(error.findings)
            return None

    def add(self, finding: str | None) -> None:
        if finding:
            self.found.append(finding)

    def complain(self) -> None:
        """Raise all that was found, if anything was."""
        if self.found:
            raise UnlearnError.of(self.found)


def prepare(job: Job, *, writing: bool = True, data: tuple[MapDataset, MapDataset] | None = None) -> Prepared:
    """Check the whole job and load its parts; nothing is written and no tensor is changed.

    Args:
        job: What the user asked for.
        writing: Whether `out` is to be written, and so must not exist yet.
        data: (train, held-out) in memory, instead of what the job names.

    Returns:
        The loaded parts.

    Raises:
        UnlearnError: With every finding at once.
    """
    findings = _Findings()
    findings.add(_check_out(Path(job.out)) if writing else None)
    findings.found += _check_numbers(job, has_data=bool(data or job.has_data))
    trials = findings.attempt(lambda: _read_trials(job))
    method = findings.attempt(lambda: _make_method(job))
    accelerator = findings.attempt(lambda: make_accelerator(job.device))
    checkpoint = findings.attempt(lambda: load_model(job, job.model))
    manifest = findings.attempt(lambda: ForgetManifest.read(Path(job.forget)))
    earlier = findings.attempt(lambda: find_earlier(job)) or Earlier({})
    record = findings.attempt(lambda: TrainingRecord.open(Path(str(job.record)))) if job.record else None
    reference = findings.attempt(lambda: load_model(job, str(job.reference))) if job.reference else None
    source = _source(job, data)
    read = findings.attempt(lambda: load_data(source, checkpoint)) if checkpoint and (data or job.has_data) else None
    sealed, references = _kept_for_judge(job, record, read[0] if read else None, earlier, findings)
    splits = None
    if read and manifest:
        make = partial(Splits.make, seed=job.seed, retain_fraction=job.retain_fraction, sealed=sealed)
        splits = findings.attempt(lambda: make(manifest, *read, earlier=tuple(earlier.manifests.values())))
        findings.add(_check_surrogates(job.surrogates, splits) if splits else None)
    findings.add(_check_needs(job, method) if method else None)
    findings.add(_check_reference(checkpoint, reference) if checkpoint and reference else None)
    findings.add(_check_record_of_model(record, checkpoint) if record and checkpoint else None)
    findings.complain()
    if not (method and accelerator and checkpoint and manifest and read and splits) or trials is None:
        raise RuntimeError("a part is missing without a finding")  # a bug of ours, not the user's mistake
    return Prepared(
        job=job,
        method=method.settled(splits.request, checkpoint.model),
        trials=trials,
        checkpoint=checkpoint,
        reference=reference,
        manifest=manifest,
        earlier=earlier,
        train=read[0],
        splits=splits,
        record=record,
        references=references,
        accelerator=accelerator,
    )


def prepare_alike(jobs: Sequence[Job], *, data: tuple[MapDataset, MapDataset] | None = None) -> list[Prepared]:
    """Check and load jobs that differ in nothing but method, options and `out`; what they share is loaded once.

    Args:
        jobs: At least one.
        data: (train, held-out) in memory, instead of what the jobs name.

    Returns:
        The loaded parts of each. Whether the outputs exist already is not looked at.

    Raises:
        UnlearnError: With every finding about every job at once.
    """
    findings = _Findings()
    first = findings.attempt(lambda: prepare(jobs[0], writing=False, data=data))
    methods = [findings.attempt(partial(_make_method, job)) for job in jobs[1:]]
    trials = [findings.attempt(partial(_read_trials, job)) for job in jobs[1:]]
    for job, method in zip(jobs[1:], methods, strict=True):
        findings.add(_check_needs(job, method) if method else None)
    if findings.found or first is None:
        raise UnlearnError.of(list(dict.fromkeys(findings.found)))
    made = [first]
    for job, method, count in zip(jobs[1:], methods, trials, strict=True):
        if method:
            settled = method.settled(first.splits.request, first.checkpoint.model)
            made.append(replace(first, job=job, method=settled, trials=count or 0))
    return made


def _make_method(job: Job) -> Unlearner:
    """The method with its own options; whether they are searched is not one of them."""
    own = {name: value for name, value in job.options.items() if name != SEARCH}
    method: Unlearner = unlearners().create(job.method, own)
    return method


def _read_trials(job: Job) -> int:
    """The N of ``-o search=N``; 0 for no search.

    Raises:
        UnlearnError: If N is no such number, or the method has nothing to search.
    """
    if SEARCH not in job.options:
        return 0
    text = job.options[SEARCH]
    if not text.isdecimal() or int(text) == 1 or int(text) > _MOST_TRIALS:
        raise UnlearnError(
            f"The option search={text!r} is not valid; it takes 2 to {_MOST_TRIALS} trials, or 0 for none."
        )
    if int(text) and job.method in unlearners().names() and not searchable(unlearners().get(job.method)):
        raise UnlearnError(f"The method {job.method!r} has no option to search; leave search out.")
    return int(text)


def _kept_for_judge(
    job: Job, record: TrainingRecord | None, train: ImageData | None, earlier: Earlier, findings: _Findings
) -> tuple[SealedIds | None, JudgeReferences | None]:
    """What the record keeps for the judge, once it is clear that it is a record of these data."""
    sealed = references = None
    if record and train:
        mismatch = _check_record_of_data(record, train, earlier)
        findings.add(mismatch)
        if mismatch is None:
            sealed = findings.attempt(lambda: sealed_ids(record, train))
            references = findings.attempt(lambda: judge_references(record, train, job.seed))
    if job.tier == "B" and references is None:
        findings.add(
            "--tier B needs a record with a sealed holdout and a pair of reference models for the judge; give such a "
            "--record, or leave --tier out."
        )
    return sealed, references


def load_model(job: Job, name: str) -> Checkpoint:
    """Load a model of a job's architecture.

    Args:
        job: What the user asked for.
        name: Its `model`, its `reference`, or an output folder.

    Returns:
        The checkpoint.

    Raises:
        UnlearnError: If it cannot be loaded.
    """
    return Checkpoint.load(
        name,
        arch=job.arch,
        num_classes=job.num_classes,
        in_chans=job.in_chans,
        input_size=job.input_size,
        crop_pct=job.crop_pct,
        mean=job.mean,
        std=job.std,
    )


def _source(job: Job, data: tuple[MapDataset, MapDataset] | None) -> DataSource:
    return DataSource(
        data_dir=job.data_dir,
        dataset=job.dataset,
        train_split=job.train_split,
        val_split=job.val_split,
        class_map=job.class_map,
        input_key=job.input_key,
        target_key=job.target_key,
        id_key=job.id_key,
        function=data or job.data,
    )


def make_accelerator(device: str | None) -> Accelerator:
    """Make the Accelerator for a device.

    Args:
        device: ``cpu``, ``cuda``, ``cuda:N``, ``mps``, or ``None`` for the best there is.

    Returns:
        An accelerator on that device; fp32.

    Raises:
        UnlearnError: If the device is unknown or not there, or this is one of several processes.
    """
    if (processes := os.environ.get("WORLD_SIZE", "1")) != "1":  # each would do everything, and write the same folder
        raise UnlearnError(
            f"This was started in {processes} processes (WORLD_SIZE) and runs in one; start it with --num_processes 1, "
            f"or without a launcher."
        )
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    kind = (device or "cpu").partition(":")[0]
    if not there.get(kind, False):
        usable = ", ".join(name for name, here in there.items() if here)
        raise UnlearnError(f"The device {device!r} is not available here; this machine has: {usable}.")
    AcceleratorState._reset_state(reset_partial_state=True)  # one process may run several jobs on different devices
    with patch_environment(**({"ACCELERATE_TORCH_DEVICE": device} if device and ":" in device else {})):
        return Accelerator(cpu=device == "cpu")


def _check_out(out: Path) -> str | None:
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        return f"The output folder {str(out)!r} exists already; choose a new name, or remove it first."
    if not out.absolute().parent.is_dir():
        return f"The folder {str(out.absolute().parent)!r}, which is to hold the output, does not exist; create it."
    return None


def _check_numbers(job: Job, *, has_data: bool) -> list[str]:
    findings = []
    if job.batch_size < 1:
        findings.append(f"--batch-size {job.batch_size} is too small; take 1 or more.")
    if not 0 <= job.seed < 2**32:
        findings.append(f"--seed {job.seed} is out of range; take 0 to {2**32 - 1}.")
    if not has_data:
        findings.append("There is no data: give --data-dir FOLDER, or --data package.module:function.")
    return findings


def _check_surrogates(count: int, splits: Splits) -> str | None:
    if count == 0:
        return None
    if count < FEWEST_SURROGATES:
        return (
            f"--surrogates {count} is too few to know how much they differ; take {FEWEST_SURROGATES} or more, or 0 for "
            f"none."
        )
    size = int(torch.cat([splits.forget.labels, splits.retain.labels]).max()) + 1
    wanted, there = (torch.bincount(part.labels, minlength=size) for part in (splits.forget, splits.retain))
    most = int((there[wanted > 0] // wanted[wanted > 0]).min())
    if splits.forgotten_classes or count > most:
        return (
            f"--surrogates {count} draws so many requests like this one from the retained data, no sample twice, and "
            f"they have room for {most}; take fewer, or 0 for none."
        )
    return None


def _check_needs(job: Job, method: Unlearner) -> str | None:
    if Need.RECORD in method.needs and not job.record:
        return (
            f"The method {job.method!r} needs the record of the training run; give --record FOLDER, "
            f"or take a method that needs none ({', '.join(_without_record())})."
        )
    return None


def _without_record() -> list[str]:
    family = unlearners()
    return [name for name in family.names() if Need.RECORD not in family.get(name).needs]


def _check_reference(checkpoint: Checkpoint, reference: Checkpoint) -> str | None:
    if reference.digest == checkpoint.digest:
        return (
            "The reference holds the same weights as the model; give a model that was retrained without "
            "the forget data, or leave --reference out."
        )
    if reference.num_classes != checkpoint.num_classes:
        return (
            f"The reference has {reference.num_classes} classes and the model {checkpoint.num_classes}; "
            f"give a reference of the same task."
        )
    return None


def _check_record_of_model(record: TrainingRecord, checkpoint: Checkpoint) -> str | None:
    recorded = {entry["name"]: tuple(entry["shape"]) for entry in record.manifest["parameters"]}
    present = {name: tuple(parameter.shape) for name, parameter in checkpoint.model.named_parameters()}
    if recorded == present:
        return None
    differing = sorted(name for name in recorded.keys() | present.keys() if recorded.get(name) != present.get(name))
    first = differing[0]
    return (
        f"The record is of another model: {len(differing)} parameters differ, the first is {first!r} "
        f"(record: {recorded.get(first, 'absent')}, model: {present.get(first, 'absent')}); "
        f"give the record of the run that trained this model."
    )


def _check_record_of_data(record: TrainingRecord, train: ImageData, earlier: Earlier) -> str | None:
    if record.data["n"] is None:
        return (
            "The record does not know which samples were trained on, since they came as a stream; leave --record out, "
            "or record the training with key= (hooks/README.md)."
        )
    if record.ids is not None and set(train.ids) < set(record.ids):
        missing = sorted(set(record.ids) - set(train.ids))
        if earlier.explains(missing):
            return None  # deleted as they should be; the labels of all data together cannot be checked any more
    if record.data["n"] != len(train.ids):
        return (
            f"The record is of other data: it was trained on {record.data['n']} samples, and the data given "
            f"have {len(train.ids)}; give the same training split."
        )
    if record.ids is not None and set(record.ids) != set(train.ids):
        strange = sorted(set(record.ids) - set(train.ids))
        return (
            f"The record is of other data: {len(strange)} of its sample ids are not in the data given, such as "
            f"{strange[0]!r} where the data have {train.ids[0]!r}; give the same --data-dir, split and --id-key."
        )
    fingerprint = record.data.get("fingerprint")
    position = {name: row for row, name in enumerate(train.ids)}
    order = [position[name] for name in record.ids] if record.ids is not None else list(range(len(train.ids)))
    if fingerprint and fingerprint != data_fingerprint(train.labels[torch.tensor(order)]):
        return "The record is of other data: the labels differ from those it was trained with; give the same data."
    return None
