"""What a notebook shows: a small card, and the whole page in a frame that may run nothing."""

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup, escape

from unlearn_plugin.report.html import render_html
from unlearn_plugin.report.wording import headline, interval, number

__all__ = ["outcome_html", "page_html", "verification_html"]

_EDGES = {"good": "#2e7d32", "open": "#b26a00", "bad": "#b3261e"}
_CARD = Markup(
    '<div style="border:1px solid #8888;border-left:6px solid {edge};padding:.6em 1em;max-width:60em;'
    'font-family:sans-serif"><strong>{title}</strong>{body}</div>'
)


def outcome_html(report: Mapping[str, Any]) -> str:
    """Show a report: the verdict with its main numbers, and the page to unfold.

    Args:
        report: Content of report.json.

    Returns:
        HTML; everything from the report is escaped, and the page lies in a frame with an empty ``sandbox``.
    """
    overall, measured = report["overall"], report["measurements"]["membership"]
    cells = [
        Markup("<tr><td>{}</td><td>{}</td><td>{}</td></tr>").format(
            who, number(one["value"]), interval(one["low"], one["high"])
        )
        for who, one in measured.items()
        if who in ("before", "after", "reference") and one
    ]
    table = Markup("<table><tr><th></th><th>membership AUC</th><th>95 % interval</th></tr>{}</table>").format(
        Markup("").join(cells)
    )
    page = _folded("The whole report", render_html(report))
    body = Markup("<p>{}</p>{}{}").format(overall["statement"], table, page)
    title = f"{report['procedure']['method']}: {overall['status']}"
    return str(_CARD.format(edge=_EDGES[headline(overall["status"]).tone], title=title, body=body))


def page_html(title: str, page: str) -> str:
    """Show a page of ours, to unfold.

    Args:
        title: What it is.
        page: A complete HTML document.

    Returns:
        HTML; the page lies in a frame with an empty ``sandbox``.
    """
    return str(_CARD.format(edge=_EDGES["open"], title=title, body=_folded("The whole page", page)))


def _folded(title: str, page: str) -> Markup:
    return Markup(
        '<details><summary>{}</summary><iframe sandbox="" title="report" srcdoc="{}" '
        'style="width:100%;height:40em;border:0;background:#fff"></iframe></details>'
    ).format(title, str(page))


def verification_html(checked: Sequence[str], skipped: Sequence[str], findings: Sequence[str]) -> str:
    """Show a verification: what is wrong first, then what is right, then what was not looked at.

    Args:
        checked: What was found to be as the report says.
        skipped: What could not be checked.
        findings: What is not as it should be.

    Returns:
        HTML, escaped.
    """
    lines = [("✗", line) for line in findings] + [("✓", line) for line in checked] + [("–", line) for line in skipped]
    body = Markup("<ul style='list-style:none;padding:0'>{}</ul>").format(
        Markup("").join(Markup("<li>{} {}</li>").format(sign, escape(line)) for sign, line in lines)
    )
    title = f"{len(findings)} findings" if findings else "Nothing is wrong" + " in what was checked" * bool(skipped)
    edge = _EDGES["bad" if findings else "open" if skipped else "good"]
    return str(_CARD.format(edge=edge, title=title, body=body))
