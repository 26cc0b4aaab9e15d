"""``unlearn verify``: does an output folder tell the truth?"""

from pathlib import Path

import click

from unlearn_plugin.cli.display import comparison

__all__ = ["verify"]


@click.command(short_help="Does an output folder tell the truth? Measure again.")
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--reference", metavar="MODEL", help="Measure against this retrained model as well.")
@click.option(
    "--private",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Where OUT.private lies, if not beside OUT.",
)
@click.option("--key", type=click.Path(path_type=Path), metavar="KEY.pub.pem", help="Whose signature must be there.")
def verify(out: Path, reference: str | None, private: Path | None, key: Path | None) -> None:
    """Check an output folder: digests, weights, the verdict; and, with OUT.private beside it, measure again.

    Every changed byte and every number that does not follow from the files is named, with exit code 1.
    """
    from unlearn_hooks.errors import UnlearnError
    from unlearn_plugin.signing import PublicKey
    from unlearn_plugin.verification import verify as verify_folder

    expected = PublicKey.load(key) if key else None
    found = verify_folder(out, reference=reference, private=private, key=expected)
    for line in found.checked:
        click.echo(f"ok  {line}")
    for line in found.skipped:
        click.echo(f"--  {line}")
    if found.measured:
        click.echo("\n" + comparison([found.measured]))
    if found.findings:
        raise UnlearnError(*found.findings)
