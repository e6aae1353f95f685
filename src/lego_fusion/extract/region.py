"""The part of a picture that a person wants watched: what lies outside is never seen by an extractor."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, UInt8
from pydantic import JsonValue

from ..errors import DataError, ParameterError
from .base import load_opencv

Point = tuple[float, float]
_FORM = "left,top,right,bottom or x,y;x,y;x,y, each from 0 to 1, several with | between"
_WHOLE = frozenset(((0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0)))
_LEAST_AREA = 1e-9


@dataclass(frozen=True)
class Region:
    """One or several polygons in a picture; x to the right and y down, as fractions of its width and height.

    A pixel is inside where its centre is inside one of the polygons (even-odd rule).

    Args:
        polygons: Corners of each.

    Example:
        >>> left_half = Region.parse("0,0,0.5,1", "Motion")
        >>> left_half.inside(1, 4).tolist(), left_half.text
        ([[True, True, False, False]], '0,0;0.5,0;0.5,1;0,1')
    """

    polygons: tuple[tuple[Point, ...], ...]

    @classmethod
    def parse(cls, text: str | None, owner: str) -> Region | None:
        """Read ``left,top,right,bottom`` or ``x,y;x,y;x,y``, several with ``|`` between; None and the whole picture are None.

        Args:
            text: What a person wrote.
            owner: Extractor that it is a setting of, for errors.

        Raises:
            ParameterError: If it is no region, lies outside the picture, or has no area.
        """
        if text is None:
            return None
        if not isinstance(text, str):
            raise _wrong(owner, text, "not text")
        polygons = tuple(_polygon(part, owner, text) for part in text.split("|"))
        whole = any(len(polygon) == 4 and set(polygon) == _WHOLE for polygon in polygons)
        return None if whole else cls(polygons)

    @property
    def text(self) -> str:
        """The region as polygons, for the manifest; ``parse`` gives the same region back."""
        return "|".join(";".join(f"{x:.12g},{y:.12g}" for x, y in polygon) for polygon in self.polygons)

    def inside(self, height: int, width: int) -> Bool[np.ndarray, "h w"]:
        """Which pixels of a picture are inside; do not change it.

        Raises:
            DataError: If none is, in so small a picture.
        """
        return _inside(self, height, width)

    def seen(self, image: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
        """A copy whose pixels outside have the mean colour of those inside, rounded: it depends on nothing outside."""
        cv2 = load_opencv()
        inside = self.inside(*image.shape[:2]).view(np.uint8)
        seen = np.empty_like(image)
        seen[:] = np.round(cv2.mean(image, inside)[:3])
        cv2.copyTo(image, inside, seen)
        return seen


def region_setting(region: Region | None) -> dict[str, JsonValue]:
    """The entry of a manifest's settings; none without a region, so that such manifests are what they were."""
    return {} if region is None else {"region": region.text}


@functools.lru_cache(maxsize=16)
def _inside(region: Region, height: int, width: int) -> Bool[np.ndarray, "h w"]:
    x, y = (np.arange(width) + 0.5) / width, ((np.arange(height) + 0.5) / height)[:, None]
    inside = np.zeros((height, width), dtype=bool)
    for polygon in region.polygons:
        odd = np.zeros_like(inside)
        for (x1, y1), (x2, y2) in zip(polygon, polygon[1:] + polygon[:1], strict=True):
            if y1 != y2:  # a ray to the right crosses the edge
                odd ^= ((y1 > y) != (y2 > y)) & (x < x1 + (y - y1) * (x2 - x1) / (y2 - y1))
        inside |= odd
    if not inside.any():
        fix = "give a larger region"
        raise DataError("the region holds no pixel", where=f"a picture of {height} x {width}", got=region.text, fix=fix)
    inside.flags.writeable = False
    return inside


def _polygon(part: str, owner: str, text: str) -> tuple[Point, ...]:
    try:
        points = [tuple(float(number) for number in point.split(",")) for point in part.split(";")]
    except ValueError:
        raise _wrong(owner, text, "not numbers") from None
    if len(points) == 1 and len(points[0]) == 4:
        left, top, right, bottom = points[0]
        if not (left < right and top < bottom):
            raise _wrong(owner, text, "the rectangle has no area: left < right and top < bottom are needed")
        points = [(left, top), (right, top), (right, bottom), (left, bottom)]
    if len(points) < 3:
        raise _wrong(owner, text, "a polygon has at least three points")
    corners: list[Point] = []
    for point in points:
        if len(point) != 2:
            raise _wrong(owner, text, "a point has two numbers")
        if not all(0 <= number <= 1 for number in point):
            raise _wrong(owner, text, "outside the picture")
        corners.append((point[0], point[1]))
    doubled = sum(a[0] * b[1] - b[0] * a[1] for a, b in zip(corners, corners[1:] + corners[:1], strict=True))
    if abs(doubled) < 2 * _LEAST_AREA:
        raise _wrong(owner, text, "the polygon has no area, or its edges cross")
    return tuple(corners)


def _wrong(owner: str, got: object, why: str) -> ParameterError:
    return ParameterError(f"The 'region' parameter of {owner} is no region ({why})", expected=_FORM, got=repr(got))
