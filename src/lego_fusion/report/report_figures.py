"""The figures of a report through matplotlib: each video's curve with its relation graphs, and the operator."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..alarm.events import frame_edges
from ..data.tables import intervals_from_labels
from ..why.reading import CoefficientTable, VideoReading
from .figures import CURVE, TRUTH, new_figure, save_figure
from .report_data import Moment, Report, moment_at, moments_of, peak_moments

_ALARM = "#D55E00"
_FORMATS = ("png", "svg")


def save_report_figures(
    folder: str | Path, report: Report, *, on_video: Callable[[int, int], None] | None = None
) -> list[Path]:
    """Write ``<video>.png`` and ``.svg`` for each video, and ``operator.png`` and ``.svg`` where there is one.

    Args:
        folder: Made if it is not there.
        report: What to draw.
        on_video: Called with how many videos of how many are drawn.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    folder, paths = Path(folder), list[Path]()
    used = {"operator"}
    for number, reading in enumerate(report.readings):
        name = _file_name(reading.video, used)
        paths += [folder / f"{name}.{kind}" for kind in _FORMATS]
        _save(paths[-len(_FORMATS) :], video_figure(reading))
        if on_video is not None:
            on_video(number + 1, len(report.readings))
    if report.coefficients:
        paths += [folder / f"operator.{kind}" for kind in _FORMATS]
        _save(paths[-len(_FORMATS) :], operator_figure(report.coefficients))
    return paths


def video_figure(reading: VideoReading) -> Any:
    """The curve of one video in logits with events and ground truth, above the graphs with the rows of its highest moment."""
    graphs = {**reading.graphs, **({"fused graph": reading.fused} if reading.fused is not None else {})}
    figure = new_figure(9, 5.2 if graphs else 2.8)
    parts = figure.subfigures(2, 1, height_ratios=[1, 1.05]) if graphs else [figure]
    moments = moments_of(reading)
    peak = moments[peak_moments(reading, moments)[0]]
    _draw_curve(parts[0].subplots(), reading, moments, peak)
    axes = np.ravel(parts[-1].subplots(1, len(graphs))) if graphs else ()
    for axis, (name, values) in zip(axes, graphs.items(), strict=True):
        shown = axis.imshow(values, aspect="auto", cmap="cividis", interpolation="nearest")
        axis.set_title(name, fontsize=10, loc="left")
        axis.set(xlabel="column", ylabel="segment")
        axis.axhline(peak.first - 0.5, color=_ALARM, lw=1.6)
        axis.axhline(peak.last + 0.5, color=_ALARM, lw=1.6)
        parts[-1].colorbar(shown, ax=axis, shrink=0.9)
    return figure


def operator_figure(coefficients: tuple[CoefficientTable, ...]) -> Any:
    """The coefficients of each pair of modalities as a heat map with its numbers."""
    figure = new_figure(4.2 * len(coefficients), 3.4)
    most = max(max(float(np.abs(table.values).max()) for table in coefficients), 1e-9)
    for axis, table in zip(np.ravel(figure.subplots(1, len(coefficients))), coefficients, strict=True):
        axis.imshow(table.values, cmap="PuOr_r", vmin=-most, vmax=most)
        for (row, column), value in np.ndenumerate(table.values):
            colour = "white" if abs(value) > 0.6 * most else "black"
            axis.text(column, row, f"{value:.2g}", ha="center", va="center", fontsize=9, color=colour)
        axis.set(xlabel=f"order of {table.columns}", ylabel=f"order of {table.rows}" if table.rows else "")
        axis.set_xticks(range(table.values.shape[1]))
        axis.set_yticks(range(table.values.shape[0]) if table.rows else [])
    return figure


def _draw_curve(axis: Any, reading: VideoReading, moments: list[Moment], peak: Moment) -> None:
    scores, edges = reading.scores, frame_edges(reading.scores.times, reading.scores.fps)
    if scores.truth is not None:
        for number, run in enumerate(intervals_from_labels("video", scores.truth)):
            label = "abnormal (ground truth)" if number == 0 else None
            axis.axvspan(edges[run.start_frame], edges[run.end_frame], color=TRUTH, alpha=0.3, lw=0, label=label)
    axis.stairs(scores.logits, edges, color=CURVE, lw=1.8, baseline=None, label="logit")
    axis.axhline(reading.rule.threshold, color="black", lw=1, ls="--", label="threshold")
    for number, event in enumerate(reading.events):
        label = "event" if number == 0 else None
        axis.axvspan(event.start_seconds, event.end_seconds, ymin=0.96, color=_ALARM, lw=0, label=label)
        at = moments[moment_at(moments, event.peak_seconds)]
        axis.plot((at.start_seconds + at.end_seconds) / 2, event.peak, marker="v", color=_ALARM, ms=8)
    axis.axvspan(peak.start_seconds, peak.end_seconds, fill=False, ec=CURVE, lw=1)
    axis.set(xlim=(edges[0], edges[-1]), xlabel="seconds", ylabel="logit")
    axis.set_title(reading.video.replace("$", r"\$"), fontsize=10, loc="left")
    axis.spines[["top", "right"]].set_visible(False)
    axis.figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False, fontsize=9)


def _save(paths: list[Path], figure: Any) -> None:
    for path in paths:
        save_figure(path, figure)


def _file_name(video: str, used: set[str]) -> str:
    """A name that any file system takes and no other video has."""
    base = re.sub(r"[^\w.-]+", "_", video).strip("._") or "video"
    name, number = base, 1
    while name in used:
        number += 1
        name = f"{base}-{number}"
    used.add(name)
    return name
