"""``unlearn audit``: the full audit against many retrained models."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from unlearn_plugin.cli.command import Command, Option, answer, json_option

__all__ = ["audit"]

_NAMES = {
    "accuracy_forget": "accuracy, forgotten samples",
    "accuracy_retain": "accuracy, retained samples",
    "accuracy_controls": "accuracy, unseen samples",
    "membership": "membership AUC",
    "relearning_steps": "steps to learn F again",
    "agreement": "answers shared, unseen samples",
    "feature_alignment": "features alike (CKA), F",
}


@click.command(cls=Command, short_help="Judge an output folder by many retrained models.")
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--retrained",
    cls=Option,
    group="models",
    multiple=True,
    required=True,
    metavar="MODEL",
    help="Trained without F; give 3 or more.",
)
@click.option(
    "--unlearned",
    cls=Option,
    group="models",
    multiple=True,
    metavar="MODEL",
    help="Trained on all and unlearned likewise; 8 make a game.",
)
@click.option(
    "--private",
    cls=Option,
    group="evidence",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Where OUT.private lies.",
)
@click.option(
    "--write", cls=Option, type=click.Path(path_type=Path), metavar="FILE", help="Write the audit as JSON as well."
)
@json_option
def audit(
    out: Path, retrained: tuple[str, ...], unlearned: tuple[str, ...], private: Path | None, write: Path | None
) -> None:
    """Judge the output folder OUT by models that were really retrained: could it be one of them?

    \b
    Example:
      unlearn audit cleaned --retrained r1 --retrained r2 --retrained r3

    With three retrained models every number is placed within the range one more retrained model would give. With
    eight retrained and eight unlearned ones, an attacker also tries to tell the two kinds apart (U-LiRA).
    """  # noqa: D301  # click knows \b as a character
    from unlearn_plugin.audit.full import audit as judge

    found = judge(out, retrained, unlearned, private=private)
    answer("audit", **found)
    click.echo(_equivalence(found["equivalence"], found["models"]["retrained"]))
    click.echo(_games(found["games"], found["models"]))
    if write:
        write.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def _equivalence(places: Mapping[str, Any], models: int) -> str:
    lines = [f"{'':<32}{'after':>9}{'retrained':>11}{'95 % of retrained models':>27}"]
    for name, place in places.items():
        ends = f"{place['low']:.3f} to {place['high']:.3f}"
        lines.append(
            f"{_NAMES[name]:<32}{place['value']:>9.3f}{place['mean']:>11.3f}{ends:>27}"
            f"  {'inside' if place['inside'] else 'OUTSIDE'}"
        )
    outside = sum(not place["inside"] for place in places.values())
    lines.append(f"{outside} of {len(places)} outside what one more of {models} retrained models would give.")
    return "\n".join(lines)


def _games(games: Mapping[str, Any] | None, models: Mapping[str, int]) -> str:
    if games is None:
        return (
            f"No game was played: it takes 8 models of each kind, and {models['unlearned']} unlearned and "
            f"{models['retrained']} retrained ones were given."
        )
    lines = [f"\n{'U-LiRA':<12}{'AUC':>7}{'worst 10 %':>12}{'p-value':>9}{'epsilon at least':>18}{'ceiling':>9}"]
    for split, game in games.items():
        epsilon = game["epsilon"]
        lines.append(
            f"{split:<12}{game['auc']:>7.3f}{game['auc_worst_tenth']:>12.3f}{game['energy']['p_value']:>9.3f}"
            f"{epsilon['largest_for_sure']:>18.2f}{epsilon['ceiling']:>9.2f}"
        )
    return "\n".join(lines)
