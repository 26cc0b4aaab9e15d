"""Drawing: inline SVG from matplotlib. Text stays text, colours come from the page, and nothing refers outside."""

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from xml.etree import ElementTree

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

__all__ = ["COLOURS", "Picture", "canvas", "make_picture", "page_style"]

COLOURS = {  # CSS variable of the page: what to draw with where there is no page
    "before": "#b04a00",
    "after": "#0a66ad",
    "reference": "#33363b",
    "unseen": "#878d96",
    "ink": "#1c1e21",
    "muted": "#5a5f66",
    "hairline": "#d7dade",
}
_VARIABLES = {colour: f"var(--{name}, {colour})" for name, colour in COLOURS.items()}
_WIDTH = 3.5  # inches; 252 units of the view box, so that 9 units of type are 12 pixels on a phone
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "unlearn-plugin",
    "text.parse_math": False,  # a class may be called "$x$"
    "font.size": 9,
    "text.color": COLOURS["ink"],
    "axes.edgecolor": COLOURS["muted"],
    "axes.labelcolor": COLOURS["muted"],
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.titlesize": 10,
    "xtick.color": COLOURS["muted"],
    "ytick.color": COLOURS["muted"],
    "grid.color": COLOURS["hairline"],
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.handlelength": 1.6,
    "legend.borderaxespad": 0.2,
}


@dataclass(frozen=True)
class Picture:
    """One picture.

    Attributes:
        name: Unique in a page, fit for an id.
        title: What it is about.
        drawn: How it is drawn, for those who cannot see it.
        seen: What is to be seen in it, with the numbers.
        svg: The drawing, ready to be put into a page.
    """

    name: str
    title: str
    drawn: str
    seen: str
    svg: str


@contextmanager
def page_style() -> Iterator[None]:
    """The style of all pictures of a page.

    Yields:
        Nothing.
    """
    with matplotlib.style.context(["default", _STYLE]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # the reader's fonts draw it, not ours
        yield


def canvas(height: float) -> tuple[Figure, Axes]:
    """Make an empty figure as wide as a phone.

    Args:
        height: In inches.

    Returns:
        The figure, and its only axes.
    """
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    return figure, figure.add_subplot()


def make_picture(figure: Figure, *, name: str, title: str, drawn: str, seen: str) -> Picture:
    """Turn a figure into a picture of the page.

    Args:
        figure: Drawn with `COLOURS` in `page_style`.
        name: Unique in a page, fit for an id.
        title: What it is about.
        drawn: How it is drawn, for those who cannot see it.
        seen: What is to be seen in it, with the numbers.

    Returns:
        The picture; the same figure gives the same bytes.
    """
    buffer = io.StringIO()
    figure.savefig(
        buffer, format="svg", transparent=True, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type"))
    )
    root = ElementTree.fromstring(buffer.getvalue())
    box = root.attrib["viewBox"]
    _clean(root, name)
    root.attrib = {
        "viewBox": box,
        "role": "img",
        "aria-labelledby": f"{name}-title",
        "aria-describedby": f"{name}-drawn",
    }
    for place, (tag, text) in enumerate((("title", title), ("desc", drawn))):
        element = ElementTree.Element(tag, {"id": f"{name}-{'drawn' if place else 'title'}"})
        element.text = text
        root.insert(place, element)
    return Picture(name=name, title=title, drawn=drawn, seen=seen, svg=ElementTree.tostring(root, encoding="unicode"))


def _clean(root: ElementTree.Element, name: str) -> None:
    """Give a drawing its own ids and the page's fonts and colours; only markup is changed, never a text."""
    for parent in list(root.iter()):
        for style in [child for child in parent if child.tag.endswith("}style")]:
            parent.remove(style)  # it would hold for the whole page
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        element.attrib = {key.rpartition("}")[2]: value for key, value in element.attrib.items()}
    used = {element.get(key, "").strip("url(#)") for element in root.iter() for key in ("href", "clip-path")}
    for element in root.iter():
        if element.get("id") not in used:
            element.attrib.pop("id", None)
        element.attrib = {key: _own(key, value, name) for key, value in element.attrib.items()}


def _own(key: str, value: str, name: str) -> str:
    if key == "id":
        return f"{name}-{value}"
    if key in ("href", "clip-path"):
        return value.replace("#", f"#{name}-")
    if key == "style":
        value = re.sub(r"font-family:[^;]*(; )?", "", value)
        return re.sub(r"#[0-9a-f]{6}", lambda found: _VARIABLES.get(found[0], found[0]), value)
    return value
