"""Where a camera stands, and who walks where and when in a rendered scene: trajectories, and the frames that are abnormal."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal, TypeVar

import numpy as np
from jaxtyping import Bool, Float

from ..errors import ParameterError

Figure = Literal["walker", "runner", "cyclist", "cart"]
Colour = tuple[float, float, float]
Lane = tuple[float, float, int]

_USUAL: tuple[Figure, ...] = ("walker", "walker", "cyclist", "cart")  # what a place is for, drawn evenly
_PACE, _SCALE, _BRIGHTNESS = (0.75, 1.6), (0.85, 1.3), (0.5, 1.15)
_HORIZON, _WALL, _HEDGE, _BOTTOM = (-0.1, 0.16), (0.2, 0.32), (0.03, 0.14), (0.9, 0.98)
_HUE = 30.0  # grey levels by which red, green and blue of one colour differ from its grey
_NEAR, _FAR = (0.53, 0.94), (0.14, 0.342)  # lanes as fractions of the path, from its far edge


@dataclass(frozen=True)
class Place:
    """What one camera sees and what is usual there; the defaults are a walkway seen from above head height.

    Args:
        horizon: Row at which a body has no height, fraction of the picture's height from the top: the viewing angle.
        body_per_depth: Body height per distance of the feet below the horizon: how near the camera is.
        wall_foot: Row of the foot of the building, fraction of the height, as all rows.
        path_top: Row of the far edge of the path.
        path_bottom: Row of its near edge.
        middle: Row of the line between the lanes.
        lanes: Feet between two rows, moving right (1) or left (-1); the near lane first.
        usual: The figure that ordinary traffic consists of.
        pace: Usual pace, in multiples of walking pace.
        light: Gain of red, green and blue.
        paving, wall, hedge, grass: Colours of the ground and what stands on it.
        windows: Windows and doors of the building.
    """

    horizon: float = 0.12
    body_per_depth: float = 0.42
    wall_foot: float = 0.27
    path_top: float = 0.37
    path_bottom: float = 0.955
    middle: float = 0.625
    lanes: tuple[Lane, ...] = ((0.68, 0.92, 1), (0.45, 0.57, -1))
    usual: Figure = "walker"
    pace: float = 1.0
    light: Colour = (1.0, 1.0, 1.0)
    paving: Colour = (168.0, 160.0, 146.0)
    wall: Colour = (150.0, 132.0, 116.0)
    hedge: Colour = (74.0, 92.0, 58.0)
    grass: Colour = (86.0, 104.0, 62.0)
    windows: int = 8

    @classmethod
    def draw(cls, rng: np.random.Generator, spread: float) -> Place:
        """Draw a place that differs from the default by ``spread``, in [0, 1], of the way to one drawn freely.

        Lanes run the other way, and traffic is another than walkers, with as many times their full chance.

        Example:
            >>> Place.draw(np.random.default_rng(1), 0.0) == Place()
            True
        """
        usual = Place()

        def even(start: float, low: float, high: float) -> float:
            return start + spread * (float(rng.uniform(low, high)) - start)

        def ratio(low: float, high: float) -> float:
            return float(np.exp(spread * rng.uniform(np.log(low), np.log(high))))

        def colour(start: Colour, low: float, high: float) -> Colour:
            grey = float(rng.uniform(low, high))
            red, green, blue = (even(one, grey - _HUE, grey + _HUE) for one in start)
            return red, green, blue

        wall_foot = even(usual.wall_foot, *_WALL)
        top = wall_foot + even(usual.path_top - usual.wall_foot, *_HEDGE)
        bottom = even(usual.path_bottom, *_BOTTOM)
        brightness, mirrored, other = ratio(*_BRIGHTNESS), rng.random() < 0.5 * spread, rng.random() < spread
        traffic = _USUAL[int(rng.integers(len(_USUAL)))]
        lanes = _lanes(top, bottom, mirrored) if spread else usual.lanes
        red, green, blue = (brightness * ratio(0.85, 1.15) for _ in range(3))
        return cls(
            horizon=even(usual.horizon, *_HORIZON),
            body_per_depth=usual.body_per_depth * ratio(*_SCALE),
            wall_foot=wall_foot,
            path_top=top if spread else usual.path_top,
            path_bottom=bottom,
            middle=top + 0.436 * (bottom - top) if spread else usual.middle,
            lanes=lanes,
            usual=traffic if other else usual.usual,
            pace=ratio(*_PACE),
            light=(red, green, blue),
            paving=colour(usual.paving, 90.0, 190.0),
            wall=colour(usual.wall, 70.0, 200.0),
            hedge=colour(usual.hedge, 60.0, 130.0),
            grass=colour(usual.grass, 60.0, 140.0),
            windows=round(even(float(usual.windows), 3.0, 14.0)),
        )


def _lanes(top: float, bottom: float, mirrored: bool) -> tuple[Lane, ...]:
    way = -1 if mirrored else 1

    def rows(part: tuple[float, float]) -> tuple[float, float]:
        return top + part[0] * (bottom - top), top + part[1] * (bottom - top)

    return (*rows(_NEAR), way), (*rows(_FAR), -way)


ANOMALY_KINDS = ("fast", "wrong_way", "large")
KINDS = (*ANOMALY_KINDS, "out_of_place")

WALKING_PACE = 0.82  # body heights per second: 1.4 m/s for 1.7 m
STRIDE = 0.85  # body heights per full cycle of two steps
WIDTHS: dict[Figure, float] = {"walker": 0.44, "runner": 0.6, "cyclist": 1.1, "cart": 1.9}  # in body heights
SEEN = 0.2  # an object counts as visible when this fraction of its width is inside the picture
COVERAGE = (0.25, 0.9)  # fraction of an abnormal video's frames that are abnormal
_TRIES = 1000
_OUT_OF_PLACE: dict[Figure, tuple[Figure, ...]] = {
    "walker": ("cyclist", "cart"),
    "cyclist": ("walker", "cart"),
    "cart": ("walker", "cyclist"),
}

_Rows = TypeVar("_Rows", float, np.ndarray)


@dataclass(frozen=True)
class View:
    """The fixed camera: picture height and width in pixels, frames per second, and where it stands."""

    height: int
    width: int
    fps: float
    place: Place = field(default_factory=Place)

    def body_height(self, feet: _Rows) -> _Rows:
        """Pixels from head to feet of a person whose feet are at this row: larger lower in the picture."""
        return self.place.body_per_depth * (feet - self.place.horizon * self.height)


@dataclass(frozen=True, eq=False)
class Actor:
    """One figure over all frames of a video.

    Args:
        figure: What is drawn.
        x: Column of the feet, pixels.
        y: Row of the feet, pixels.
        body: Height of the body, pixels; of a person beside it, for a cart.
        phase: Gait, radians; stands still while the figure does.
        moving: Whether it moves in this frame.
        facing: 1 to the right, -1 to the left.
        look: Seed of colours and build.
    """

    figure: Figure
    x: Float[np.ndarray, " frames"]
    y: Float[np.ndarray, " frames"]
    body: Float[np.ndarray, " frames"]
    phase: Float[np.ndarray, " frames"]
    moving: Bool[np.ndarray, " frames"]
    facing: int
    look: int

    def visible(self, width: int) -> Float[np.ndarray, " frames"]:
        """Fraction of the figure's width inside a picture this wide."""
        half = WIDTHS[self.figure] * self.body / 2
        inside = np.minimum(self.x + half, width) - np.maximum(self.x - half, 0)
        fraction: np.ndarray = np.clip(inside / (2 * half), 0, 1)
        return fraction


