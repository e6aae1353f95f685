"""A saved detector together with the normal segments that it is explained against, loaded once for many videos."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from ..data.dataset import Dataset
from ..errors import DataError, ParameterError, check_choice, check_number
from ..explain.shapley import MOST_EXACT, all_subsets, contributions_from_values
from ..explain.terms import NodeExplanation, Terms, explain_nodes
from ..fusion.lego import LegoFusion
from ..fusion.relation import Relation
from ..fusion.units import UnitRelation
from .bags import Bags, load_bags, mean_over_crops, scoring_inputs, training_inputs, without_units
from .checkpoint import RunConfig, load_detector
from .counterfactual import (
    MEAN_MEANING,
    MEANINGS,
    Counterfactuals,
    MeanFeatures,
    TypicalNormal,
    TypicalRelations,
    TypicalTerms,
    head_order,
    is_ranked,
    terms_of,
)
from .detector import Detector
from .event_records import (
    REMOVALS,
    Counterfactual,
    EventExplanation,
    HeatMap,
    Parts,
    RelationPart,
    Removal,
    Segment,
    VideoExplanation,
)
from .events import Span, high_spans
from .localise import heat_map_at
from .nearest import NormalSegments
from .protocol import frame_scores, relation_for
from .runs import VideoScores, dataset_segment, read_method, require_same_features

EXACT_ROWS = ("ordered", "sorted")


class Explainer:
    """Explain videos of a dataset folder by a saved detector.

    Args:
        folder: Run folder.
        dataset: Dataset folder with the videos that the run was trained on; they give the typical normal segment.

    Raises:
        CheckpointError: If the folder holds no run.
        DataError: If the training videos are not in the dataset, or not as they were.
        ManifestError: If the dataset's features were made in another way.
    """

    def __init__(self, folder: str | Path, dataset: Dataset) -> None:
        self.folder, self.dataset = Path(folder), dataset
        self.detector, self.config = load_detector(self.folder)
        self.config.require_equal_spans("explain")
        require_same_features(self.config, dataset)
        self.modalities = tuple(self.config.manifests)
        training = training_bags(self.config, dataset)
        self.normal = training.select((~training.labels).nonzero()[:, 0])
        if not self.normal.videos:
            fix = "train with normal videos, or use 'score'"
            raise DataError("nothing normal to compare with", where=self.folder, expected="normal training videos", fix=fix)
        self.lego: LegoFusion | None = None
        self.typical: TypicalNormal | None = None
        fusion = self.detector.fusion
        if isinstance(fusion, LegoFusion) and fusion.rows in EXACT_ROWS:
            require_same_references(fusion, training, dataset.name)
            graphs = normal_graphs(fusion, training)
            self.lego, self.typical = fusion, TypicalNormal.of(fusion, graphs)

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
        record = self.dataset.record(video)
        bag = load_bags(self.dataset, self.modalities, [video], nodes=self.config.nodes)
        reading = _Reading(self, video, bag, removal)
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
            removal_meaning=MEANINGS[removal] if self.lego is not None else MEAN_MEANING,
            settings=self.settings,
            normal_videos=self.normal.videos,
        )

    @cached_property
    def settings(self) -> dict[str, str]:
        """What the model is, in words."""
        told = {"method": read_method(self.folder, self.config), "modalities": ", ".join(self.modalities)}
        told["parameters"] = f"{self.detector.parameter_count():,}"
        if self.lego is not None:
            references = f"{self.lego.columns} known-normal segments" if self.lego.wanted_references else "none"
            orders = ", ".join(map(str, sorted(set(self.lego.operator.orders))))
            told |= {"reference units": references, "order": orders, "form": self.lego.operator.form}
        told["smoothing"] = f"{self.config.smoothing:g} s" if self.config.smoothing else "none"
        told |= {"segments per video": str(self.config.nodes), "seed": str(self.config.training.get("seed"))}
        told["normal training videos"] = str(len(self.normal.videos))
        told |= {"weights": self.config.weights_hash[:12], "lego-fusion": self.config.lego_fusion}
        return told

    @cached_property
    def normal_segments(self) -> NormalSegments:
        """The normal training segments, in the relations of the model, or in usual ones where it has none.

        Finer units are compared by the mean of those present.
        """
        inputs = without_units(self.normal).inputs
        features = {name: mean_over_crops(values, self.normal.crops) for name, values in inputs.items()}
        segments = [
            Segment(video, *dataset_segment(self.dataset, video, node, self.config.nodes))
            for video in self.normal.videos
            for node in range(self.config.nodes)
        ]
        return NormalSegments(self._relations(features), {n: x.flatten(0, 1) for n, x in features.items()}, segments)

    @cached_property
    def normal_means(self) -> dict[str, Tensor]:
        """Mean features of normal training segments."""
        return {name: values.flatten(0, 1).double().mean(0).float() for name, values in self.normal.inputs.items()}

    def heat_maps(self, segment: Segment) -> tuple[HeatMap, ...]:
        """Where in the picture a segment's middle frame is unlike known normals; empty for models without cells."""
        fusion = self.detector.fusion
        if not isinstance(fusion, LegoFusion) or not fusion.wanted_references:
            return ()
        placed = [name for name in fusion.units if self.config.manifests[name].grid is not None]
        return tuple(heat_map_at(fusion, self.dataset, name, segment.video, segment.middle) for name in placed)

    def others(self, video: str) -> list[Segment]:
        """What the columns of the video's relations are: the reference units, or its own segments."""
        if self.lego is not None and self.lego.wanted_references:
            return [
                Segment(str(one["video"]), int(str(one["start_frame"])), int(str(one["end_frame"])))
                for one in self.config.references
            ]
        nodes = range(self.config.nodes)
        return [Segment(video, *dataset_segment(self.dataset, video, node, self.config.nodes)) for node in nodes]

    def _relations(self, features: Mapping[str, Tensor]) -> dict[str, Relation]:
        fusion, found = self.detector.fusion, {}
        for name, manifest in self.config.manifests.items():
            relation = fusion.relation[name] if isinstance(fusion, LegoFusion) else None
            if not isinstance(relation, Relation) or isinstance(relation, UnitRelation):
                relation = Relation(manifest.width, relation_for(manifest), references=0)
                relation.fit(features[name], torch.ones(len(features[name]), dtype=torch.bool))
            found[name] = relation
        return found

    def _check_removal(self, removal: Removal) -> None:
        check_choice(removal, "removal", "explain", REMOVALS)
        if removal == "drop-term" and self.lego is None:
            raise ParameterError(
                "only a graph operator read row by row has terms to drop",
                where=self.folder,
                expected=f"fusion lego with rows {' or '.join(EXACT_ROWS)}",
                got=_model_in_words(self.detector),
                fix="use removal 'typical', which explains any model by its scores without each modality",
            )


