"""Figures through matplotlib, drawn without a display."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float64, UInt8

from ..data.tables import intervals_from_labels
from ..errors import DataError, MissingExtraError
from ..writing import written_whole

CURVE = "#0072B2"  # Okabe and Ito's palette, told apart without colour vision
TRUTH = "#E69F00"
LINES = (CURVE, TRUTH, "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#000000")
_OUTLINE = "#56B4E9"


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
    figure_class, canvas = load_matplotlib()
    rows = -(-len(curves) // columns)
    figure = figure_class(figsize=(8 if columns == 1 else 4.2 * columns, 0.7 + 2.1 * rows), layout="constrained")
    canvas(figure)
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
    figure_class, canvas = load_matplotlib()
    ranked = sorted(coefficients.items(), key=lambda pair: -pair[1])
    shown, others = dict(ranked[:most]), ranked[most:]
    if others:
        shown[f"{len(others)} others"] = sum(share for _, share in others)
    colours = [TRUTH if " * " in name else CURVE for name in shown]
    figure = figure_class(figsize=(7, 0.9 + 0.28 * len(shown)), layout="constrained")
    canvas(figure)
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
    figure_class, canvas = load_matplotlib()
    figure = figure_class(figsize=(8, 3.6), layout="constrained")
    canvas(figure)
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
    if truth is not None:
        for number, span in enumerate(intervals_from_labels("video", truth)):
            label = "abnormal (ground truth)" if number == 0 else None
            axis.axvspan(span.start_frame / fps, span.end_frame / fps, color=TRUTH, alpha=0.3, lw=0, label=label)
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


def load_matplotlib() -> tuple[Any, Any]:
    """Figure and canvas of matplotlib; ``MissingExtraError`` where it is not installed."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("matplotlib", "report") from error
    return Figure, FigureCanvasAgg


def heat_map(
    path: str | Path,
    pictures: Sequence[tuple[str, UInt8[np.ndarray, "h w 3"], Float[np.ndarray, "rows columns"]]],
    *,
    masks: Sequence[Bool[np.ndarray, "h w"] | None] = (),
    columns: int = 2,
) -> None:
    """Draw heat maps over their frames: (title, frame, heat of its cells) each; the truth, where it is known, as an outline.

    Colours are the same in all pictures, from the coolest to the hottest cell of all of them; cool cells let the frame through.

    Args:
        path: PNG or SVG file to write.
        pictures: Title, frame and heat of its cells, row by row from the top.
        masks: True where a pixel is known to be abnormal, for each picture, or None.
        columns: Pictures beside each other.

    Raises:
        MissingExtraError: If matplotlib is not installed.
        DataError: If there is no picture.
    """
    if not pictures:
        raise DataError("there is no picture to draw", where=path, expected="frames and heat maps")
    figure_class, canvas = load_matplotlib()
    rows = -(-len(pictures) // columns)
    figure = figure_class(figsize=(4.6 * columns, 3.3 * rows), layout="constrained")
    canvas(figure)
    axes = figure.subplots(rows, columns, squeeze=False)
    low, high = min(float(heat.min()) for *_, heat in pictures), max(float(heat.max()) for *_, heat in pictures)
    shown = None
    for place, axis in enumerate(axes.ravel()):
        axis.set_axis_off()
        if place >= len(pictures):
            continue
        title, image, heat = pictures[place]
        extent = (0, image.shape[1], image.shape[0], 0)
        axis.imshow(image, extent=extent)
        strength = 0.6 * (heat - low) / (high - low if high > low else 1.0)
        options = {"cmap": "inferno", "vmin": low, "vmax": high, "interpolation": "nearest"}
        shown = axis.imshow(heat, extent=extent, alpha=strength, **options)
        mask = masks[place] if place < len(masks) else None
        if mask is not None and mask.any():
            axis.contour(mask.astype(float), levels=[0.5], colors=[_OUTLINE], linewidths=1.4, extent=extent, origin="upper")
        axis.set_title(title, fontsize=9)
    figure.colorbar(shown, ax=axes, shrink=0.8, label="novelty of a cell").solids.set_alpha(0.6)
    save_figure(path, figure)
