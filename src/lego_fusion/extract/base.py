"""One contract for everything that turns a video, or what is written about it, into rows of numbers."""

from __future__ import annotations

import functools
import hashlib
import importlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, ClassVar, TypeVar, dataclass_transform

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int64, UInt8
from pydantic import BeforeValidator, ConfigDict, Field, JsonValue, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked_dataclass

from ..data.manifest import Manifest, Nature, UnitKind
from ..data.video import Frame
from ..errors import DataError, LegoFusionError, MissingExtraError, ParameterError, check_int
from .captions import Caption, Gaps

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Features:
    """One modality of one video, with the time of each row.

    Args:
        values: One row per snippet, (T, D), (T, C, D) with C crops, or (T, U, D + 1) with finer units (``data.segments``).
        spans: Seconds [start, end) that each row describes, (T, 2).

    Raises:
        DataError: Numbers of rows differ, or a value is not finite.
    """

    values: Float32[np.ndarray, "snippets ..."]
    spans: Float64[np.ndarray, "rows 2"]

    def __post_init__(self) -> None:
        if len(self.values) != len(self.spans) or self.values.ndim not in (2, 3):
            raise DataError(
                "features and times do not fit",
                expected="(T, D), (T, C, D) or (T, U, D + 1)",
                got=(self.values.shape, len(self.spans)),
            )
        if not np.isfinite(self.values).all():
            row = int(np.flatnonzero(~np.isfinite(self.values).reshape(len(self.values), -1).all(axis=1))[0])
            raise DataError("features are not finite", where=f"row {row}", expected="finite numbers", got="NaN or infinity")


class Extractor(ABC):
    """What every extractor says about itself; its numbers change only with version, settings, source or weights.

    One of your own derives from ``FrameExtractor``, ``SidecarExtractor`` or ``TrackExtractor``; where it is a dataclass, its
    fields are its settings.

    Attributes:
        name: Name of the extractor, for the manifest.
        version: Version of its output.
        nature: ``"direction"`` or ``"magnitude"``, see Manifest.
        unit_kind: What a row is cut into, see Manifest; ``"none"`` where it is one vector.
    """

    name: ClassVar[str] = "own"
    version: ClassVar[str] = "1"
    nature: ClassVar[Nature] = "direction"
    unit_kind: ClassVar[UnitKind] = "none"

    @property
    def settings(self) -> dict[str, JsonValue]:
        """Everything that was chosen and changes the numbers, by the name that the class takes it under."""
        if not is_dataclass(type(self)):
            return {}
        settings: dict[str, JsonValue] = TypeAdapter(type(self)).dump_python(self, mode="json", by_alias=True)
        return settings

    @property
    @abstractmethod
    def width(self) -> int:
        """D, numbers per row, or per unit of a row."""

    def columns(self) -> tuple[str, ...]:
        """Name the D columns; empty where they have no meaning of their own."""
        return ()

    @property
    def units(self) -> int:
        """U, units of a row."""
        return 1

    @property
    def grid(self) -> tuple[int, int] | None:
        """Rows and columns of the picture that the units fill; None where units have no place."""
        return None

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Shape of a row: (D,), or (U, D + 1) with finer units, the last column being their presence."""
        return (self.width,) if self.unit_kind == "none" else (self.units, self.width + 1)

    @property
    def weights_hash(self) -> str | None:
        """SHA-256 of the network's weights; None where there is no network."""
        return None

    def manifest(self, modality: str, snippet_frames: int = 16, stride: int = 16) -> Manifest:
        """Write down how this extractor makes the features of ``modality``."""
        return Manifest(
            modality=modality,
            extractor=self.name,
            version=self.version,
            settings=self.settings,
            weights_hash=self.weights_hash,
            width=self.width,
            snippet_frames=snippet_frames,
            stride=stride,
            nature=self.nature,
            unit_kind=self.unit_kind,
            units=self.units,
            grid=self.grid,
        )

    def __getstate__(self) -> dict[str, Any]:
        """Leave what can be had again, such as an open network, behind on the way to another process."""
        kind = type(self)
        state = vars(self).items()
        return {name: value for name, value in state if not isinstance(getattr(kind, name, None), functools.cached_property)}


