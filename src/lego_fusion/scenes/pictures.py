"""Pictures of a scripted scene and their encoding; apart from ``render``: what is drawn, not which videos there are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from ..errors import load_package
from .script import Actor, Figure, Place, Scene, View

Colour = tuple[float, float, float]
Point = tuple[float, float]
Canvas = UInt8[np.ndarray, "h w 3"]

_CLOTHES = (
    *((52, 62, 84), (116, 48, 46), (70, 88, 66), (152, 146, 132), (58, 58, 62), (176, 160, 120)),
    *((92, 112, 142), (126, 96, 76), (188, 186, 184), (84, 58, 92), (150, 84, 52), (64, 104, 110)),
)
_SKINS = ((226, 188, 160), (198, 152, 120), (150, 108, 82), (104, 74, 58))
_HAIRS = ((44, 36, 32), (78, 56, 40), (122, 98, 66), (96, 94, 92), (30, 28, 28))
_TYRE = (34.0, 34.0, 36.0)
_STEEL = (128.0, 132.0, 138.0)
_GLASS = (150.0, 172.0, 184.0)
_SHIFT = 4
_ONE = 1 << _SHIFT


@dataclass(frozen=True)
class Look:
    """Colours and build of a figure."""

    shirt: Colour
    trousers: Colour
    skin: Colour
    hair: Colour
    build: float
    bag: bool

    @classmethod
    def from_seed(cls, seed: int) -> Look:
        """Draw a look from a seed."""
        rng = np.random.default_rng(seed)

        def pick(colours: tuple[tuple[int, int, int], ...]) -> Colour:
            red, green, blue = np.array(colours[rng.integers(len(colours))]) * rng.uniform(0.85, 1.15)
            return float(red), float(green), float(blue)

        shirt, trousers, skin, hair = (pick(colours) for colours in (_CLOTHES, _CLOTHES, _SKINS, _HAIRS))
        return cls(shirt, trousers, skin, hair, float(rng.uniform(0.85, 1.2)), bool(rng.random() < 0.25))


class Brush:
    """OpenCV's shapes with coordinates in fractions of a pixel and smooth edges."""

    def __init__(self) -> None:
        self.cv2: Any = load_package("opencv-python-headless", module="cv2", extra="video")

    def line(self, canvas: Canvas, points: list[Point], thickness: float, colour: Colour) -> None:
        """Draw a broken line through the points, at least one pixel thick."""
        for start, end in pairwise(map(_fixed, points)):
            self.cv2.line(canvas, start, end, colour, max(1, round(thickness)), self.cv2.LINE_AA, _SHIFT)

    def ellipse(
        self, canvas: Canvas, centre: Point, axes: Point, colour: Colour, *, tilt: float = 0.0, arc: Point = (0.0, 360.0)
    ) -> None:
        """Fill an ellipse, or the part of it between two angles in degrees."""
        self.cv2.ellipse(canvas, _fixed(centre), _fixed(axes, 1), tilt, *arc, colour, -1, self.cv2.LINE_AA, _SHIFT)

    def ring(self, canvas: Canvas, centre: Point, radius: float, thickness: float, colour: Colour) -> None:
        """Draw a circle's outline."""
        width = max(1, round(thickness))
        self.cv2.circle(canvas, _fixed(centre), round(radius * _ONE), colour, width, self.cv2.LINE_AA, _SHIFT)

    def polygon(self, canvas: Canvas, points: list[Point], colour: Colour) -> None:
        """Fill a convex polygon."""
        corners = np.array([_fixed(point) for point in points], dtype=np.int32)
        self.cv2.fillConvexPoly(canvas, corners, colour, self.cv2.LINE_AA, _SHIFT)

    def shadow(self, canvas: Canvas, centre: Point, axes: Point, strength: float = 0.35) -> None:
        """Darken an ellipse of the ground."""
        height, width = canvas.shape[:2]
        left, top = max(0, int(centre[0] - axes[0])), max(0, int(centre[1] - axes[1]))
        right, bottom = min(width, int(centre[0] + axes[0]) + 2), min(height, int(centre[1] + axes[1]) + 2)
        if left >= right or top >= bottom:
            return
        ground = canvas[top:bottom, left:right]
        dark = self.cv2.convertScaleAbs(ground, alpha=1 - strength)
        mask = np.zeros(ground.shape[:2], dtype=np.uint8)
        where = _fixed((centre[0] - left, centre[1] - top))
        self.cv2.ellipse(mask, where, _fixed(axes, 1), 0, 0, 360, 255, -1, self.cv2.LINE_8, _SHIFT)
        self.cv2.copyTo(dark, mask, ground)


