"""What a saved detector sees in a video, segment by segment: relations, the fused graph, logits, what each modality adds."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float64

from ..data.dataset import Dataset
from ..errors import LegoFusionError
from ..explain.terms import explain_nodes
from ..fusion.lego import LegoFusion
from ..measure.events import Event
from .bags import Bags, is_row_wise, load_bags, mean_over_crops, seen_by
from .checkpoint import RunConfig, load_detector
from .counterfactual import is_ranked, terms_of
from .detector import Detector
from .event_evaluation import events_of, rule_of_run
from .event_records import Segment
from .events import EventRule
from .explainer import Explainer
from .runs import VideoScores, score_dataset, segment_span
from .train import predict_logits
from .video_scoring import score_video
from .windows import load_fixed_bags

Graph = Float[np.ndarray, "n k"]


@dataclass(frozen=True, eq=False)
class VideoReading:
    """One video as a detector reads it.

    Args:
        scores: Of its frames.
        rule: How events are found.
        events: By that rule.
        segments: The N segments; copies of one snippet have the same frames.
        logits: Of each segment, (N,).
        graphs: Relation of each segment to each column by modality, (N, K), the mean over crops; empty for a model without
            graphs, or where every segment has a window, and so graphs, of its own.
        fused: What the operator makes of them, (N, K), or None.
        columns: What each column is: a reference unit, or a segment of the video; empty where it is the k-th nearest one.
        parts: What each modality adds to the logit of each segment above that of the typical normal one, (N,); empty where
            the terms are not at hand.
        baseline: Logit of the typical normal segment, or None.
    """

    scores: VideoScores
    rule: EventRule
    events: tuple[Event, ...]
    segments: tuple[Segment, ...]
    logits: Float64[np.ndarray, " n"]
    graphs: Mapping[str, Graph] = field(default_factory=dict)
    fused: Graph | None = None
    columns: tuple[Segment, ...] = ()
    parts: Mapping[str, Float64[np.ndarray, " n"]] = field(default_factory=dict)
    baseline: float | None = None

    @property
    def video(self) -> str:
        """Name."""
        return self.scores.video

    @property
    def peak(self) -> float:
        """Highest logit of its segments."""
        return float(self.logits.max())


@dataclass(frozen=True, eq=False)
class CoefficientTable:
    """Coefficients of the products of two modalities' powers, R_a^(p) * R_b^(q); of one modality, of its powers.

    Args:
        rows: Modality a, or "" where there is one modality only.
        columns: Modality b.
        values: (P + 1, Q + 1), or (1, Q + 1).
    """

    rows: str
    columns: str
    values: Float[np.ndarray, "p q"]


class Reader:
    """Read videos by one saved detector.

    Args:
        folder: Run folder.
        dataset: Dataset with the videos that the run was trained on; without it, what each modality adds is not known.

    Attributes:
        notes: What cannot be shown of this model, and why, one line each.

    Raises:
        CheckpointError: If the folder holds no run.
    """

    def __init__(self, folder: str | Path, dataset: Dataset | None = None) -> None:
        self.folder, self.notes = Path(folder), list[str]()
        self.detector, self.config = load_detector(self.folder)
        self.explainer = self._explainer(dataset) if isinstance(self.detector.fusion, LegoFusion) else None

    def dataset_videos(
        self, dataset: Dataset, videos: Sequence[str], *, on_video: Callable[[int, int], None] | None = None
    ) -> list[VideoReading]:
        """Read videos of a dataset folder; each camera's events are found by its own rule."""
        readings = []
        for number, scores in enumerate(score_dataset(self.folder, dataset, videos)):
            bags = _load(dataset, self.config, scores.video)
            readings.append(self.read(scores, bags, camera=dataset.record(scores.video).camera))
            if on_video is not None:
                on_video(number + 1, len(videos))
        return readings

    def video_file(
        self,
        video: str | Path,
        *,
        captions: str | Path | None = None,
        networks: Mapping[str, Path] | None = None,
        intervals: str | Path | None = None,
        camera: str = "",
    ) -> VideoReading:
        """Decode, describe and read a video file; arguments and errors as ``score_video``."""
        seen: list[Bags] = []
        scores = score_video(self.folder, video, captions=captions, networks=networks, intervals=intervals, on_bags=seen.append)
        return self.read(scores, seen[0], camera=camera)

    @torch.no_grad()
    def read(self, scores: VideoScores, bags: Bags, *, camera: str = "") -> VideoReading:
        """Read one video from its features.

        Args:
            scores: Of its frames.
            bags: Its segments.
            camera: Whose calibration to use.
        """
        rule, _ = rule_of_run(self.folder, camera)
        logits = predict_logits(self.detector, bags)[0].double().numpy()
        graphs, fused = self._graphs(bags)
        parts, baseline = self._parts(bags) if graphs else ({}, None)
        segments = self._segments(scores, len(logits))
        return VideoReading(
            scores=scores,
            rule=rule,
            events=events_of(scores, rule),
            segments=segments,
            logits=logits,
            graphs=graphs,
            fused=fused,
            columns=self._columns(segments) if graphs else (),
            parts=parts,
            baseline=baseline,
        )

    def _explainer(self, dataset: Dataset | None) -> Explainer | None:
        if dataset is None:
            self.notes.append("what each modality adds is left out: give the dataset that the run was trained on (--data)")
            return None
        try:
            return Explainer(self.folder, dataset)
        except LegoFusionError as error:
            self.notes.append(f"what each modality adds is left out: {error.what}")
            return None

    def _graphs(self, bags: Bags) -> tuple[dict[str, Graph], Graph | None]:
        fusion = self.detector.fusion
        if not isinstance(fusion, LegoFusion) or (bags.window is not None and not is_row_wise(fusion)):
            return {}, None
        features = seen_by(fusion, bags).inputs
        relations = fusion.relations(features)
        fused = fusion.forward_relations(relations, features=features).graph
        graphs = {name: mean_over_crops(graph, bags.crops)[0].numpy() for name, graph in relations.items()}
        return graphs, None if fused is None else mean_over_crops(fused, bags.crops)[0].numpy()

    def _parts(self, bags: Bags) -> tuple[dict[str, Float64[np.ndarray, " n"]], float | None]:
        explainer = self.explainer
        if explainer is None or explainer.lego is None or explainer.typical is None:
            return {}, None
        lego, head = explainer.lego, explainer.detector.head
        terms = terms_of(lego, lego.relations(seen_by(lego, bags).inputs))
        found = explain_nodes(terms, explainer.typical.terms, head.first, head.second, ranked=is_ranked(lego))
        parts = {name: part.mean(0).double().numpy() for name, part in found.nodes().by_modality().items()}
        return parts, found.baseline

    def _segments(self, scores: VideoScores, count: int) -> tuple[Segment, ...]:
        first = next(iter(self.config.manifests.values()))
        grid = {"frames": len(scores.scores), "snippet_frames": first.snippet_frames, "stride": first.stride}
        snippets = self.config.segment_snippets
        return tuple(Segment(scores.video, *segment_span(number, count, snippets, **grid)) for number in range(count))

    def _columns(self, segments: tuple[Segment, ...]) -> tuple[Segment, ...]:
        fusion = self.detector.fusion
        if isinstance(fusion, LegoFusion) and not fusion.wanted_references:
            return segments
        return tuple(
            Segment(str(one["video"]), int(str(one["start_frame"])), int(str(one["end_frame"])))
            for one in self.config.references
        )