@dataclass(frozen=True, eq=False)
class Scene:
    """Everything that happens in one video; ``light`` is the gain of each frame, ``exposure`` grey levels added."""

    people: tuple[Actor, ...]
    anomalies: tuple[Actor, ...]
    light: Float[np.ndarray, " frames"]
    exposure: float
    abnormal: Bool[np.ndarray, " frames"]


@dataclass(frozen=True)
class _Walk:
    """How one figure crosses the picture; ``pace`` in multiples of walking pace, ``stop`` as (first frame, frames)."""

    figure: Figure
    lane: int
    feet: float
    direction: int
    pace: float
    scale: float
    entry: float
    stop: tuple[int, int] = (0, 0)


def write_scene(
    view: View,
    frames: int,
    people: int,
    kind: str | None,
    rng: np.random.Generator,
    *,
    coverage: tuple[float, float] = COVERAGE,
    intruders: tuple[int, int] = (1, 1),
) -> Scene:
    """Script one video: a flow of people in two lanes, and an anomaly of the given kind or none.

    An anomaly covers a part of the frames within ``coverage``, with ``intruders`` (fewest, most) figures at a time.

    Raises:
        ParameterError: If no anomaly as short or as long as ``coverage`` asks for comes about.
    """
    crowd = _crowd(view, frames, people, rng)
    anomalies: tuple[Actor, ...] = ()
    abnormal = np.zeros(frames, dtype=bool)
    if kind:
        anomalies, abnormal = _anomalies(view, frames, kind, coverage, intruders, rng)
    turn = rng.uniform(0, 2 * np.pi) + np.arange(frames) / view.fps * 2 * np.pi / rng.uniform(15, 40)
    light = 1 + rng.uniform(0.01, 0.05) * np.sin(turn)
    return Scene(crowd, anomalies, light, float(rng.uniform(-10, 10)), abnormal)


