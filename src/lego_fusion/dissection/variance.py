"""Semantic variance: how profiles of concepts differ between modalities, levels and units, split without a remainder.

The paper that asks these questions (arXiv 2308.10019) does not give its equations to us in public: the definitions here
are ours. A profile is s[m, l, c], the mean over the units of a layer of IoU / ceiling; dividing by the ceiling keeps
frequent and rare concepts on one scale. All variances are population variances, so that two modalities with disjoint
one-hot profiles of height v over C concepts have exactly v^2 / (2 C), and the parts of the split add up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import numpy as np
from jaxtyping import Float64
from numpy.typing import NDArray

from ..errors import DataError, ParameterError, check_choice, check_int, check_number
from .alignment import UnitAlignment
from .overlap import UnitOverlap

Array = NDArray[Any]
Layers = Mapping[str, Mapping[str, UnitOverlap]]
Profile = Literal["mean", "best"]
FACTORS = ("M", "L", "C")


@dataclass(frozen=True)
class VarianceShares:
    """Shares of the sum of squares of s[m, l, c] around its mean; the seven parts add up to 1, or are all 0.

    The groups overlap in MLC, so they do not add up; M and ML without C say how strongly a modality aligns at all, and M
    is a mere offset between modalities, which may come from the layers chosen.

    Args:
        parts: By "M", "L", "C", "ML", "MC", "LC", "MLC".
        total: The sum of squares; 0 where the profiles are the same everywhere.
    """

    parts: dict[str, float]
    total: float

    @property
    def consistency(self) -> float:
        """C: what depends on the concept alone, on which modalities and levels agree."""
        return self.parts["C"]

    @property
    def speciality(self) -> float:
        """MC + MLC: concepts that one modality holds more than another."""
        return self.parts["MC"] + self.parts["MLC"]

    @property
    def common_evolution(self) -> float:
        """L + LC: change over levels that all modalities share."""
        return self.parts["L"] + self.parts["LC"]

    @property
    def own_evolution(self) -> float:
        """ML + MLC: change over levels that differs between modalities."""
        return self.parts["ML"] + self.parts["MLC"]


@dataclass(frozen=True, eq=False)
class SemanticVariance:
    """Every reading of the profiles of M modalities at L levels over C concepts.

    Args:
        modalities: Names (M).
        levels: Names (L), those of the first modality; levels are matched by their order.
        concepts: Names of the concepts that occur (C).
        profiles: s (M, L, C), mean over units of IoU / ceiling, or what else was asked for.
        across_modalities: SV(l) = mean_c Var_m s (L,): 0 where modalities hold the same concepts alike.
        of_units: SV_units(m, l) = mean_k Var_c IoU[k, c] (M, L): 0 for units that take all concepts alike.
        over_levels: SV_levels(m) = mean_c Var_l s (M,): 0 for a modality that does not change.
        shares: The split.
    """

    modalities: tuple[str, ...]
    levels: tuple[str, ...]
    concepts: tuple[str, ...]
    profiles: Float64[np.ndarray, "m l c"]
    across_modalities: Float64[np.ndarray, " l"]
    of_units: Float64[np.ndarray, "m l"]
    over_levels: Float64[np.ndarray, " m"]
    shares: VarianceShares


@dataclass(frozen=True)
class Bounded:
    """A number with its interval over resampled images.

    Args:
        value: On all images.
        low: Lower end.
        high: Upper end.
    """

    value: float
    low: float
    high: float


def variance_shares(profiles: Float64[np.ndarray, "m l c"]) -> VarianceShares:
    """Split s = g + a_m + b_l + c_c + (ab) + (ac) + (bc) + (abc) exactly, each part with mean 0 over each of its axes.

    Args:
        profiles: s (M, L, C), finite.

    Returns:
        The share of each part in the sum of squares.

    Raises:
        DataError: If a profile is not finite.

    Example:
        >>> shares = variance_shares(np.eye(2).reshape(2, 1, 2))  # each modality holds the concept that the other does not
        >>> shares.parts["MC"], shares.consistency, shares.speciality
        (1.0, 0.0, 1.0)
    """
    if not np.isfinite(profiles).all():
        raise DataError("profiles are not finite", fix="leave out concepts that never occur")
    parts = {name: float((effect**2).sum()) for name, effect in variance_effects(profiles).items()}
    total = float(sum(parts.values()))
    negligible = total <= profiles.size * (8 * np.finfo(np.float64).eps * float(np.abs(profiles).max())) ** 2
    return VarianceShares({name: 0.0 if negligible else part / total for name, part in parts.items()}, total)


def variance_effects(profiles: Float64[np.ndarray, "m l c"]) -> dict[str, Float64[np.ndarray, "m l c"]]:
    """Return the seven effects, broadcast to (M, L, C); with the mean they add up to the profiles."""
    centred = profiles - profiles.mean()
    effects: dict[str, Array] = {}
    for order in (1, 2, 3):
        for axes in combinations(range(3), order):
            others = tuple(axis for axis in range(3) if axis not in axes)
            effect = np.broadcast_to(centred.mean(axis=others, keepdims=True) if others else centred, centred.shape)
            inner = [
                effects["".join(FACTORS[axis] for axis in some)] for n in range(1, order) for some in combinations(axes, n)
            ]
            effects["".join(FACTORS[axis] for axis in axes)] = effect - sum(inner, start=np.zeros(centred.shape))
    return effects


def semantic_variance(
    layers: Mapping[str, Mapping[str, UnitAlignment | UnitOverlap]], profile: Profile = "mean"
) -> SemanticVariance:
    """Read the profiles of all layers in every way.

    Args:
        layers: Alignments by modality and level, all with the same concepts on the same images; as many levels in each
            modality, matched by their order.
        profile: "mean": s is the mean over units of IoU / ceiling. "best": how far the best unit is above chance, in which
            units for concepts that exclude each other do not cancel.

    Returns:
        Variances and shares, over the concepts that occur.

    Raises:
        DataError: If there are no layers, numbers of levels differ, or the concepts do.
    """
    names = _concept_names(layers)
    overlaps = overlaps_of(layers)
    cube, present = _cube(overlaps, profile)
    if not present.any():
        raise DataError("no concept occurs", expected="at least one with a pixel in every modality")
    of_units = [[float(overlap.iou[:, present].var(axis=1).mean()) for overlap in row.values()] for row in overlaps.values()]
    return SemanticVariance(
        tuple(layers),
        tuple(next(iter(layers.values()))),
        tuple(names[int(place)] for place in np.flatnonzero(present)),
        cube,
        cube.var(axis=0).mean(axis=1),
        np.array(of_units),
        cube.var(axis=1).mean(axis=1),
        variance_shares(cube),
    )


def bootstrap(
    layers: Mapping[str, Mapping[str, UnitAlignment]],
    statistics: Callable[[Layers], Mapping[str, float]],
    *,
    resamples: int = 200,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Bounded]:
    """Percentile intervals of any statistics of the overlaps over resampled images, the same resample in every layer.

    Each resample is a weighted sum of the counts per image; thresholds stay as they are.

    Args:
        layers: Alignments by modality and level, of the same images.
        statistics: From overlaps by modality and level to numbers by name, for example ``share_statistics``; a resample in
            which one is NaN does not count for it.
        resamples: How many.
        level: Of the intervals, in (0, 1).
        seed: Of the resampling.

    Raises:
        DataError: If the layers are not of the same images.
    """
    check_int(resamples, "resamples", "bootstrap", low=1)
    check_number(level, "level", "bootstrap", low=0.0, high=1.0)
    everything = [alignment for row in layers.values() for alignment in row.values()]
    if not everything or any(not np.array_equal(other.images, everything[0].images) for other in everything):
        raise DataError("layers are not of the same images", expected="one set of images for all, and at least one layer")
    samples = len(everything[0].images)
    weights = np.random.default_rng(check_int(seed, "seed", "bootstrap", low=0)).multinomial(
        samples, np.full(samples, 1 / samples), size=resamples
    )
    totals = {m: {name: a.counts.totals(weights.astype(np.float64)) for name, a in row.items()} for m, row in layers.items()}
    drawn = [statistics({m: {n: next(some) for n, some in row.items()} for m, row in totals.items()}) for _ in range(resamples)]
    bounds = {}
    for name, value in statistics(overlaps_of(layers)).items():
        bounds[name] = Bounded(float(value), *finite_interval([row.get(name, np.nan) for row in drawn], level))
    return bounds


def finite_interval(values: Sequence[float], level: float) -> tuple[float, float]:
    """The middle part of the values that are finite, so wide that it holds a share ``level``; NaN if there is none."""
    finite = np.array(values)[np.isfinite(values)]
    if not len(finite):
        return float("nan"), float("nan")
    low, high = np.quantile(finite, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def share_statistics(layers: Layers, profile: Profile = "mean") -> dict[str, float]:
    """Shares, sums of squares and variances by name, for ``bootstrap`` and ``unit_permutation_null``."""
    return _read(_cube(layers, profile)[0], tuple(next(iter(layers.values()))), tuple(layers))


def _read(cube: Array, levels: Sequence[str], modalities: Sequence[str]) -> dict[str, float]:
    shares = variance_shares(cube)
    found = {f"share {name}": share for name, share in shares.parts.items()}
    groups = {name: getattr(shares, name) for name in ("consistency", "speciality", "common_evolution", "own_evolution")}
    found |= groups | {f"{name}, sum of squares": share * shares.total for name, share in groups.items()}
    for place, name in enumerate(levels):
        found[f"across modalities at {name}"] = float(cube[:, place].var(axis=0).mean())
    for place, name in enumerate(modalities):
        found[f"over levels in {name}"] = float(cube[place].var(axis=0).mean())
    return found


@dataclass(frozen=True)
class AgainstChance:
    """A statistic beside what it is by chance: when units belong to no modality, or labels to no object.

    Args:
        value: As measured.
        mean: Under permutation.
        quantile: 95 % quantile under permutation.
        p_value: (1 + permutations that reach the value) / (1 + permutations).
    """

    value: float
    mean: float
    quantile: float
    p_value: float


def unit_permutation_null(
    layers: Mapping[str, Mapping[str, UnitAlignment | UnitOverlap]],
    *,
    permutations: int = 200,
    seed: int = 0,
    profile: Profile = "mean",
) -> dict[str, AgainstChance]:
    """What the shares are if modalities do not differ: at each level all units are dealt anew to the modalities.

    Profiles are means over units, so two modalities with the same kinds of units still differ by chance, the more the
    fewer units: with a dozen units to a layer only strong speciality is told from chance. Each modality keeps its number of
    units. Read the sums of squares and the variances; a share has less power, because its total moves under the null too.
    L, C and LC, which depend on concept and level alone, are not tested by this null.

    Args:
        layers: As for ``semantic_variance``.
        permutations: How many.
        seed: Of the permutations.
        profile: As for ``semantic_variance``. A concept that a single unit holds is never told from chance by "best",
            since whoever is dealt that unit has it.
    """
    check_int(permutations, "permutations", "unit_permutation_null", low=1)
    generator = np.random.default_rng(check_int(seed, "seed", "unit_permutation_null", low=0))
    overlaps = overlaps_of(layers)
    value = share_statistics(overlaps, profile)
    present = _cube(overlaps)[1]
    rows = [
        [(one.normalised if profile == "mean" else one.above_chance)[:, present] for one in level]
        for level in zip(*(row.values() for row in overlaps.values()), strict=True)
    ]
    names = tuple(next(iter(overlaps.values()))), tuple(overlaps)
    drawn = [_read(_dealt(rows, generator, profile), *names) for _ in range(permutations)]
    return {name: against_chance(measured, [row[name] for row in drawn]) for name, measured in value.items()}


def relabelled_null(layers: Mapping[str, Mapping[str, UnitAlignment]], profile: Profile = "mean") -> dict[str, AgainstChance]:
    """What the statistics are if labels mean nothing: labels dealt anew to the objects or images, alike in all layers.

    Frequent concepts have a high IoU by chance in every layer, which looks like consistency; here it is what chance gives.
    Nothing where the layers were aligned without shuffles, or are not of the same places.

    Args:
        layers: Aligned with the same seed and number of shuffles.
        profile: As for ``semantic_variance``.
    """
    drawn = []
    for overlaps in zip(*(one.by_chance() for row in layers.values() for one in row.values()), strict=True):
        rest = iter(overlaps)
        drawn.append(
            share_statistics({modality: {name: next(rest) for name in row} for modality, row in layers.items()}, profile)
        )
    value = share_statistics(overlaps_of(layers), profile)
    return {name: against_chance(measured, [row[name] for row in drawn]) for name, measured in value.items()} if drawn else {}


def against_chance(measured: float, drawn: Sequence[float] | Array) -> AgainstChance:
    """A value beside those under permutation."""
    chance = np.array(drawn)
    reached = int((chance >= measured - 1e-12 * max(1.0, abs(measured))).sum())
    p_value = (1 + reached) / (1 + len(chance))
    return AgainstChance(measured, float(chance.mean()), float(np.quantile(chance, 0.95)), p_value)


def overlaps_of(layers: Mapping[str, Mapping[str, UnitAlignment | UnitOverlap]]) -> dict[str, dict[str, UnitOverlap]]:
    """The overlaps of alignments, by modality and level."""
    return {
        modality: {name: found.overlap if isinstance(found, UnitAlignment) else found for name, found in row.items()}
        for modality, row in layers.items()
    }


def _dealt(rows: Sequence[Sequence[Array]], generator: np.random.Generator, profile: Profile) -> Array:
    """Profiles (M, L, C) when the units of a level, rows of values (K, C), are dealt anew to its modalities."""
    levels = []
    for level in rows:
        units = np.concatenate(level)
        ends = np.cumsum([len(one) for one in level])[:-1]
        hands = np.split(generator.permutation(len(units)), ends)
        levels.append([units[hand].mean(axis=0) if profile == "mean" else units[hand].max(axis=0) for hand in hands])
    return np.array(levels).swapaxes(0, 1)


def _cube(layers: Layers, profile: Profile = "mean") -> tuple[Array, Array]:
    """Profiles (M, L, C of those that occur), and which occur (C,)."""
    check_choice(profile, "profile", "semantic_variance", ("mean", "best"))
    check_levels(layers)
    overlaps = [overlap for row in layers.values() for overlap in row.values()]
    first = overlaps[0]
    for overlap in overlaps:  # where modalities have other places, as tokens of video and of text, their areas differ too
        alike = overlap.pixels != first.pixels or np.array_equal(overlap.concept_area, first.concept_area)
        if overlap.present.shape != first.present.shape or not alike:
            raise DataError("layers are aligned with different concepts or images", expected="the same for all")
    present = np.all([overlap.present for overlap in overlaps], axis=0)
    rows = [[overlap.profile if profile == "mean" else overlap.best for overlap in row.values()] for row in layers.values()]
    return np.array(rows)[:, :, present], present


def check_levels(layers: Mapping[str, Mapping[str, object]]) -> None:
    """Refuse modalities that have no level, or not as many levels each."""
    numbers = {modality: len(row) for modality, row in layers.items()}
    if not numbers or 0 in numbers.values():
        raise DataError("there are no levels to compare", expected="at least one modality, each with a level")
    if len(set(numbers.values())) > 1:
        raise ParameterError(
            "modalities have different numbers of levels",
            expected="as many in each, matched by their order",
            got=", ".join(f"{modality} {number}" for modality, number in numbers.items()),
            fix="choose the levels that correspond",
        )


def _concept_names(layers: Mapping[str, Mapping[str, UnitAlignment | UnitOverlap]]) -> Sequence[str]:
    check_levels(layers)
    names = {found.concepts for row in layers.values() for found in row.values() if isinstance(found, UnitAlignment)}
    if len(names) > 1:
        raise DataError("layers are aligned with different concepts", expected="the same for all")
    first = next(iter(next(iter(layers.values())).values()))
    count = first.overlap.intersection.shape[1] if isinstance(first, UnitAlignment) else first.intersection.shape[1]
    return next(iter(names), tuple(f"concept {place}" for place in range(count)))
