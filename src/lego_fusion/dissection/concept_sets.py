"""Which concepts two layers share and which only one of them holds."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True)
class ConceptSets:
    """The concepts of two layers, split without a remainder: J + U_1 + U_2 = 1.

    J = |D_1 & D_2| / |D_1 | D_2|, U_1 = |D_1 - D_2| / |D_1 | D_2|, U_2 likewise. Definitions are ours: consistency is what
    both detect, speciality what one alone detects.

    Args:
        shared: D_1 & D_2.
        only_first: D_1 - D_2.
        only_second: D_2 - D_1.
    """

    shared: frozenset[str]
    only_first: frozenset[str]
    only_second: frozenset[str]

    @property
    def empty(self) -> bool:
        """Whether neither layer detects anything: J = 1 then says nothing."""
        return not (self.shared or self.only_first or self.only_second)

    @property
    def union(self) -> frozenset[str]:
        """D_1 | D_2."""
        return self.shared | self.only_first | self.only_second

    @property
    def joint(self) -> float:
        """J, in [0, 1]; 1 where both are ``empty``."""
        return 1.0 if self.empty else len(self.shared) / len(self.union)

    @property
    def unique_first(self) -> float:
        """U_1, in [0, 1]."""
        return len(self.only_first) / max(len(self.union), 1)

    @property
    def unique_second(self) -> float:
        """U_2, in [0, 1]."""
        return len(self.only_second) / max(len(self.union), 1)


def concept_sets(first: Collection[str], second: Collection[str]) -> ConceptSets:
    """Split the concepts that two layers detect.

    Args:
        first: D_1, as ``UnitAlignment.detected`` gives it.
        second: D_2.

    Example:
        >>> sets = concept_sets({"sky", "road"}, {"road", "wall", "car"})
        >>> sets.joint, sets.unique_first, sets.unique_second, sets.empty
        (0.25, 0.25, 0.5, False)
    """
    one, two = frozenset(first), frozenset(second)
    return ConceptSets(one & two, one - two, two - one)
