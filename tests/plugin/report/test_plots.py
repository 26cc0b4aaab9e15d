"""The pictures show the numbers, keep text as text, and take nothing from and leave nothing in the process."""

import copy
import re
import subprocess
import sys
import warnings
from typing import Any
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pytest

from tests.plugin.report.example import CLASSES, example_report
from unlearn_plugin.report.drawing import COLOURS, Picture
from unlearn_plugin.report.plots import draw


def pictures(report: dict[str, Any]) -> dict[str, Picture]:
    return {picture.name: picture for picture in draw(report)}


@pytest.fixture(scope="module")
def drawn() -> dict[str, Picture]:
    return pictures(example_report())


def points_of(element: ElementTree.Element) -> np.ndarray:
    """Corners of a path of straight lines, (n, 2)."""
    return np.array([[float(x) for x in pair] for pair in re.findall(r"[ML] (\S+) (\S+)", element.attrib["d"])])


def paths(picture: Picture, style: str) -> list[ElementTree.Element]:
    found = ElementTree.fromstring(picture.svg).iter("path")
    return [path for path in found if style in path.get("style", "") and "clip-path" in path.attrib]


def test_a_full_report_has_all_pictures_in_order(drawn: dict[str, Picture]) -> None:
    margins = ["margins-before", "margins-after", "margins-reference"]
    maps = ["map-before", "map-after", "map-reference"]
    assert list(drawn) == [*margins, "roc", *maps, "classes", "layers"]


def test_what_was_not_measured_has_no_picture() -> None:
    assert draw({"measurements": {}}) == []
    refused = pictures(example_report("REFUSED", reference=False))
    assert list(refused) == ["margins-before", "roc", "map-before", "classes"]
    few = pictures(example_report(n_forget=19))
    assert list(few) == ["classes", "layers"]


def test_the_roc_curve_is_the_measured_one(drawn: dict[str, Picture]) -> None:
    report = example_report()
    line, inset = paths(drawn["roc"], "stroke: var(--after")
    corners, truth = points_of(line), np.array(report["measurements"]["membership"]["after"]["details"]["roc"])
    assert len(corners) > 10
    scaled = (corners - corners[0]) / (corners[-1] - corners[0])  # from (0, 0) to (1, 1), whatever the canvas
    assert np.interp(scaled[:, 0], truth[:, 0], truth[:, 1]) == pytest.approx(scaled[:, 1], abs=0.005)
    width = np.ptp(points_of(inset)[:, 0]) / np.ptp(corners[:, 0])
    assert width > 0.38, "the inset shows five hundredths of the curve over two fifths of the axis"


def test_with_references_the_pictures_are_those_of_the_test_that_decides() -> None:
    report = example_report(tier="B")
    shown, curve = pictures(report), report["measurements"]["calibrated_membership"]["after"]["details"]["roc"]
    corners = points_of(paths(shown["roc"], "stroke: var(--after")[0])
    scaled = (corners - corners[0]) / (corners[-1] - corners[0])
    assert np.interp(scaled[:, 0], *np.transpose(curve)) == pytest.approx(scaled[:, 1], abs=0.005)
    assert "calibrated margin" in shown["margins-after"].svg
    assert "a calibrated margin above 7.4" in shown["margins-before"].seen
    report["measurements"]["calibrated_membership"]["after"] = None
    assert "calibrated margin" not in pictures(report)["margins-before"].svg


def test_the_surrogate_requests_are_drawn_where_they_were_measured() -> None:
    report = example_report(tier="B")
    picture = pictures(report)["surrogates"]
    before, after, real = (np.ptp(points_of(path)[:, 0]) for path in paths(picture, "stroke-width: 1.4"))
    assert after / before == pytest.approx(0.028 / 0.011, rel=0.01)
    measured = report["measurements"]["calibrated_membership"]["after"]
    assert real / after == pytest.approx((measured["high"] - measured["low"]) / 0.056, rel=0.01)
    assert "On 20 pseudo-requests the procedure took the area from 0.93 to 0.51" in picture.seen
    assert "number 9 of 21" in picture.seen
    assert "surrogates" not in pictures(example_report())
    report["surrogates"]["rank"] = None
    of_few = pictures(report)["surrogates"]
    assert len(paths(of_few, "stroke-width: 1.4")) == 2
    assert of_few.seen.endswith("took the area from 0.93 to 0.51.")
    report["surrogates"]["after"] = None
    assert "surrogates" not in pictures(report)


def test_the_squares_of_the_map_are_as_large_as_the_shares(drawn: dict[str, Picture]) -> None:
    shares = example_report()["measurements"]["feature_space"]["after"]["details"]["map"]["forget"]
    squares = [points_of(path) for path in paths(drawn["map-after"], "stroke: var(--after")]
    sides = np.sort([np.ptp(square[:, 0]) for square in squares])
    wanted = np.sort(np.sqrt([share for row in shares for share in row if share > 0]))
    assert len(sides) == len(wanted)
    assert sides / sides.max() == pytest.approx(wanted / wanted.max(), abs=0.01)
    assert "100" in drawn["map-after"].seen


