"""What a notebook shows, looked at in a real browser where one is installed."""

import shutil
from pathlib import Path

import pytest

from tests.plugin.report.example import example_report
from unlearn_plugin.report.html import render_html
from unlearn_plugin.report.notebook import outcome_html, verification_html

EVIL = "<img src=x onerror=\"document.title='owned'\">&quot;'"


def evil_report() -> dict[str, object]:
    report = example_report("NO_RESIDUAL_DETECTED")
    report["overall"]["statement"] = EVIL
    return report


def test_the_card_tells_the_verdict_and_the_main_number_of_every_model() -> None:
    report = example_report("RESIDUAL_DETECTED")
    shown = outcome_html(report)
    assert "RESIDUAL_DETECTED" in shown
    assert report["overall"]["statement"] in shown
    for who in ("before", "after"):
        assert f"<td>{who}</td><td>{report['measurements']['membership'][who]['value']:.3f}</td>" in shown


def test_a_refused_job_has_no_number_after() -> None:
    report = example_report("REFUSED")
    report["measurements"]["membership"]["after"] = None
    assert "<td>after</td>" not in outcome_html(report)


def test_everything_is_escaped_and_the_frame_may_run_nothing() -> None:
    shown = outcome_html(evil_report())
    assert "<img src=x" not in shown
    assert shown.count("<iframe") == 1
    assert 'sandbox=""' in shown
    assert "<li>✗ &lt;b&gt;</li>" in verification_html([], [], ["<b>"])


def test_a_verification_is_green_only_when_all_was_checked() -> None:
    assert "Nothing is wrong<" in verification_html(["a"], [], [])
    assert "Nothing is wrong in what was checked<" in verification_html(["a"], ["b"], [])
    assert "1 findings<" in verification_html(["a"], [], ["b"])


@pytest.mark.skipif(not shutil.which("chromium"), reason="no Chromium is installed here")
def test_a_browser_shows_the_whole_page_in_the_frame_and_runs_nothing(tmp_path: Path) -> None:
    api = pytest.importorskip("playwright.sync_api")
    (tmp_path / "cell.html").write_text(
        f"<!doctype html><meta charset=utf-8><title>cell</title>{outcome_html(evil_report())}"
    )
    with api.sync_playwright() as player:
        browser = player.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page()
        page.goto((tmp_path / "cell.html").as_uri())
        page.locator("summary").first.click()
        frame = page.frame_locator("iframe")
        assert frame.locator("h1").count() == 1
        assert EVIL in frame.locator("body").inner_text()
        assert page.title() == "cell"
        assert page.locator("iframe").get_attribute("srcdoc") == render_html(evil_report())
        browser.close()