class _Reading:
    """One video as a detector reads it."""

    def __init__(self, explainer: Explainer, video: str, bag: Bags, removal: Removal) -> None:
        self.explainer, self.video, self.bag, self.removal = explainer, video, bag, removal
        dataset, nodes = explainer.dataset, explainer.config.nodes
        self.segments = [Segment(video, *dataset_segment(dataset, video, node, nodes)) for node in range(nodes)]
        # W (N, F): how much of each frame's logit is each segment's, before and after smoothing
        own = torch.eye(nodes, dtype=torch.float64)
        self.shown = torch.stack([frame_scores(dataset, video, row) for row in own])
        smoothing = explainer.config.smoothing
        self.weights = torch.stack([frame_scores(dataset, video, row, smoothing=smoothing) for row in own])
        self.explained: NodeExplanation | None = None
        self.order: Tensor | None = None
        self.graphs: dict[str, Tensor] = {}
        lego, typical = explainer.lego, explainer.typical
        if lego is None or typical is None:
            self.counterfactuals: Counterfactuals = MeanFeatures(explainer.detector, bag, explainer.normal_means)
        else:
            self.graphs = scoring_inputs(lego, bag).inputs
            terms = terms_of(lego, self.graphs)
            self.order = head_order(lego, terms)
            self.explained = _node_parts(explainer.detector, terms, typical, ranked=is_ranked(lego))
            kind = (explainer.detector, lego)
            if removal == "typical":
                self.counterfactuals = TypicalRelations(*kind, self.graphs, typical, self.order)
            else:
                self.counterfactuals = TypicalTerms(*kind, terms, typical, self.order)
        everything = np.ones((1, len(explainer.modalities)), dtype=bool)
        self.logits = self.explained.logits.mean(0) if self.explained else self.counterfactuals.logits(everything)[0]
        self.scores: Float64[np.ndarray, " frames"] = (self.logits.double() @ self.weights).sigmoid().numpy()

    def by_modality(self) -> dict[str, Float64[np.ndarray, " n"]]:
        if self.explained is None:
            return {}
        return {name: part.mean(0).double().numpy() for name, part in self.explained.nodes().by_modality().items()}

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
            weights = self.weights[:, span.start_frame : span.end_frame].mean(1)
            at_peak = torch.zeros_like(weights)
            at_peak[node] = 1.0
            changed = np.concatenate([without[:, number], only[:, number]], axis=1).tolist()  # (M, 4)
            events.append(
                EventExplanation(
                    span=span,
                    mean_score=float(self.scores[span.start_frame : span.end_frame].mean()),
                    segment=self.segments[node],
                    logit=float(self.logits[node]),
                    parts=self._parts(weights),
                    peak_parts=self._parts(at_peak),
                    relations=relations,
                    other_relations=left,
                    nearest=self.explainer.normal_segments.nearest(
                        {name: features.mean(0)[node] for name, features in bag.inputs.items()}
                    ),
                    counterfactuals=tuple(Counterfactual(name, *row) for name, row in zip(names, changed, strict=True)),
                    shapley=dict(zip(names, shares.values[:, number].tolist(), strict=True)) if shares else None,
                    score_without_all=float(shares.baseline[number]) if shares else None,
                    heat_maps=self.explainer.heat_maps(self.segments[node]),
                )
            )
        return events

    def _span_values(self, present: np.ndarray, spans: Sequence[Span]) -> Float64[np.ndarray, "s e two"]:
        """Highest frame score and highest segment logit of each span, with sets of modalities present."""
        logits = self.counterfactuals.logits(present).double()  # (S, N)
        frames = (logits @ self.weights).sigmoid()  # (S, F)
        highest = torch.stack([frames[:, span.start_frame : span.end_frame].amax(1) for span in spans], dim=1)
        largest = torch.stack([logits[:, self._inside(span)].amax(1) for span in spans], dim=1)
        values: Float64[np.ndarray, "s e two"] = torch.stack([highest, largest], dim=-1).numpy()
        return values

    def _peak_node(self, span: Span) -> int:
        """The segment of the span with the highest logit: scores may be 1 for several."""
        return int(self.logits.masked_fill(~self._inside(span), float("-inf")).argmax())

    def _inside(self, span: Span) -> Tensor:
        """Which segments show the frames of a span, (N,)."""
        return self.shown[:, span.start_frame : span.end_frame].sum(1) > 0

    def _parts(self, weights: Tensor) -> Parts | None:
        """Parts of the weighted mean logit, weights (N,) adding up to 1."""
        if self.explained is None:
            return None
        nodes = self.explained.nodes()
        values = (nodes.values.double().mean(1) * weights).sum(-1)  # (T,)
        terms = Terms(nodes.names, nodes.exponents, values)
        supports = {support: float(part) for support, part in terms.by_support().items() if support or float(part)}
        logit = float((self.logits.double() * weights).sum())
        return Parts(
            logit=logit,
            baseline=self.explained.baseline,
            by_modality={name: float(part) for name, part in terms.by_modality().items()},
            by_support=supports,
            by_order={order: float(part) for order, part in terms.by_order().items() if order},
            gap=logit - self.explained.baseline - float(values.sum()),
        )

    def _relations(self, node: int, most: int) -> tuple[tuple[RelationPart, ...], float]:
        """The largest terms of a segment's relations to others, and the sum of the parts of all other terms.

        Finer units relate to other units, each to its own nearest: terms with them belong to no one segment and are not listed.
        """
        if self.explained is None or self.order is None or self.explainer.typical is None:
            return (), 0.0
        terms, others = self.explained.terms, self.explainer.others(self.video)
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
            found.append(RelationPart(others[column], powers, float(parts[term, column]), *values))
        return tuple(found), float(parts.sum()) - sum(one.part for one in found)


