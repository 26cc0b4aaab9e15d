"""`unlearn demo`; the whole of it is run by .ci/run."""

from pathlib import Path

from tests.plugin.cli.invoke import invoke


def test_the_demo_refuses_a_folder_that_exists_in_one_sentence(tmp_path: Path) -> None:
    done = invoke("demo", str(tmp_path))
    assert done.exit_code == 1
    assert done.output.startswith("Error: The folder")
    assert "give the demo a new name" in done.output
