"""``unlearn compare``: the same job by several methods, side by side."""

from pathlib import Path
from typing import Any

import click

from unlearn_plugin.cli.apply import REFUSED
from unlearn_plugin.cli.command import Command, Option, answer, json_option
from unlearn_plugin.cli.display import compared, facts_of, plans_of
from unlearn_plugin.cli.options import comparison_options, config_option, make_job, sign_option
from unlearn_plugin.cli.sign import load_signer

__all__ = ["compare"]


@click.command(cls=Command, short_help="The same job by several methods, side by side.")
@comparison_options
@config_option
@sign_option
@click.option(
    "--dry-run",
    cls=Option,
    is_flag=True,
    help="Check the job for every method and say what would be done; write nothing.",
)
@json_option
def compare(config: Path | None, sign_key: Path | None, dry_run: bool, **given: Any) -> None:  # noqa: ANN401  # Job's
    """Run the same job by several methods; write each result to OUT/METHOD, and OUT/compare.html over all of them.

    \b
    Examples:
      unlearn compare --model local-dir:model --data-dir data \\
          --forget forget.csv --record record --method retrain,mini,muda --out compared
      unlearn compare --config job.yaml --method mini,mini:steps=12 --out steps
      unlearn compare --config job.yaml --method retrain,retrain:seed=1,finetune,scrub \\
          -o finetune.epochs=3 --out compared

    Distance is measured to --reference and to the results of methods that retrain; two of these show how much of it
    is noise. A method that fails does not stop the others, and the same command goes on where it was interrupted.
    Exit code 1: a method failed; 3: all ran, and no verdict allows release.
    """  # noqa: D301  # click knows \b as a character
    from unlearn_hooks.errors import UnlearnError
    from unlearn_plugin.comparison import compare as run
    from unlearn_plugin.comparison import prepare_comparison

    job = make_job(given, config)
    signer = load_signer(sign_key) if sign_key else None
    if dry_run:
        todo = prepare_comparison(job)
        plans = [{**facts_of(ready), "label": one.label, "done": report is not None} for one, ready, report in todo]
        answer("comparison-plan", plans=plans)
        click.echo(plans_of(plans))
        return
    found = run(job, signer=signer)
    answer("compare", folder=str(found.folder), failed=sorted(found.failures), comparison=found.content)
    for label in found.skipped:
        click.echo(f"{label} was done before; its result is kept.")
    click.echo(compared(found.content))
    click.echo(f"page: {found.folder / 'compare.html'}")
    if found.failures:
        raise UnlearnError.of([f"{label} failed: {failure}" for label, failure in found.failures.items()])
    if not any(row["released"] for row in found.content["rows"]):
        raise click.exceptions.Exit(REFUSED)
