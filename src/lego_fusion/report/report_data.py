"""What a report shows as one record, and what its script reads: JSON values of bounded size."""

from __future__ import annotations

import base64
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8

from ..alarm.events import frame_edges, score_segments
from ..data.ground_truth import intervals_from_labels
from ..measure.result import Result
from ..why.learned import ReadingWeights
from ..why.reading import CoefficientTable, VideoReading
from ..why.records import Segment
from .pictures import Pictures
from .words import place_text


@dataclass(frozen=True, eq=False)
class Report:
    """What a report shows.

    Args:
        title: Of the page.
        run: Name of the run folder.
        readings: Of the videos.
        coefficients: Of the operator; none for models that learn none.
        weights: Of a head that is a sum of readable parts, or None.
        results: Frame metrics.
        event_results: Event metrics.
        promise: What the threshold promises.
        card: The model card, sections of named lines.
        settings: Of the model and its training, as JSON values.
        manifests: How the features of each modality are made, as JSON values.
        labels: Of the videos that have one.
        notes: What a reader should know, one line each.
        has_graphs: Whether the model has relation graphs.
        square: Whether the columns of the graphs are the segments themselves.
    """

    title: str
    run: str
    readings: tuple[VideoReading, ...]
    coefficients: tuple[CoefficientTable, ...] = ()
    weights: ReadingWeights | None = None
    results: tuple[Result, ...] = ()
    event_results: tuple[Result, ...] = ()
    promise: str = ""
    card: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    manifests: Mapping[str, Any] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    has_graphs: bool = True
    square: bool = False


MOST_ROWS = 512  # of the graphs of one video: those around its highest events
ROWS_AROUND = 16
MOST_PEAKS = 8
DEFAULT_MEGABYTES = 8.0
MOMENT_WIDTH = 320  # pixels of the longest side of a picture


@dataclass(frozen=True)
class Moment:
    """A segment of a video that can be chosen; segments that are copies of one another are one moment.

    Args:
        segment: Its frames.
        first: First of its rows in the graphs.
        last: Last of them.
        start_seconds: When it starts.
        end_seconds: When it ends.
        logit: Highest logit of its rows.
    """

    segment: Segment
    first: int
    last: int
    start_seconds: float
    end_seconds: float
    logit: float


@dataclass
class Budget:
    """How many bytes graphs and pictures may still take.

    Args:
        left: Bytes.
        graphs_left_out: Videos without their graphs.
        pictures_left_out: Pictures that are not there.
    """

    left: int
    graphs_left_out: int = 0
    pictures_left_out: int = 0

    def take(self, size: int) -> bool:
        """Take so many bytes if they are there."""
        if size > self.left:
            return False
        self.left -= size
        return True


@dataclass(frozen=True)
class ReportData:
    """What the script reads, and what was left out.

    Args:
        document: JSON values.
        notes: One line each.
    """

    document: dict[str, Any]
    notes: tuple[str, ...] = field(default=())


def report_data(
    readings: Sequence[VideoReading],
    coefficients: Sequence[CoefficientTable],
    pictures: Pictures | None = None,
    *,
    megabytes: float = DEFAULT_MEGABYTES,
) -> ReportData:
    """Everything that is drawn, the videos with the highest logits first served where the file would become too large.

    Args:
        readings: Of videos.
        coefficients: Of the operator.
        pictures: Frames of segments; None leaves them out.
        megabytes: Most of graphs and pictures together, in millions of bytes.
    """
    budget = Budget(int(megabytes * 1e6))
    ranked = sorted(range(len(readings)), key=lambda number: -readings[number].peak)
    moments = [moments_of(reading) for reading in readings]
    graphs: dict[int, dict[str, Any]] = {}
    for number in ranked:
        found = _graphs(readings[number], moments[number])
        if found is not None and not budget.take(sum(len(one["data"]) for one in found["graphs"])):
            budget.graphs_left_out += 1
            found = None
        graphs[number] = found or {"graphs": [], "rows": None}
    shown = _pictures([(readings[number], moments[number]) for number in ranked], pictures, budget)
    videos = [
        _video(reading, moments[number]) | graphs[number] | {"pictures": shown.get(reading.video, {})}
        for number, reading in enumerate(readings)
    ]
    document = {"videos": videos, "coefficients": [_table(table) for table in coefficients]}
    return ReportData(document, _left_out(budget, megabytes))


def moments_of(reading: VideoReading) -> list[Moment]:
    """The moments of a video in order of time."""
    edges = frame_edges(reading.scores.times, reading.scores.fps)
    moments: list[Moment] = []
    row = 0
    for segment, copies in itertools.groupby(reading.segments):
        after = row + len(list(copies))
        start, end = float(edges[segment.start_frame]), float(edges[segment.end_frame])
        moments.append(Moment(segment, row, after - 1, start, end, float(reading.logits[row:after].max())))
        row = after
    return moments


def peak_moments(reading: VideoReading, moments: Sequence[Moment], most: int = MOST_PEAKS) -> list[int]:
    """The moments of the highest events, the highest first; without an event the highest moment."""
    highest = sorted(reading.events, key=lambda event: -event.peak)[:most]
    if not highest:
        return [max(range(len(moments)), key=lambda number: moments[number].logit)]
    found = (moment_at(moments, event.peak_seconds) for event in highest)
    return list(dict.fromkeys(found))


def moment_at(moments: Sequence[Moment], seconds: float) -> int:
    """The moment whose middle is nearest among those that hold a time; without one, the nearest of all."""
    inside = [n for n, one in enumerate(moments) if one.start_seconds - 1e-6 <= seconds < one.end_seconds - 1e-6]
    return min(
        inside or range(len(moments)),
        key=lambda n: abs((moments[n].start_seconds + moments[n].end_seconds) / 2 - seconds),
    )


