"""A saved detector together with the normal segments that it is explained against, loaded once for many videos."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import scipy.sparse
import torch
from jaxtyping import Float64
from torch import Tensor

from ..alarm.events import Span, high_spans
from ..data.dataset import Dataset
from ..errors import DataError, ParameterError, check_choice, check_number
from ..explain.shapley import MOST_EXACT, all_subsets, contributions_from_values
from ..explain.terms import NodeExplanation, explain_nodes
from ..extract.registry import column_names
from ..learn.bags import (
    Bags,
    mean_over_crops,
    scoring_inputs,
    seen_by,
    training_inputs,
    without_units,
)
from ..learn.checkpoint import load_detector
from ..learn.runs import read_method
from ..learn.scoring import VideoScores, dataset_segment, frame_logits, load_run_bags, require_same_features
from .localise import NormalSegments, heat_map_at, known_columns, training_bags
from .parts import (
    MEAN_MEANING,
    PARTS_MEANING,
    ROW_MEANINGS,
    Counterfactuals,
    MeanFeatures,
    NodeParts,
    PartsPresent,
    TypicalNormal,
    TypicalRelations,
    TypicalTerms,
    head_order,
    is_ranked,
    node_head,
    operator_of,
    reading_parts,
    row_parts,
    terms_of,
)
from .records import (
    REMOVALS,
    ColumnPart,
    Counterfactual,
    EventExplanation,
    HeatMap,
    KnownRelation,
    Parts,
    RelationPart,
    Removal,
    Segment,
    VideoExplanation,
)

MOST_COLUMNS = 8  # listed of an event
_ROWS_AT_ONCE = 256


class Explainer:
    """Explain videos of a dataset folder by a saved detector.

    A run of the default holds what it knows of normals itself, so its logits have exact parts without the videos that it was
    trained on; these are needed for pictures. All other models are explained against the normal training videos.

    Args:
        folder: Run folder.
        dataset: Dataset folder, with the videos that the run was trained on.

    Raises:
        CheckpointError: If the folder holds no run.
        DataError: If the model needs the training videos and the dataset does not have them.
        ManifestError: If the dataset's features were made in another way.
    """

    def __init__(self, folder: str | Path, dataset: Dataset) -> None:
        self.folder, self.dataset = Path(folder), dataset
        self.detector, self.config = load_detector(self.folder)
        require_same_features(self.config, dataset)
        self.modalities = tuple(self.config.manifests)
        fusion = self.detector.fusion
        self.names = {name: column_names(manifest) for name, manifest in self.config.manifests.items()}
        self.knows_all = set(fusion.known_segments()) == set(self.modalities)
        if not self.knows_all:
            self.normal  # noqa: B018 - what is missing is told before anything is explained
        self.typical: TypicalNormal | None = None
        if fusion.row_order is not None and self.config.segment_snippets is None:
            self.typical = TypicalNormal.of(fusion, training_inputs(fusion, self.normal).inputs)

    @torch.no_grad()
    def explain(
        self, video: str, *, threshold: float = 0.5, removal: Removal = "typical", most_relations: int = 12
    ) -> VideoExplanation:
        """Why the frames of a video score as they do.

        Args:
            video: A name in the dataset.
            threshold: In [0, 1].
            removal: ``"typical"`` or ``"drop-term"``, see ``counterfactual``.
            most_relations: How many relations are listed for each event.

        Raises:
            ParameterError: If ``removal`` is not one of the two, or not defined for the model.
        """
        check_number(threshold, "threshold", "explain", low=0.0, high=1.0)
        self._check_removal(removal)
        record = self.dataset.records[video]
        reading = _Reading(self, video, load_run_bags(self.config, self.dataset, [video]), removal)
        frames = reading.scores
        truth = self.dataset.frame_labels(video) if self.dataset.has_ground_truth(video) else None
        scored = VideoScores(video, record.fps, np.arange(record.frames) / record.fps, frames, truth)
        spans = sorted(high_spans(scored, threshold=threshold), key=lambda span: span.start_frame)
        return VideoExplanation(
            run=self.folder.name,
            dataset=self.dataset.name,
            video=video,
            fps=record.fps,
            threshold=float(threshold),
            scores=frames,
            truth=truth,
            events=tuple(reading.events(spans, most_relations)),
            segments=tuple(reading.segments),
            by_modality=reading.by_modality(),
            kinds={name: manifest.extractor for name, manifest in self.config.manifests.items()},
            removal=removal,
            removal_meaning=self._meaning(removal),
            settings=self.settings,
            normal_videos=self.normal_videos,
            world=self.world,
        )

    @property
    def has_parts(self) -> bool:
        """Whether logits have exact parts."""
        return self.detector.reading_head is not None or self.typical is not None

    @property
    def world(self) -> str:
        """Which world the model lives in, in words; empty for models that know of one only."""
        head = self.detector.reading_head
        return "" if head is None else head.world

    @cached_property
    def normal(self) -> Bags:
        """The normal videos that the run was trained on, with features.

        Raises:
            DataError: If there are none, or the dataset does not have them.
        """
        training = training_bags(self.config, self.dataset)
        normal = training.select((~training.labels).nonzero()[:, 0])
        if not normal.videos:
            fix = "train with normal videos, or use 'score'"
            raise DataError("nothing normal to compare with", where=self.folder, expected="normal training videos", fix=fix)
        return normal

    @cached_property
    def normal_videos(self) -> tuple[str, ...]:
        """Their names, as far as the run or the dataset knows them."""
        if self.knows_all:
            return tuple(dict.fromkeys(str(one["video"]) for one in self.config.references))
        return self.normal.videos

    @cached_property
    def settings(self) -> dict[str, str]:
        """What the model is, in words."""
        fusion = self.detector.fusion
        told = {"method": read_method(self.folder, self.config), "modalities": ", ".join(self.modalities)}
        told["parameters"] = f"{self.detector.parameter_count():,}"
        told |= {"world": self.world} if self.world else {}
        if self.config.references:
            told["known segments"] = f"{len(self.config.references)} of {len(self.normal_videos)} normal videos"
        if self.typical is not None:
            operator = operator_of(fusion)
            told |= {"order": ", ".join(map(str, sorted(set(operator.orders)))), "form": operator.form}
        told["smoothing"] = f"{self.config.smoothing:g} s" if self.config.smoothing else "none"
        snippets = self.config.segment_snippets
        told["segments"] = f"{self.config.nodes} per video" if snippets is None else f"{snippets} snippets each"
        told |= {} if self.detector.reading_head is not None else {"seed": str(self.config.training.get("seed"))}
        told["normal training videos"] = str(len(self.normal_videos))
        told |= {"weights": self.config.weights_hash[:12], "lego-fusion": self.config.lego_fusion}
        return told

    @cached_property
    def normal_segments(self) -> NormalSegments:
        """The normal training segments: those that the model knows, or all, compared as the default compares them.

        Finer units are compared by the mean of those present.
        """
        fusion = self.detector.fusion
        if self.knows_all:
            return NormalSegments(fusion.known_segments(), self.known, operator_of(fusion))
        normal = without_units(self.normal)
        inputs = {name: mean_over_crops(values, normal.crops) for name, values in normal.inputs.items()}
        mask = None if normal.mask is None else normal.mask[:: normal.crops]
        return NormalSegments.of_bags(Bags(normal.videos, normal.labels, 1, inputs, mask), self.segment)

    @cached_property
    def known(self) -> list[Segment]:
        """What each column of the graphs to known normals is."""
        return known_columns(self.config)

    @cached_property
    def normal_means(self) -> dict[str, Tensor]:
        """Mean features of normal training segments."""
        mask = self.normal.mask
        rows = {name: x.flatten(0, 1) if mask is None else x[mask] for name, x in self.normal.inputs.items()}
        return {name: values.double().mean(0).float() for name, values in rows.items()}

    def heat_maps(self, segment: Segment) -> tuple[HeatMap, ...]:
        """Where in the picture a segment's middle frame is unlike known normals; empty for models without known cells."""
        if self.detector.reading_head is None:
            return ()
        placed = [name for name in self.detector.fusion.units if self.config.manifests[name].grid is not None]
        return tuple(heat_map_at(self.detector.fusion, self.dataset, name, segment.video, segment.middle) for name in placed)

    def segment(self, video: str, number: int) -> Segment:
        """The frames of a segment of a video of the dataset."""
        return Segment(video, *dataset_segment(self.dataset, video, number, self.config.nodes, self.config.segment_snippets))

    def _meaning(self, removal: Removal) -> str:
        if self.detector.reading_head is not None:
            return PARTS_MEANING
        return ROW_MEANINGS[removal] if self.typical is not None else MEAN_MEANING

    def _check_removal(self, removal: Removal) -> None:
        check_choice(removal, "removal", "explain", REMOVALS)
        if removal == "drop-term" and not self.has_parts:
            rows = self.detector.fusion.config().get("rows")
            raise ParameterError(
                "only a logit that is a sum of parts has terms to drop",
                where=self.folder,
                expected="method lego, or lego-paper with rows 'ordered' or 'sorted' and equal spans of each video",
                got=self.detector.fusion.kind + (f" with rows '{rows}'" if rows else ""),
                fix="use removal 'typical', which explains any model by its scores without each modality",
            )


