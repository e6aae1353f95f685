"""The page of a report: what is static in HTML, what moves in one script, everything in one file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.resources import files

from ..alarm.events import as_score
from ..data.tables import intervals_from_labels
from ..errors import MissingExtraError
from ..measure.result import Result
from ..why.reading import VideoReading
from .charts import Html, data_block, document, element
from .pictures import Pictures
from .report_data import DEFAULT_MEGABYTES, Report, report_data
from .style import PAGE_STYLE, THEMES
from .words import number_text, score_text

_METRICS = {
    "micro_auc": "micro AUC",
    "abnormal_auc": "AUC, abnormal videos only",
    "macro_auc": "macro AUC",
    "average_precision": "average precision",
    "video_auc": "AUC of videos",
    "video_average_precision": "average precision of videos",
}
_TILES = ("micro_auc", "abnormal_auc", "event mAP", "delay seconds", "false alarms per hour")


def tiles(report: Report) -> Html:
    """The few numbers that a reader looks for first."""
    found = {one.metric: one for one in (*report.results, *report.event_results) if not one.domain}
    shown = [found[name] for name in _TILES if name in found]
    tiles = [_tile(metric_value(one), metric_name(one.metric), metric_interval(one)) for one in shown]
    events = sum(len(reading.events) for reading in report.readings)
    if not tiles:
        tiles.append(_tile(str(events), "event" if events == 1 else "events", report.promise))
    return element("div", *tiles, class_="tiles")


def _tile(value: str, name: str, under: str) -> Html:
    return element("div", element("b", value), name, element("br"), under, class_="tile")


def metric_name(metric: str) -> str:
    """What a metric is called in a table."""
    return _METRICS.get(metric, metric)


def metric_value(result: Result) -> str:
    """A value in its unit: shares in percent, seconds and alarms an hour as they are."""
    return _in_unit(result.metric, result.value)


def metric_interval(result: Result) -> str:
    """The interval of a result, or nothing."""
    if result.low is None or result.high is None:
        return ""
    return f"[{_in_unit(result.metric, result.low)}, {_in_unit(result.metric, result.high)}]"


def _in_unit(metric: str, value: float) -> str:
    unit = {"delay seconds": " s", "false alarms per hour": " / h"}.get(metric)
    return f"{100 * value:.1f} %" if unit is None else f"{value:.1f}{unit}"


def metrics_table(report: Report) -> Html:
    """Every metric with its interval, below it how each was measured."""
    results = (*report.results, *report.event_results)
    protocols = list(dict.fromkeys(one.protocol for one in results))
    pieces = [element("h2", "Metrics"), element("p", _threshold(report))]
    if not results:
        pieces.append(element("p", "Nothing was measured: no ground truth is known for these videos.", class_="note"))
        return element("section", *pieces, class_="card")
    names = ("metric", "value", "interval", "how")
    head = element("tr", *(element("th", name, class_="number" if 0 < n < 3 else None) for n, name in enumerate(names)))
    rows = [
        element(
            "tr",
            element("td", metric_name(one.metric) + (f", {one.domain}" if one.domain else "")),
            element("td", metric_value(one), class_="number"),
            element("td", metric_interval(one), class_="number"),
            element("td", f"({protocols.index(one.protocol) + 1})"),
        )
        for one in results
    ]
    pieces.append(element("div", element("table", head, *rows), class_="scroll"))
    pieces += [element("p", f"({number + 1}) {text}.", class_="note") for number, text in enumerate(protocols)]
    return element("section", *pieces, class_="card")


def _threshold(report: Report) -> str:
    promise = report.promise[:1].upper() + report.promise[1:]
    thresholds = {reading.rule.threshold for reading in report.readings}
    if len(thresholds) > 1:
        return f"Each camera has a threshold of its own, see the model card. {promise}."
    threshold = thresholds.pop()
    return f"Threshold: logit {threshold:.2f} (score {score_text(as_score(threshold))}). {promise}."


_SPARK_WIDTH, _SPARK_HEIGHT = 120.0, 28.0
_JOIN = "\N{NO-BREAK SPACE}"


def video_list(report: Report) -> Html:
    """A row for each video, by which it is chosen."""
    names = ("video", "label", "seconds", "logit over time", "highest logit", "events at")
    head = element("tr", *(element("th", name, class_=_column_class(name)) for name in names))
    low = min(float(reading.logits.min()) for reading in report.readings)
    high = max(reading.peak for reading in report.readings)
    rows = [_video_row(report, number, low, high) for number in range(len(report.readings))]
    note = "Choose one to see its curve. Shaded: ground truth; dashed: the threshold; all curves have one scale."
    table = element("table", element("thead", head), element("tbody", *rows))
    return element(
        "section",
        element("h2", "Videos"),
        element("p", note, class_="note"),
        element("div", table, class_="list"),
        class_="card",
    )


def _column_class(name: str) -> str | None:
    if name in ("label", "seconds"):
        return "wide-only number" if name == "seconds" else "wide-only"
    return "number" if name == "highest logit" else None


def _video_row(report: Report, number: int, low: float, high: float) -> Html:
    reading = report.readings[number]
    times = [f"{event.start_seconds:.1f}{_JOIN}to{_JOIN}{event.end_seconds:.1f}{_JOIN}s" for event in reading.events]
    told = ", ".join(times[:3]) + (f" and {len(times) - 3} more" if len(times) > 3 else "")
    button = element("button", reading.video, type="button")
    seconds = f"{len(reading.scores.scores) / reading.scores.fps:.1f}"
    return element(
        "tr",
        element("td", button),
        element("td", report.labels.get(reading.video, ""), class_="wide-only"),
        element("td", seconds, class_="wide-only number"),
        element("td", _spark(reading, low, high)),
        element("td", number_text(reading.peak, ".1f"), class_="number"),
        element("td", *([told] if told else [element("span", "none", class_="soft")])),
        data_video=number,
    )


def _spark(reading: VideoReading, low: float, high: float) -> Html:
    """The logit over time as a small picture."""
    logits = reading.scores.logits
    if logits is None:  # never: a reading has events, which are found in logits
        return Html("")
    frames, width = len(logits), max(high - low, 1e-9)

    def height(logit: float) -> str:
        inside = min(max((logit - low) / width, 0.0), 1.0)
        return f"{1 + (_SPARK_HEIGHT - 2) * (1 - inside):.1f}"

    def across(frame: int) -> str:
        return f"{frame / frames * _SPARK_WIDTH:.1f}"

    path, before = [f"M0 {height(float(logits[0]))}"], float(logits[0])
    for frame, logit in enumerate(logits.tolist()):
        if logit != before:
            path.append(f"H{across(frame)}V{height(logit)}")
            before = logit
    truth = intervals_from_labels("video", reading.scores.truth) if reading.scores.truth is not None else ()
    shades = [
        element(
            "rect",
            x=across(one.start_frame),
            y=0,
            width=across(one.end_frame - one.start_frame),
            height=_SPARK_HEIGHT,
            fill="var(--shade)",
        )
        for one in truth
    ]
    thin = {"vector_effect": "non-scaling-stroke"}
    level = height(reading.rule.threshold)
    limit = element("line", x1=0, x2=_SPARK_WIDTH, y1=level, y2=level, stroke="var(--soft)", stroke_dasharray="3 3", **thin)
    line = element("path", d="".join(path) + f"H{_SPARK_WIDTH}", fill="none", stroke="var(--accent)", stroke_width=1.6, **thin)
    box = {"viewBox": f"0 0 {_SPARK_WIDTH:g} {_SPARK_HEIGHT:g}", "preserveAspectRatio": "none", "class_": "spark"}
    return element("svg", *shades, limit, line, role="img", aria_label=f"highest logit {reading.peak:.1f}", **box)


def chosen_video(report: Report, *, with_pictures: bool) -> Html:
    """The places of the curve, of the moment and of its graphs."""
    title = element("h2", element("span", report.readings[0].video, id="video-name"))
    units = [
        element("label", element("input", type="radio", name="unit", value=name, checked=checked), f" {name}")
        for name, checked in (("logit", "checked"), ("score", None))
    ]
    tools = [element("span", *units)]
    if len(report.readings) > 1:
        options = [element("option", reading.video, value=number) for number, reading in enumerate(report.readings)]
        tools.insert(0, element("select", *options, id="video-choice", aria_label="video"))
    slider = element("input", type="range", id="moment", min=0, max=0, step=1, value=0, aria_label="moment")
    how = "Move over the curve to look, click to choose; the slider steps from moment to moment. Scores near 1 look alike, "
    how += "logits do not."
    where = element("h3", "", id="moment-where")
    parts = element("div", element("p", "", id="parts-note", class_="note"), element("div", id="parts-bars"), id="parts")
    about = element("div", where, element("p", "", id="moment-score"), parts)
    picture = [element("img", id="moment-picture", alt="", hidden="hidden")] if with_pictures else []
    hidden_picture = [] if with_pictures else [element("span", id="moment-picture", hidden="hidden")]
    moment = element("div", *picture, about, *hidden_picture, class_="moment" if with_pictures else "moment bare")
    return element(
        "section",
        title,
        element("p", "", id="verdict"),
        element("div", *tools, class_="tools"),
        element("noscript", element("p", "The charts need JavaScript, which this browser does not run.", class_="note")),
        element("div", id="curve", role="img", aria_label="score over time"),
        slider,
        _key(),
        element("p", how, class_="note"),
        element("h3", "", id="peaks-title"),
        element("div", id="peaks", class_="peaks"),
        moment,
        *_graphs(report),
        class_="card alarm",
        id="video",
    )


def _key() -> Html:
    shade = element("span", element("i", style="background:var(--shade)"), element("span", id="key-truth-text"), id="key-truth")
    event = element("span", element("i", class_="event", style="background:var(--alarm)"), "event")
    marks = [
        ("line", "score of the model"),
        ("dash", "threshold"),
        ("tri", "peak of an event"),
        ("shown", "moment below"),
    ]
    keys = [element("span", element("i", class_=name), text) for name, text in marks]
    return element("div", keys[0], keys[1], event, keys[2], shade, keys[3], class_="key")


def _graphs(report: Report) -> list[Html]:
    home = element("div", id="graphs", class_="graphs")
    missing = element(
        "p",
        "No graph of this moment is in the file; choose one near an event.",
        class_="note",
        id="graphs-missing",
        hidden="hidden",
    )
    if not report.has_graphs:
        text = "This model has no relation graphs to show."
        return [element("p", text, class_="note"), element("div", home, missing, hidden="hidden")]
    what = "the segments of this video"
    if not report.square:
        what = "the known normal segments that they receive most from"
    note = f"Rows are the segments of this video, columns {what}; the frame marks the moment. Values are rounded to 256 levels."
    return [element("h3", "Relation graphs of the moment"), element("p", note, class_="note"), home, missing]


def weight_table(report: Report) -> list[Html]:
    """What the head has learned, and which world the model lives in; nothing for a model whose head is no sum of parts."""
    found = report.weights
    if found is None:
        return []
    names = ["", *(f"degree, order {order}" for order in found.orders), "departure"]
    names += [f"own video, order {order}" for order in found.orders] if found.own else []
    head = element("tr", *(element("th", name, class_="number" if name else None) for name in names))
    rows = []
    for row in found.rows:
        sizes = [found.departure.get(row)]
        values = [*found.degrees[row], *sizes, *found.own.get(row, [None] * (len(found.orders) if found.own else 0))]
        cells = ["" if value is None else number_text(value) for value in values]
        rows.append(element("tr", element("td", row), *(element("td", cell, class_="number") for cell in cells)))
    note = (
        "Weight of each degree, which starts at 1, and length of the weights of each departure, which start at 0: what the "
        f"labels added. It lives in the {found.world}."
    )
    table = element("div", element("table", head, *rows), class_="scroll")
    return [element("section", element("h2", "What was learned"), element("p", note, class_="note"), table, class_="card")]


def operator_tables(report: Report) -> list[Html]:
    """The place of the operator's coefficients; nothing for a model without one."""
    if not report.coefficients:
        return []
    note = "Coefficient of the product of one relation to the power of its row and the other to that of its column."
    if len(report.coefficients) > 1:
        note += " A table for every pair; terms of three or more modalities are in the model, but not shown."
    title = element("h2", "The operator")
    return [
        element(
            "section", title, element("p", note, class_="note"), element("div", id="operator", class_="graphs"), class_="card"
        )
    ]


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