def coefficient_tables(detector: Detector) -> list[CoefficientTable]:
    """The operator's coefficients, a table for every pair of modalities with all others at power 0; none without an operator.

    Example:
        >>> from lego_fusion.fusion.lego import LegoFusion
        >>> fusion = LegoFusion({"motion": 8, "text": 4}, nodes=16, references=0, order=2)
        >>> [(one.rows, one.columns, one.values.shape) for one in coefficient_tables(Detector(fusion))]
        [('motion', 'text', (3, 3))]
    """
    if not isinstance(detector.fusion, LegoFusion):
        return []
    operator = detector.fusion.operator
    with torch.no_grad():
        dense = operator.dense_coefficients().cpu().numpy()
    if dense.ndim == 1:
        return [CoefficientTable("", operator.names[0], dense[None])]
    tables = []
    for a, b in itertools.combinations(range(dense.ndim), 2):
        place = tuple(slice(None) if number in (a, b) else 0 for number in range(dense.ndim))
        tables.append(CoefficientTable(operator.names[a], operator.names[b], dense[place]))
    return tables


def _load(dataset: Dataset, config: RunConfig, video: str) -> Bags:
    names = list(config.manifests)
    if config.segment_snippets is None:
        return load_bags(dataset, names, [video], nodes=config.nodes)
    return load_fixed_bags(dataset, names, [video], segment_snippets=config.segment_snippets, nodes=config.nodes)