class _Reading:
    """One video as a detector reads it."""

    def __init__(self, explainer: Explainer, video: str, bag: Bags, removal: Removal) -> None:
        self.explainer, self.video, self.removal = explainer, video, removal
        self.bag = seen_by(explainer.detector.fusion, bag)
        count = next(iter(bag.inputs.values())).shape[1]
        self.segments = [explainer.segment(video, number) for number in range(count)]
        # how much of each frame's logit is each segment's, (N, F), before and after smoothing
        self.shown = _spread(explainer, video, count, smoothing=0.0)
        self.spread = _spread(explainer, video, count, smoothing=explainer.config.smoothing)
        self.parts: NodeParts | None = None
        self.terms: NodeExplanation | None = None
        self.order: Tensor | None = None
        self.graphs: dict[str, Tensor] = {}
        self.counterfactuals = self._counterfactuals(bag)
        everything = np.ones((1, len(explainer.modalities)), dtype=bool)
        self.logits = self.parts.logits if self.parts is not None else self.counterfactuals.logits(everything)[0]
        self.scores: Float64[np.ndarray, " frames"] = _sigmoid(self.frames(self.logits.double()[None])[0])

    def _counterfactuals(self, bag: Bags) -> Counterfactuals:
        explainer, detector = self.explainer, self.explainer.detector
        fusion, typical = detector.fusion, explainer.typical
        if detector.reading_head is not None:
            self.parts = reading_parts(detector, scoring_inputs(fusion, bag))
            if self.parts is not None:
                return PartsPresent(self.parts, explainer.modalities, self.removal)
        if typical is None:
            return MeanFeatures(detector, bag, explainer.normal_means)
        self.graphs = scoring_inputs(fusion, bag).inputs
        terms = terms_of(fusion, self.graphs)
        self.order = head_order(fusion, terms)
        head = node_head(detector)
        self.terms = explain_nodes(terms, typical.terms, head.first, head.second, ranked=is_ranked(fusion))
        self.parts = row_parts(self.terms)
        if self.removal == "typical":
            return TypicalRelations(detector, self.graphs, typical, self.order)
        return TypicalTerms(detector, terms, typical, self.order)

    def frames(self, values: Float64[Tensor, "s n"]) -> Float64[np.ndarray, "s frames"]:
        """Values of segments as they spread over frames."""
        return np.asarray(values.numpy() @ self.spread)

    def weights(self, span: Span) -> Float64[Tensor, " n"]:
        """How much of the mean over a span's frames each segment is, (N,)."""
        part = self.spread[:, span.start_frame : span.end_frame]
        return torch.from_numpy(np.asarray(part.mean(axis=1)).ravel())

    def by_modality(self) -> dict[str, Float64[np.ndarray, " n"]]:
        if self.parts is None:
            return {}
        return {name: part.numpy() for name, part in self.parts.by_modality(self.explainer.modalities).items()}

    def events(self, spans: Sequence[Span], most_relations: int) -> list[EventExplanation]:
        if not spans:
            return []
        names = self.explainer.modalities
        nodes = [self._peak_node(span) for span in spans]
        alone = np.eye(len(names), dtype=bool)
        shares, bag = None, without_units(self.bag)
        if len(names) <= MOST_EXACT:
            sets = all_subsets(len(names))
            values = self._span_values(sets, spans)  # (2^M, E, 2)
            shares = contributions_from_values(values[..., 0], names, removal=self.removal)
            bits = 2 ** np.arange(len(names))  # the row of a set is the number whose bits it is
            only, without = values[alone @ bits], values[~alone @ bits]
        else:
            only, without = (self._span_values(present, spans) for present in (alone, ~alone))
        events = []
        for number, (span, node) in enumerate(zip(spans, nodes, strict=True)):
            relations, left = self._relations(node, most_relations)
            at_peak = torch.zeros(len(self.segments), dtype=torch.float64)
            at_peak[node] = 1.0
            changed = np.concatenate([without[:, number], only[:, number]], axis=1).tolist()  # (M, 4)
            events.append(
                EventExplanation(
                    span=span,
                    mean_score=float(self.scores[span.start_frame : span.end_frame].mean()),
                    segment=self.segments[node],
                    logit=float(self.logits[node]),
                    parts=self._parts(self.weights(span)),
                    peak_parts=self._parts(at_peak),
                    relations=relations,
                    other_relations=left,
                    nearest=self.explainer.normal_segments.nearest({name: x[:, node] for name, x in bag.inputs.items()}),
                    counterfactuals=tuple(Counterfactual(name, *row) for name, row in zip(names, changed, strict=True)),
                    shapley=dict(zip(names, shares.values[:, number].tolist(), strict=True)) if shares else None,
                    score_without_all=float(shares.baseline[number]) if shares else None,
                    heat_maps=self.explainer.heat_maps(self.segments[node]),
                    known=self._known(node),
                )
            )
        return events

    def _span_values(self, present: np.ndarray, spans: Sequence[Span]) -> Float64[np.ndarray, "s e two"]:
        """Highest frame score and highest segment logit of each span, with sets of modalities present."""
        logits = self.counterfactuals.logits(present).double()  # (S, N)
        frames = _sigmoid(self.frames(logits))  # (S, F)
        highest = [frames[:, span.start_frame : span.end_frame].max(1) for span in spans]
        largest = [logits[:, self._inside(span)].amax(1).numpy() for span in spans]
        values: Float64[np.ndarray, "s e two"] = np.stack([np.stack(highest, 1), np.stack(largest, 1)], axis=-1)
        return values

    def _peak_node(self, span: Span) -> int:
        """The segment of the span with the highest logit: scores may be 1 for several."""
        return int(self.logits.masked_fill(~self._inside(span), float("-inf")).argmax())

    def _inside(self, span: Span) -> Tensor:
        """Which segments show the frames of a span, (N,)."""
        part = self.shown[:, span.start_frame : span.end_frame]
        return torch.from_numpy(np.asarray(part.sum(axis=1)).ravel()) > 0

    def _parts(self, weights: Tensor) -> Parts | None:
        """Parts of the weighted mean logit, weights (N,) adding up to 1."""
        if self.parts is None:
            return None
        one = self.parts.weighted(weights)
        supports = {support: float(part) for support, part in one.by_support().items() if support or float(part)}
        columns, left = self._columns(one)
        return Parts(
            logit=float(one.logits[0]),
            baseline=one.baseline,
            by_modality={name: float(part) for name, part in one.by_modality(self.explainer.modalities).items()},
            by_support=supports,
            by_order={order: float(part) for order, part in one.by_order().items()},
            gap=float(one.gap[0]),
            by_reading={name: float(part) for name, part in one.by_reading().items()},
            columns=columns,
            other_columns=left,
        )

    def _columns(self, one: NodeParts) -> tuple[tuple[ColumnPart, ...], float]:
        """The largest parts of columns, and the sum of all others."""
        parts = {key: float(part) for key, part in one.by_column().items()}
        largest = sorted(parts, key=lambda key: -abs(parts[key]))[:MOST_COLUMNS]
        found = [
            ColumnPart(
                name, column, self.explainer.names[name][column], parts[name, column], float(one.departures[name][0, column])
            )
            for name, column in largest
            if parts[name, column]
        ]
        return tuple(found), sum(parts.values(), 0.0) - sum(one.part for one in found)

    def _known(self, node: int) -> tuple[KnownRelation, ...]:
        """The known segments that a segment receives from in the fused graph, and those nearest in each modality."""
        fusion = self.explainer.detector.fusion
        if fusion.relates_within:
            return ()
        graphs = fusion.graphs({name: x[:, node : node + 1] for name, x in self.bag.inputs.items()})
        if graphs is None:
            return ()
        fused = graphs.fused[:, 0].mean(0)
        found = [KnownRelation(None, self.explainer.known[k], float(fused[k])) for k in _largest(fused, int((fused > 0).sum()))]
        for name, graph in graphs.relations.items():
            row = graph[:, 0].mean(0)
            found += [KnownRelation(name, self.explainer.known[k], float(row[k])) for k in _largest(row, graphs.kept)]
        return tuple(found)

    def _relations(self, node: int, most: int) -> tuple[tuple[RelationPart, ...], float]:
        """The largest terms of a segment's relations inside its video, and the sum of the parts of all other terms.

        Finer units relate to other units: terms with them belong to no one segment and are not listed.
        """
        if self.terms is None or self.order is None or self.explainer.typical is None:
            return (), 0.0
        terms = self.terms.terms
        parts = terms.values[:, :, node].double().mean(1)  # (T, K)
        similar = {name: graph[:, node].mean(0) for name, graph in self.graphs.items()}
        order = self.order[:, node]
        typical = {
            name: torch.zeros(order.shape).scatter_(-1, order, row.expand(order.shape)).mean(0)
            for name, row in self.explainer.typical.relations.items()
        }
        found = []
        powers_of = torch.tensor(terms.exponents)
        fine = torch.tensor([name in self.explainer.detector.fusion.units for name in terms.names])
        listed = powers_of.any(1) & ~powers_of[:, fine].any(1)  # the constant belongs to no modality
        sizes = torch.where(listed[:, None], parts.abs(), -1.0).flatten()
        for place in sizes.argsort(descending=True, stable=True)[: min(most, int(listed.sum()) * parts.shape[1])].tolist():
            term, column = divmod(place, parts.shape[1])
            powers = {name: power for name, power in zip(terms.names, terms.exponents[term], strict=True) if power}
            values = [{name: float(table[name][column]) for name in powers} for table in (similar, typical)]
            found.append(RelationPart(self.segments[column], powers, float(parts[term, column]), *values))
        return tuple(found), float(parts.sum()) - sum(one.part for one in found)