@dataclass_transform(kw_only_default=True, field_specifiers=(Field,))
def with_settings(kind: type[T]) -> type[T]:
    """Make the annotated fields of an extractor its settings, given by name, of the very type and in their range.

    Raises:
        ParameterError: By the class that is made, if a setting is of another type, out of its range or unknown.
    """
    made = checked_dataclass(kw_only=True, eq=False, config=ConfigDict(strict=True, extra="forbid"))(kind)
    set_fields = made.__init__

    @functools.wraps(set_fields)
    def initialise(self: Any, *values: Any, **settings: Any) -> None:
        try:
            set_fields(self, *values, **settings)
        except ValidationError as error:
            raise _refused_setting(error, kind.__name__) from error

    made.__init__ = initialise  # type: ignore[method-assign]
    return made  # type: ignore[return-value]


def _refused_setting(error: ValidationError, owner: str) -> LegoFusionError:
    fault = error.errors(include_url=False)[0]
    cause = fault.get("ctx", {}).get("error")
    if isinstance(cause, LegoFusionError) and not fault["loc"]:  # of several settings together
        return cause
    setting = f"The '{fault['loc'][0]}' parameter of {owner}"
    if isinstance(cause, LegoFusionError):
        return ParameterError(f"{setting} is {cause.what}", expected=cause.expected, got=cause.got)
    said = fault["msg"].replace("Input should", "must") if fault["msg"].startswith("Input") else f"is wrong ({fault['msg']})"
    return ParameterError(f"{setting} {said}. Got {fault['input']!r} instead")


class FrameExtractor(Extractor):
    """Look at pictures. Without memory from one snippet to the next, so that streaming and offline agree."""

    @abstractmethod
    def snippet(self, frames: Sequence[Frame], before: Frame | None) -> Float32[np.ndarray, ...]:
        """Describe one snippet by a row of ``row_shape``.

        Args:
            frames: The frames of the snippet, at least one.
            before: The frame just before it; None at the start of a video.
        """


class SidecarExtractor(Extractor):
    """Look at what is written about a video; ``gaps`` says what a snippet without a caption is."""

    gaps: Gaps = "error"

    @abstractmethod
    def rows(
        self, captions: Sequence[Caption], frames: int, snippet_frames: int, stride: int
    ) -> Float32[np.ndarray, "snippets ..."]:
        """Describe every snippet of a video of ``frames`` frames by a row of ``row_shape``."""


class TrackExtractor(Extractor):
    """Look at another track of the video file, such as its sound."""

    @abstractmethod
    def rows(self, path: Path, spans: Float64[np.ndarray, "snippets 2"], start: float) -> Float32[np.ndarray, "snippets width"]:
        """Describe every snippet of a video by D numbers.

        Args:
            path: The video file.
            spans: Seconds [start, end) of each snippet after the first frame, (T, 2).
            start: Seconds of the file's own clock at the first frame.
        """


@dataclass(frozen=True, eq=False)
class Snippet:
    """The frames of one row: ``frames`` and the one ``before`` them (None at the start of the video)."""

    index: int
    frames: tuple[Frame, ...]
    before: Frame | None


def snippet_spans(frames: int, snippet_frames: int = 16, stride: int = 16) -> Int64[np.ndarray, "snippets 2"]:
    """List the frames [start, end) of every snippet: ``[t stride, min(t stride + snippet_frames, frames))``.

    The last, partial snippet is kept, so that every frame up to the last belongs to a row where stride <= snippet_frames.

    Example:
        >>> snippet_spans(20, snippet_frames=16, stride=8).tolist()
        [[0, 16], [8, 20], [16, 20]]
    """
    check_int(frames, "frames", "snippet_spans", low=1)
    check_int(snippet_frames, "snippet_frames", "snippet_spans", low=1)
    check_int(stride, "stride", "snippet_spans", low=1)
    starts = np.arange(0, frames, stride, dtype=np.int64)
    return np.stack([starts, np.minimum(starts + snippet_frames, frames)], axis=1)