def _fixed(point: Point, least: int | None = None) -> tuple[int, int]:
    """A point, or the half axes of an ellipse, as OpenCV wants them: in sixteenths of a pixel, at least so many of them."""
    x, y = (round(part * _ONE) for part in point)
    return (x, y) if least is None else (max(least, x), max(least, y))


@dataclass(frozen=True)
class Pose:
    """How a figure stands in one frame: its feet and the height of its body in pixels, its gait in radians, and its way."""

    feet: Point
    body: float
    phase: float
    facing: int

    def at(self, along: float, up: float) -> Point:
        """The pixel so many body heights ahead of the feet and above them."""
        return self.feet[0] + self.facing * along * self.body, self.feet[1] - up * self.body


def draw_person(brush: Brush, canvas: Canvas, pose: Pose, look: Look, *, running: bool) -> None:
    """Draw someone who walks, stands (phase 0) or runs: legs and arms swing, the body bobs with each step."""
    (x, ground), body, phase, facing = pose.feet, pose.body, pose.phase, pose.facing
    reach, lean = (0.3, 0.14) if running else (0.19, 0.02)
    swing = float(np.sin(phase))
    y = ground - abs(float(np.cos(phase))) * (0.05 if running else 0.02) * body
    hip, neck = (x, y - 0.46 * body), (x + facing * lean * body, y - 0.8 * body)
    brush.shadow(canvas, (x + 0.06 * body, ground), (0.24 * body, 0.045 * body))
    for side, colour in ((-1, _darker(look.trousers)), (1, look.trousers)):
        knee = (x + facing * (side * 0.55 * swing * reach + 0.04 * abs(swing)) * body, y - 0.24 * body)
        foot = (x + facing * side * swing * reach * body, ground - max(0.0, -side * float(np.cos(phase))) * 0.06 * body)
        brush.line(canvas, [hip, knee, foot], 0.1 * body, colour)
    if look.bag:
        pack = (x + facing * (0.5 * lean - 0.12) * body, y - 0.66 * body)
        brush.ellipse(canvas, pack, (0.08 * body, 0.13 * body), _darker(look.hair))
    tilt = float(np.degrees(np.arctan2(neck[0] - hip[0], hip[1] - neck[1])))
    middle = ((hip[0] + neck[0]) / 2, (hip[1] + neck[1]) / 2 - 0.01 * body)
    brush.ellipse(canvas, middle, (0.115 * look.build * body, 0.2 * body), look.shirt, tilt=tilt)
    elbow = (neck[0] - facing * 0.08 * swing * body, y - 0.62 * body)
    raised = 0.1 if running else 0.0
    hand = (neck[0] + facing * (raised - 0.9 * swing * reach) * body, y - (0.47 + 1.2 * raised) * body)
    brush.line(canvas, [(neck[0], neck[1] + 0.05 * body), elbow, hand], 0.065 * body, _darker(look.shirt))
    _draw_head(brush, canvas, (neck[0] + facing * 0.015 * body, y - 0.9 * body), body, look, facing)


def draw_cyclist(brush: Brush, canvas: Canvas, pose: Pose, look: Look) -> None:
    """Draw someone on a bicycle, pedalling."""
    (x, y), body, at = pose.feet, pose.body, pose.at
    brush.shadow(canvas, (x + 0.05 * body, y), (0.5 * body, 0.05 * body))
    for along in (-0.32, 0.32):
        brush.ring(canvas, at(along, 0.2), 0.19 * body, 0.04 * body, _TYRE)
    frame = [at(-0.32, 0.2), at(-0.1, 0.47), at(0.24, 0.47), at(0.0, 0.2), at(-0.1, 0.47)]
    brush.line(canvas, [*frame, at(0.0, 0.2), at(-0.32, 0.2)], 0.035 * body, _darker(look.hair))
    brush.line(canvas, [at(0.32, 0.2), at(0.24, 0.5), at(0.28, 0.56)], 0.035 * body, _darker(look.hair))
    for half_turn, colour in ((np.pi, _darker(look.trousers)), (0.0, look.trousers)):
        turn = pose.phase / 2 + half_turn
        pedal = at(0.08 * float(np.cos(turn)), 0.18 + 0.08 * float(np.sin(turn)))
        knee = at(0.1 + 0.03 * float(np.cos(turn)), 0.38 + 0.05 * float(np.sin(turn)))
        brush.line(canvas, [at(-0.1, 0.52), knee, pedal], 0.09 * body, colour)
    brush.line(canvas, [at(-0.1, 0.57), at(0.1, 0.84)], 0.2 * look.build * body, look.shirt)
    brush.line(canvas, [at(0.1, 0.82), at(0.2, 0.66), at(0.28, 0.58)], 0.065 * body, _darker(look.shirt))
    _draw_head(brush, canvas, at(0.17, 0.98), body, look, pose.facing)


