"""What people read in the terminal."""

import json

from unlearn_plugin.cli.display import comparison
from unlearn_plugin.pipeline import Outcome


def test_the_table_shows_a_dash_for_what_was_not_measured(finetuned: Outcome) -> None:
    report = json.loads(json.dumps(finetuned.report))
    report["measurements"]["membership"]["after"] = None
    report["measurements"]["utility"]["after"] = None
    row = comparison([report]).splitlines()[2]
    assert row.startswith("finetune")
    assert row.count("–") == 5