def training_bags(config: RunConfig, dataset: Dataset) -> Bags:
    """The bags that a run was trained on, in its order.

    Raises:
        DataError: If the dataset does not hold the training videos.
    """
    names = config.dataset.get("train")
    videos = [str(name) for name in names] if isinstance(names, list) else []
    there = {record.video for record in dataset.videos}
    missing = [video for video in videos if video not in there]
    if missing or not videos:
        raise DataError(
            "the videos that the run was trained on are not in this dataset, and normal ones among them are what a video is "
            "explained against",
            where=f"dataset '{dataset.name}'",
            expected=f"the {len(videos)} training videos of '{config.dataset.get('name')}'",
            got=f"no '{missing[0]}'" if missing else "a run that names none",
            fix="give the dataset that the run was trained on, with the new videos extracted into it",
        )
    bags = load_bags(dataset, list(config.manifests), videos, nodes=config.nodes)
    if config.training.get("normal_only"):
        return bags.select((~bags.labels).nonzero()[:, 0])
    return bags


def normal_graphs(fusion: LegoFusion, training: Bags) -> dict[str, Tensor]:
    """Cross-fitted graphs of the normal training bags."""
    graphs = training_inputs(fusion, training)
    return graphs.select((~graphs.labels).nonzero()[:, 0]).inputs


