"""Any figure becomes a picture of the page; test_plots.py looks at those of a report."""

from xml.etree import ElementTree

from matplotlib.figure import Figure

from unlearn_plugin.report.drawing import COLOURS, Picture, canvas, make_picture, page_style


def picture(name: str) -> Picture:
    with page_style():
        figure, axes = canvas(2.0)
        axes.plot([0, 1], [0, 1], color=COLOURS["after"])
        axes.set_title("A $line$")
        return make_picture(figure, name=name, title="Title", drawn="Drawn", seen="Seen")


def test_it_is_named_described_and_coloured_by_the_page() -> None:
    root = ElementTree.fromstring(picture("one").svg)
    assert root.attrib["role"] == "img"
    assert root.attrib["aria-labelledby"] == "one-title"
    assert [(child.tag, child.text) for child in root][:2] == [("title", "Title"), ("desc", "Drawn")]
    styles = " ".join(element.get("style", "") for element in root.iter())
    assert f"var(--after, {COLOURS['after']})" in styles
    assert "A $line$" in "".join(root.itertext())


def test_two_pictures_share_no_id_and_one_is_always_the_same() -> None:
    ids = [{element.get("id") for element in ElementTree.fromstring(picture(name).svg).iter()} - {None}
           for name in ("one", "two")]  # fmt: skip
    assert ids[0]
    assert not ids[0] & ids[1]
    assert picture("one") == picture("one")


def test_a_canvas_is_as_wide_as_a_phone() -> None:
    figure, axes = canvas(3.0)
    assert isinstance(figure, Figure)
    assert figure.get_size_inches().tolist() == [3.5, 3.0]
    assert figure.axes == [axes]
