"""The contract of every fusion, ours and each baseline: features by modality name in, one vector per node out."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ..errors import DataError, ParameterError, check_int
from ..graph.operator import GraphOperator, check_names
from .known import KnownNormals, KnownUnits
from .options import FusionOptions
from .reading_head import ReadingHead
from .streams import FeatureWindow, NodeStream


class FusionOutput(NamedTuple):
    """What a fusion returns.

    Args:
        nodes: One vector per node, (B, N, F); zero where the node is masked.
        graph: The fused graph, (B, N, N) or (B, N, K), or None where the fusion has no graph.
    """

    nodes: Float[Tensor, "b n f"]
    graph: Float[Tensor, "b n k"] | None = None


class Graphs(NamedTuple):
    """The graphs that a fusion sees, to be looked at.

    Args:
        relations: Relation of each node to each column by modality, (B, N, K).
        fused: What becomes of them, (B, N, K).
        kept: Largest entries of a row of a relation that count; None where all do.
    """

    relations: dict[str, Float[Tensor, "b n k"]]
    fused: Float[Tensor, "b n k"]
    kept: int | None = None


class Fusion(nn.Module, ABC):
    """Base of every fusion.

    A fusion finds modalities by name, never by position. It has two stages, in the words of scikit-learn:

    * The *frozen* one learns from the training videos what needs no gradient (``fit``; stored in buffers, saved with the
      weights) and makes inputs of features, once (``transform``). Of the training videos themselves it makes them cross-fitted
      (``fit_transform``), as ``sklearn.preprocessing.TargetEncoder`` does: otherwise each would be known to itself.
    * The *learned* one, ``forward``, makes node vectors of the inputs.

    A fusion without frozen stage reads features: its ``transform`` gives them back. ``fuse`` is both stages.

    ``units`` names the modalities that a fusion reads unit by unit, (B, N, U, D_m + 1) with presence (``fusion.relation``); all
    others it reads as (B, N, D_m).

    Args:
        modalities: Width D_m of each modality by name, in the order that orients what is not symmetric.
        options: Those of ``Options``, by name.
    """

    __call__: Callable[..., FusionOutput]  # ``forward``, whose type torch does not know
    kind: ClassVar[str] = "fusion"
    Options: ClassVar[type[FusionOptions]] = FusionOptions
    """Its options, where they are a record; a fusion with few of them has arguments instead."""
    options: FusionOptions

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """The arguments of the fusion with their defaults (``inspect.Parameter.empty`` for none), its options among them."""
        own = inspect.signature(cls).parameters.values()
        found = {one.name: one.default for one in own if one.kind is not one.VAR_KEYWORD}
        return found | {name: field.default for name, field in cls.Options.model_fields.items()}

    @classmethod
    def usual_grid(cls, modalities: Sequence[str]) -> dict[str, tuple[int | float, ...]]:
        """What a sweep tries where nobody says, values by setting (``learn.settings``); by default nothing."""
        return {}

    relates_within: bool = False  # whether its graphs relate the nodes of one video to each other
    row_order: Literal["ordered", "sorted"] | None = None  # of the row of a learned operator's graph that a node hands on
    out_features: int
    units: Mapping[str, int]
    operator: GraphOperator | None  # what fuses its graphs, where it has some

    def __init__(self, modalities: Mapping[str, int], **options: Any) -> None:
        super().__init__()
        if not modalities:
            raise ParameterError("a fusion needs at least one modality", where=type(self).__name__)
        check_names(list(modalities))  # names become parts of parameter names
        for name, width in modalities.items():
            check_int(width, f"modalities['{name}']", type(self).__name__, low=1)
        self.modalities = dict(modalities)
        self.register_module("operator", None)
        self.options = self.Options.of(options, type(self).__name__)
        self.units = getattr(self.options, "units", {})
        unknown = [name for name in self.units if name not in self.modalities]
        if unknown:
            raise ParameterError(f"units names '{unknown[0]}', which is no modality", expected=", ".join(self.modalities))

    @abstractmethod
    def forward(self, inputs: Mapping[str, Float[Tensor, "b n ..."]], mask: Bool[Tensor, "b n"] | None = None) -> FusionOutput:
        """Learned stage: the vector of each node.

        Args:
            inputs: What ``transform`` made of B videos of N nodes, by modality.
            mask: True where a node exists, (B, N).
        """

    def config(self) -> dict[str, Any]:
        """The arguments, as JSON values, that make an equal fusion: ``type(self)(**config)``."""
        return {"modalities": self.modalities, **self.options.model_dump(mode="json")}

    def fit(
        self,
        features: Mapping[str, Float[Tensor, "v n ..."]],
        labels: Bool[Tensor, " v"],
        video_ids: Int[Tensor, " v"],
        mask: Bool[Tensor, "v n"] | None = None,
    ) -> None:
        """Frozen stage: learn from the V training bags what needs no gradient; by default nothing.

        Args:
            features: Of the training bags, (V, N, D_m) by name.
            labels: True where a bag is abnormal, (V,).
            video_ids: Which video a bag comes from, (V,): crops and windows of one video share it.
            mask: True where a node exists, (V, N).
        """

    def fit_transform(
        self,
        features: Mapping[str, Float[Tensor, "v n ..."]],
        labels: Bool[Tensor, " v"],
        video_ids: Int[Tensor, " v"],
        mask: Bool[Tensor, "v n"] | None = None,
        *,
        crops: int = 1,
    ) -> dict[str, Float[Tensor, "videos n ..."]]:
        """``fit``, and what the frozen stage then makes of the training bags: cross-fitted, no video meets itself."""
        self.fit(features, labels, video_ids, mask)
        return self.transform(features, mask, video_ids=video_ids, crops=crops)

    def transform(
        self,
        features: Mapping[str, Float[Tensor, "b n ..."]],
        mask: Bool[Tensor, "b n"] | None = None,
        *,
        video_ids: Int[Tensor, " b"] | None = None,
        crops: int = 1,
        inside: bool = True,
    ) -> dict[str, Float[Tensor, "videos n ..."]]:
        """Frozen stage: what the learned one reads, by modality; no learned parameter. By default the features themselves.

        Args:
            features: Of B bags, by name.
            mask: True where a node exists, (B, N).
            video_ids: Of the *training* bags, as ``fit`` had them, (B,): cross-fitted, where that matters, so that no video
                meets what was learned from itself. Features may be others of the same bags (a modality removed, say), which
                then meet what ``fit`` saw. None: of other bags.
            crops: So many bags in a row are one video's.
            inside: Whether somebody asks how unlike the rest of its own video a node is, where that is a reading of its own.
        """
        return dict(zip(self.modalities, self.select(features), strict=True))

    def fuse(self, features: Mapping[str, Float[Tensor, "b n ..."]], mask: Bool[Tensor, "b n"] | None = None) -> FusionOutput:
        """Both stages, from features of bags that were not trained on.

        Args:
            features: Of B videos of N nodes, by name.
            mask: True where a node exists, (B, N).
        """
        return self(self.transform(features, mask), mask)

    @property
    def has_frozen_stage(self) -> bool:
        """Whether ``transform`` gives more than the features."""
        return False

    @property
    def knows_training(self) -> bool:
        """Whether the frozen stage learns from the training videos at all."""
        return True

    @property
    def pools_crops(self) -> bool:
        """Whether ``transform`` gives one bag a video, the mean over its crops."""
        return False

    @property
    def one_pass(self) -> bool:
        """Whether one pass over a video gives what causal windows would give one by one."""
        return False

    @property
    def draws_at_random(self) -> bool:
        """Whether another seed makes another detector of it; where not, one training is the answer."""
        return True

    @property
    def any_nodes(self) -> bool:
        """Whether bags of any number of nodes can be read, however many it was trained on."""
        return False

    @property
    def learns_operator(self) -> bool:
        """Whether there is an operator whose coefficients are learned."""
        return self.operator is not None and any(one.requires_grad for one in self.operator.parameters())

    @property
    def reference_units(self) -> Int[Tensor, "k two"]:
        """Training bag and node of each column, so that it can be shown; -1 where it was added."""
        return torch.zeros(0, 2, dtype=torch.long)

    @property
    def columns(self) -> int:
        """Known normal segments that nodes are related to."""
        return 0

    def stream(self, window: int, *, inside: bool = True) -> NodeStream:
        """Node vectors of a running video, one segment after the other; ``inside`` as in ``transform``."""
        return FeatureWindow(self.fuse, window)

    def unlikeness(self, features: Mapping[str, Float[Tensor, "b n ..."]]) -> dict[str, Float[Tensor, "b n"]]:
        """How far each node is from what is known, by modality, 1 being the most unlike training video.

        Empty where nothing is known.
        """
        return {}

    def add_normals(
        self,
        features: Mapping[str, Float[Tensor, "b n ..."]],
        video_ids: Int[Tensor, " b"],
        mask: Bool[Tensor, "b n"] | None = None,
        *,
        most: int,
    ) -> Int[Tensor, "u two"]:
        """Know the segments of more normal bags, at most so many, without training; gives bag and node of those that are new.

        Raises:
            ParameterError: If the fusion knows no segments.
        """
        fix = "train again with the new videos"
        raise ParameterError(f"the fusion '{self.kind}' has no references", where=type(self).__name__, fix=fix)

    def frozen_config(self) -> dict[str, Any]:
        """The part of ``config`` that decides what the frozen stage makes of features."""
        return {}

    def idle_options(self) -> tuple[str, ...]:
        """Names of the arguments that change nothing beside the others as they are; by default none."""
        return ()

    def graphs(
        self, features: Mapping[str, Float[Tensor, "b n ..."]], mask: Bool[Tensor, "b n"] | None = None
    ) -> Graphs | None:
        """The graphs of bags, to be looked at; None where the fusion makes none."""
        return None

    def operator_graphs(self, inputs: Mapping[str, Float[Tensor, "b n ..."]]) -> dict[str, Float[Tensor, "b n k"]] | None:
        """The graphs that a *learned* operator fuses, from what ``transform`` gave; None where nothing of that is learned."""
        return None

    def known_segments(self) -> dict[str, KnownNormals]:
        """What is known of normal segments in each modality that has one vector per node; empty where nothing is."""
        return {}

    def known_places(self, name: str) -> tuple[Int[Tensor, "k place"], Float[Tensor, "k d"]]:
        """Where what is known of a modality was found, and its features.

        Training bag and node of each known segment, or training bag, node and unit of each known unit; -1 where it was added.
        Empty where nothing is known.
        """
        return torch.zeros(0, 2, dtype=torch.long), torch.zeros(0, self.modalities[name])

    def known_units(self, name: str) -> KnownUnits:
        """What is known of a modality of finer units.

        Raises:
            ParameterError: If units are not related to known ones.
        """
        got = f"the fusion '{self.kind}'"
        raise ParameterError(
            "units are not related to known normal ones", where=f"modality '{name}'", got=got, fix="use 'lego'"
        )

    def make_head(self) -> ReadingHead | None:
        """A head that is a sum of readable parts with priors on its weights; None leaves the head to the detector."""
        return None

    def select(self, features: Mapping[str, Tensor]) -> list[Tensor]:
        """What ``checked`` gives, in float32 where it was of 16 bits."""
        return [at_least_single(tensor) for tensor in self.checked(features)]

    def checked(self, features: Mapping[str, Tensor]) -> list[Tensor]:
        """The features in this fusion's order, with names, widths and shapes checked; extra modalities are ignored.

        Raises:
            DataError: Naming the modality that is missing or has another width, number of videos or number of nodes.
        """
        missing = [name for name in self.modalities if name not in features]
        if missing:
            raise DataError(
                f"modality '{missing[0]}' is missing",
                expected=", ".join(self.modalities),
                got=", ".join(features) or "no modality",
                fix=f"give features of '{missing[0]}', or use a model trained without it",
            )
        chosen = [features[name] for name in self.modalities]
        for (name, width), tensor in zip(self.modalities.items(), chosen, strict=True):
            expected = (*chosen[0].shape[:2], width)
            if name in self.units:  # any number of units that fills the groups
                fits = tensor.ndim == 4 and tensor.shape[2] % self.units[name] == 0
                expected = (*expected[:2], tensor.shape[2] if fits else f"a multiple of {self.units[name]} units", width + 1)
            if tuple(tensor.shape) != expected:
                raise DataError(
                    "features have another shape", where=f"modality '{name}'", expected=expected, got=tuple(tensor.shape)
                )
        return chosen


def at_least_single(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Numbers of 16 bits as float32, all others as they are."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def mask_nodes(nodes: Float[Tensor, "b n f"], mask: Bool[Tensor, "b n"] | None) -> Float[Tensor, "b n f"]:
    """Zero the vectors of masked nodes."""
    return nodes if mask is None else nodes.masked_fill(~mask[:, :, None], 0.0)


class ColumnScaling(nn.Module):
    """Subtract each column's training mean and divide by its training standard deviation (constant columns: by 1).

    Args:
        width: D.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("deviation", torch.ones(width))

    def fit(self, rows: Float[Tensor, "*rows d"]) -> None:
        """Set both from training rows."""
        flat = rows.reshape(-1, rows.shape[-1]).double()
        deviation = flat.std(0, unbiased=False)
        constant = deviation <= 1e-6 * flat.abs().amax(0).clamp_min(1e-30)
        self.mean.copy_(flat.mean(0))
        self.deviation.copy_(torch.where(constant, torch.ones_like(deviation), deviation))

    def forward(self, x: Float[Tensor, "*rows d"]) -> Float[Tensor, "*rows d"]:
        """Return (x - mean) / deviation."""
        return (x - self.mean) / self.deviation


