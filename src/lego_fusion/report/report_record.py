"""What a report shows, as one record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..measure.result import Result
from ..why.explanation import ReadingWeights
from ..why.reading import CoefficientTable, VideoReading


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