def runs_of(flags: Bool[np.ndarray, " frames"]) -> tuple[tuple[int, int], ...]:
    """Give the half-open spans in which flags are true.

    Example:
        >>> runs_of(np.array([False, True, True, False, True]))
        ((1, 3), (4, 5))
    """
    edges = np.flatnonzero(np.diff(np.concatenate(([False], flags, [False]))))
    return tuple((int(start), int(end)) for start, end in edges.reshape(-1, 2))


def _crowd(view: View, frames: int, people: int, rng: np.random.Generator) -> tuple[Actor, ...]:
    """Keep about ``people`` walkers in the picture: whoever leaves is followed, after a while, by another."""
    actors: list[Actor] = []
    places = people
    while places > 0:
        together = min(places, int(rng.choice([1, 2, 3], p=[0.8, 0.15, 0.05])))
        together = together if view.place.usual == "walker" else 1
        places -= together
        walk = _pedestrian(view, rng)
        walk = replace(walk, entry=-rng.uniform(0, 1) * _crossing(view, walk))
        while walk.entry < frames:
            actors += [_act(view, frames, member, rng) for member in _group(view, walk, together, rng)]
            then = walk.entry + _crossing(view, walk) + walk.stop[1] + rng.exponential(1.5) * view.fps
            walk = replace(_pedestrian(view, rng), entry=then)
    return tuple(actors)


def _pedestrian(view: View, rng: np.random.Generator) -> _Walk:
    """An ordinary walker; now and then a tall, a brisk or a pausing one, which is normal too."""
    place = view.place
    lane = int(rng.integers(len(place.lanes)))
    low, high, direction = place.lanes[lane]
    scale = 1.22 if rng.random() < 0.05 else float(np.clip(rng.normal(1, 0.06), 0.85, 1.15))
    pace = 1.5 if rng.random() < 0.05 else float(rng.uniform(0.8, 1.2))
    stop = (0, 0)
    if rng.random() < 0.1:
        stop = (int(rng.uniform(0, 12) * view.fps), int(rng.uniform(1.5, 5) * view.fps))
    return _Walk(place.usual, lane, float(rng.uniform(low, high)), direction, pace * place.pace, scale, 0.0, stop)


def _group(view: View, walk: _Walk, together: int, rng: np.random.Generator) -> list[_Walk]:
    """People who walk together: same pace, a step behind and beside each other."""
    low, high, _ = view.place.lanes[walk.lane]
    members = [walk]
    for place in range(1, together):
        feet = float(np.clip(walk.feet + rng.uniform(-0.04, 0.04), low, high))
        behind = place * rng.uniform(0.3, 0.6) / (WALKING_PACE * walk.pace) * view.fps
        members.append(replace(walk, feet=feet, scale=float(rng.uniform(0.85, 1.1)), entry=walk.entry + behind))
    return members