class ScaledFusion(Fusion):
    """Base of the fusions that read features as they are: each column scaled by its training mean and deviation.

    Args:
        modalities: Width of each modality by name.
        arguments: The other arguments, all integers: ``seed`` at least 0, the rest at least 1. They become attributes.
    """

    width: int
    seed: int

    def __init__(self, modalities: Mapping[str, int], **arguments: int) -> None:
        super().__init__(modalities)
        for name, value in arguments.items():
            setattr(self, name, check_int(value, name, type(self).__name__, low=0 if name == "seed" else 1))
        self.arguments = arguments
        self.scaling = nn.ModuleDict({name: ColumnScaling(width) for name, width in self.modalities.items()})

    def config(self) -> dict[str, Any]:
        """Arguments that make an equal fusion."""
        return {"modalities": self.modalities, **self.arguments}

    def fit(
        self,
        features: Mapping[str, Float[Tensor, "v n _"]],
        labels: Bool[Tensor, " v"],
        video_ids: Int[Tensor, " v"],
        mask: Bool[Tensor, "v n"] | None = None,
    ) -> None:
        """Fit the column scaling of each modality on all training bags."""
        for name, tensor in zip(self.modalities, self.select(features), strict=True):
            self.scaling[name].fit(tensor if mask is None else tensor[mask])  # type: ignore[operator]

    def scaled(
        self, features: Mapping[str, Float[Tensor, "b n _"]], mask: Bool[Tensor, "b n"] | None = None
    ) -> dict[str, Float[Tensor, "b n _"]]:
        """The features in this fusion's order, scaled; zero where masked, so that what a masked node holds goes nowhere."""
        chosen = zip(self.modalities, self.select(features), strict=True)
        return {name: mask_nodes(self.scaling[name](x), mask) for name, x in chosen}


def linear_maps(modalities: Mapping[str, int], width: int) -> nn.ModuleDict:
    """One affine map D_m -> width for each modality, by name."""
    return nn.ModuleDict({name: nn.Linear(size, width) for name, size in modalities.items()})


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Layers made inside start from this seed; the global random numbers stay as they were."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