def test_the_bars_are_as_high_as_the_layers_moved(drawn: dict[str, Picture]) -> None:
    layers = example_report()["measurements"]["change"]["after"]["details"]["per_layer"]
    bars = [points_of(path) for path in paths(drawn["layers"], "fill: var(--after")]
    heights = np.array([np.ptp(bar[:, 1]) for bar in bars])
    moved = np.array([layer["relative_norm"] for layer in layers])
    assert heights / heights.max() == pytest.approx(moved / moved.max(), abs=0.001)
    assert "fc.bias moved most: by 14.3\N{NO-BREAK SPACE}%" in drawn["layers"].seen


def test_the_histograms_share_their_axes(drawn: dict[str, Picture]) -> None:
    ticks = [re.findall(r">([^<>]*\d[^<>]*)</text>", drawn[f"margins-{who}"].svg) for who in ("before", "after")]
    assert ticks[0] == ticks[1]


def test_the_histogram_says_where_the_halves_lie() -> None:
    report = example_report(reference=False)
    histogram = {"edges": [0.0, 1.0, 2.0], "forget": [0, 30], "controls": [8, 0]}
    report["measurements"]["membership"]["before"]["details"]["histogram"] = histogram
    seen = pictures(report)["margins-before"].seen
    assert seen == "Half of the requested images have a margin above 1.5, half of the unseen ones above 0.5."


def test_the_classes_show_the_loss_that_was_measured() -> None:
    report = example_report()
    report["measurements"]["utility"]["after"]["details"]["per_class"][7]["value"] -= 0.25
    assert "class “seven”: −25.5\N{NO-BREAK SPACE}points" in pictures(report)["classes"].seen


def test_of_many_classes_those_that_changed_most_are_drawn() -> None:
    report = example_report(classes=tuple(f"kind {position}" for position in range(200)))
    report["measurements"]["utility"]["after"]["details"]["per_class"][150]["value"] = 0.1
    picture = pictures(report)["classes"]
    assert picture.seen.startswith("Of 200 classes, those that changed most are shown. The largest loss")
    assert "“kind 150”" in picture.seen
    assert len(re.findall(r">kind \d+</text>", picture.svg)) == 15
    assert ">kind 150</text>" in picture.svg


def test_text_stays_text_in_the_fonts_of_the_page(drawn: dict[str, Picture]) -> None:
    for name in CLASSES:
        assert f">{name}</text>" in drawn["classes"].svg
    assert not [name for name, picture in drawn.items() if "DejaVu" in picture.svg or "font-family" in picture.svg]


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("$x_1$", "$x_1$"),
        ("<script>", "&lt;script&gt;"),
        ('id="x" #b04a00', 'id="x" #b04a00'),
        ("猫", "猫"),
        ("a\x0bb\nc", "a b c"),
        ("a name longer than the margin", "a name longer t…"),
    ],
)
def test_any_class_name_can_be_drawn_as_it_is(name: str, shown: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        picture = pictures(example_report(classes=(name, "other")))["classes"]
    assert f">{shown}</text>" in picture.svg


def test_pictures_never_share_an_id_and_refer_to_nothing_else(drawn: dict[str, Picture]) -> None:
    everything = "".join(picture.svg for picture in drawn.values())
    ids = re.findall(r' id="([^"]+)"', everything)
    assert len(ids) == len(set(ids))
    assert all(name.startswith(tuple(drawn)) for name in ids)
    used = re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)|aria-[a-z]+="([^"]+)"', everything)
    assert {"".join(groups) for groups in used} == set(ids)
    assert "http" not in everything
    assert "<style" not in everything


def test_every_picture_has_a_title_a_description_and_a_caption(drawn: dict[str, Picture]) -> None:
    for name, picture in drawn.items():
        root = ElementTree.fromstring(picture.svg)
        assert root.get("role") == "img"
        title, described = root[0], root[1]
        assert (title.tag, title.text, title.get("id")) == ("title", picture.title, root.get("aria-labelledby"))
        assert (described.tag, described.text, described.get("id")) == (
            "desc",
            picture.drawn,
            root.get("aria-describedby"),
        )
        assert picture.seen.endswith("."), name


def test_all_colours_come_from_the_page(drawn: dict[str, Picture]) -> None:
    everything = "".join(picture.svg for picture in drawn.values())
    assert re.findall(r"(?<!, )#[0-9a-f]{6}", everything) == []
    assert set(re.findall(r"var\(--([a-z]+),", everything)) == set(COLOURS)


def test_models_can_be_told_apart_without_colours(drawn: dict[str, Picture]) -> None:
    lines = {
        who: paths(drawn["roc"], f"stroke: var(--{who}")[0].attrib["style"] for who in ("before", "after", "reference")
    }
    dashes = {
        re.search(r"stroke-dasharray: ([^;]+)", style)[1] if "dasharray" in style else "" for style in lines.values()
    }
    assert len(dashes) == 3


def test_the_same_numbers_give_the_same_bytes_and_no_setting_is_left_behind(drawn: dict[str, Picture]) -> None:
    before = copy.deepcopy(dict(mpl.rcParams))
    with mpl.rc_context({"font.size": 30, "svg.fonttype": "path", "axes.grid": True}):  # a user's own settings
        mine = dict(mpl.rcParams)
        assert pictures(example_report()) == drawn
        assert dict(mpl.rcParams) == mine
    assert dict(mpl.rcParams) == before


def test_pyplot_and_its_windows_are_never_loaded() -> None:
    code = (
        f"import sys; sys.path[:0] = {sys.path!r}; from tests.plugin.report.example import example_report; "
        "from unlearn_plugin.report.plots import draw; draw(example_report()); "
        "sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
