"""The command ``unlearn``. Heavy imports happen inside the commands, so that ``--help`` answers at once."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from unlearn_plugin.job import Job

__all__ = ["main"]

F = TypeVar("F", bound=Callable[..., Any])
REFUSED = 3  # exit code: done, but the verdict refuses release
_COLOURS = {
    "NO_RESIDUAL_DETECTED": "green",
    "EXACT_BY_PROCESS": "green",
    "INCONCLUSIVE": "yellow",
    "LOW_SIDE": "yellow",
}


class _Commands(click.Group):
    """Turns an UnlearnError into its message and exit code 1; bugs keep their traceback."""

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401  # as in click
        from unlearn_hooks.errors import UnlearnError

        try:
            return super().invoke(ctx)
        except UnlearnError as error:
            raise click.ClickException(str(error)) from error

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)  # in the order of use, not of the alphabet


def _flags(*flags: Callable[[F], F]) -> Callable[[F], F]:
    def decorate(command: F) -> F:
        for flag in reversed(flags):
            command = flag(command)
        return command

    return decorate


def _flag(name: str, metavar: str, text: str, **more: Any) -> Callable[[F], F]:  # noqa: ANN401  # click's own options
    return click.option(*name.split("/"), metavar=metavar, help=text, **more)


_model_flags = _flags(
    _flag("--model", "MODEL", "timm name, hf-hub:ORG/NAME, local-dir:FOLDER, or a weights file.", required=True),
    _flag("--arch", "ARCH", "Architecture of a weights file: a timm name, or package.module:function."),
    _flag("--num-classes", "N", "Size of the head, where it cannot be read off the weights.", type=int),
    _flag("--in-chans", "N", "Image channels, where they cannot be read off the weights.", type=int),
    _flag("--input-size", "PIXELS", "Side of the square input.", type=int),
    _flag("--crop-pct", "SHARE", "Share of the resized image that the centre crop keeps.", type=float),
    _flag("--mean", "M", "Mean to normalise with; once, or once per channel.", type=float, multiple=True),
    _flag("--std", "S", "Standard deviation to normalise with; likewise.", type=float, multiple=True),
)
_data_flags = _flags(
    _flag("--data-dir", "DIR", "Folder with train/ and validation/ of class folders, or the root of --dataset."),
    _flag("--dataset", "NAME", "timm reader name, such as torch/cifar10; leave out for class folders.", default=""),
    _flag("--train-split", "NAME", "Split the model was trained on.", default="train", show_default=True),
    _flag("--val-split", "NAME", "Split it was never trained on.", default="validation", show_default=True),
    _flag("--class-map", "FILE", "File that maps class names to indices."),
    _flag("--data", "PKG.MOD:FUNC", "Function returning (train, held-out) data sets, instead of --data-dir."),
)
_job_flags = _flags(
    _flag("--forget", "FILE", "Forget manifest: CSV, JSONL or text of sample ids or class=NAME.", required=True),
    _flag("--record", "DIR", "What the training hook recorded."),
    _flag("-o/--option/options", "KEY=VALUE", "Option of the method; see `unlearn methods NAME`.", multiple=True),
    _flag("--reference", "MODEL", "Model retrained without the forget data; the judge alone sees it."),
    _flag(
        "--retain-fraction", "SHARE", "Retained data the method may use.", type=float, default=1.0, show_default=True
    ),
    _flag("--seed", "N", "Randomness of the method and of the judge.", type=int, default=0, show_default=True),
    _flag("--batch-size", "N", "Samples per forward pass of the judge.", type=int, default=256, show_default=True),
    _flag("--device", "DEVICE", "cpu, cuda, cuda:1 or mps; the best there is when left out."),
)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="unlearn-plugin")
def main() -> None:
    """Take someone's data out of a trained image classifier, and show what came of it.

    \b
    Start with        unlearn demo demo-out
    Then, your own    unlearn apply --model local-dir:MODEL --data-dir DATA --forget forget.csv \\
                          --record RECORD --method mini --out cleaned

    Exit codes: 0 done; 1 something to mend, said in one sentence; 2 wrong usage; 3 done, but the verdict
    refuses release.
    """  # noqa: D301  # click knows \b as a character


@main.command(short_help="Train, record, forget and verify on real handwritten digits.")
@click.argument("out", type=click.Path(path_type=Path))
def demo(out: Path) -> None:
    """Train, record, forget and verify on real handwritten digits; everything is written to OUT.

    Takes under two minutes on two cores, needs no network, and prints the commands it is equivalent to.
    """
    from unlearn_plugin.demo import play

    outcomes = list(play(out, click.echo))
    click.echo("\n" + comparison([outcome.report for outcome in outcomes]))
    for outcome in outcomes:
        click.echo(f"{outcome.report['procedure']['method']:>8}  {outcome.folder / 'report.html'}")


@main.command(short_help="Unlearn a forget manifest from a model, and judge the result.")
@_model_flags
@_data_flags
@_job_flags
@click.option("--method", required=True, metavar="NAME", help="Which unlearner; see `unlearn methods`.")
@click.option(
    "--out",
    required=True,
    metavar="OUT",
    help="Folder to write: weights, report.json, report.html, model card.",
)
@click.option("--dry-run", is_flag=True, help="Check the whole job and say what would be done; write nothing.")
def apply(dry_run: bool, **flags: Any) -> None:  # noqa: ANN401  # every flag is a field of Job
    """Unlearn a forget manifest from a model, judge the result, and write weights and report to OUT.

    \b
    unlearn apply --model local-dir:model --data-dir data --forget forget.csv \\
        --record record --method mini --out cleaned
    unlearn apply --model net.pth --arch resnet18 --dataset torch/cifar10 --data-dir cifar \\
        --forget ids.txt --method finetune -o epochs=5 --out cleaned

    Everything is checked first, and all that is wrong is listed at once. Published files hold counts and
    digests, never sample ids; OUT.private, which must stay with you, holds the paths that repeat the job.
    """  # noqa: D301  # click knows \b as a character
    from unlearn_plugin.job import prepare
    from unlearn_plugin.pipeline import run

    job = _job(flags)
    if dry_run:
        click.echo(plan_of(prepare(job)))
        return
    outcome = run(job)
    overall = outcome.report["overall"]
    click.echo(comparison([outcome.report]))
    click.secho(overall["status"], fg=_COLOURS.get(overall["status"], "red"), bold=True)
    click.echo(overall["statement"])
    for reason in overall["reasons"]:
        click.echo(f"  - {reason}")
    click.echo(f"\nreport: {outcome.folder / 'report.html'}")
    if not outcome.verdict.released:
        raise click.exceptions.Exit(REFUSED)


@main.command(short_help="Does an output folder tell the truth? Measure again.")
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--reference", metavar="MODEL", help="Measure against this retrained model as well.")
@click.option(
    "--private",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Where OUT.private lies, if not beside OUT.",
)
def verify(out: Path, reference: str | None, private: Path | None) -> None:
    """Check an output folder: digests, weights, the verdict; and, with OUT.private beside it, measure again.

    Every changed byte and every number that does not follow from the files is named, with exit code 1.
    """
    from unlearn_hooks.errors import UnlearnError
    from unlearn_plugin.verification import verify as verify_folder

    found = verify_folder(out, reference=reference, private=private)
    for line in found.checked:
        click.echo(f"ok  {line}")
    for line in found.skipped:
        click.echo(f"--  {line}")
    if found.measured:
        click.echo("\n" + comparison([found.measured]))
    if found.findings:
        raise UnlearnError(*found.findings)


@main.command(short_help="Publish an output folder on the Hub; purge the weights before it.")
@click.argument("out", type=click.Path(path_type=Path))
@click.argument("repository", metavar="OWNER/NAME")
@click.option("--private", is_flag=True, help="Make the repository private, or insist that it is.")
@_flag("--revision", "BRANCH", "Push to this branch, made from main if it is not there.")
@click.option("--create-pr", is_flag=True, help="Open a pull request on main instead.")
@click.option("--purge-history", is_flag=True, help="Plan what must go for the earlier weights to be gone.")
@_flag("--confirm", "OWNER/NAME", "Push and do what the plan says, without asking; for scripts.")
def push(out: Path, repository: str, purge_history: bool, confirm: str | None, **how: Any) -> None:  # noqa: ANN401
    """Publish the output folder OUT on the Hub: weights, card, report and evidence, in one commit or not at all.

    \b
    unlearn push cleaned clinic/classifier --private
    unlearn push cleaned clinic/classifier --purge-history        shows the plan, and asks before it does it

    Digests are checked first, and a verdict that refuses release is not published. The token is the one of
    HF_TOKEN or `hf auth login`. OUT.private/hub.json keeps account of what was done.
    """  # noqa: D301  # click knows \b as a character
    from unlearn_plugin import hub
    from unlearn_plugin.evidence import private_folder

    if purge_history and (how["revision"] or how["create_pr"]):
        raise click.UsageError("--purge-history is about main; leave --revision and --create-pr out.")
    if confirm is not None and not purge_history:
        raise click.UsageError("--confirm goes with --purge-history; nothing else has to be confirmed.")
    plan = hub.plan(out, repository) if purge_history else None
    if plan is not None:
        click.echo(purge_of(plan))
        if not plan.steps or not _confirmed(repository, confirm):
            return
    pushed = hub.push(out, repository, purge=plan, **how)
    hub.note(private_folder(out), pushed)
    click.echo(f"pushed       {pushed.url}")
    if plan is not None:
        purged = hub.purge(out, plan)
        hub.note(private_folder(out), purged)
        _tell_purge(purged)


@main.command(short_help="What is this checkpoint, record, manifest or output folder?")
@click.argument("path")
@click.option("--arch", metavar="ARCH", help="Architecture, if PATH is a weights file.")
def inspect(path: str, arch: str | None) -> None:
    """Say what PATH is: a checkpoint, a record, a manifest or an output folder; and whether it is sound."""
    from unlearn_plugin.inspection import describe

    for name, value in describe(path, arch=arch):
        click.echo(f"{name:<22}{value}")


@main.command(short_help="What unlearners there are, what each needs, and its options.")
@click.argument("name", required=False)
def methods(name: str | None) -> None:
    """List the unlearners; with NAME, what it needs, its options with their defaults, and its source."""
    from unlearn_plugin.registry import unlearners

    family = unlearners()
    if name:
        click.echo(family.describe(name))
        return
    for known in family.names():
        click.echo(f"{known:<14}{family.get(known).summary}")


def _job(flags: dict[str, Any]) -> "Job":
    from unlearn_hooks.errors import UnlearnError
    from unlearn_plugin.job import Job

    options = {}
    for option in flags.pop("options"):
        key, equals, value = option.partition("=")
        if not equals or not key:
            raise UnlearnError(f"The option -o {option!r} is not of the form KEY=VALUE, such as -o epochs=5.")
        options[key] = value
    for name in ("mean", "std"):
        flags[name] = flags[name] or None
    return Job(options=options, **flags)


def plan_of(prepared: Any) -> str:  # noqa: ANN401  # Prepared; importing it here would load torch
    """What a checked job would do, in lines."""
    from dataclasses import asdict

    job, splits, checkpoint = prepared.job, prepared.splits, prepared.checkpoint
    settings = ", ".join(f"{key}={value}" for key, value in asdict(prepared.method).items())
    lines = [
        f"model      {checkpoint.architecture}, {checkpoint.num_classes} classes, from {checkpoint.source}",
        f"data       {len(prepared.train.ids)} for training; held out: {len(splits.tuning)} + {len(splits.verdict)}",
        f"forget     {len(splits.forget)} samples; {len(splits.retain)} retained ones may be used",
        f"method     {job.method}: {settings or 'no options'}",
        f"device     {prepared.accelerator.device}",
        f"out        {job.out}",
        "Nothing is wrong; nothing was written (--dry-run).",
    ]
    return "\n".join(lines)


def _confirmed(repository: str, typed: str | None) -> bool:
    from unlearn_hooks.errors import UnlearnError

    if typed is None and sys.stdin.isatty():
        typed = click.prompt(f"This cannot be taken back. Type {repository} to go on", default="", show_default=False)
    if not typed:
        click.echo(f"Nothing was changed. To do it: --purge-history --confirm {repository}")
        return False
    if typed != repository:
        raise UnlearnError(f"{typed!r} is not {repository!r}; nothing was changed.")
    return True


def purge_of(plan: Any) -> str:  # noqa: ANN401  # Purge; named here only
    """What a planned purge would do, in lines."""
    lines = [
        f"{plan.repository}, main at {plan.head}",
        *(f"{number:>3}. {step.text}" for number, step in enumerate(plan.steps, start=1)),
        *([] if plan.steps else ["Nothing of the past is left within reach."]),
        *(f"stays        {name}" for name in plan.left),
        *(f"unreachable  {line}" for line in plan.unreachable),
    ]
    if plan.public and plan.steps:
        lines.append("Anyone can download the earlier weights until then: make the repository private first.")
    return "\n".join(lines)


def _tell_purge(purged: Any) -> None:  # noqa: ANN401  # Purged; named here only
    from unlearn_hooks.errors import UnlearnError

    for title, lines in (("done", purged.done), ("remains", purged.remaining), ("unreachable", purged.unreachable)):
        for line in lines:
            click.echo(f"{title:<13}{line}")
    click.echo(f"The erasure is {purged.erasure}. The Hub may take days; look again with --purge-history.")
    if purged.failed:
        raise UnlearnError(f"{purged.failed} The same command goes on from there.")


def comparison(reports: list[Mapping[str, Any]]) -> str:
    """A table of models (before, each result, the reference) against the main measurements.

    Args:
        reports: Contents of one or more report.json about the same request; the first gives the model before.

    Returns:
        The table as text; a dash is "not measured".
    """
    titles = ("retain acc", "forget acc", "unseen acc", "member AUC")
    head = " " * 12 + "".join(f"{title:>12}" for title in titles) + f"{'95 % interval':>18}{'seconds':>9}  verdict"
    rows = [head, _row("before", reports[0], "before", "", "")]
    for report in reports:
        procedure = report["procedure"]
        rows.append(
            _row(
                procedure["method"],
                report,
                "after",
                f"{procedure['seconds']:.1f}",
                report["overall"]["status"],
            )
        )
    if reports[-1]["model"]["reference"]:
        rows.append(_row("reference", reports[-1], "reference", "", ""))
    return "\n".join(rows) + "\n"


def _row(label: str, report: Mapping[str, Any], who: str, seconds: str, status: str) -> str:
    utility = (report["measurements"]["utility"][who] or {}).get("details", {})
    membership = report["measurements"]["membership"][who] or {}
    cells = [_number((utility.get(split) or {}).get("value")) for split in ("retain", "forget", "controls")]
    interval = "–"
    if membership.get("low") is not None:
        interval = f"{membership['low']:.3f} to {membership['high']:.3f}"
    cells.append(_number(membership.get("value")))
    return f"{label:<12}" + "".join(f"{cell:>12}" for cell in cells) + f"{interval:>18}{seconds:>9}  {status}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
