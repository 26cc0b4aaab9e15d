"""``unlearn keygen``: make a key to sign with."""

import os
from pathlib import Path

import click

from unlearn_plugin.cli.command import Command, Option
from unlearn_plugin.cli.sign import PASSPHRASE

__all__ = ["keygen"]


@click.command(cls=Command, short_help="Make a key to sign output folders with.")
@click.argument("path", type=click.Path(path_type=Path), metavar="KEY.pem")
@click.option(
    "--passphrase", cls=Option, is_flag=True, help=f"Encrypt the private key; asks, unless {PASSPHRASE} is set."
)
def keygen(path: Path, passphrase: bool) -> None:
    """Make an Ed25519 key: KEY.pem to sign with, for its owner alone, and KEY.pub.pem for everyone else.

    \b
    Example:
      unlearn keygen vault/key.pem --passphrase

    Keep KEY.pem away from output folders. Whoever checks a signature must get KEY.pub.pem, or the key id, from you and
    not from the folder that was signed.
    """  # noqa: D301  # click knows \b as a character
    from unlearn_plugin.signing import generate_key

    secret = None
    if passphrase:
        secret = os.environ.get(PASSPHRASE) or click.prompt(
            "Passphrase", hide_input=True, confirmation_prompt=True, err=True
        )
    key = generate_key(path, secret)
    click.echo(f"private      {path}")
    click.echo(f"public       {path.with_suffix('.pub.pem')}")
    click.echo(f"key          {key.keyid}")
