"""Job: every field says what it means, and nothing is published unless it says so."""

from dataclasses import fields

from unlearn_plugin.job import Group, Job, Shape, settings


def test_a_job_survives_the_round_trip_through_plain_values() -> None:
    job = Job(model="m", forget="f", method="mini", out="o", mean=(0.5,), options={"a": "1"})
    assert Job(**job.as_dict()) == job
    assert {field.name for field in fields(Job)} == set(job.as_dict())


def test_every_field_has_a_meaning_in_a_sentence_and_the_groups_stand_together() -> None:
    meanings = [setting.flag for setting in settings().values()]
    assert {field.name for field in fields(Job)} == set(settings())
    assert all(flag.help.endswith(".") for flag in meanings)
    seen = [flag.group for flag in meanings]
    assert list(dict.fromkeys(seen)) == list(Group)
    assert sum(one is not other for one, other in zip(seen, seen[1:], strict=False)) == len(Group) - 1


def test_nothing_that_may_be_a_path_is_public() -> None:
    assert [name for name, setting in settings().items() if setting.flag.path and setting.flag.public] == []


def test_the_shape_and_kind_of_a_field_are_read_off_its_type() -> None:
    known = settings()
    assert (known["mean"].kind, known["mean"].shape, known["mean"].optional) == (float, Shape.LIST, True)
    assert (known["options"].kind, known["options"].shape) == (str, Shape.MAPPING)
    assert (known["seed"].kind, known["seed"].default, known["seed"].spelling) == (int, 0, "--seed")
    assert [name for name, setting in known.items() if setting.required] == ["model", "forget", "method", "out"]
