"""The page of a comparison: its words, and a real Chromium."""

from pathlib import Path

import pytest

from tests.plugin.report.compared_example import entries, example_comparison
from tests.plugin.report.test_page_in_browser import CHROMIUM, CUT_OFF, QUIET, SIZES
from unlearn_plugin.report.compared import compare_reports
from unlearn_plugin.report.compared_html import render_compared

WHEN = "2026-02-03T10:00Z"


def test_the_page_says_which_is_nearest_what_is_noise_and_what_failed() -> None:
    page = render_compared(example_comparison())
    assert "Nearest to a retrained model: mini, at a distance of 0.022, at 9.8\N{NO-BREAK SPACE}% of the cost" in page
    assert "Retrained models are up to 0.015 from each other." in page
    assert "failed; see failure.txt in its private folder" in page
    assert "refused: no usable model" in page
    assert "<svg" in page
    assert page.count("<script") == 0


def test_the_page_invents_no_distance() -> None:
    page = render_compared(compare_reports(entries()[2:4], created_utc=WHEN))
    assert "how far they are from one is not known" in page
    assert page.count("not measured") >= 2
    assert "the yardstick" not in page
    single = render_compared(compare_reports(entries()[::2], created_utc=WHEN))
    assert "the yardstick" in single
    assert "How far two retrained models are from each other is not known here." in single
    assert "nothing but exact models" in render_compared(compare_reports(entries()[:1], created_utc=WHEN))


def test_a_label_is_text_and_equal_contents_give_equal_pages() -> None:
    content = example_comparison()
    content["rows"][2]["label"] = "<img src=x>"
    page = render_compared(content)
    assert "<img" not in page
    assert page == render_compared(content)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_the_page_opens_whole_and_quietly_wide_and_narrow_light_and_dark(tmp_path: Path) -> None:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is in the test extra")
    path = tmp_path / "compare.html"
    path.write_text(render_compared(example_comparison()), encoding="utf-8")
    with sync_api.sync_playwright() as playwright:
        arguments = ["--headless", "--no-sandbox", "--disable-gpu", *QUIET]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        colours = []
        for width, scheme in ((380, "dark"), (1100, "light")):
            page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
            noise: list[str] = []
            requests: list[str] = []
            page.on("console", lambda message, noise=noise: noise.append(message.text))
            page.on("pageerror", lambda error, noise=noise: noise.append(str(error)))
            page.on("request", lambda request, requests=requests: requests.append(request.url))
            page.goto(path.as_uri())
            assert noise == []
            assert requests == [path.as_uri()]
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            drawings = page.eval_on_selector_all("figure svg", SIZES)
            assert len(drawings) == 1
            assert all(200 < wide <= width and high > 100 for wide, high in drawings)
            assert page.eval_on_selector_all("figure svg text", CUT_OFF) == []
            assert page.get_by_role("rowheader", name="mini").count() == 1
            colours.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        assert colours[0] != colours[1]
        browser.close()
