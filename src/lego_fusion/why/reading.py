"""What a saved detector sees in a video, segment by segment: relations, the fused graph, logits, what each modality adds."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from ..alarm.event_evaluation import events_of, rule_of_run
from ..alarm.events import EventRule
from ..data.dataset import Dataset
from ..errors import LegoFusionError
from ..explain.terms import explain_nodes
from ..learn.bags import Bags, mean_over_crops, scoring_inputs, seen_by
from ..learn.checkpoint import load_detector
from ..learn.detector import Detector
from ..learn.scoring import VideoScores, load_run_bags, score_dataset, score_video, segment_span
from ..learn.train import predict_logits
from ..measure.event_metrics import Event
from .explainer import Explainer
from .localise import known_columns
from .parts import NodeParts, is_ranked, node_head, reading_parts, row_parts, terms_of
from .records import Segment

Graph = Float[np.ndarray, "n k"]
MOST_COLUMNS = 64  # known segments whose relations are kept of one video
_ROWS_AT_ONCE = 1024


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
        fused: What becomes of them, (N, K): the graph of the operator, or, of a graph to known segments, the weights that each
            segment receives by; or None.
        columns: What each column is: a known normal segment, or a segment of the video.
        known: Normal segments that the model knows, of which the columns are those that the video's segments receive most
            from, at most ``MOST_COLUMNS``; 0 where the columns are segments of the video.
        parts: What each modality adds to the logit of each segment above that of the typical normal one, (N,); empty where
            they are not at hand.
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
    known: int = 0
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
        dataset: Dataset with the videos that the run was trained on; without it, what each modality adds is known of the
            default only.

    Attributes:
        notes: What cannot be shown of this model, and why, one line each.

    Raises:
        CheckpointError: If the folder holds no run.
    """

    def __init__(self, folder: str | Path, dataset: Dataset | None = None) -> None:
        self.folder, self.notes = Path(folder), list[str]()
        self.detector, self.config = load_detector(self.folder)
        needs_normals = self.detector.fusion.row_order is not None
        self.explainer = self._explainer(dataset) if needs_normals else None

    def dataset_videos(
        self, dataset: Dataset, videos: Sequence[str], *, on_video: Callable[[int, int], None] | None = None
    ) -> list[VideoReading]:
        """Read videos of a dataset folder; each camera's events are found by its own rule."""
        readings = []
        for number, scores in enumerate(score_dataset(self.folder, dataset, videos)):
            bags = load_run_bags(self.config, dataset, [scores.video])
            readings.append(self.read(scores, bags, camera=dataset.records[scores.video].camera))
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
        segments = self._segments(scores, len(logits))
        graphs, columns, known = self._graphs(bags, segments)
        parts = self._parts(bags)
        names = self.detector.fusion.modalities
        return VideoReading(
            scores=scores,
            rule=rule,
            events=events_of(scores, rule),
            segments=segments,
            logits=logits,
            graphs={name: graph for name, graph in graphs.items() if name},
            fused=graphs.get(""),
            columns=columns,
            known=known,
            parts={} if parts is None else {name: part.numpy() for name, part in parts.by_modality(list(names)).items()},
            baseline=None if parts is None else parts.baseline,
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

    def _graphs(self, bags: Bags, segments: tuple[Segment, ...]) -> tuple[dict[str, Graph], tuple[Segment, ...], int]:
        """The graphs by modality, "" being the fused one, what their columns are, and how many normal segments are known."""
        fusion = self.detector.fusion
        if bags.window is not None and not fusion.one_pass:
            return {}, (), 0
        features = seen_by(fusion, bags).inputs
        if fusion.relates_within:
            found = self._some_graphs(features, bags.crops, None)
            return {name: graph.numpy() for name, graph in found.items()}, segments, 0
        parts = [
            {name: x[:, rows] for name, x in features.items()} for rows in torch.arange(len(segments)).split(_ROWS_AT_ONCE)
        ]
        received = [self._some_graphs(part, bags.crops, None).get("") for part in parts]
        if received[0] is None:
            return {}, (), 0
        total = torch.stack([one.sum(0) for one in received if one is not None]).sum(0)
        chosen = total.topk(min(MOST_COLUMNS, int((total > 0).sum()))).indices.sort().values
        kept = [self._some_graphs(part, bags.crops, chosen) for part in parts]
        known = known_columns(self.config)
        graphs = {name: torch.cat([one[name] for one in kept]).numpy() for name in kept[0]}
        return graphs, tuple(known[column] for column in chosen.tolist()), len(known)

    def _some_graphs(self, features: Mapping[str, Tensor], crops: int, columns: Tensor | None) -> dict[str, Tensor]:
        """Mean over crops of the graphs of one video, (N, K), "" being the fused one; or some of their columns."""
        made = self.detector.fusion.graphs(features)
        if made is None:
            return {}
        whole = {name: mean_over_crops(graph, crops)[0] for name, graph in {**made.relations, "": made.fused}.items()}
        return whole if columns is None else {name: graph[:, columns] for name, graph in whole.items()}

    def _parts(self, bags: Bags) -> NodeParts | None:
        if self.detector.reading_head is not None:
            return reading_parts(self.detector, scoring_inputs(self.detector.fusion, bags))
        explainer = self.explainer
        if explainer is None or explainer.typical is None or bags.window is not None:
            return None
        fusion, head = explainer.detector.fusion, node_head(explainer.detector)
        terms = terms_of(fusion, scoring_inputs(fusion, bags).inputs)
        return row_parts(explain_nodes(terms, explainer.typical.terms, head.first, head.second, ranked=is_ranked(fusion)))

    def _segments(self, scores: VideoScores, count: int) -> tuple[Segment, ...]:
        first = next(iter(self.config.manifests.values()))
        grid = {"frames": len(scores.scores), "snippet_frames": first.snippet_frames, "stride": first.stride}
        snippets = self.config.segment_snippets
        return tuple(Segment(scores.video, *segment_span(number, count, snippets, **grid)) for number in range(count))


def coefficient_tables(detector: Detector) -> list[CoefficientTable]:
    """The coefficients of a learned operator, a table for every pair of modalities with all others at power 0; else none.

    Example:
        >>> from lego_fusion.fusion.paper import PaperFusion
        >>> fusion = PaperFusion({"motion": 8, "text": 4}, nodes=16, order=2)
        >>> [(one.rows, one.columns, one.values.shape) for one in coefficient_tables(Detector(fusion))]
        [('motion', 'text', (3, 3))]
    """
    operator = detector.fusion.operator
    if operator is None or not detector.fusion.learns_operator:
        return []
    with torch.no_grad():
        dense = operator.dense_coefficients().cpu().numpy()
    if dense.ndim == 1:
        return [CoefficientTable("", operator.names[0], dense[None])]
    tables = []
    for a, b in itertools.combinations(range(dense.ndim), 2):
        place = tuple(slice(None) if number in (a, b) else 0 for number in range(dense.ndim))
        tables.append(CoefficientTable(operator.names[a], operator.names[b], dense[place]))
    return tables