def draw_cart(brush: Brush, canvas: Canvas, pose: Pose, look: Look) -> None:
    """Draw an open utility cart with a driver: about two body heights long."""
    (x, y), body, at = pose.feet, pose.body, pose.at
    brush.shadow(canvas, (x + 0.05 * body, y), (0.95 * body, 0.09 * body), 0.45)
    brush.polygon(canvas, [at(-0.35, 0.5), at(-0.35, 1.12), at(0.3, 1.12), at(0.42, 0.5)], _darker(_GLASS, 0.75))
    brush.line(canvas, [at(-0.05, 0.5), at(-0.02, 0.82)], 0.22 * body, look.trousers)
    _draw_head(brush, canvas, at(0.0, 0.95), body, look, pose.facing)
    brush.line(canvas, [at(0.0, 0.78), at(0.22, 0.66)], 0.06 * body, _darker(look.trousers))
    for along, top in ((-0.38, -0.35), (0.48, 0.34)):
        brush.line(canvas, [at(along, 0.45), at(top, 1.16)], 0.045 * body, _STEEL)
    brush.polygon(canvas, [at(-0.46, 1.14), at(-0.42, 1.21), at(0.4, 1.21), at(0.46, 1.14)], _darker(look.shirt, 1.25))
    brush.polygon(canvas, [at(-0.92, 0.18), at(-0.92, 0.56), at(-0.34, 0.56), at(-0.34, 0.18)], look.shirt)
    brush.polygon(canvas, [at(-0.34, 0.4), at(0.4, 0.4), at(0.4, 0.18), at(-0.34, 0.18)], _darker(look.shirt, 0.9))
    brush.polygon(canvas, [at(0.38, 0.18), at(0.44, 0.56), at(0.8, 0.5), at(0.92, 0.36), at(0.92, 0.18)], look.shirt)
    for along in (-0.62, 0.62):
        brush.ellipse(canvas, at(along, 0.16), (0.17 * body, 0.17 * body), _TYRE)
        brush.ellipse(canvas, at(along, 0.16), (0.07 * body, 0.07 * body), _STEEL)
        spoke = (0.12 * float(np.cos(pose.phase)), 0.12 * float(np.sin(pose.phase)))
        brush.line(canvas, [at(along, 0.16), at(along + spoke[0], 0.16 + spoke[1])], 0.03 * body, _STEEL)


def _draw_head(brush: Brush, canvas: Canvas, centre: Point, body: float, look: Look, facing: int) -> None:
    brush.ellipse(canvas, centre, (0.066 * body, 0.085 * body), look.skin)
    crown = (centre[0] - facing * 0.012 * body, centre[1] - 0.015 * body)
    brush.ellipse(canvas, crown, (0.07 * body, 0.085 * body), look.hair, arc=(180.0, 360.0))


def _darker(colour: Colour, factor: float = 0.72) -> Colour:
    red, green, blue = (min(255.0, part * factor) for part in colour)
    return red, green, blue


_DRAWN: dict[Figure, Callable[[Brush, Canvas, Pose, Look], None]] = {
    "walker": partial(draw_person, running=False),
    "runner": partial(draw_person, running=True),
    "cyclist": draw_cyclist,
    "cart": draw_cart,
}
_SUPERSAMPLING = 2
_NOISE_MARGIN = 32
_IRON = (70.0, 74.0, 78.0)


