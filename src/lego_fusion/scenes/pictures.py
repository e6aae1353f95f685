"""Pictures of a scripted scene and their encoding: a walkway under a fixed camera, as an H.264 mp4."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from ..errors import MissingExtraError
from .figures import Brush, Canvas, Look, draw_cart, draw_cyclist, draw_person
from .places import Place
from .script import Actor, Scene, View

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
        feet, body = (float(actor.x[index]), float(actor.y[index])), float(actor.body[index])
        phase = float(actor.phase[index]) if actor.moving[index] else 0.0
        if actor.figure == "cyclist":
            draw_cyclist(self._brush, canvas, feet, body, look, phase=phase, facing=actor.facing)
        elif actor.figure == "cart":
            draw_cart(self._brush, canvas, feet, body, look, phase=phase, facing=actor.facing)
        else:
            running = actor.figure == "runner"
            draw_person(self._brush, canvas, feet, body, look, phase=phase, facing=actor.facing, running=running)

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
    try:
        av, cv2 = importlib.import_module("av"), importlib.import_module("cv2")
    except ImportError as error:
        raise MissingExtraError(error.name or "av", "video") from error
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