def iterate_snippets(frames: Iterable[Frame], snippet_frames: int = 16, stride: int = 16) -> Iterator[Snippet]:
    """Group frames, also of a running stream, into snippets; each is handed on with its last frame.

    Holds at most ``snippet_frames + 1`` frames. The snippets are those of ``snippet_spans``.
    """
    check_int(snippet_frames, "snippet_frames", "iterate_snippets", low=1)
    check_int(stride, "stride", "iterate_snippets", low=1)
    kept: list[Frame] = []  # the frames from number `first` on
    first = index = seen = 0
    for frame in frames:
        kept.append(frame)
        seen += 1
        if seen == index * stride + snippet_frames:
            yield _cut(kept, first, index, stride)
            index += 1
        useless = min(index * stride - 1, seen) - first  # only the frame before the next snippet is needed still
        if useless > 0:
            del kept[:useless]
            first += useless
    while index * stride < seen:
        yield _cut(kept, first, index, stride)
        index += 1


def _cut(kept: list[Frame], first: int, index: int, stride: int) -> Snippet:
    start = index * stride - first
    return Snippet(index, tuple(kept[start:]), kept[start - 1] if start else None)


def seconds_of_spans(
    spans: Int64[np.ndarray, "snippets 2"], times: Float[np.ndarray, " frames"], fps: float
) -> Float64[np.ndarray, "snippets 2"]:
    """Turn spans of frames into seconds: a span ends where the next frame starts, the last one frame after its start.

    Args:
        spans: Frames [start, end) of each row, (T, 2).
        times: Seconds of each frame, (frames,).
        fps: Frames per second, for the end of the last frame.

    Example:
        >>> seconds_of_spans(np.array([[0, 2], [2, 3]]), np.array([0.0, 0.5, 1.0]), fps=2.0).tolist()
        [[0.0, 1.0], [1.0, 1.5]]
    """
    starts = np.append(times, times[-1] + 1.0 / fps).astype(np.float64)
    return np.asarray(starts[spans], dtype=np.float64)


def check_row(values: object, *, width: int, where: str, units: int | None = None) -> Float32[np.ndarray, ...]:
    """Return an extractor's row as float32 if it is (D,), or (units, D + 1), and finite, else raise ``DataError``."""
    row, expected = np.asarray(values), (width,) if units is None else (units, width + 1)
    if row.shape != expected:
        raise DataError("an extractor gave a row of the wrong shape", where=where, expected=expected, got=row.shape)
    row = row.astype(np.float32)
    if not np.isfinite(row).all():
        place = tuple(int(index) for index in np.argwhere(~np.isfinite(row))[0])
        raise DataError(
            "an extractor gave a number that is not finite",
            where=f"{where}, column {place[-1]}" if units is None else f"{where}, unit {place[0]}, column {place[-1]}",
            expected="finite numbers",
            got=row[place],
            fix="look at the pictures there, or leave this extractor out",
        )
    return row


