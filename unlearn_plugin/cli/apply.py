"""``unlearn apply``: unlearn a forget manifest from a model, and judge the result."""

from pathlib import Path
from typing import Any

import click

from unlearn_plugin.cli.command import Command, Option, answer, json_option
from unlearn_plugin.cli.display import comparison, facts_of, plan_of
from unlearn_plugin.cli.options import config_option, job_options, make_job, sign_option
from unlearn_plugin.cli.sign import load_signer

__all__ = ["apply"]

REFUSED = 3  # exit code: done, but the verdict refuses release
_COLOURS = {
    "NO_RESIDUAL_DETECTED": "green",
    "EXACT_BY_PROCESS": "green",
    "INCONCLUSIVE": "yellow",
    "LOW_SIDE": "yellow",
}


@click.command(cls=Command, short_help="Unlearn a forget manifest from a model, and judge the result.")
@job_options
@config_option
@sign_option
@click.option(
    "--dry-run", cls=Option, is_flag=True, help="Check the whole job and say what would be done; write nothing."
)
@json_option
def apply(config: Path | None, sign_key: Path | None, dry_run: bool, **given: Any) -> None:  # noqa: ANN401  # Job's
    """Unlearn a forget manifest from a model, judge the result, and write weights and report to OUT.

    \b
    Examples:
      unlearn apply --model local-dir:model --data-dir data \\
          --forget forget.csv --record record --method mini --out cleaned
      unlearn apply --model net.pth --arch resnet18 --data-dir data \\
          --forget ids.txt --method finetune -o epochs=5 --out cleaned
      unlearn apply --config cleaned.private/job.yaml --out again

    Everything is checked first, and all that is wrong is listed at once. Published files hold counts and
    digests, never sample ids; OUT.private, which must stay with you, holds the job.yaml that repeats the run.
    """  # noqa: D301  # click knows \b as a character
    from unlearn_plugin.pipeline import run
    from unlearn_plugin.preparation import prepare

    job = make_job(given, config)
    signer = load_signer(sign_key) if sign_key else None
    if dry_run:
        plan = facts_of(prepare(job))
        answer("plan", **plan)
        click.echo(plan_of(plan))
        return
    outcome = run(job, signer=signer)
    overall = outcome.report["overall"]
    answer(
        "apply",
        folder=str(outcome.folder),
        status=overall["status"],
        released=overall["released"],
        report=outcome.report,
    )
    click.echo(comparison([outcome.report]))
    click.secho(overall["status"], fg=_COLOURS.get(overall["status"], "red"), bold=True)
    click.echo(overall["statement"])
    for reason in overall["reasons"]:
        click.echo(f"  - {reason}")
    click.echo(f"\nreport: {outcome.folder / 'report.html'}")
    if not outcome.verdict.released:
        raise click.exceptions.Exit(REFUSED)