class SceneRenderer:
    """Draw the pictures of scenes seen by one camera.

    Args:
        view: Size of the picture and frame rate.
        seed: Of the camera (background, lamp post and sensor noise): the same for all videos of a set.
        noise: Standard deviation of the sensor noise in grey levels.
    """

    def __init__(self, view: View, seed: np.random.SeedSequence, *, noise: float) -> None:
        rng = np.random.default_rng(seed)
        self._view, self._brush = view, Brush()
        self.background = draw_background(self._brush, view, rng)
        grains = rng.normal(128, noise, (view.height + _NOISE_MARGIN, view.width + _NOISE_MARGIN, 3))
        self._grains = np.clip(np.round(grains), 0, 255).astype(np.uint8)
        self._post = (float(rng.uniform(0.15, 0.85)) * view.width, view.place.middle * view.height)

    def pictures(self, scene: Scene, rng: np.random.Generator) -> Iterator[Canvas]:
        """Yield the RGB pictures of a scene, the farthest figures drawn first."""
        actors = (*scene.people, *scene.anomalies)
        looks = [Look.from_seed(actor.look) for actor in actors]
        inside = np.array([actor.visible(self._view.width) > 0 for actor in actors]).reshape(-1, len(scene.light))
        feet = np.array([actor.y for actor in actors]).reshape(inside.shape)
        for index, gain in enumerate(scene.light):
            canvas = self.background.copy()
            present = np.flatnonzero(inside[:, index])
            order = present[np.argsort(feet[present, index], kind="stable")]
            behind = feet[order, index] < self._post[1]
            for number in order[behind]:
                self._draw(canvas, actors[number], looks[number], index)
            self._draw_lamp(canvas)
            for number in order[~behind]:
                self._draw(canvas, actors[number], looks[number], index)
            yield self._expose(canvas, float(gain), scene.exposure, rng)

    def _draw(self, canvas: Canvas, actor: Actor, look: Look, index: int) -> None:
        feet, phase = (float(actor.x[index]), float(actor.y[index])), float(actor.phase[index]) if actor.moving[index] else 0.0
        _DRAWN[actor.figure](self._brush, canvas, Pose(feet, float(actor.body[index]), phase, actor.facing), look)

    def _draw_lamp(self, canvas: Canvas) -> None:
        (x, foot), size = self._post, self._view.height
        self._brush.shadow(canvas, (x + 0.012 * size, foot), (0.035 * size, 0.01 * size))
        self._brush.line(canvas, [(x, foot), (x, 0.14 * size)], 0.013 * size, _IRON)
        self._brush.line(canvas, [(x, 0.14 * size), (x + 0.08 * size, 0.125 * size)], 0.01 * size, _IRON)
        self._brush.ellipse(canvas, (x + 0.09 * size, 0.13 * size), (0.03 * size, 0.012 * size), (214.0, 212.0, 200.0))

    def _expose(self, canvas: Canvas, gain: float, exposure: float, rng: np.random.Generator) -> Canvas:
        """Apply light, exposure and a sheet of noise, shifted at random, in one pass."""
        if self._view.place.light != Place.light:
            canvas = self._brush.cv2.multiply(canvas, (*self._view.place.light, 0.0))
        top, left = rng.integers(_NOISE_MARGIN, size=2)
        grains = self._grains[top : top + self._view.height, left : left + self._view.width]
        exposed: Canvas = self._brush.cv2.addWeighted(canvas, gain, grains, 1.0, exposure - 128)
        return exposed


def draw_background(brush: Brush, view: View, rng: np.random.Generator) -> Canvas:
    """Draw the empty view: a building, a hedge, a paved walkway in perspective, and a strip of grass."""
    height, width = view.height * _SUPERSAMPLING, view.width * _SUPERSAMPLING
    cv2, place = brush.cv2, view.place
    picture = np.empty((height, width, 3), dtype=np.float32)
    rows = np.arange(height, dtype=np.float32)[:, None] / height
    picture[:] = np.array(place.paving) - 30 * (rows[..., None] - place.path_top)
    canvas = picture.astype(np.uint8)
    _pave(brush, canvas, place)
    canvas[: int(place.wall_foot * height)] = place.wall
    _front(brush, canvas, place, rng)
    canvas[int(place.wall_foot * height) : int(place.path_top * height)] = place.hedge
    canvas[int(place.path_bottom * height) :] = place.grass
    picture = canvas.astype(np.float32)
    rough = 0.03 + 0.1 * ((rows > place.wall_foot) & (rows < place.path_top)) + 0.08 * (rows > place.path_bottom)
    picture *= (1 + rough * _texture(cv2, (height, width), rng, (2, 5)))[..., None]
    picture *= (1 + 0.05 * _texture(cv2, (height, width), rng, (40, 110)))[..., None]
    _kerb(picture, place)
    small: Any = cv2.resize(picture, (view.width, view.height), interpolation=cv2.INTER_AREA)
    background: Canvas = np.clip(np.round(small), 0, 255).astype(np.uint8)
    return background


