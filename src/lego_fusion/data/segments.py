"""Time on three scales: T snippets of an extractor, N segments of a graph, F frames of a video; and finer units than a snippet.

Segment i of N covers the snippets r_i <= t < r_{i+1} with r = int(linspace(0, T, N+1)); where that is empty (T < N),
it copies snippet r_i. Snippet t covers the frames from t * stride on. Works for every T and F from 1 up.

Stored as (T, U, D + 1): the last column, *presence*, is 1 where a unit is there and 0 where it is not, and an absent unit is
zero in every column. So absence is exact: a motion cell in which nothing moves is zero too, and is there.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, Int64

from ..errors import DataError, check_int
from .manifest import Manifest

Array = np.ndarray[Any, np.dtype[Any]]


def segment_bounds(rows: int, segments: int) -> Int[np.ndarray, " bounds"]:
    """Borders r = int(linspace(0, T, N+1)) of N equal spans of T snippets.

    Args:
        rows: T, number of snippets, at least 1.
        segments: N, number of segments, at least 1.

    Returns:
        Borders, shape (N+1,), from 0 to T, never falling.

    Source:
        TEVAD (CVPRW 2023) and RTFM (ICCV 2021), preparation of the features.

    Example:
        >>> segment_bounds(6, 4).tolist()
        [0, 1, 3, 4, 6]
    """
    check_int(rows, "rows", "segment_bounds", low=1)
    check_int(segments, "segments", "segment_bounds", low=1)
    return np.linspace(0, rows, segments + 1).astype(np.int64)


def segment_spans(rows: int, segments: int) -> tuple[Int[np.ndarray, " segments"], Int[np.ndarray, " segments"]]:
    """First snippet of each segment, and the snippet after its last; a segment without one of its own has that at its start.

    Example:
        >>> [part.tolist() for part in segment_spans(2, 3)]
        [[0, 0, 1], [1, 1, 2]]
    """
    bounds = segment_bounds(rows, segments)
    return bounds[:-1], np.maximum(bounds[1:], bounds[:-1] + 1)


def segment_frames(
    segment: int, segments: int, *, rows: int, frames: int, snippet_frames: int = 16, stride: int = 16
) -> tuple[int, int]:
    """First frame of a segment and the frame after its last, as far as the video goes.

    Args:
        segment: Which one, in [0, N - 1].
        segments: N, number of segments.
        rows: T, number of snippets.
        frames: Number of frames of the video.
        snippet_frames: Frames that a snippet describes.
        stride: Frames from one snippet to the next.

    Example:
        >>> segment_frames(1, 4, rows=6, frames=90)
        (16, 48)
        >>> [segment_frames(segment, 4, rows=2, frames=20) for segment in range(4)]
        [(0, 16), (0, 16), (16, 20), (16, 20)]
    """
    first, end = (int(part[segment]) for part in segment_spans(rows, segments))
    return first * stride, min(frames, (end - 1) * stride + snippet_frames)


def to_segments(features: Array, segments: int) -> Float[np.ndarray, "segments ..."]:
    """Average the snippets of every segment: x_i = mean of x_t over r_i <= t < r_{i+1}, or x at r_i if that is empty.

    Args:
        features: Snippet features, shape (T, ...), T at least 1; summed in float64.
        segments: N, number of segments, at least 1.

    Returns:
        Segment features, shape (N, ...), float32; of float16 features float16, which they came in.

    Raises:
        DataError: If there is no snippet.

    Example:
        >>> to_segments(np.array([[1.0], [2.0], [4.0]]), segments=2).tolist()
        [[1.0], [3.0]]
    """
    if features.ndim == 0 or features.shape[0] == 0:
        raise DataError("there are no snippets to average", expected="at least one row", got=f"shape {features.shape}")
    result = np.empty((segments, *features.shape[1:]), np.float16 if features.dtype == np.float16 else np.float32)
    for segment, (first, end) in enumerate(zip(*segment_spans(features.shape[0], segments), strict=True)):
        result[segment] = features[first:end].mean(axis=0, dtype=np.float64)  # several times as fast as np.add.reduceat
    return result


def segments_to_rows(segment_scores: Float[np.ndarray, " segments"], rows: int) -> Float[np.ndarray, " rows"]:
    """Give every snippet the mean score of the segments made from it, the way back from ``to_segments``.

    Args:
        segment_scores: One score per segment, shape (N,).
        rows: T, number of snippets, at least 1.

    Returns:
        One score per snippet, shape (T,), float64.

    Example:
        >>> segments_to_rows(np.array([1.0, 3.0]), rows=4).tolist()
        [1.0, 1.0, 3.0, 3.0]
        >>> segments_to_rows(np.array([1.0, 3.0, 5.0, 7.0]), rows=2).tolist()
        [2.0, 6.0]
    """
    return _mean_over_spans(segment_scores, *segment_spans(rows, len(segment_scores)), rows)


def rows_to_frames(
    row_scores: Float[np.ndarray, " rows"], frames: int, snippet_frames: int = 16, stride: int = 16
) -> Float[np.ndarray, " frames"]:
    """Give every frame the mean score of the snippets that show it.

    Snippets overlap where stride < snippet_frames; where stride > snippet_frames, frames between two snippets hold
    the score of the earlier one. The last snippet ends with the video.

    Args:
        row_scores: One score per snippet, shape (T,).
        frames: Number of frames of the video, at least 1.
        snippet_frames: Frames that a snippet describes, at least 1.
        stride: Frames from one snippet to the next, at least 1.

    Returns:
        One score per frame, shape (frames,), float64.

    Raises:
        DataError: Unless T = ceil(frames / stride).

    Example:
        >>> rows_to_frames(np.array([0.0, 1.0]), frames=6, snippet_frames=4, stride=4).tolist()
        [0.0, 0.0, 0.0, 0.0, 1.0, 1.0]
    """
    for name, value in (("frames", frames), ("snippet_frames", snippet_frames), ("stride", stride)):
        check_int(value, name, "rows_to_frames", low=1)
    if len(row_scores) != -(-frames // stride):
        raise DataError(
            "the number of snippet scores does not fit the video",
            expected=f"{-(-frames // stride)} scores for {frames} frames at stride {stride}",
            got=len(row_scores),
            fix="score the video again with the stride of its features",
        )
    starts = np.arange(len(row_scores)) * stride
    ends = np.minimum(starts + max(snippet_frames, stride), frames)
    return _mean_over_spans(row_scores, starts, ends, frames)


def _mean_over_spans(
    values: Float[np.ndarray, " spans"], starts: Array, ends: Array, places: int
) -> Float[np.ndarray, " places"]:
    """Mean of the values whose span start <= place < end holds each place; every span has at least one place."""
    lengths = ends - starts
    owner = np.repeat(np.arange(len(values)), lengths)
    offset = np.arange(len(owner)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return _mean_by_place(values[owner], starts[owner] + offset, places)


def _mean_by_place(values: Float[np.ndarray, " values"], place: Array, places: int) -> Float[np.ndarray, " places"]:
    """Mean of the values at each place, as one of them plus the mean difference: equal values keep their exact value."""
    anchor = np.zeros(places)
    anchor[place] = values
    difference = np.bincount(place, weights=values - anchor[place], minlength=places)
    return anchor + difference / np.bincount(place, minlength=places)


# A segment of a long video holds the units of many snippets; of more than this many, evenly spread ones stand for all.
MOST_UNITS = 256


def with_presence(
    values: Float[np.ndarray, "*rows u d"], present: Bool[np.ndarray, "*rows u"] | None = None
) -> Float32[np.ndarray, "*rows u d_and_1"]:
    """Join unit features and their presence to the form that is stored.

    Args:
        values: D numbers of every unit; those of absent ones are ignored.
        present: Which units are there; None says all.

    Example:
        >>> with_presence(np.array([[[5.0], [7.0]]]), np.array([[True, False]])).tolist()
        [[[5.0, 1.0], [0.0, 0.0]]]
    """
    there = np.ones(values.shape[:-1], dtype=bool) if present is None else present
    stored = np.where(there[..., None], values, 0.0)
    return np.concatenate([stored, there[..., None]], axis=-1).astype(np.float32)


def split_presence(
    stored: Float[np.ndarray, "*rows u d_and_1"],
) -> tuple[Float[np.ndarray, "*rows u d"], Bool[np.ndarray, "*rows u"]]:
    """Part stored units into their features and their presence, the way back from ``with_presence``."""
    return stored[..., :-1], stored[..., -1] > 0


def units_to_segments(
    stored: Float[np.ndarray, "rows u d_and_1"], segments: int, manifest: Manifest
) -> Float32[np.ndarray, "segments units d_and_1"]:
    """Give every segment the units of its snippets; segments as in ``to_segments``.

    Units with a place (``manifest.grid``) are averaged over the segment's snippets, place by place and over the snippets
    where they are present. Units without one are put side by side, of more than 256 evenly spread ones; what is absent comes
    last, and as many places are kept as the fullest segment needs. A segment without a snippet of its own copies one.

    Args:
        stored: Units of every snippet, (T, U, D + 1).
        segments: N.
        manifest: Of the modality.

    Returns:
        Units of every segment, (N, U', D + 1).

    Example:
        >>> frames = Manifest(modality="f", extractor="f", version="1", width=1, unit_kind="frame", units=2)
        >>> stored = with_presence(np.array([[[1.0], [2.0]], [[3.0], [0.0]]]), np.array([[True, True], [True, False]]))
        >>> units_to_segments(stored, 1, frames)[0].tolist()
        [[1.0, 1.0], [2.0, 1.0], [3.0, 1.0]]
    """
    if manifest.grid is not None:
        mean = to_segments(
            np.asarray(stored, np.float32), segments
        )  # sums of what is there over all snippets, and the share that is there
        share = mean[..., -1:]
        return with_presence(mean[..., :-1] / np.where(share > 0, share, 1.0), share[..., 0] > 0)
    gathered = []
    for first, end in zip(*segment_spans(len(stored), segments), strict=True):
        units = np.asarray(stored[first:end]).reshape(-1, stored.shape[-1])
        units = units[units[:, -1] > 0]
        if len(units) > MOST_UNITS:
            units = units[np.linspace(0, len(units) - 1, MOST_UNITS).astype(np.int64)]
        gathered.append(units)
    result = np.zeros((segments, max(1, *map(len, gathered)), stored.shape[-1]), dtype=np.float32)
    for place, units in enumerate(gathered):
        result[place, : len(units)] = units
    return result


def cells_of_pixels(height: int, width: int, rows: int, columns: int) -> Int64[np.ndarray, " pixels"]:
    """Number the cell of every pixel, row by row; a picture of fewer pixels than cells leaves cells empty.

    Example:
        >>> cells_of_pixels(2, 4, rows=1, columns=2).tolist()
        [0, 0, 1, 1, 0, 0, 1, 1]
    """
    row, column = np.arange(height) * rows // height, np.arange(width) * columns // width
    return (row[:, None] * columns + column[None, :]).ravel()