def _node_parts(detector: Detector, terms: Terms, typical: TypicalNormal, *, ranked: bool) -> NodeExplanation:
    return explain_nodes(terms, typical.terms, detector.head.first, detector.head.second, ranked=ranked)


def require_same_references(fusion: LegoFusion, training: Bags, dataset: str) -> None:
    """The reference units must be found again where the run found them, or the features were changed since."""
    if fusion.kept_references is not None:
        raise ParameterError(
            "references were added to this run, which its training videos do not hold, so shares of a score are not defined",
            fix="explain the run that they were added to",
        )
    for name, values in training.inputs.items():
        relation = fusion.relation[name]
        if not fusion.wanted_references or not isinstance(relation, Relation):
            continue
        places = relation.reference_places if isinstance(relation, UnitRelation) else fusion.reference_units
        there = int(places[..., 0].max()) < len(values)
        found = values[tuple(places.unbind(-1))][..., : relation.references.shape[-1]] if there else values
        if not there or not torch.allclose(found, relation.references, rtol=1e-4, atol=1e-5):
            raise DataError(
                "the training videos are not as they were when the run was trained",
                where=f"dataset '{dataset}', modality '{name}'",
                expected="the same features in the places of the reference units",
                got="others",
                fix="train again on this dataset",
            )


def _model_in_words(detector: Detector) -> str:
    fusion = detector.fusion
    return f"lego with rows '{fusion.rows}'" if isinstance(fusion, LegoFusion) else f"fusion {fusion.kind}"
