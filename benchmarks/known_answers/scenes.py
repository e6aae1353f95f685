"""Rendered RGB-D scenes with a planted answer: which of the two modalities can tell which class, and which concept.

Objects lie on a plane seen straight from above: a colour picture and a height map, with the class of every pixel. Both
modalities see the five outlines alike; what else an object is, is drawn independently, so that nothing in one modality hints
at the other:

    outline   classes                          told apart by                        modality
    disc      red disc, green disc             colour                               rgb
    square    low square, tall square          height                               depth
    triangle  triangle                         outline                              either
    cross     cross                            outline                              either
    diamond   matched, mismatched diamond      colour XOR height (green is tall)    both together
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Float32, Int16, UInt8

from lego_fusion.errors import ParameterError, check_int, check_number

Telling = Literal["rgb", "depth", "either", "both"]
OUTLINES = ("disc", "square", "triangle", "cross", "diamond")
COLOURS = ("red", "green")
HEIGHTS = ("low", "tall")
TEXTURES = ("plain", "striped")
_COLOUR_VALUES = {"red": (0.70, 0.30, 0.30), "green": (0.30, 0.70, 0.30)}
_HEIGHT_VALUES = {"low": 0.35, "tall": 0.75}
_STRIPE = 0.12  # what is added to and taken from the brightness, in stripes of two pixels
_GAP = 2  # pixels of plane between two objects
Describe = Callable[[int, np.random.Generator], Iterable[tuple[str, str, str, str, int]]]
_TRIES = 60  # places tried for an object before a scene goes without it


@dataclass(frozen=True)
class PlantedClass:
    """A class and what tells it from the other class of its outline.

    Args:
        name: In words.
        outline: One of ``OUTLINES``.
        rival: The other class of the same outline, or None: then the outline alone tells it.
        told_by: The modality that tells it from its rival: ``"rgb"``, ``"depth"``, ``"either"``, or ``"both"`` where
            neither alone does.
    """

    name: str
    outline: str
    rival: str | None
    told_by: Telling


BACKGROUND = "plane"
CLASSES: tuple[PlantedClass, ...] = (
    PlantedClass("red disc", "disc", "green disc", "rgb"),
    PlantedClass("green disc", "disc", "red disc", "rgb"),
    PlantedClass("low square", "square", "tall square", "depth"),
    PlantedClass("tall square", "square", "low square", "depth"),
    PlantedClass("triangle", "triangle", None, "either"),
    PlantedClass("cross", "cross", None, "either"),
    PlantedClass("matched diamond", "diamond", "mismatched diamond", "both"),
    PlantedClass("mismatched diamond", "diamond", "matched diamond", "both"),
)
LABELS: tuple[str, ...] = (BACKGROUND, *(one.name for one in CLASSES))  # class of each label, 0 is the plane
SEEN_BY: dict[str, tuple[str, ...]] = {
    **{f"colour {name}": ("rgb",) for name in COLOURS},
    **{f"texture {name}": ("rgb",) for name in TEXTURES},
    **{f"height {name}": ("depth",) for name in HEIGHTS},
    **{f"outline {name}": ("rgb", "depth") for name in OUTLINES},
}  # the modalities that see each concept: one (special to it) or two (shared)


@dataclass(frozen=True)
class PlantedObject:
    """One object of a scene.

    Args:
        scene: Place of the scene in the arrays.
        number: The object's value in ``PlantedScenes.objects``, >= 1.
        outline: One of ``OUTLINES``.
        colour: One of ``COLOURS``.
        height: One of ``HEIGHTS``.
        texture: One of ``TEXTURES``.
        label: Of its class, a place in ``LABELS``.
        box: Its first row, first column, and side in pixels.
    """

    scene: int
    number: int
    outline: str
    colour: str
    height: str
    texture: str
    label: int
    box: tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class PlantedScenes:
    """Scenes with labels.

    Args:
        rgb: Colour pictures in [0, 1], (S, H, W, 3).
        depth: Height above the plane, about 0 to 0.8 with the sensor's noise, (S, H, W).
        labels: Class of every pixel, a place in ``LABELS``, (S, H, W).
        objects: Number of the object a pixel belongs to within its scene, 0 on the plane, (S, H, W).
        table: Every object.
    """

    rgb: Float32[np.ndarray, "s h w 3"]
    depth: Float32[np.ndarray, "s h w"]
    labels: UInt8[np.ndarray, "s h w"]
    objects: Int16[np.ndarray, "s h w"]
    table: tuple[PlantedObject, ...]

    def concepts(self) -> dict[str, Bool[np.ndarray, "s h w"]]:
        """Where each concept of ``SEEN_BY`` is, (S, H, W) by name."""
        found = {name: np.zeros(self.labels.shape, dtype=bool) for name in SEEN_BY}
        for one in self.table:
            pixels = self.objects[one.scene] == one.number
            for kind in ("colour", "texture", "height", "outline"):
                found[f"{kind} {getattr(one, kind)}"][one.scene] |= pixels
        return found


def plant_scenes(
    scenes: int = 100,
    *,
    size: tuple[int, int] = (48, 48),
    objects: tuple[int, int] = (2, 4),
    noise: float = 0.05,
    seed: int = 0,
) -> PlantedScenes:
    """Render scenes of objects on a plane.

    Outline, colour, height and texture of an object are drawn independently and evenly, its side between a fifth and a third
    of the picture, its place where it meets no other. Brightness differs from object to object and height within each of
    its two levels; both modalities have Gaussian noise. There is no shadow and no perspective: heights leave no trace in the
    picture, nor colours in the height map. Scene s depends on the seed and s alone, not on how many there are.

    Args:
        scenes: S >= 1.
        size: Height and width in pixels, each >= 24.
        objects: Fewest and most objects of a scene, at least 1; fewer where there is no place left.
        noise: Standard deviation of the noise on every pixel of both modalities.
        seed: Of everything that is drawn.

    Raises:
        ParameterError: If an argument is out of range.

    Example:
        >>> planted = plant_scenes(3, seed=1)
        >>> planted.rgb.shape, planted.depth.shape, [LABELS[one.label] for one in planted.table][:2]
        ((3, 48, 48, 3), (3, 48, 48), ['triangle', 'tall square'])
    """
    return plant(_described, scenes, size, objects, noise, seed, owner="plant_scenes", kind="objects")


def plant(
    describe: Describe,
    scenes: int,
    size: tuple[int, int],
    count: tuple[int, int],
    noise: float,
    seed: int,
    *,
    owner: str,
    kind: str,
) -> PlantedScenes:
    """Check what a person asked for and render scenes; scene s depends on the seed and s alone.

    Args:
        describe: From a number and a generator to outline, colour, height, texture and label of each object of a scene.
        scenes: S >= 1.
        size: Height and width in pixels, each >= 24.
        count: Fewest and most that ``describe`` is asked for, at least 1.
        noise: Standard deviation of the noise on every pixel.
        seed: Of everything that is drawn.
        owner: Function that was called, for messages.
        kind: Name of its parameter ``count``, for messages.

    Raises:
        ParameterError: If an argument is out of range.
    """
    check_int(scenes, "scenes", owner, low=1)
    for axis, pixels in zip(("height", "width"), size, strict=True):
        check_int(pixels, f"size ({axis})", owner, low=24)
    check_int(count[0], f"{kind} (fewest)", owner, low=1)
    if check_int(count[1], f"{kind} (most)", owner, low=1, high=1000) < count[0]:
        raise ParameterError(f"{kind} must be given as (fewest, most)", where=owner, got=count)
    check_number(noise, "noise", owner, low=0.0)
    check_int(seed, "seed", owner, low=0)
    rgb, depth = np.empty((scenes, *size, 3), np.float32), np.empty((scenes, *size), np.float32)
    labels, numbers = np.zeros((scenes, *size), np.uint8), np.zeros((scenes, *size), np.int16)
    table: list[PlantedObject] = []
    for scene in range(scenes):
        random = np.random.default_rng([seed, scene])
        placed = place_objects(scene, size, describe(int(random.integers(count[0], count[1] + 1)), random), random)
        rgb[scene], depth[scene] = render_objects(placed, labels[scene], numbers[scene], noise, random)
        table.extend(placed)
    return PlantedScenes(rgb, depth, labels, numbers, tuple(table))


def outline_mask(outline: str, side: int) -> Bool[np.ndarray, "side side"]:
    """Pixels of an outline in its box of ``side`` pixels; all touch the four edges of the box.

    Raises:
        ParameterError: If the outline is unknown.

    Example:
        >>> outline_mask("cross", 3).astype(int)
        array([[0, 1, 0],
               [1, 1, 1],
               [0, 1, 0]])
    """
    y, x = np.meshgrid(*[2 * np.arange(side) + 1 - side] * 2, indexing="ij")  # twice the way of pixel centres to the middle
    shapes = {
        "disc": x**2 + y**2 <= side**2,
        "square": np.ones_like(x, dtype=bool),
        "triangle": 2 * np.abs(x) <= y + side + 2,
        "cross": np.minimum(np.abs(x), np.abs(y)) <= 0.28 * side,
        "diamond": np.abs(x) + np.abs(y) <= side,
    }
    if outline not in shapes:
        raise ParameterError("unknown outline", expected=", ".join(OUTLINES), got=outline)
    mask: Bool[np.ndarray, "side side"] = shapes[outline]
    return mask


def class_label(outline: str, colour: str, height: str) -> int:
    """The label of an object, a place in ``LABELS``: the planted rule.

    Example:
        >>> LABELS[class_label("diamond", "green", "low")], LABELS[class_label("disc", "green", "low")]
        ('mismatched diamond', 'green disc')
    """
    names = {
        "disc": f"{colour} disc",
        "square": f"{height} square",
        "diamond": f"{'matched' if (colour == 'green') == (height == 'tall') else 'mismatched'} diamond",
    }
    return LABELS.index(names.get(outline, outline))


def place_objects(
    scene: int, size: tuple[int, int], described: Iterable[tuple[str, str, str, str, int]], random: np.random.Generator
) -> list[PlantedObject]:
    """Objects of given outline, colour, height, texture and label, where their boxes keep a gap between them."""
    placed: list[PlantedObject] = []
    smallest, largest = round(min(size) / 5), round(min(size) / 3)
    for outline, colour, height, texture, label in described:
        for _ in range(_TRIES):
            side = int(random.integers(smallest, largest + 1))
            row, column = (int(random.integers(0, pixels - side + 1)) for pixels in size)
            if all(_apart((row, column, side), other.box) for other in placed):
                number = len(placed) + 1
                placed.append(PlantedObject(scene, number, outline, colour, height, texture, label, (row, column, side)))
                break
    return placed


def _described(wanted: int, random: np.random.Generator) -> Iterator[tuple[str, str, str, str, int]]:
    """What each object is, drawn evenly when it is its turn."""
    for _ in range(wanted):
        outline, colour, height, texture = (str(random.choice(names)) for names in (OUTLINES, COLOURS, HEIGHTS, TEXTURES))
        yield outline, colour, height, texture, class_label(outline, colour, height)


def _apart(one: tuple[int, int, int], other: tuple[int, int, int]) -> bool:
    return any(a + one[2] + _GAP <= b or b + other[2] + _GAP <= a for a, b in ((one[0], other[0]), (one[1], other[1])))


def render_objects(
    placed: list[PlantedObject], labels: np.ndarray, numbers: np.ndarray, noise: float, random: np.random.Generator
) -> tuple[Float[np.ndarray, "h w 3"], Float[np.ndarray, "h w"]]:
    """Picture and height map of a scene; labels and numbers are filled in."""
    rgb = np.full((*labels.shape, 3), random.uniform(0.4, 0.6))
    depth = np.zeros(labels.shape)
    for one in placed:
        row, column, side = one.box
        inside = outline_mask(one.outline, side)
        area = (slice(row, row + side), slice(column, column + side))
        colour = np.array(_COLOUR_VALUES[one.colour]) + random.uniform(-0.1, 0.1)
        stripes = np.where(np.arange(side) // 2 % 2 == 0, _STRIPE, -_STRIPE) if one.texture == "striped" else np.zeros(side)
        rgb[area][inside] = (colour + stripes[:, None, None] + np.zeros((side, side, 1)))[inside]
        depth[area][inside] = _HEIGHT_VALUES[one.height] + random.uniform(-0.1, 0.1)
        labels[area][inside], numbers[area][inside] = one.label, one.number
    rgb = rgb + noise * random.normal(size=rgb.shape)
    return np.clip(rgb, 0, 1), depth + noise * random.normal(size=depth.shape)