def sample_evenly(frames: Sequence[Frame], count: int) -> list[Frame]:
    """Pick at most ``count`` frames in the middles of as many equal spans.

    Example:
        >>> pictures = np.zeros((16, 2, 2, 3), np.uint8)
        >>> [frame.index for frame in sample_evenly([Frame(i, i / 25, p) for i, p in enumerate(pictures)], 4)]
        [2, 6, 10, 14]
    """
    count = min(count, len(frames))
    return [frames[(2 * place + 1) * len(frames) // (2 * count)] for place in range(count)]


def reduced_size(image: UInt8[np.ndarray, "h w 3"], longest_side: int) -> tuple[int, int]:
    """Give the (width, height) of a picture whose longer side may have ``longest_side`` pixels; never enlarged.

    Example:
        >>> reduced_size(np.zeros((240, 360, 3), np.uint8), 240)
        (240, 160)
    """
    height, width = image.shape[:2]
    scale = min(1.0, longest_side / max(height, width))
    return max(1, round(width * scale)), max(1, round(height * scale))


def load_package(package: str, *, module: str | None = None, extra: str) -> ModuleType:
    """Import an optional package where it is used, or raise ``MissingExtraError`` that says what to install."""
    try:
        return importlib.import_module(module or package)
    except ImportError as error:
        raise MissingExtraError(package, extra) from error


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_hash(files: Sequence[Path]) -> str:
    """SHA-256 of a file's bytes; of several files, that of their hashes."""
    hashes = [file_hash(file) for file in files]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


def load_opencv() -> Any:
    """Import OpenCV or say which extra brings it."""
    return load_package("opencv-python-headless", module="cv2", extra="video")


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
        >>> left_half = Region.parse("0,0,0.5,1")
        >>> left_half.inside(1, 4).tolist(), left_half.text
        ([[True, True, False, False]], '0,0;0.5,0;0.5,1;0,1')
    """

    polygons: tuple[tuple[Point, ...], ...]

    @classmethod
    def parse(cls, text: object) -> Region | None:
        """Read ``left,top,right,bottom`` or ``x,y;x,y;x,y``, several with ``|`` between; None and the whole picture are None.

        Raises:
            ParameterError: If it is no region, lies outside the picture, or has no area.
        """
        if text is None:
            return None
        try:
            if not isinstance(text, str):
                raise ValueError("not text")
            polygons = tuple(_polygon(part) for part in text.split("|"))
        except ValueError as error:
            raise ParameterError(f"no region ({error})", expected=_FORM, got=repr(text)) from None
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


def _canonical(text: object) -> str | None:
    region = Region.parse(text)
    return None if region is None else region.text


RegionText = Annotated[str | None, BeforeValidator(_canonical)]


class RegionExtractor(FrameExtractor):
    """Look at a part of the pictures."""

    region: RegionText  # a setting of the classes below

    @property
    def settings(self) -> dict[str, JsonValue]:
        """Everything that was chosen; without a region, such manifests are what they were before there were any."""
        return {name: value for name, value in super().settings.items() if name != "region" or value is not None}

    @functools.cached_property
    def looked_at(self) -> Region | None:
        """The part of the pictures that counts; None for the whole."""
        return Region.parse(self.region)

    def pictures(self, frames: Iterable[Frame]) -> list[UInt8[np.ndarray, "h w 3"]]:
        """What is seen of frames: with a region, the mean colour of those inside stands for all pixels outside."""
        images = [frame.image for frame in frames]
        return images if self.looked_at is None else [self.looked_at.seen(image) for image in images]


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


def _polygon(text: str) -> tuple[Point, ...]:
    try:
        points = [tuple(float(number) for number in point.split(",")) for point in text.split(";")]
    except ValueError:
        raise ValueError("not numbers") from None
    if len(points) == 1 and len(points[0]) == 4:
        left, top, right, bottom = points[0]
        if not (left < right and top < bottom):
            raise ValueError("the rectangle has no area: left < right and top < bottom are needed")
        points = [(left, top), (right, top), (right, bottom), (left, bottom)]
    corners = [(point[0], point[1]) for point in points if len(point) == 2]
    doubled = sum(a[0] * b[1] - b[0] * a[1] for a, b in zip(corners, corners[1:] + corners[:1], strict=True))
    faults = {
        "a polygon has at least three points": len(points) < 3,
        "a point has two numbers": len(corners) < len(points),
        "outside the picture": not all(0 <= number <= 1 for corner in corners for number in corner),
        "the polygon has no area, or its edges cross": abs(doubled) < 2 * _LEAST_AREA,
    }
    for fault, is_so in faults.items():
        if is_so:
            raise ValueError(fault)
    return tuple(corners)
