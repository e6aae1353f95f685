"""The page of a report: what is static in HTML, what moves in one script, everything in one file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.resources import files

from ..errors import MissingExtraError
from .markup import Html, data_block, document, element
from .pictures import Pictures
from .report_data import DEFAULT_MEGABYTES, report_data
from .report_record import Report
from .report_results import metrics_table, tiles
from .report_videos import chosen_video, operator_tables, video_list, weight_table
from .style import PAGE_STYLE, THEMES


def report_page(report: Report, pictures: Pictures | None = None, *, megabytes: float = DEFAULT_MEGABYTES) -> str:
    """The whole page, about 5 MB of which are Plotly.

    Args:
        report: What to show.
        pictures: Frames of segments; None leaves all pictures out.
        megabytes: Most of graphs and pictures together.

    Raises:
        MissingExtraError: If Plotly is not installed.
    """
    plotly = plotly_script()
    drawn = report_data(report.readings, report.coefficients, pictures, megabytes=megabytes)
    first = max(range(len(report.readings)), key=lambda number: report.readings[number].peak)
    data = drawn.document | {"first": first, "graphs": report.has_graphs, "square": report.square}
    notes = (*report.notes, *drawn.notes, *(dict.fromkeys(pictures.notes) if pictures is not None else ()))
    body = element(
        "main",
        _head(report),
        tiles(report),
        *([video_list(report)] if len(report.readings) > 1 else []),
        chosen_video(report, with_pictures=pictures is not None),
        *weight_table(report),
        *operator_tables(report),
        metrics_table(report),
        *_notes(notes),
        _card(report),
        _settings(report),
        element("footer", element("p", "Frames are counted from 0. A score is what a model says, no proof.")),
        data_block("data", data),
    )
    style = PAGE_STYLE + _asset("report.css") + THEMES
    return document(report.title, style, body, scripts=(plotly, _asset("report.js")))


def plotly_script() -> str:
    """Plotly's bundle; the package has but this one, of all chart types.

    Raises:
        MissingExtraError: If Plotly is not installed.
    """
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise MissingExtraError("plotly", "report") from error
    return str(get_plotlyjs())


def _asset(name: str) -> str:
    return (files(__package__) / "assets" / name).read_text(encoding="utf-8")


def _head(report: Report) -> Html:
    model = report.card.get("Model", {})
    told = [model.get("fusion", ""), " + ".join(report.manifests), f"{model.get('parameters', '?')} parameters"]
    told.append(model.get("world", ""))
    facts = element("p", " · ".join(one for one in told if one), class_="soft")
    toggle = element("button", "light / dark", id="theme", type="button")
    return element("div", element("div", element("h1", report.title), facts), toggle, class_="head")


def _notes(notes: Sequence[str]) -> list[Html]:
    if not notes:
        return []
    rows = [element("li", note) for note in dict.fromkeys(notes)]
    return [element("section", element("h2", "Notes"), element("ul", *rows, class_="notes"), class_="card")]


def _card(report: Report) -> Html:
    pieces = [element("h2", "Model card")]
    for section, lines in report.card.items():
        pairs = [piece for name, text in lines.items() for piece in (element("dt", name), element("dd", text))]
        pieces += [element("h3", section), element("dl", *pairs)]
    return element("section", *pieces, class_="card")


def _settings(report: Report) -> Html:
    shown = {"settings of the model and its training": report.settings, "manifests of the features": report.manifests}
    blocks = [
        element("details", element("summary", name), element("pre", json.dumps(value, indent=2, ensure_ascii=False)))
        for name, value in shown.items()
    ]
    return element("section", element("h2", "How this was made"), *blocks, class_="card")
