"""The page in a real Chromium: nothing fetched, nothing complained about, nothing cut off."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.plugin.report.example import example_report
from unlearn_plugin.report.html import render_html

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is in the test extra")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
QUIET = [
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SIZES = "all => all.map(one => one.getBoundingClientRect()).map(box => [box.width, box.height])"
CUT_OFF = """all => all.filter(one => {
    const text = one.getBoundingClientRect(), frame = one.closest('svg').getBoundingClientRect();
    return text.left < frame.left - 1 || text.right > frame.right + 1 || text.bottom > frame.bottom + 1;
}).map(one => one.textContent)"""
REPORTS = {
    "full": example_report(),
    "with references": example_report(tier="B"),
    "refused": example_report("REFUSED", reference=False),
    "few": example_report("INCONCLUSIVE", n_forget=12),
    "hostile": example_report(
        "RESIDUAL_DETECTED",
        classes=("<img src='https://x.example/a.png'>", "averylongwordwithoutanyplacetobreakit" * 3, "$x$"),
    ),
    "many classes": example_report("LOW_SIDE", classes=tuple(f"class {position}" for position in range(300))),
}

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")


@pytest.fixture(scope="module")
def browser() -> Iterator["sync_api.Browser"]:
    with sync_api.sync_playwright() as playwright:
        arguments = ["--headless", "--no-sandbox", "--disable-gpu", *QUIET]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


@pytest.fixture(scope="module", params=REPORTS)
def address(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(render_html(REPORTS[request.param]), encoding="utf-8")
    return path.as_uri()


@pytest.mark.parametrize(("width", "scheme"), [(380, "dark"), (1280, "light")])
def test_the_page_opens_whole_and_quietly(browser: "sync_api.Browser", address: str, width: int, scheme: str) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    noise: list[str] = []
    requests: list[str] = []
    page.on("console", lambda message: noise.append(message.text))
    page.on("pageerror", lambda error: noise.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    try:
        page.goto(address)
        page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
        assert noise == []
        assert requests == [address]
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        drawings = page.eval_on_selector_all("figure svg", SIZES)
        assert len(drawings) >= 2
        assert all(200 < wide <= width and high > 100 for wide, high in drawings)
        assert page.eval_on_selector_all("figure svg text", CUT_OFF) == []
    finally:
        page.close()


def test_on_paper_the_folded_tables_are_open(browser: "sync_api.Browser", tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(render_html(REPORTS["full"]), encoding="utf-8")
    page = browser.new_page(viewport={"width": 680, "height": 900})
    try:
        page.goto(path.as_uri())
        shown = "document.querySelector('details table').checkVisibility()"
        assert page.evaluate(shown) is False
        page.emulate_media(media="print", color_scheme="dark")
        page.wait_for_function(shown)
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert page.pdf(prefer_css_page_size=True).startswith(b"%PDF")
    finally:
        page.close()


def test_a_screen_reader_finds_the_verdict_the_landmarks_and_the_pictures(
    browser: "sync_api.Browser", tmp_path: Path
) -> None:
    path = tmp_path / "report.html"
    path.write_text(render_html(REPORTS["full"]), encoding="utf-8")
    page = browser.new_page()
    try:
        page.goto(path.as_uri())
        assert page.get_by_role("heading", level=1).inner_text() == "No residual signal detected"
        for landmark in ("banner", "main", "contentinfo"):
            assert page.get_by_role(landmark).count() == 1
        assert page.get_by_role("region", name="In three numbers").count() == 1
        assert page.get_by_role("img", name="ROC curves of the membership test").count() == 1
        assert page.get_by_role("rowheader", name="One-sided 95 % upper bound").count() == 1
    finally:
        page.close()
