"""The page: every number and every word of the report, nothing else, nothing from outside, readable by everyone."""

import copy
import getpass
import os
import re
import socket
import subprocess
import sys
from functools import cache
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from tests.plugin.report.example import STATUSES, example_report
from unlearn_plugin.report.card import render_card
from unlearn_plugin.report.drawing import COLOURS
from unlearn_plugin.report.html import render_html
from unlearn_plugin.report.report import read_report, rounded, write_report
from unlearn_plugin.report.wording import headline, number, percent

VOID = {"meta", "line", "circle", "path", "rect", "use"}


class Reader(HTMLParser):
    """What a browser would see: tags, attributes, and the text of each element."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self._hidden = 0
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._hidden += tag in ("style", "title")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        self._hidden -= tag in ("style", "title")

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.texts.append(" ".join(data.split()))

    @property
    def text(self) -> str:
        return " ".join(text for text in self.texts if text)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@cache
def page(status: str = "NO_RESIDUAL_DETECTED", reference: bool = True, n_forget: int = 120) -> str:
    return render_html(example_report(status, reference=reference, n_forget=n_forget))


def strings(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for inner in value.values() for text in strings(inner)]
    if isinstance(value, list):
        return [text for inner in value for text in strings(inner)]
    return [value] if isinstance(value, str) else []


@pytest.mark.parametrize("status", STATUSES)
def test_the_verdict_is_said_in_words_with_what_it_does_not_mean(status: str) -> None:
    seen = Reader(page(status))
    report = example_report(status)
    place = [
        seen.text.index(text)
        for text in (headline(status).words, report["overall"]["statement"], headline(status).caution)
    ]
    assert place == sorted(place)
    assert place[-1] < seen.text.index("In three numbers")
    assert seen.all("body") == [{"class": headline(status).tone}]
    assert len(seen.all("h1")) == 1
    for sentence in [*report["overall"]["reasons"], *report["overall"]["limits"]]:
        assert sentence in seen.text


def test_each_tone_has_an_icon_of_its_own_shape() -> None:
    icons = {re.search(r'<svg class="icon".*?</svg>', page(status), re.DOTALL)[0] for status in STATUSES}
    assert len(icons) == 3


@pytest.mark.parametrize("status", STATUSES)
def test_every_word_of_the_report_is_on_the_page(status: str) -> None:
    report = example_report(status)
    in_other_words = {
        report["schema"],
        report["created_utc"],
        "COMPLETE",
        "PENDING",
        status,
        report["overall"]["outcome"],
    }
    in_other_words |= {metric["goal"] for metric in report["measurements"].values()}
    text = Reader(page(status)).text
    assert [word for word in strings(report) if word not in text and word not in in_other_words] == []


def test_every_number_of_a_measurement_is_in_the_tables_with_its_interval() -> None:
    text = Reader(page()).text
    shares = {"utility", "null_control", "change", "feature_space", "suppression", "conformal"}
    for name, metric in example_report()["measurements"].items():
        write = percent if name in shares else number
        for who in ("before", "after", "reference"):
            measured = metric[who] or {}
            for key in ("value", "high"):
                if measured.get(key) is not None:
                    assert write(rounded(measured[key])).replace("\N{NO-BREAK SPACE}", " ") in text, (name, who, key)
    for shown in ("0.736 to 0.827; n = 120", "92.1 to 96.1 %; n = 549", "−1.4 to +0.4 points", "11.0 % 4.4 to 23.9 %"):
        assert shown in text
    for label in (
        "Requested images found at 1 % false alarms",
        "Class with the largest loss",
        "False alarms among them",
    ):
        assert label in text


def test_the_probes_are_told_in_words_and_their_p_values_without_endless_noughts() -> None:
    text = Reader(page()).text
    for shown in (
        "Chance of such a value, or a larger one, if nothing is left (p-value) below 0.001 0.",
        "Weights rounded to 4 bits 0.743 0.697 to 0.788; n = 120",
        "Copies with a little noise 0.782",
        "Requested images on which the model is at a loss 2.5 % 0.0 to 5.3 %; n = 120",
        "Requested images below 99 % of the unseen ones not measured",
        "Unseen images on which the model does worse than on 95 % of the requested ones not measured",
        "Images that stand out by themselves 0 0 0",
    ):
        assert shown in text
    assert "p value" not in text


def test_the_three_large_numbers_give_before_and_after() -> None:
    text = Reader(page()).text
    assert "before 0.78 → , after 0.51" in text
    assert "before 94.1 % → , after 93.6 %" in text
    assert "Values above 0.60 after unlearning had to be ruled out." in text
    assert "on 97.8 % of unseen images. 41 of its 62 tensors changed" in text


def test_what_was_not_measured_is_said_with_the_reason() -> None:
    text = Reader(page()).text
    assert "Linear probe not measured not measured not measured" in text
    assert "Before, After, Reference: The request names no whole class." in text
    for impossible in ("None", "nan", "null "):
        assert impossible not in text


def test_a_refused_job_shows_the_model_before_and_no_other() -> None:
    text = Reader(page("REFUSED")).text
    assert "New weights not written" in text
    assert "before 0.78 → , after not measured" in text
    assert "had to be ruled out" not in text
    assert "There is no new model to compare with the earlier one." in text
    assert 'id="margins-after"' not in page("REFUSED")
    assert 'id="margins-before"' in page("REFUSED")


def test_without_a_reference_there_is_no_column_for_it() -> None:
    seen = Reader(page(reference=False))
    assert "Number Before After Membership" in seen.text
    assert "Weights, reference none" in seen.text
    assert "Number Before After Reference Membership" in Reader(page()).text


def test_of_few_samples_there_is_no_picture_and_the_page_says_why() -> None:
    few = page(n_forget=12)
    assert 'id="roc"' not in few
    assert 'id="margins' not in few
    assert "a picture of fewer than 20 could say something about a single one" in few
    assert "a picture of fewer than 20" not in page()


@pytest.mark.parametrize(
    ("status", "released", "said"),
    [
        ("NO_RESIDUAL_DETECTED", True, "may be used"),
        ("INCONCLUSIVE", True, "for a person to decide"),
        ("LOW_SIDE", True, "for a person to decide"),
        ("RESIDUAL_DETECTED", False, "withheld"),
        ("UTILITY_FAILED", False, "withheld"),
    ],
)
def test_it_says_what_may_be_done_with_the_weights(status: str, released: bool, said: str) -> None:
    report = example_report(status)
    report["overall"]["released"] = released
    assert f"New weights {said}" in Reader(render_html(report)).text


def test_a_retrained_model_with_an_alarm_is_not_shown_as_good() -> None:
    report = example_report("EXACT_BY_PROCESS")
    report["overall"]["outcome"] = "RESIDUAL_DETECTED"
    seen = Reader(render_html(report))
    assert seen.all("body") == [{"class": "open"}]
    assert "Statistics alone residual signal detected" in seen.text


def test_a_reason_that_the_statement_gives_is_not_repeated() -> None:
    report = example_report("RESIDUAL_DETECTED")
    report["overall"]["statement"] += " " + report["overall"]["reasons"][0]
    assert render_html(report).count(report["overall"]["reasons"][0]) == 1
    assert page("RESIDUAL_DETECTED").count(example_report("RESIDUAL_DETECTED")["overall"]["reasons"][0]) == 1


def test_a_metric_of_someone_else_is_shown_after_ours() -> None:
    report = example_report()
    theirs = {**copy.deepcopy(report["measurements"]["alignment"]), "title": "Theirs", "goal": "blue"}
    theirs["after"]["details"] = {"inner": {"odd_name": 0.25, "curve": {"roc": [1, 2]}}, "flag": True, "set": None}
    report["measurements"]["a_theirs"] = theirs
    text = Reader(render_html(report)).text
    assert text.index("Change of the model") < text.index("Theirs")
    assert "Inner odd name not measured 0.250 not measured" in text
    assert "Flag not measured yes not measured" in text
    assert "blue. Source:" in text


def test_words_of_others_cannot_become_markup() -> None:
    evil = "\"'><script>alert(1)</script><img src=x onerror=alert(1)></style></svg>{{ 7*7 }}&amp;"
    kept = ("status", "outcome", "schema", "digest", "process", "erasure", "goal")

    def poisoned(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            return {name: poisoned(inner, name) for name, inner in value.items()}
        if isinstance(value, list):
            return [poisoned(inner) for inner in value]
        return value + evil if isinstance(value, str) and key not in kept else value

    clean, dirty = Reader(page("RESIDUAL_DETECTED")), Reader(render_html(poisoned(example_report("RESIDUAL_DETECTED"))))
    assert [tag for tag, _ in dirty.elements] == [tag for tag, _ in clean.elements]
    assert {name for _, attributes in dirty.elements for name in attributes} == {
        name for _, attributes in clean.elements for name in attributes
    }
    assert "<script>alert(1)</script>" in dirty.text
    assert "{{ 7*7 }}" in dirty.text


@pytest.mark.parametrize("status", STATUSES)
def test_nothing_is_run_or_fetched(status: str) -> None:
    seen = Reader(page(status))
    assert {tag for tag, _ in seen.elements}.isdisjoint({
        "script",
        "link",
        "img",
        "iframe",
        "object",
        "embed",
        "base",
        "form",
    })
    for _, attributes in seen.elements:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href", "srcset", "data", "poster", "action", "xlink:href"):
            assert (attributes.get(name) or "#").startswith("#")
    style = page(status).split("<style>")[1].split("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style
    policy = {"http-equiv": "Content-Security-Policy", "content": "default-src 'none'; style-src 'unsafe-inline'"}
    assert policy in seen.all("meta")


def test_headings_landmarks_and_references_are_sound() -> None:
    seen = Reader(page())
    levels = [int(tag[1]) for tag, _ in seen.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in zip(levels, levels[1:], strict=False))
    assert [len(seen.all(tag)) for tag in ("header", "main", "footer")] == [1, 1, 1]
    ids = [str(attributes["id"]) for _, attributes in seen.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    named = [str(a[key]) for _, a in seen.elements for key in ("aria-labelledby", "aria-describedby") if key in a]
    assert set(named) <= set(ids)
    assert all("aria-labelledby" in section for section in seen.all("section"))
    assert seen.all("html") == [{"lang": "en"}]


def test_tables_name_their_rows_and_columns_and_pictures_their_content() -> None:
    seen = Reader(page())
    assert len(seen.all("table")) == len(seen.all("caption")) > 6
    assert all(heading.get("scope") in ("row", "col") for heading in seen.all("th"))
    assert len(seen.all("figure")) == len(seen.all("figcaption")) == 9
    for drawing in seen.all("svg"):
        assert drawing.get("role") == "img" or drawing.get("aria-hidden") == "true"


def test_the_page_is_the_same_before_and_after_the_report_was_written(tmp_path: Path) -> None:
    write_report(example_report(), tmp_path)
    assert render_html(read_report(tmp_path)) == page()


def test_the_page_does_not_depend_on_the_process_that_makes_it() -> None:
    code = (
        f"import sys; sys.path[:0] = {sys.path!r}; from tests.plugin.report.example import example_report; "
        "from unlearn_plugin.report.html import render_html; "
        "sys.stdout.buffer.write(render_html(example_report()).encode())"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7", "LC_ALL": "C", "TZ": "Asia/Tokyo"}
    made = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, cwd="/", env=environment)
    assert made.stdout.decode() == page()


@pytest.mark.parametrize("status", STATUSES)
def test_no_path_host_or_user_is_given_away(status: str) -> None:
    everything = page(status) + render_card(example_report(status))
    secrets = [str(Path.home()), str(Path.cwd()), str(Path(__file__).parents[3]), socket.gethostname(), sys.prefix]
    if getpass.getuser() != "root":  # a word that any text may hold
        secrets.append(getpass.getuser())
    assert [secret for secret in secrets if len(secret) > 3 and secret in everything] == []
    assert re.findall(r"(?:file://|[\"'\s(]/(?:home|root|tmp|usr|work|Users|mnt)/)", everything) == []


def colours(block: str) -> dict[str, str]:
    return dict(re.findall(r"--([a-z]+): (#[0-9a-f]{6});", block))


def contrast(first: str, second: str) -> float:
    """Contrast ratio of WCAG 2.2, from 1 to 21."""

    def luminance(colour: str) -> float:
        channels = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(first), luminance(second)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_text_can_be_read_in_light_and_dark() -> None:
    style = (files("unlearn_plugin.report") / "page.css").read_text()
    light, dark = (colours(part) for part in style.split("prefers-color-scheme: dark")[:2])
    assert light.keys() == dark.keys()
    assert len(light) == 12
    for scheme in (light, dark):
        for text in ("ink", "muted", "before", "after", "reference", "good", "open", "bad"):
            for ground in ("paper", "sheet"):
                assert contrast(scheme[text], scheme[ground]) >= 4.5, (text, ground)
        for ground in ("paper", "sheet"):
            assert contrast(scheme["unseen"], scheme[ground]) >= 3  # a line, not a text


def test_pictures_and_page_have_the_same_colours() -> None:
    light = colours((files("unlearn_plugin.report") / "page.css").read_text().split("@media")[0])
    assert {name: light[name] for name in COLOURS} == COLOURS


def test_contrast_is_that_of_the_standard() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)
