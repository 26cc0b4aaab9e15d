"""Job: every field says what it means, and nothing is published unless it says so."""

from dataclasses import fields

from unlearn_plugin.job import Group, Job, flags


def test_a_job_survives_the_round_trip_through_plain_values() -> None:
    job = Job(model="m", forget="f", method="mini", out="o", mean=(0.5,), options={"a": "1"})
    assert Job(**job.as_dict()) == job
    assert {field.name for field in fields(Job)} == set(job.as_dict())


def test_every_field_has_a_meaning_in_a_sentence_and_the_groups_stand_together() -> None:
    meanings = [flag for _, flag in flags().values()]
    assert {field.name for field in fields(Job)} == set(flags())
    assert all(flag.help.endswith(".") for flag in meanings)
    seen = [flag.group for flag in meanings]
    assert list(dict.fromkeys(seen)) == list(Group)
    assert sum(one is not other for one, other in zip(seen, seen[1:], strict=False)) == len(Group) - 1


def test_nothing_that_may_be_a_path_is_public() -> None:
    assert [name for name, (_, flag) in flags().items() if flag.path and flag.public] == []
