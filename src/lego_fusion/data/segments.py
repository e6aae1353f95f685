"""Time on three scales: T snippets of an extractor, N segments of a graph, F frames of a video, and the ways between.

Segment i of N covers the snippets r_i <= t < r_{i+1} with r = int(linspace(0, T, N+1)); where that is empty (T < N),
it copies snippet r_i. Snippet t covers the frames from t * stride on. Works for every T and F from 1 up.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float, Int

from ..errors import DataError, check_int

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
    bounds = segment_bounds(rows, segments)
    first = min(int(bounds[segment]), rows - 1)
    last = max(int(bounds[segment + 1]), first + 1)
    return first * stride, min(frames, (last - 1) * stride + snippet_frames)


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
    bounds = segment_bounds(features.shape[0], segments)
    result = np.empty((segments, *features.shape[1:]), np.float16 if features.dtype == np.float16 else np.float32)
    for segment, (first, end) in enumerate(zip(bounds[:-1], np.maximum(bounds[1:], bounds[:-1] + 1), strict=True)):
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
    bounds = segment_bounds(rows, len(segment_scores))
    return _mean_over_spans(segment_scores, bounds[:-1], np.maximum(bounds[1:], bounds[:-1] + 1), rows)


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


def window_starts(rows: int, window: int, overlap: int = 0) -> Int[np.ndarray, " windows"]:
    """Cut a long video into windows: the first snippet of each.

    Args:
        rows: T, number of snippets, at least 1.
        window: Snippets in a window, at least 1; a shorter video is one window.
        overlap: Snippets shared by neighbours, in [0, window - 1]; the last window ends with the video and may share more.

    Returns:
        First snippets, rising, shape (windows,); all windows hold min(window, T) snippets.

    Example:
        >>> window_starts(10, window=4, overlap=1).tolist()
        [0, 3, 6]
        >>> window_starts(9, window=4).tolist()
        [0, 4, 5]
    """
    check_int(rows, "rows", "window_starts", low=1)
    check_int(window, "window", "window_starts", low=1)
    check_int(overlap, "overlap", "window_starts", low=0, high=window - 1)
    last = max(rows - window, 0)
    return np.append(np.arange(0, last, window - overlap, dtype=np.int64), last)


def merge_windows(
    window_scores: Float[np.ndarray, "windows length"], starts: Int[np.ndarray, " windows"], rows: int
) -> Float[np.ndarray, " rows"]:
    """Average the scores of overlapping windows for every snippet.

    Args:
        window_scores: Snippet scores of every window, shape (windows, length).
        starts: First snippet of every window, from ``window_starts``.
        rows: T, number of snippets.

    Returns:
        One score per snippet, shape (T,), float64.

    Raises:
        DataError: If a window reaches beyond the video, or a snippet is in no window.

    Example:
        >>> merge_windows(np.array([[0.0, 0.0], [1.0, 1.0]]), np.array([0, 1]), rows=3).tolist()
        [0.0, 0.5, 1.0]
    """
    check_int(rows, "rows", "merge_windows", low=1)
    length = window_scores.shape[1]
    covered = (starts[:, None] + np.arange(length)).ravel()  # (windows * length,)
    if np.setxor1d(covered, np.arange(rows)).size:
        raise DataError(
            "the windows do not cover the video",
            expected=f"every snippet from 0 to {rows - 1}, and no other",
            got=f"windows of {length} starting at {starts.tolist()}",
            fix="take the starts from window_starts",
        )
    return _mean_by_place(window_scores.ravel(), covered, rows)


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