def _anomalies(
    view: View,
    frames: int,
    kind: str,
    coverage: tuple[float, float],
    intruders: tuple[int, int],
    rng: np.random.Generator,
) -> tuple[tuple[Actor, ...], Bool[np.ndarray, " frames"]]:
    """Draw anomalies of one kind, one after another, until they cover the part of the video that is asked for."""
    margin = min(0.05, (coverage[1] - coverage[0]) / 10)
    for _ in range(_TRIES):
        covered = rng.uniform(coverage[0] + margin, coverage[1] - margin) * frames
        walk = _intruder(view, kind, rng)
        entry = rng.uniform(-0.4 * _crossing(view, walk), frames - covered)
        actors = _succession(view, frames, kind, replace(walk, entry=entry), entry + covered, rng)
        for _ in range(intruders[0] - 1 if intruders[0] == intruders[1] else int(rng.integers(*intruders))):
            walk = replace(_intruder(view, kind, rng), entry=entry + rng.uniform(0, 0.3) * covered)
            actors += _succession(view, frames, kind, walk, entry + covered, rng)
        abnormal = np.any([actor.visible(view.width) >= SEEN for actor in actors], axis=0)
        if abnormal.any() and coverage[0] <= abnormal.mean() <= coverage[1]:
            return tuple(actor for actor in actors if actor.visible(view.width).any()), abnormal
    raise ParameterError(
        f"no anomaly of kind '{kind}' covers such a part of the video: figures cross the picture one after another",
        expected="a part in which one can cross it, in whole frames",
        got=f"coverage={coverage} of {frames} frames",
        fix="give longer videos or a wider 'coverage'",
    )


def _succession(view: View, frames: int, kind: str, walk: _Walk, end: float, rng: np.random.Generator) -> list[Actor]:
    """One intruder after another, the last of whom enters before ``end``."""
    actors, entry = [], walk.entry
    while entry < end:
        actors.append(_act(view, frames, replace(walk, entry=entry), rng))
        entry += _crossing(view, walk) + rng.uniform(0, 1) * view.fps
        walk = _intruder(view, kind, rng)
    return actors


def _intruder(view: View, kind: str, rng: np.random.Generator) -> _Walk:
    place = view.place
    lane = int(rng.integers(len(place.lanes)))
    low, high, direction = place.lanes[lane]
    feet, scale = float(rng.uniform(low, high)), float(rng.uniform(0.92, 1.08))
    figure: Figure = place.usual
    if kind == "fast":
        hurried: Figure = "runner" if rng.random() < 0.5 else "cyclist"
        figure, pace = hurried if place.usual == "walker" else place.usual, float(rng.uniform(2.5, 4))
    elif kind == "wrong_way":
        direction, pace = -direction, float(rng.uniform(0.8, 1.2))
    else:
        figure, pace = "cart", float(rng.uniform(0.9, 1.3))
        if kind == "out_of_place":
            figure = _OUT_OF_PLACE[place.usual][int(rng.integers(2))]
    return _Walk(figure, lane, feet, direction, pace * place.pace, scale, 0.0)


def _pixels_per_frame(view: View, walk: _Walk) -> float:
    return walk.pace * WALKING_PACE * view.body_height(walk.feet * view.height) / view.fps


def _crossing(view: View, walk: _Walk) -> float:
    """Frames from the first touch of one edge of the picture to the last of the other, without a stop."""
    body = walk.scale * view.body_height(walk.feet * view.height)
    return (view.width + WIDTHS[walk.figure] * body) / _pixels_per_frame(view, walk)


def _act(view: View, frames: int, walk: _Walk, rng: np.random.Generator) -> Actor:
    """Turn a walk into a trajectory: even pace along the lane, a slight sway across it."""
    elapsed = np.arange(frames) - walk.entry
    first, pause = walk.stop
    moving = ~((elapsed >= first) & (elapsed < first + pause))
    elapsed = np.where(elapsed < first, elapsed, np.maximum(elapsed - pause, first))
    sway = 0.006 * np.sin(elapsed / view.fps * rng.uniform(0.3, 0.9) + rng.uniform(0, 2 * np.pi))
    y = (walk.feet + sway) * view.height
    body = walk.scale * view.body_height(y)
    start = -WIDTHS[walk.figure] * walk.scale * view.body_height(walk.feet * view.height) / 2
    way = start + elapsed * _pixels_per_frame(view, walk)
    x = way if walk.direction > 0 else view.width - way
    phase = 2 * np.pi * (way / (STRIDE * body * (1.8 if walk.figure == "runner" else 1)) + rng.random())
    return Actor(walk.figure, x, y, body, phase, moving, walk.direction, int(rng.integers(2**31)))
