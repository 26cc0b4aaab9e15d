"""`unlearn methods`."""

from tests.plugin.cli.invoke import invoke


def test_methods_lists_every_method_and_explains_one() -> None:
    listing = invoke("methods").output
    assert all(name in listing for name in ("retrain", "finetune", "mini", "muda"))
    assert "epochs" in invoke("methods", "finetune").output
    assert invoke("methods", "magic").exit_code == 1
