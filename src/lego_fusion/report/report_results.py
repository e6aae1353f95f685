"""The parts of a report that hold numbers: tiles, and the table of metrics with the protocol of each."""

from __future__ import annotations

from ..alarm.events import as_score
from ..measure.result import Result
from .markup import Html, element
from .report_record import Report
from .words import score_text

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
