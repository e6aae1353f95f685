"""Where a camera stands: how it looks down on the path, what the place looks like, and what is usual there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

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
