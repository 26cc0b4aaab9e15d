"""What people read in the terminal."""

import json

from unlearn_plugin.cli.display import comparison, lines_of
from unlearn_plugin.pipeline import Outcome


def test_the_table_shows_a_dash_for_what_was_not_measured(finetuned: Outcome) -> None:
    report = json.loads(json.dumps(finetuned.report))
    report["measurements"]["membership"]["after"] = None
    report["measurements"]["utility"]["after"] = None
    row = comparison([report]).splitlines()[2]
    assert row.startswith("finetune")
    assert row.count("–") == 5


def test_facts_are_written_for_people() -> None:
    text = lines_of({"at_steps": list(range(30)), "bytes": 1234567, "finished": True, "request": None, "mean": (0.5,)})
    lines = text.splitlines()
    assert lines[0].startswith("at steps              0, 1, 2,")
    assert lines[0].endswith("23 …")
    assert [line.split()[-1] for line in lines[1:]] == ["1,234,567", "yes", "none", "0.5"]
