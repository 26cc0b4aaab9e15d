"""``unlearn verify``: does an output folder tell the truth?"""

from pathlib import Path

import click

from unlearn_plugin.cli.command import Command, Option, answer, json_option
from unlearn_plugin.cli.display import comparison

__all__ = ["verify"]


@click.command(cls=Command, short_help="Does an output folder tell the truth? Measure again.")
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--reference", cls=Option, group="judge", metavar="MODEL", help="Measure against this retrained model as well."
)
@click.option(
    "--private",
    cls=Option,
    group="evidence",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Where OUT.private lies, if not beside OUT, or if its job names code of yours.",
)
@click.option(
    "--key",
    cls=Option,
    group="evidence",
    type=click.Path(path_type=Path),
    metavar="KEY.pub.pem",
    help="Whose signature must be there.",
)
@json_option
def verify(out: Path, reference: str | None, private: Path | None, key: Path | None) -> None:
    """Check an output folder: digests, weights, the verdict; and, with OUT.private beside it, measure again.

    Code that the job in OUT.private names is run only if you name that folder yourself, by --private.

    \b
    Examples:
      unlearn verify cleaned
      unlearn verify downloaded --private vault/cleaned.private

    Every changed byte and every number that does not follow from the files is named, with exit code 1.
    """  # noqa: D301  # click knows \b as a character
    from unlearn_hooks.errors import UnlearnError
    from unlearn_plugin.signing import PublicKey
    from unlearn_plugin.verification import verify as verify_folder

    expected = PublicKey.load(key) if key else None
    found = verify_folder(out, reference=reference, private=private, key=expected)
    answer(
        "verification",
        passed=not found.findings,
        checked=found.checked,
        skipped=found.skipped,
        findings=found.findings,
        measurements=found.measured and found.measured["measurements"],
    )
    for line in found.checked:
        click.echo(f"ok  {line}")
    for line in found.skipped:
        click.echo(f"--  {line}")
    if found.measured:
        click.echo("\n" + comparison([found.measured]))
    if found.findings:
        raise UnlearnError(*found.findings)
