"""``unlearn sign``: put a signature under an output folder, after reading it."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from unlearn_plugin.cli.command import Command, Option

if TYPE_CHECKING:
    from unlearn_plugin.signing import Signer

__all__ = ["PASSPHRASE", "load_signer", "sign"]

PASSPHRASE = "UNLEARN_KEY_PASSPHRASE"  # environment variable, for machines where nobody can be asked


@click.command(cls=Command, short_help="Sign an output folder, after reading it.")
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--key",
    cls=Option,
    group="evidence",
    required=True,
    type=click.Path(path_type=Path),
    metavar="KEY.pem",
    help="Private key of `unlearn keygen`.",
)
def sign(out: Path, key: Path) -> None:
    """Sign the output folder OUT: its weights, report, page, card and evidence, as they are now.

    \b
    Example:
      unlearn sign cleaned --key vault/key.pem

    All that the folder alone allows is checked first, and a folder with a finding is not signed. The signature says
    that the holder of the key vouches for these files; not that the report is true. Nothing but
    evidence/report.dsse.json is written.
    """  # noqa: D301  # click knows \b as a character
    from unlearn_hooks.errors import UnlearnError
    from unlearn_plugin.report.report import read_report
    from unlearn_plugin.soundness import check_soundness

    signer = load_signer(key)
    findings = [finding for _, found in check_soundness(out, read_report(out)) for finding in found]
    if findings:
        raise UnlearnError.of([f"{finding} Nothing was signed." for finding in findings])
    click.echo(f"signed       {signer.sign(out)}")
    click.echo(f"key          {signer.public.keyid}")


def load_signer(path: Path) -> "Signer":
    """Load a private key; ask for its passphrase where it has one and the environment does not hold it.

    Args:
        path: PEM file.

    Returns:
        The signer.

    Raises:
        UnlearnError: If the key cannot be used.
    """
    from unlearn_plugin.signing import Signer, is_encrypted

    passphrase = None
    if is_encrypted(path):
        passphrase = os.environ.get(PASSPHRASE) or click.prompt(f"Passphrase of {path}", hide_input=True, err=True)
    return Signer.load(path, passphrase)
