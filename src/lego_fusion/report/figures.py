"""Figures through matplotlib, drawn without a display: curves, bars, and those of a report."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64

from ..alarm.events import frame_edges
from ..data.ground_truth import intervals_from_labels
from ..errors import DataError, MissingExtraError
from ..why.reading import CoefficientTable, VideoReading
from ..writing import written_whole
from .report_data import Moment, Report, moment_at, moments_of, peak_moments

CURVE = "#0072B2"  # Okabe and Ito's palette, told apart without colour vision
TRUTH = "#E69F00"
LINES = (CURVE, TRUTH, "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#000000")
_ALARM = "#D55E00"
_FORMATS = ("png", "svg")


def score_curve(
    path: str | Path,
    scores: Float64[np.ndarray, " frames"],
    *,
    fps: float,
    truth: Bool[np.ndarray, " frames"] | None = None,
    title: str = "",
) -> None:
    """Draw the score of every frame over time, with the abnormal spans behind it where they are known.

    Args:
        path: PNG or SVG file to write.
        scores: Frame scores in [0, 1].
        fps: Frames per second, > 0.
        truth: True where a frame is abnormal.
        title: Above the curve.

    Raises:
        MissingExtraError: If matplotlib is not installed.
        DataError: If scores and truth differ in length.
    """
    score_curves(path, [(title, scores, truth)], fps=fps)


def score_curves(
    path: str | Path,
    curves: Sequence[tuple[str, Float64[np.ndarray, " _"], Bool[np.ndarray, " _"] | None]],
    *,
    fps: float,
    columns: int = 1,
) -> None:
    """Draw several videos' curves in one figure: (title, scores, truth or None) each, ``columns`` beside each other."""
    rows = -(-len(curves) // columns)
    figure = new_figure(8.0 if columns == 1 else 4.2 * columns, 0.7 + 2.1 * rows)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis, (title, scores, truth) in zip(axes, curves, strict=False):
        _draw_curve(axis, title, scores, truth, fps)
    for axis in axes[len(curves) :]:
        axis.set_visible(False)
    handles, labels = max((axis.get_legend_handles_labels() for axis in axes), key=lambda pair: len(pair[1]))
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    save_figure(path, figure)


def coefficient_bars(path: str | Path, coefficients: Mapping[str, float], *, most: int = 20, title: str = "") -> None:
    """Draw the largest shares of an operator as bars, products of two views in another colour than single views.

    Args:
        path: PNG or SVG file to write.
        coefficients: Share of every kernel by name, such as ``LegoClassifier.coefficients_``; a product holds " * ".
        most: How many are drawn; the others are summed in one last bar.
        title: Above the bars.

    Raises:
        MissingExtraError: If matplotlib is not installed.
        DataError: If there are no coefficients.
    """
    if not coefficients:
        raise DataError("there are no coefficients to draw", expected="a share for every kernel", fix="fit the estimator first")
    ranked = sorted(coefficients.items(), key=lambda pair: -pair[1])
    shown, others = dict(ranked[:most]), ranked[most:]
    if others:
        shown[f"{len(others)} others"] = sum(share for _, share in others)
    colours = [TRUTH if " * " in name else CURVE for name in shown]
    figure = new_figure(7.0, 0.9 + 0.28 * len(shown))
    axis = figure.subplots()
    axis.barh(list(shown), [100 * share for share in shown.values()], color=colours)
    axis.invert_yaxis()
    axis.set(xlabel="share of the operator, %  (blue: one view; orange: product of two views)")
    axis.set_title(title, fontsize=10, loc="left")
    axis.spines[["top", "right"]].set_visible(False)
    save_figure(path, figure)


def share_lines(path: str | Path, steps: Sequence[int], shares: Mapping[str, Sequence[float]], *, title: str = "") -> None:
    """Draw how shares change over the steps of a training, one line each.

    Args:
        path: PNG or SVG file to write.
        steps: In ascending order.
        shares: By name, one share per step, such as ``ShareHistory.lines()``.
        title: Above the lines.

    Raises:
        MissingExtraError: If matplotlib is not installed.
        DataError: If there is nothing to draw, or a line has another length than the steps.
    """
    wrong = [name for name, line in shares.items() if len(line) != len(steps)]
    if wrong or not shares or not steps:
        raise DataError(
            "shares and steps do not belong together",
            where=wrong[0] if wrong else None,
            expected=f"{len(steps)} shares",
            got=len(shares[wrong[0]]) if wrong else "none",
        )
    figure = new_figure(8.0, 3.6)
    axis = figure.subplots()
    axis.axhline(0, color="0.8", lw=0.8)
    for number, (name, line) in enumerate(shares.items()):
        style = ("-", "--", ":")[number // len(LINES) % 3]
        axis.plot(
            steps, [100 * share for share in line], style, color=LINES[number % len(LINES)], lw=1.8, marker=".", label=name
        )
    axis.set(xlabel="training step", ylabel="share of the fused graph's variation, %")
    axis.set_title(title, fontsize=10, loc="left")
    axis.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right upper", frameon=False, fontsize=9)
    save_figure(path, figure)


def _draw_curve(axis: Any, title: str, scores: np.ndarray, truth: np.ndarray | None, fps: float) -> None:
    if truth is not None and len(truth) != len(scores):
        raise DataError("scores and ground truth differ in length", where=title, expected=len(scores), got=len(truth))
    seconds = np.arange(len(scores) + 1) / fps
    _shade_truth(axis, truth, seconds)
    axis.stairs(scores, seconds, color=CURVE, lw=1.6, baseline=None, label="abnormality score")
    axis.set(xlim=(0, seconds[-1]), ylim=(-0.02, 1.02), xlabel="seconds")
    axis.set_ylabel("score")
    axis.set_title(title, fontsize=10, loc="left")
    axis.spines[["top", "right"]].set_visible(False)


def save_figure(path: str | Path, figure: Any) -> None:
    """Write a figure as PNG, or as what the file's suffix says, whole or not at all."""
    path = Path(path)
    with written_whole(path) as file:
        figure.savefig(file, format=path.suffix.removeprefix(".") or "png", dpi=130)


def new_figure(width: float, height: float) -> Any:
    """An empty figure, in inches, that needs no display; ``MissingExtraError`` where matplotlib is not installed."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("matplotlib", "report") from error
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


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
    folder, used = Path(folder), {"operator"}
    paths: list[Path] = []

    def save(name: str, figure: Any) -> None:
        for kind in _FORMATS:
            paths.append(folder / f"{name}.{kind}")
            save_figure(paths[-1], figure)

    for number, reading in enumerate(report.readings):
        save(_file_name(reading.video, used), video_figure(reading))
        if on_video is not None:
            on_video(number + 1, len(report.readings))
    if report.coefficients:
        save("operator", operator_figure(report.coefficients))
    return paths


def video_figure(reading: VideoReading) -> Any:
    """The curve of one video in logits with events and ground truth, above the graphs with the rows of its highest moment."""
    graphs = {**reading.graphs, **({"fused graph": reading.fused} if reading.fused is not None else {})}
    figure = new_figure(9.0, 5.2 if graphs else 2.8)
    parts = figure.subfigures(2, 1, height_ratios=[1, 1.05]) if graphs else [figure]
    moments = moments_of(reading)
    peak = moments[peak_moments(reading, moments)[0]]
    _draw_report_curve(parts[0].subplots(), reading, moments, peak)
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


def _draw_report_curve(axis: Any, reading: VideoReading, moments: list[Moment], peak: Moment) -> None:
    scores, edges = reading.scores, frame_edges(reading.scores.times, reading.scores.fps)
    _shade_truth(axis, scores.truth, edges)
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


def _shade_truth(axis: Any, truth: np.ndarray | None, edges: np.ndarray) -> None:
    """Spans that are known to be abnormal, between the seconds at which frames begin and end."""
    for number, span in enumerate(intervals_from_labels("video", truth) if truth is not None else ()):
        label = "abnormal (ground truth)" if number == 0 else None
        axis.axvspan(edges[span.start_frame], edges[span.end_frame], color=TRUTH, alpha=0.3, lw=0, label=label)


def _file_name(video: str, used: set[str]) -> str:
    """A name that any file system takes and no other video has."""
    base = re.sub(r"[^\w.-]+", "_", video).strip("._") or "video"
    name, number = base, 1
    while name in used:
        number += 1
        name = f"{base}-{number}"
    used.add(name)
    return name