def _pave(brush: Brush, canvas: Canvas, place: Place) -> None:
    """Draw the joints between slabs: rows that crowd towards the horizon, columns that meet on it."""
    height, width = canvas.shape[:2]
    horizon = place.horizon * height
    red, green, blue = place.paving
    joint = (red - 28.0, green - 28.0, blue - 27.0)
    for depth in np.arange(1.0, 5.0, 0.28):
        row = horizon + (height - horizon) / depth
        brush.line(canvas, [(0.0, row), (float(width), row)], 1.0, joint)
    for column in np.arange(-3.0, 4.0, 0.3):
        foot = (0.5 + column) * width
        brush.line(canvas, [(0.5 * width, horizon), (foot, float(height))], 1.0, joint)
    middle = place.middle * height
    for start in np.arange(0.0, width, 0.11 * width):
        brush.line(canvas, [(start, middle), (start + 0.06 * width, middle)], 0.01 * height, (206.0, 198.0, 168.0))


def _front(brush: Brush, canvas: Canvas, place: Place, rng: np.random.Generator) -> None:
    """Draw the building: a ledge, a row of windows, one door."""
    height, width = canvas.shape[:2]
    canvas[int(0.012 * height) : int(0.024 * height)] = (122, 106, 94)
    step, door = width / place.windows, int(rng.integers(place.windows))
    for number in range(place.windows):
        sill = (place.wall_foot - 0.085) * height
        bottom, base = (place.wall_foot * height, (92, 66, 50)) if number == door else (sill, (88, 102, 114))
        red, green, blue = np.array(base) * rng.uniform(0.75, 1.2)
        for inset, colour in ((0.0, (196.0, 188.0, 174.0)), (0.006 * height, (float(red), float(green), float(blue)))):
            left, right = (number + 0.2) * step + inset, (number + 0.8) * step - inset
            top, foot = 0.055 * height + inset, bottom - inset
            brush.polygon(canvas, [(left, top), (right, top), (right, foot), (left, foot)], colour)


def _kerb(picture: Float[np.ndarray, "h w 3"], place: Place) -> None:
    height = len(picture)
    for edge in (place.path_top, place.path_bottom):
        row, thickness = int(edge * height), max(1, int(0.012 * height))
        picture[row : row + thickness] = 0.4 * picture[row : row + thickness] + 0.6 * 186
        picture[row + thickness : row + 2 * thickness] *= 0.8


def _texture(cv2: Any, shape: tuple[int, int], rng: np.random.Generator, grains: tuple[int, int]) -> Float[np.ndarray, "h w"]:
    """Smooth random field of unit deviation: noise at two grain sizes in pixels."""
    field = np.zeros(shape, dtype=np.float32)
    for grain in grains:
        coarse = rng.standard_normal((shape[0] // grain + 2, shape[1] // grain + 2)).astype(np.float32)
        field += cv2.resize(coarse, shape[::-1], interpolation=cv2.INTER_CUBIC)
    unit: np.ndarray = field / field.std()
    return unit


def encode(path: Path, pictures: Iterable[Canvas], view: View) -> None:
    """Write RGB pictures as an H.264 mp4 beside ``path``, then rename: never a half-written video."""
    av: Any = load_package("av", extra="video")
    cv2: Any = load_package("opencv-python-headless", module="cv2", extra="video")
    unfinished = path.with_name(f".{path.name}.part")
    try:
        with av.open(str(unfinished), "w", format="mp4") as container:
            stream = container.add_stream("libx264", rate=Fraction(view.fps).limit_denominator(1001))
            stream.width, stream.height, stream.pix_fmt = view.width, view.height, "yuv420p"
            # with x264's look-ahead the same pictures give other bytes from time to time, on one thread too
            stream.options = {"crf": "20", "preset": "veryfast", "threads": "1", "x264-params": "mbtree=0:rc-lookahead=0"}
            for index, picture in enumerate(pictures):
                planes = cv2.cvtColor(picture, cv2.COLOR_RGB2YUV_I420)
                frame = av.VideoFrame.from_ndarray(planes, format="yuv420p")
                frame.pts = index
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
