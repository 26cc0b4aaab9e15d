"""``unlearn push``: publish an output folder."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from unlearn_plugin.cli.command import Command, Option, answer, json_option
from unlearn_plugin.cli.display import purge_of

__all__ = ["push"]


@click.command(cls=Command, short_help="Publish an output folder on the Hub; purge the weights before it.")
@click.argument("out", type=click.Path(path_type=Path))
@click.argument("repository", metavar="OWNER/NAME")
@click.option(
    "--private", cls=Option, group="repository", is_flag=True, help="Make the repository private, or insist that it is."
)
@click.option(
    "--revision",
    cls=Option,
    group="repository",
    metavar="BRANCH",
    help="Push to this branch, made from main if it is not there.",
)
@click.option("--create-pr", cls=Option, group="repository", is_flag=True, help="Open a pull request on main instead.")
@click.option(
    "--purge-history",
    cls=Option,
    group="purge",
    is_flag=True,
    help="Plan what must go for the earlier weights to be gone.",
)
@click.option(
    "--confirm",
    cls=Option,
    group="purge",
    metavar="OWNER/NAME",
    help="Push and do what the plan says, without asking; for scripts.",
)
@json_option
def push(out: Path, repository: str, purge_history: bool, confirm: str | None, **how: Any) -> None:  # noqa: ANN401
    """Publish the output folder OUT on the Hub: weights, card, report and evidence, in one commit or not at all.

    \b
    Examples:
      unlearn push cleaned clinic/classifier --private
      unlearn push cleaned clinic/classifier --purge-history

    --purge-history shows what must go, and asks before it does it. Digests are checked first, and a verdict
    that refuses release is not published. The token is the one of HF_TOKEN or `hf auth login`.
    OUT.private/hub.json keeps account of what was done.
    """  # noqa: D301  # click knows \b as a character
    from unlearn_plugin import hub
    from unlearn_plugin.evidence import private_folder

    if purge_history and (how["revision"] or how["create_pr"]):
        raise click.UsageError("--purge-history is about main; leave --revision and --create-pr out.")
    if confirm is not None and not purge_history:
        raise click.UsageError("--confirm goes with --purge-history; nothing else has to be confirmed.")
    plan = hub.plan(out, repository) if purge_history else None
    if plan is not None:
        answer("push", plan=_plain(plan), pushed=None, purged=None)
        click.echo(purge_of(plan))
        if not plan.steps or not _confirmed(repository, confirm):
            return
    pushed = hub.push(out, repository, purge=plan, **how)
    hub.note(private_folder(out), pushed)
    answer("push", plan=plan and _plain(plan), pushed=asdict(pushed), purged=None)
    click.echo(f"pushed       {pushed.url}")
    if plan is not None:
        purged = hub.purge(out, plan)
        hub.note(private_folder(out), purged)
        answer("push", plan=_plain(plan), pushed=asdict(pushed), purged=asdict(purged))
        _tell_purge(purged)


def _plain(plan: Any) -> dict[str, Any]:  # noqa: ANN401  # Purge; named here only
    return {
        "repository": plan.repository,
        "public": plan.public,
        "head": plan.head,
        "steps": [step.text for step in plan.steps],
        "left": plan.left,
        "unreachable": plan.unreachable,
    }


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


def _tell_purge(purged: Any) -> None:  # noqa: ANN401  # Purged; named here only
    from unlearn_hooks.errors import UnlearnError

    for title, lines in (("done", purged.done), ("remains", purged.remaining), ("unreachable", purged.unreachable)):
        for line in lines:
            click.echo(f"{title:<13}{line}")
    click.echo(f"The erasure is {purged.erasure}. The Hub may take days; look again with --purge-history.")
    if purged.failed:
        raise UnlearnError(f"{purged.failed} The same command goes on from there.")
