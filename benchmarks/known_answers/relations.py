"""Rendered RGB-D scenes whose classes no object shows by itself: they say how an object relates to another one.

Every scene has one cross, the key. Every other object is a *match* if it has the colour of the key and its height, else a
*stray*, wherever it lies and whatever its outline. Nothing of the object itself tells which, and one modality only in part.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .scenes import COLOURS, HEIGHTS, OUTLINES, TEXTURES, PlantedScenes, plant

RELATION_LABELS = ("plane", "key", "match", "stray")
_KEY = "cross"


def plant_relations(
    scenes: int = 100,
    *,
    size: tuple[int, int] = (48, 48),
    others: tuple[int, int] = (3, 5),
    noise: float = 0.05,
    seed: int = 0,
) -> PlantedScenes:
    """Render scenes with a key and other objects, which match it or do not, evenly.

    A stray differs from the key in colour, in height, or in both, evenly: of the objects with the colour of the key three in
    four match, so that colours alone tell five objects in six, as heights do. All else is drawn as in ``plant_scenes``;
    labels are places in ``RELATION_LABELS``.

    Args:
        scenes: S >= 1.
        size: Height and width in pixels, each >= 24.
        others: Fewest and most objects beside the key; fewer where there is no place left.
        noise: Standard deviation of the noise on every pixel of both modalities.
        seed: Of everything that is drawn.

    Raises:
        ParameterError: If an argument is out of range.

    Example:
        >>> planted = plant_relations(1, seed=3)
        >>> [(one.outline, one.colour, one.height, RELATION_LABELS[one.label]) for one in planted.table][:3]
        [('cross', 'red', 'low', 'key'), ('triangle', 'red', 'low', 'match'), ('square', 'green', 'low', 'stray')]
    """
    return plant(_described, scenes, size, others, noise, seed, owner="plant_relations", kind="others")


def _described(others: int, random: np.random.Generator) -> Iterator[tuple[str, str, str, str, int]]:
    """Outline, colour, height, texture and label of the key, then of the others."""
    key = int(random.integers(2)), int(random.integers(2))
    yield _KEY, COLOURS[key[0]], HEIGHTS[key[1]], str(random.choice(TEXTURES)), RELATION_LABELS.index("key")
    for _ in range(others):
        outline = str(random.choice([name for name in OUTLINES if name != _KEY]))
        differs = (0, 0) if random.random() < 0.5 else ((1, 0), (0, 1), (1, 1))[random.integers(3)]
        colour, height = (value ^ other for value, other in zip(key, differs, strict=True))
        label = RELATION_LABELS.index("stray" if any(differs) else "match")
        yield outline, COLOURS[colour], HEIGHTS[height], str(random.choice(TEXTURES)), label
