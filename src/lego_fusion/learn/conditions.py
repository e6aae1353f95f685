"""Noisy and missing modalities: what is done to features before a method sees them, and training on bags that lose one.

    clean               nothing
    text:noise=1.0      Gaussian noise in training and test features: x + level * s * e, e ~ N(0, 1), s the deviation of each
                        column over the training segments
    text:test-noise=1.0 the same in test features only
    noise-modality=64   a modality "noise" of 64 columns of pure N(0, 1) added to training and test
    text:missing=mean   the modality is there in training and gone at test time, with a named meaning of "gone"

Noise enters at the **segment** level, after a video's rows were resampled to N segments: averaging would otherwise take
away more of it the longer a video is. So a level means the same for every video and every method.

Of finer units only those that are present become noisy or take the mean; with ``zero`` they are absent.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ..data.manifest import Manifest
from ..errors import ParameterError, check_choice, check_number
from ..fusion.base import Fusion
from .bags import Bags, training_inputs, without_graphs

Kind = Literal["clean", "noise", "test-noise", "noise-modality", "missing"]
Removal = Literal["zero", "mean", "permute", "drop-term"]
KINDS: tuple[Kind, ...] = ("clean", "noise", "test-noise", "noise-modality", "missing")
REMOVALS: tuple[Removal, ...] = ("zero", "mean", "permute", "drop-term")
NOISE = "noise"  # name of the modality that ``noise-modality`` adds
GRAMMAR = "clean, MODALITY:noise=LEVEL, MODALITY:test-noise=LEVEL, noise-modality=WIDTH or MODALITY:missing=REMOVAL"


@dataclass(frozen=True)
class Condition:
    """What happens to the features of one modality.

    Args:
        kind: One of ``KINDS``.
        modality: Which one is noisy or missing; ``"noise"`` for ``noise-modality``, ``""`` for ``clean``.
        level: Of noise, in deviations of each column, >= 0; for ``noise-modality`` its width, a whole number >= 1.
        removal: What is left of a missing modality: ``"zero"`` features, the ``"mean"`` of the training segments,
            ``"permute"``: the rows of all test segments in random order (the modality keeps its distribution and tells
            nothing; a video's score then depends on which others are tested with it), or ``"drop-term"``: the graph operator
            leaves the modality's powers >= 1 out (fusions with cached graphs only).

    Raises:
        ParameterError: If a value is unknown or out of range.
    """

    kind: Kind = "clean"
    modality: str = ""
    level: float = 0.0
    removal: Removal | None = None

    def __post_init__(self) -> None:
        check_choice(self.kind, "kind", "Condition", KINDS)
        if self.kind == "missing":
            check_choice(self.removal, "removal", "Condition", REMOVALS)
        whole = self.kind != "noise-modality" or (self.level >= 1 and float(self.level).is_integer())
        if not (math.isfinite(self.level) and self.level >= 0 and whole):
            expected = "a whole number of columns >= 1" if self.kind == "noise-modality" else "a finite number >= 0"
            raise ParameterError("the level of a condition is wrong", where=str(self), expected=expected, got=self.level)

    def __str__(self) -> str:
        if self.kind == "clean":
            return "clean"
        if self.kind == "noise-modality":
            return f"noise-modality={self.level:g}"
        return f"{self.modality}:{self.kind}={self.removal if self.kind == 'missing' else f'{self.level:g}'}"

    def applies_to(self, modalities: Sequence[str]) -> bool:
        """Whether a set of modalities can meet this condition: has the modality, or has none called "noise" yet."""
        if self.kind == "noise-modality":
            return NOISE not in modalities
        return self.kind == "clean" or self.modality in modalities

    def modalities(self, modalities: Sequence[str]) -> tuple[str, ...]:
        """The modalities that a method meets under this condition."""
        return (*modalities, NOISE) if self.kind == "noise-modality" else tuple(modalities)

    def manifests(self, manifests: Mapping[str, Manifest]) -> dict[str, Manifest]:
        """Their manifests: the noise added is an embedding like any other."""
        if self.kind != "noise-modality":
            return dict(manifests)
        noise = Manifest(modality=NOISE, extractor=NOISE, version="1", width=int(self.level))
        return {**manifests, NOISE: noise}


CLEAN = Condition()


def parse_condition(text: str) -> Condition:
    """Read a condition as it is written on a command line.

    Raises:
        ParameterError: If the text is not one of the forms, or a level or removal is wrong.

    Example:
        >>> parse_condition("text:missing=mean")
        Condition(kind='missing', modality='text', level=0.0, removal='mean')
        >>> str(parse_condition("motion:noise=0.50"))
        'motion:noise=0.5'
    """
    if text.strip() == "clean":
        return CLEAN
    name, _, value = text.strip().partition("=")
    modality, colon, kind = name.rpartition(":")
    added = kind == "noise-modality"
    if kind not in KINDS[1:] or not value or added == bool(colon) or bool(colon) != bool(modality):
        raise ParameterError("this is no condition", where=f"'{text}'", expected=GRAMMAR)
    if kind == "missing":
        if value not in REMOVALS:
            raise ParameterError("unknown removal", where=f"'{text}'", expected=" or ".join(REMOVALS), got=f"'{value}'")
        return Condition("missing", modality, removal=value)
    try:
        level = float(value)
    except ValueError:
        raise ParameterError("the level of a condition is no number", where=f"'{text}'", got=f"'{value}'") from None
    return Condition(kind, NOISE if added else modality, level)


def apply_condition(condition: Condition, train: Bags, others: Sequence[Bags], *, seed: int) -> tuple[Bags, list[Bags]]:
    """Training bags and other bags with features, as a method meets them under a condition.

    The noise of a bag is a function of seed, modality and the name of its video, whatever else is trained or tested.

    Args:
        condition: What happens.
        train: The bags trained on; deviations and means are theirs.
        others: Test bags first, then validation bags if there are any; the latter count as training.
        seed: Of the noise and of ``permute``.

    Raises:
        ParameterError: If the modality is not there, or one called "noise" already is.
    """
    kind, name = condition.kind, condition.modality
    if kind == "clean":
        return train, list(others)
    if not condition.applies_to(tuple(train.inputs)):
        expected = f"no modality called '{NOISE}' yet" if kind == "noise-modality" else ", ".join(train.inputs)
        raise ParameterError(f"the condition '{condition}' does not fit", where=f"modality '{name}'", expected=expected)
    test, validation = others[0], list(others[1:])
    if kind == "noise-modality":
        parts = [_with(bags, name, _noise(bags, name, int(condition.level), seed)) for bags in (train, *others)]
        return parts[0], parts[1:]
    if kind == "missing":
        return train, [removed(test, train, name, condition.removal or "mean", seed=seed), *validation]
    rows = _present_rows(train.inputs[name])
    deviation = rows.double().std(0, unbiased=False).to(rows.dtype)

    def noisy(bags: Bags) -> Bags:
        there = bags.inputs[name]
        if there.ndim == 4:
            noise = _noise(bags, name, there.shape[2] * rows.shape[-1], seed).reshape(*there.shape[:3], -1)
            values = there[..., :-1] + condition.level * deviation * noise
            return _with(bags, name, torch.cat([values * there[..., -1:], there[..., -1:]], dim=-1))
        return _with(bags, name, there + condition.level * deviation * _noise(bags, name, rows.shape[-1], seed))

    if kind == "test-noise":
        return train, [noisy(test), *validation]
    return noisy(train), [noisy(bags) for bags in others]


def removed(bags: Bags, train: Bags, modality: str, removal: Removal, *, seed: int) -> Bags:
    """Bags of which one modality is gone; ``drop-term`` leaves the features, as it happens to the graphs.

    Args:
        bags: With features.
        train: Training bags with features, for the mean.
        modality: Which one.
        removal: See ``Condition``.
        seed: Of ``permute``.
    """
    check_choice(removal, "removal", "removed", REMOVALS)
    features = bags.inputs[modality]
    if removal == "zero":
        return _with(bags, modality, torch.zeros_like(features))
    if removal == "mean":
        mean = training_mean(train.inputs[modality])
        if features.ndim == 4:
            present = features[..., -1:]
            return _with(bags, modality, torch.cat([mean * present, present], dim=-1))
        return _with(bags, modality, mean.expand_as(features).clone())
    if removal == "permute":
        return _with(bags, modality, permuted_rows(features, _generator(seed, modality, "permute")))
    return bags


def training_mean(features: Float[Tensor, "b n ..."]) -> Float[Tensor, " d"]:
    """Mean of all segments, or of all present units, summed in double precision as the centre of a relation is."""
    return _present_rows(features).double().mean(0).to(features.dtype)


def _present_rows(features: Float[Tensor, "b n ..."]) -> Float[Tensor, "rows d"]:
    """Segments (B, N, D) as rows, or the present ones of units (B, N, U, D + 1) without their presence."""
    rows = features.flatten(0, -2)
    return rows if features.ndim == 3 else rows[rows[:, -1] > 0][:, :-1]


def permuted_rows(tensor: Float[Tensor, "b n ..."], generator: torch.Generator) -> Float[Tensor, "b n ..."]:
    """The rows of all bags in random order: every row is kept once, and says nothing about its new place."""
    rows = tensor.flatten(0, 1)
    order = torch.randperm(len(rows), generator=generator)
    return rows[order.to(tensor.device)].reshape(tensor.shape)


def _noise(bags: Bags, modality: str, width: int, seed: int) -> Tensor:
    """Independent N(0, 1) for every bag, segment and column, (V * C, N, width)."""
    like = next(iter(bags.inputs.values()))
    shape = (bags.crops, like.shape[1], width)
    drawn = [torch.randn(shape, generator=_generator(seed, modality, video), dtype=like.dtype) for video in bags.videos]
    return torch.cat(drawn) if drawn else like.new_zeros(0, like.shape[1], width)


def _generator(seed: int, *names: str) -> torch.Generator:
    return torch.Generator().manual_seed(zlib.crc32("/".join((str(seed), *names)).encode()))


def _with(bags: Bags, modality: str, features: Tensor) -> Bags:
    return replace(bags, inputs={**bags.inputs, modality: features})


class ModalityDropout:
    """In each step each video loses one of its modalities with a fixed probability; all its crops lose the same one.

    What is gone is removed as ``conditions.Condition`` says: features are replaced before they are related (``"zero"``,
    ``"mean"``, ``"permute"`` with one random order for the whole training), or the graph is left out (``"drop-term"``). A
    normal training video keeps meeting its own references. Never more than one modality goes, so never all.

    Args:
        fusion: With fitted statistics; it knows the modalities.
        train: The training bags, with features.
        probability: In [0, 1).
        removal: What is left of a modality that is gone.
        seed: Which video loses what in which step is a function of this and the step.

    Raises:
        ParameterError: If there is one modality only, a value is wrong, or ``"drop-term"`` meets a fusion without graphs.
    """

    def __init__(self, fusion: Fusion, train: Bags, probability: float, removal: Removal, *, seed: int) -> None:
        check_number(probability, "probability", "ModalityDropout", low=0.0, high=1.0)
        check_choice(removal, "removal", "ModalityDropout", REMOVALS)
        self.names = tuple(fusion.modalities)
        if probability == 1 or len(self.names) < 2:
            expected = "a probability below 1 and at least two modalities"
            raise ParameterError(
                "modality dropout must leave something", expected=expected, got=f"{probability:g}, {', '.join(self.names)}"
            )
        self.probability, self.seed = probability, seed
        self.gone = self._without_each(fusion, train.with_modalities(self.names), removal)

    def _without_each(self, fusion: Fusion, train: Bags, removal: Removal) -> Bags:
        """The training inputs with every modality as it is when it alone is gone."""
        if removal == "drop-term":
            return without_graphs(fusion, training_inputs(fusion, train), self.names)
        shown = {name: removed(train, train, name, removal, seed=self.seed).inputs[name] for name in self.names}
        return training_inputs(fusion, train, shown=replace(train, inputs=shown))

    def choices(self, videos: int, step: int) -> Tensor:
        """Index of the modality that each video loses in a step, -1 where it loses none, (V,)."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        lost = torch.rand(videos, generator=generator) < self.probability
        which = torch.randint(len(self.names), (videos,), generator=generator)
        return which.where(lost, torch.tensor(-1))

    def __call__(self, batch: Bags, step: int) -> Bags:
        """The batch of a step without what is lost in it; its tensors stay as they are."""
        choices = self.choices(len(batch.videos), step).repeat_interleave(batch.crops)
        gone = self.gone if batch.videos == self.gone.videos else self.gone.named(batch.videos)
        inputs = {}
        for index, name in enumerate(self.names):
            tensor = batch.inputs[name]
            lost = (choices == index).to(tensor.device)[:, None, None]
            inputs[name] = torch.where(lost, gone.inputs[name].to(tensor), tensor)
        return replace(batch, inputs=inputs)

    def expected(self, bags: Bags) -> list[tuple[float, Bags]]:
        """Bags with the probability that they are met: whole, and without each modality; what a sum of losses is taken over."""
        found = [(1 - self.probability, bags)]
        for name in self.names:
            inputs = {**bags.inputs, name: self.gone.inputs[name].to(bags.inputs[name])}
            found.append((self.probability / len(self.names), replace(bags, inputs=inputs)))
        return found
