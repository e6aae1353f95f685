"""Where in the picture something abnormal is: heat maps over cells against masks of pixels.

A heat map gives every cell of a frame a number; each pixel has the number of its cell. Only frames in which something
is abnormal are looked at: whether a frame is abnormal at all is what ``measure.detection`` measures.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int64, UInt8

from lego_fusion.data.segments import cells_of_pixels, rows_to_frames
from lego_fusion.errors import DataError
from lego_fusion.measure.scored import ScoredVideo
from lego_fusion.report.figures import new_figure, save_figure

OUTLINE = "#56B4E9"


def frame_heat_maps(
    heat: Float[np.ndarray, "snippets rows columns"], frames: int, snippet_frames: int = 16, stride: int = 16
) -> Float[np.ndarray, "frames rows columns"]:
    """Heat of every frame: the mean over the snippets that show it, cell by cell.

    Example:
        >>> frame_heat_maps(np.array([[[0.0]], [[1.0]]]), frames=3, snippet_frames=2, stride=2).ravel().tolist()
        [0.0, 0.0, 1.0]
    """
    cells = heat.reshape(len(heat), -1).astype(np.float64)
    spread = [rows_to_frames(column, frames, snippet_frames, stride) for column in cells.T]
    return np.stack(spread, axis=1).reshape(frames, *heat.shape[1:])


def scored_pixels(
    video: str, heat: Float[np.ndarray, "frames rows columns"], masks: Bool[np.ndarray, "frames h w"]
) -> ScoredVideo:
    """The pixels of a video's abnormal frames with the heat of their cells, for ``micro_auc`` and its intervals.

    Args:
        video: Name.
        heat: Of every frame, higher is more abnormal.
        masks: True where a pixel is abnormal.

    Returns:
        One run per different heat and label, weighted by its number of pixels: ``micro_auc`` of such videos is the pixel AUC
        over abnormal frames.

    Raises:
        DataError: If heat and masks have different numbers of frames, or no pixel is abnormal.

    Example:
        >>> masks = np.zeros((1, 2, 4), dtype=bool)
        >>> masks[0, :, 3] = True
        >>> pixels = scored_pixels("v", np.array([[[0.1, 0.9]]]), masks)
        >>> pixels.scores.tolist(), pixels.labels.tolist(), pixels.weights.tolist()
        ([0.1, 0.9, 0.9], [False, False, True], [4.0, 2.0, 2.0])
    """
    abnormal, inside, size = _pixels_by_cell(video, heat, masks)
    values, place = np.unique(heat[abnormal].ravel(), return_inverse=True)
    positive = np.bincount(place, inside.ravel(), minlength=len(values))
    negative = np.bincount(place, (size - inside).ravel(), minlength=len(values))
    weights = np.stack([negative, positive], axis=1).ravel()
    labels = np.tile([False, True], len(values))
    there = weights > 0
    return ScoredVideo(video, np.repeat(values, 2)[there], labels[there], weights[there])


def pointing_hits(
    video: str, heat: Float[np.ndarray, "frames rows columns"], masks: Bool[np.ndarray, "frames h w"]
) -> tuple[ScoredVideo, ScoredVideo]:
    """Pointing game: say of each abnormal frame whether its hottest cell holds an abnormal pixel.

    Returns:
        The hits (1 or 0) of the abnormal frames, the first of equally hot cells being the one that points, and what
        pointing at random would hit: the share of cells that hold an abnormal pixel. ``hit_rate`` of such videos is the
        pointing game's result.

    Example:
        >>> masks = np.zeros((2, 2, 4), dtype=bool)
        >>> masks[:, :, 3] = True
        >>> hits, chance = pointing_hits("v", np.array([[[0.1, 0.9]], [[0.9, 0.1]]]), masks)
        >>> hits.scores.tolist(), chance.scores.tolist()
        ([1.0, 0.0], [0.5, 0.5])
    """
    abnormal, inside, _ = _pixels_by_cell(video, heat, masks)
    touched = inside.reshape(len(inside), -1) > 0
    hottest = heat[abnormal].reshape(len(touched), -1).argmax(axis=1)
    hits = touched[np.arange(len(touched)), hottest].astype(np.float64)
    ones = np.ones(len(hits))
    return ScoredVideo(video, hits, ones > 0, ones), ScoredVideo(video, touched.mean(axis=1), ones > 0, ones)


def hit_rate(scored: Sequence[ScoredVideo]) -> float:
    """Mean of what ``pointing_hits`` gives over the abnormal frames of all videos, in [0, 1]."""
    total = sum(float(video.weights.sum()) for video in scored)
    return sum(float((video.scores * video.weights).sum()) for video in scored) / total


def _pixels_by_cell(
    video: str, heat: Float[np.ndarray, "frames rows columns"], masks: Bool[np.ndarray, "frames h w"]
) -> tuple[Int64[np.ndarray, " abnormal"], Int64[np.ndarray, "abnormal rows columns"], Int64[np.ndarray, "rows columns"]]:
    """The abnormal frames, how many abnormal pixels each of their cells holds, and how many pixels a cell has."""
    if len(heat) != len(masks):
        raise DataError("heat maps and masks do not fit", where=video, expected=f"{len(masks)} frames", got=len(heat))
    abnormal = np.flatnonzero(masks.any(axis=(1, 2)))
    if not len(abnormal):
        raise DataError("no pixel is abnormal", where=video, expected="masks of a video with something abnormal", got="none")
    rows, columns = heat.shape[1:]
    cells = cells_of_pixels(masks.shape[1], masks.shape[2], rows, columns)
    inside = np.stack([np.bincount(cells[masks[frame].ravel()], minlength=rows * columns) for frame in abnormal])
    size = np.bincount(cells, minlength=rows * columns)
    return abnormal, inside.reshape(-1, rows, columns), size.reshape(rows, columns)


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
    """
    rows = -(-len(pictures) // columns)
    figure = new_figure(4.6 * columns, 3.3 * rows)
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
            axis.contour(mask.astype(float), levels=[0.5], colors=[OUTLINE], linewidths=1.4, extent=extent, origin="upper")
        axis.set_title(title, fontsize=9)
    figure.colorbar(shown, ax=axes, shrink=0.8, label="novelty of a cell").solids.set_alpha(0.6)
    save_figure(path, figure)
