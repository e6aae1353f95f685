"""The page of a report: what is static in a template, what moves in one script, everything in one file."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from ..alarm.events import as_score
from ..data.ground_truth import intervals_from_labels
from ..errors import MissingExtraError
from ..measure.event_metrics import DELAY, RATE, SECONDS_PER_HOUR, time_text
from ..measure.result import Result
from ..why.reading import VideoReading
from .charts import level, step_path
from .pages import data_block, render, script
from .pictures import Pictures
from .report_data import DEFAULT_MEGABYTES, Report, report_data
from .words import score_text

_METRICS = {
    "micro_auc": "micro AUC",
    "abnormal_auc": "AUC, abnormal videos only",
    "macro_auc": "macro AUC",
    "average_precision": "average precision",
    "video_auc": "AUC of videos",
    "video_average_precision": "average precision of videos",
}
_TILES = ("micro_auc", "abnormal_auc", "event mAP", DELAY, RATE)
_SPARK_WIDTH, _SPARK_HEIGHT = 120.0, 28.0


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
    results = (*report.results, *report.event_results)
    protocols = list(dict.fromkeys(one.protocol for one in results))
    documents = {"settings of the model and its training": report.settings, "manifests of the features": report.manifests}
    low, high = min(float(one.logits.min()) for one in report.readings), max(one.peak for one in report.readings)
    return render(
        "report.html",
        report.title,
        scripts=(plotly, script("report.js")),
        report=report,
        tiles=_tiles(report),
        sparks=[_spark(one, low, high) for one in report.readings],
        with_pictures=pictures is not None,
        threshold=_threshold(report),
        rate=_rate_sentence(report),
        metrics=[_metric(one) | {"how": protocols.index(one.protocol) + 1} for one in results],
        protocols=protocols,
        notes=list(dict.fromkeys((*report.notes, *drawn.notes, *(pictures.notes if pictures is not None else ())))),
        documents={name: json.dumps(value, indent=2, ensure_ascii=False) for name, value in documents.items()},
        data=data_block("data", drawn.document | {"first": first, "graphs": report.has_graphs, "square": report.square}),
    )


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


def metric_value(result: Result) -> str:
    """A value in its unit: shares in percent, seconds and alarms an hour as they are."""
    return _in_unit(result.metric, result.value)


def metric_interval(result: Result) -> str:
    """The interval of a result, or nothing."""
    if result.low is None or result.high is None:
        return ""
    return f"[{_in_unit(result.metric, result.low)}, {_in_unit(result.metric, result.high)}]"


def _in_unit(metric: str, value: float) -> str:
    unit = {DELAY: " s", RATE: " / h"}.get(metric)
    return f"{100 * value:.1f} %" if unit is None else f"{value:.1f}{unit}"


def _metric(result: Result) -> dict[str, Any]:
    name = _METRICS.get(result.metric, result.metric) + (f", {result.domain}" if result.domain else "")
    return {"name": name, "value": metric_value(result), "interval": metric_interval(result)}


def _tiles(report: Report) -> list[dict[str, str]]:
    """The few numbers that a reader looks for first; a rate needs an hour to be one."""
    rate = _rate(report)
    short = rate is not None and _quiet_seconds(rate) < SECONDS_PER_HOUR
    found = {one.metric: _metric(one) for one in (*report.results, *report.event_results) if not one.domain}
    wanted = [name for name in _TILES if name in found and not (short and name == RATE)]
    tiles = [{**found[name], "under": found[name]["interval"]} for name in wanted]
    events = sum(len(reading.events) for reading in report.readings)
    return tiles or [{"value": str(events), "name": "event" if events == 1 else "events", "under": report.promise}]


def _rate_sentence(report: Report) -> str:
    """What the false alarms say, with the time that they rest on."""
    rate = _rate(report)
    if rate is None or rate.high is None:
        return ""
    seconds = _quiet_seconds(rate)
    alarms = round(rate.value * seconds / SECONDS_PER_HOUR)
    seen = f"{alarms} false alarm{'s' * (alarms != 1)} in {time_text(seconds)} without a true event"
    if seconds < SECONDS_PER_HOUR:
        return f"{seen}: too little for a rate. Up to {rate.high:,.0f} an hour are compatible with it."
    return f"{seen}: {metric_value(rate)} {metric_interval(rate)}."


def _rate(report: Report) -> Result | None:
    return next((one for one in report.event_results if one.metric == RATE), None)


def _quiet_seconds(rate: Result) -> float:
    return float(str(rate.extra.get("quiet_seconds", 0.0)))


def _threshold(report: Report) -> str:
    promise = report.promise[:1].upper() + report.promise[1:]
    thresholds = {reading.rule.threshold for reading in report.readings}
    if len(thresholds) > 1:
        return f"Each camera has a threshold of its own, see the model card. {promise}."
    threshold = thresholds.pop()
    return f"Threshold: logit {threshold:.2f} (score {score_text(as_score(threshold))}). {promise}."


def _spark(reading: VideoReading, low: float, high: float) -> dict[str, Any]:
    """The logit over time as a small picture: what a row of the list shows, by which a video is chosen."""
    logits, truth = np.asarray(reading.scores.logits), reading.scores.truth
    spans = intervals_from_labels("video", truth) if truth is not None else ()
    across = _SPARK_WIDTH / len(logits)
    return {
        "path": step_path(logits, low, high, _SPARK_WIDTH, _SPARK_HEIGHT),
        "level": f"{level(reading.rule.threshold, low, high, _SPARK_HEIGHT):.1f}",
        "truth": [(f"{one.start_frame * across:.1f}", f"{(one.end_frame - one.start_frame) * across:.1f}") for one in spans],
        "width": f"{_SPARK_WIDTH:g}",
        "height": f"{_SPARK_HEIGHT:g}",
    }