def _spread(explainer: Explainer, video: str, count: int, *, smoothing: float) -> scipy.sparse.csr_array:
    """How much of each frame's logit is each segment's, (N, F), from the logits of one segment after the other."""
    record, rows = explainer.dataset.records[video], explainer.dataset.rows(video)
    config = explainer.config.model_copy(update={"smoothing": smoothing})
    blocks = []
    for first in range(0, count, _ROWS_AT_ONCE):
        one_by_one = np.eye(min(_ROWS_AT_ONCE, count - first), count, first)
        spread = np.stack([frame_logits(one, rows, record.frames, record.fps, config) for one in one_by_one])
        blocks.append(scipy.sparse.csr_array(spread))
    return scipy.sparse.csr_array(scipy.sparse.vstack(blocks))


def _sigmoid(logits: Float64[np.ndarray, "*any"]) -> Float64[np.ndarray, "*any"]:
    scores: Float64[np.ndarray, "*any"] = torch.from_numpy(np.asarray(logits)).sigmoid().numpy()
    return scores


def _largest(row: Tensor, most: int | None) -> list[int]:
    count = len(row) if most is None else min(most, len(row))
    found: list[int] = row.topk(count).indices.tolist()
    return found


def explain_video(
    run_folder: str | Path, dataset: Dataset, video: str, *, threshold: float = 0.5, removal: Removal = "typical"
) -> VideoExplanation:
    """Explain every event of a video: which modality, at which order, against which known-normal segments.

    A model of method ``lego``, or ``lego-paper`` with rows ``sorted`` or ``ordered``, is explained by the exact parts of its
    logits above the typical normal segment; every model by its scores without each modality and their Shapley values.

    Args:
        run_folder: Run folder, as ``train_run`` writes it.
        dataset: The dataset it was trained on; ``video`` is one of its videos.
        video: Name.
        threshold: An event is a maximal span of frames whose scores are at or above it, in [0, 1].
        removal: What stands for a modality that is not there: ``"typical"`` or ``"drop-term"`` (see ``counterfactual``).

    Raises:
        DataError: If the video, a modality or, where the model needs them, the training videos are not in the dataset.
        ParameterError: If ``removal`` is not defined for the model.

    Source: terms and their integrated gradients, ``explain.terms``; Shapley values, ``explain.shapley``.
    """
    return Explainer(run_folder, dataset).explain(video, threshold=threshold, removal=removal)
