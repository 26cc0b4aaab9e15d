"""The options of `apply` are the fields of Job."""

import dataclasses

import click
import pytest

from unlearn_hooks.errors import UnlearnError
from unlearn_plugin.cli.apply import apply
from unlearn_plugin.cli.options import make_job
from unlearn_plugin.job import Job


def given(*words: str) -> dict[str, object]:
    """What click makes of the words."""
    context = click.Context(apply)
    apply.parse_args(context, list(words))
    context.params.pop("dry_run")
    return context.params


REQUIRED = ("--model", "m", "--forget", "f", "--method", "mini", "--out", "o")


def test_every_field_of_a_job_is_an_option() -> None:
    assert {entry.name for entry in dataclasses.fields(Job)} <= {option.name for option in apply.params}


def test_what_is_not_given_keeps_the_default_of_the_job() -> None:
    assert make_job(given(*REQUIRED)) == Job(model="m", forget="f", method="mini", out="o")


def test_every_kind_of_value_is_read() -> None:
    words = ["--seed", "3", "--crop-pct", "0.9", "--mean", "0.1", "--mean", "0.2", "-o", "epochs=5", "-o", "a=b=c"]
    job = make_job(given(*REQUIRED, *words))
    assert (job.seed, job.crop_pct, job.mean, job.std) == (3, 0.9, (0.1, 0.2), None)
    assert job.options == {"epochs": "5", "a": "b=c"}


def test_everything_missing_is_named_at_once() -> None:
    with click.Context(apply), pytest.raises(click.UsageError, match=r"Missing --forget, --method, --out"):
        make_job(given("--model", "m"))


@pytest.mark.parametrize("word", ["epochs", "=5"])
def test_an_option_of_the_method_has_a_name_and_a_value(word: str) -> None:
    with pytest.raises(UnlearnError, match="is not of the form KEY=VALUE"):
        make_job(given(*REQUIRED, "-o", word))