def wanted_segments(readings: Sequence[VideoReading]) -> dict[str, list[Segment]]:
    """Segments by video that a report has pictures of: peaks, and of a single video every moment."""
    wanted: dict[str, list[Segment]] = {}
    for reading in readings:
        moments = moments_of(reading)
        numbers = peak_moments(reading, moments)
        if len(readings) == 1 and len(moments) <= MOST_ROWS:
            numbers += [number for number in range(len(moments)) if number not in numbers]
        wanted[reading.video] = [moments[number].segment for number in numbers]
    return wanted


def quantise(values: Float[np.ndarray, "n k"]) -> tuple[UInt8[np.ndarray, "n k"], float, float]:
    """Values as 256 levels between their least and greatest: v = low + level / 255 (high - low), off by at most half a level.

    Example:
        >>> quantise(np.array([[-1.0, 0.0, 1.0]]))[0].tolist()
        [[0, 128, 255]]
    """
    low, high = float(values.min()), float(values.max())
    width = high - low if high > low else 1.0
    return np.rint((values - low) / width * 255).astype(np.uint8), low, high


def _video(reading: VideoReading, moments: Sequence[Moment]) -> dict[str, Any]:
    scores, edges = reading.scores, frame_edges(reading.scores.times, reading.scores.fps)
    spans = score_segments(scores)
    truth = None
    if scores.truth is not None:
        runs = intervals_from_labels("video", scores.truth)
        truth = [[round(float(edges[run.start_frame]), 3), round(float(edges[run.end_frame]), 3)] for run in runs]
    return {
        "name": reading.video,
        "frames": len(scores.scores),
        "edges": [round(start, 3) for start, _, _ in spans] + [round(spans[-1][1], 3)],
        "logits": [round(logit, 4) for _, _, logit in spans],
        "truth": truth,
        "events": [
            {"start": event.start_seconds, "end": event.end_seconds, "peak": event.peak, "at": event.peak_seconds}
            | {"alarm": event.alarm_seconds}
            for event in reading.events
        ],
        "threshold": reading.rule.threshold,
        "release": reading.rule.low,
        "moments": [
            {
                "frames": [one.segment.start_frame, one.segment.end_frame],
                "seconds": [round(one.start_seconds, 3), round(one.end_seconds, 3)],
                "rows": [one.first, one.last],
                "logit": round(one.logit, 4),
            }
            for one in moments
        ],
        "peaks": peak_moments(reading, moments),
        "parts": {
            name: [round(float(values[one.first : one.last + 1].mean()), 4) for one in moments]
            for name, values in reading.parts.items()
        },
        "baseline": reading.baseline,
        "columns": [place_text(one) for one in reading.columns],
        "known": reading.known,
    }


def _graphs(reading: VideoReading, moments: Sequence[Moment]) -> dict[str, Any] | None:
    if reading.fused is None:
        return None
    rows = _kept_rows(reading, moments)
    named = [*reading.graphs.items(), ("", reading.fused)]
    graphs = [_graph(name, values if rows is None else values[rows]) for name, values in named]
    return {"graphs": graphs, "rows": None if rows is None else rows.tolist()}


def _kept_rows(reading: VideoReading, moments: Sequence[Moment]) -> Int[np.ndarray, " rows"] | None:
    """Rows of the graphs that are kept, or None for all: those around the highest events, the highest first."""
    count = len(reading.segments)
    if count <= MOST_ROWS:
        return None
    kept: set[int] = set()
    for number in peak_moments(reading, moments, most=len(reading.events) or 1):
        around = set(range(max(0, moments[number].first - ROWS_AROUND), min(count, moments[number].last + ROWS_AROUND + 1)))
        if len(kept | around) > MOST_ROWS:
            break
        kept |= around
    return np.array(sorted(kept), dtype=np.int64)


def _graph(name: str, values: Float[np.ndarray, "n k"]) -> dict[str, Any]:
    levels, low, high = quantise(values)
    data = base64.b64encode(levels.tobytes()).decode("ascii")
    return {"name": name, "columns": values.shape[1], "low": round(low, 6), "high": round(high, 6), "data": data}


def _pictures(
    videos: Sequence[tuple[VideoReading, Sequence[Moment]]], pictures: Pictures | None, budget: Budget
) -> dict[str, dict[str, str]]:
    """Data URIs by video and moment: the peaks of all videos first."""
    shown: dict[str, dict[str, str]] = {}
    if pictures is None:
        return shown
    peaks = [(place, number) for place, video in enumerate(videos) for number in peak_moments(*video)]
    others = [(place, number) for place, (_, moments) in enumerate(videos) for number in range(len(moments))]
    for place, number in dict.fromkeys((*peaks, *others)):
        reading, moments = videos[place]
        address = pictures.uri(moments[number].segment, longest=MOMENT_WIDTH)
        if address is None:
            continue
        if budget.take(len(address)):
            shown.setdefault(reading.video, {})[str(number)] = address
        else:
            budget.pictures_left_out += 1
    return shown


def _table(table: CoefficientTable) -> dict[str, Any]:
    return {"rows": table.rows, "columns": table.columns, "values": np.round(table.values.astype(float), 6).tolist()}


def _left_out(budget: Budget, megabytes: float) -> tuple[str, ...]:
    found = {"videos without their graphs": budget.graphs_left_out, "pictures left out": budget.pictures_left_out}
    why = f"graphs and pictures may take {megabytes:g} MB (--megabytes)"
    return tuple(f"{what}: {count}, since {why}" for what, count in found.items() if count)
