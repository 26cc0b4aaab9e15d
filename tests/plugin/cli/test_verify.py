"""`unlearn verify`."""

import json
import shutil
from pathlib import Path

from tests.plugin.cli.invoke import invoke
from unlearn_plugin.pipeline import Outcome


def test_verify_says_ok_and_names_a_changed_file(finetuned: Outcome, tmp_path: Path) -> None:
    done = invoke("verify", str(finetuned.folder))
    assert done.exit_code == 0, done.output
    assert "measured again" in done.output
    copy = shutil.copytree(finetuned.folder, tmp_path / "copy")
    (copy / "README.md").write_text("# All good")
    done = invoke("verify", str(copy), "--json")
    assert done.exit_code == 1
    assert "README.md" in done.stderr
    document = json.loads(done.stdout)
    assert (document["schema"], document["passed"]) == ("urn:unlearn-plugin:verification:1", False)
    assert "README.md was changed." in document["findings"]
    assert document["measurements"] is None
