"""Rendered surveillance scenes with planted anomalies: real mp4 files, captions and exact labels, from a seed alone."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np

from ..data.files import write_table
from ..data.tables import Interval, write_intervals
from ..errors import DataError, ParameterError, check_choice, check_int, check_number, with_changes
from ..writing import write_text
from .pictures import SceneRenderer, encode
from .script import ANOMALY_KINDS, COVERAGE, KINDS, SEEN, Actor, Figure, Place, Scene, View, runs_of, write_scene

_Choice = TypeVar("_Choice")

_EMPTY = ("The walkway is almost empty.", "Nobody walks along the path.", "An empty pavement beside a building.")
_COUNTS = (
    (1, ("one person", "a single pedestrian", "a person")),
    (2, ("two people", "a couple of pedestrians", "two pedestrians")),
    (4, ("a few people", "three or four people", "a small number of pedestrians")),
    (7, ("several people", "a number of pedestrians", "a handful of people")),
    (10_000, ("many people", "a crowd of pedestrians", "a large number of people")),
)
_SENTENCES = (
    "The image shows {count} on a paved walkway, {way}.",
    "A surveillance view of {count} walking along a path beside a building, {way}.",
    "There is a walkway in front of a building with {count} on it, {way}.",
    "{Count} can be seen on the pavement, {way}.",
    "{Count} on a pedestrian path next to a hedge, {way}.",
)
_ASIDES = (
    "A lamp post stands in the middle of the path.",
    "Some of them carry backpacks.",
    "The building behind has a row of windows.",
    "The scene looks calm.",
    "Some people seem to walk together.",
)
_PAUSE = ("Someone has stopped for a moment.", "One person is standing still.")
_MENTIONS: dict[str, tuple[str, ...]] = {
    "runner": ("A person is running.", "Someone runs past the others.", "One of them is sprinting along the path."),
    "cyclist": ("A person is riding a bicycle.", "A cyclist passes quickly.", "Someone rides a bike along the walkway."),
    "cart": ("A small cart drives along the path.", "There is a utility vehicle on the walkway.", "A golf cart passes by."),
    "walker": (
        "One person walks against the flow.",
        "Someone is heading the opposite way to the others.",
        "A pedestrian walks towards the people coming the other way.",
    ),
}
_FIGURES: dict[str, tuple[Figure, ...]] = {"fast": ("runner", "cyclist"), "wrong_way": ("walker",), "large": ("cart",)}
_ON_FOOT = ("Someone is on foot among them.", "A pedestrian walks where they ride.", "One of them walks.")
_UNLIKE = ("One of them does not move like the others.", "One passes differently from the rest.")
_RIDING = (("pedestrian path", "cycle path"), ("pedestrian", "cyclist"), ("people", "cyclists"), ("person", "cyclist"))
_DRIVING = (("pedestrian path", "lane"), ("pedestrian", "small cart"), ("people", "small carts"), ("person", "small cart"))
_TRAFFIC: dict[Figure, tuple[tuple[str, str], ...]] = {  # words of the captions above, where others than walkers are usual
    "cyclist": (*_RIDING, ("walking", "riding")),
    "cart": (*_DRIVING, ("walking", "driving")),
}


def write_captions(
    view: View, scene: Scene, rng: np.random.Generator, *, mention_rate: float, false_mention_rate: float
) -> list[str]:
    """Write one caption per frame; a new one about every 8 frames, repeated in between.

    Args:
        view: The camera.
        scene: What happens.
        rng: Source of all choices.
        mention_rate: Chance, in [0, 1], that a caption of an abnormal moment mentions the anomaly.
        false_mention_rate: Chance, in [0, 1], that a caption of a normal moment mentions one that is not there.

    Returns:
        One sentence or more per frame.
    """
    frames = len(scene.light)
    captions: list[str] = []
    while len(captions) < frames:
        length = min(int(rng.integers(6, 11)), frames - len(captions))
        moment = len(captions) + length // 2
        sentence = _describe(view, scene, moment, rng)
        if rng.random() < (mention_rate if scene.abnormal[moment] else false_mention_rate):
            sentence += " " + _mention(view, scene, moment, rng)
        captions += [sentence] * length
    return captions


def _describe(view: View, scene: Scene, moment: int, rng: np.random.Generator) -> str:
    present = [actor for actor in scene.people if actor.visible(view.width)[moment] > 0.5]
    if not present:
        return _pick(_EMPTY, rng)
    count = _pick(next(words for most, words in _COUNTS if len(present) <= most), rng)
    sentence = _pick(_SENTENCES, rng).format(count=count, Count=count.capitalize(), way=_way(present))
    for walkers, others in _TRAFFIC.get(view.place.usual, ()):
        sentence = sentence.replace(walkers, others)
    if any(not actor.moving[moment] for actor in present) and rng.random() < 0.5:
        sentence += " " + _pick(_PAUSE, rng)
    elif rng.random() < 0.35:
        sentence += " " + _pick(_ASIDES, rng)
    return sentence


def _way(present: list[Actor]) -> str:
    facing = {actor.facing for actor in present}
    if len(facing) == 2:
        return "going in both directions"
    return "heading to the right" if facing == {1} else "heading to the left"


def _mention(view: View, scene: Scene, moment: int, rng: np.random.Generator) -> str:
    """Name the anomaly in view; where there is none, any figure that could be one."""
    inside = [actor.figure for actor in scene.anomalies if actor.visible(view.width)[moment] >= SEEN]
    figures = inside or _FIGURES[_pick(ANOMALY_KINDS, rng)]
    figure, usual = _pick(figures, rng), view.place.usual
    if usual == "walker":
        return _pick(_MENTIONS[figure], rng)
    return _pick(_UNLIKE if figure == usual else _ON_FOOT if figure == "walker" else _MENTIONS[figure], rng)


def _pick(choices: Sequence[_Choice], rng: np.random.Generator) -> _Choice:
    return choices[int(rng.integers(len(choices)))]


NORMAL = "normal"
DEFAULT_MENTION_RATES: Mapping[str, float] = MappingProxyType(
    {"fast": 0.7, "wrong_way": 0.4, "large": 0.7, "out_of_place": 0.7}
)
_OWNER = "render_scenes"


@dataclass(frozen=True)
class SceneVideo:
    """One rendered video.

    Args:
        name: Stem of its files.
        path: The mp4.
        captions: JSON list of one caption per frame.
        label: ``"normal"`` or ``"abnormal"``.
        split: ``"train"`` or ``"test"``.
        kind: ``"normal"``, or the kind of anomaly: ``"fast"``, ``"wrong_way"``, ``"large"`` or ``"out_of_place"``.
        frames: Number of frames.
        intervals: Abnormal frames as half-open spans.
    """

    name: str
    path: Path
    captions: Path
    label: str
    split: str
    kind: str
    frames: int
    intervals: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class SceneSet:
    """A folder of rendered videos.

    Args:
        folder: Where everything is.
        videos: The videos in order of their names.
        labels: CSV of video, label, split, class.
        intervals: CSV of video, start_frame, end_frame, class.
    """

    folder: Path
    videos: tuple[SceneVideo, ...]
    labels: Path
    intervals: Path


@dataclass(frozen=True)
class SceneSettings:
    """What ``render_scenes`` renders.

    Args:
        videos: How many, at least 2.
        abnormal: Fraction of abnormal videos, in [0, 1]; floor(videos * abnormal) of them, spread evenly.
        frames: Fewest and most frames of a video, from 16.
        size: Height and width in pixels, even, from 64.
        fps: Frames per second, in [1, 120].
        seed: Of everything, the cameras too unless ``camera_seed`` is given.
        people: Fewest and most ordinary people at a time.
        kinds: Kinds of anomaly, taken in turn: ``"fast"``, ``"wrong_way"``, ``"large"``, ``"out_of_place"``.
        train: Fraction of each label in the ``train`` split, in [0, 1].
        noise: Standard deviation of the sensor noise in grey levels.
        mention_rates: Chance that a caption of an abnormal moment mentions it, by kind; absent kinds as the default.
        false_mention_rate: Chance that a caption of a normal moment mentions an anomaly.
        coverage: Least and most of an abnormal video's frames that are abnormal, in [0, 1].
        intruders: Fewest and most figures that make an anomaly at a time: one person, or a crowd.
        camera_spread: How far the cameras differ, in [0, 1]: 0 is one camera for all videos, 1 cameras drawn freely
            (``scene_places.Place.draw``).
        camera_seed: Of the cameras: video i of another set with this camera seed is seen by the same camera. None: ``seed``.
    """

    videos: int = 20
    abnormal: float = 0.5
    frames: tuple[int, int] = (128, 192)
    size: tuple[int, int] = (160, 240)
    fps: float = 10.0
    seed: int = 0
    people: tuple[int, int] = (3, 12)
    kinds: Sequence[str] = ANOMALY_KINDS
    train: float = 0.5
    noise: float = 2.0
    mention_rates: Mapping[str, float] = field(default_factory=lambda: DEFAULT_MENTION_RATES)
    false_mention_rate: float = 0.03
    coverage: tuple[float, float] = COVERAGE
    intruders: tuple[int, int] = (1, 1)
    camera_spread: float = 0.0
    camera_seed: int | None = None

    @property
    def seed_of_cameras(self) -> int:
        """``camera_seed``, or ``seed`` where it is not given."""
        return self.seed if self.camera_seed is None else self.camera_seed

    def __post_init__(self) -> None:
        check_int(self.videos, "videos", _OWNER, low=2)
        check_int(self.seed, "seed", _OWNER, low=0)
        check_int(self.seed_of_cameras, "camera_seed", _OWNER, low=0)
        for name, low, high in (("frames", 16, 100_000), ("people", 0, 100), ("intruders", 1, 100)):
            fewest, most = _pair(getattr(self, name), name)
            check_int(most, name, _OWNER, low=check_int(fewest, name, _OWNER, low=low, high=high), high=high)
        for side in _pair(self.size, "size"):
            if check_int(side, "size", _OWNER, low=64, high=4096) % 2:
                raise ParameterError(f"The 'size' parameter of {_OWNER} must be even in both sides. Got {self.size}")
        if not 0.5 <= self.size[1] / self.size[0] <= 4:
            raise ParameterError(f"The 'size' parameter of {_OWNER} must be (height, width). Got {self.size}")
        check_number(self.fps, "fps", _OWNER, low=1.0, high=120.0)
        check_number(self.noise, "noise", _OWNER, low=0.0, high=50.0)
        shares = [(name, getattr(self, name)) for name in ("abnormal", "train", "false_mention_rate", "camera_spread")]
        shares += [("coverage", part) for part in _pair(self.coverage, "coverage")]
        for name, share in (*shares, *(("mention_rates", rate) for rate in self.mention_rates.values())):
            check_number(share, name, _OWNER, low=0.0, high=1.0)
        if not self.coverage[0] < self.coverage[1]:
            raise ParameterError(f"The 'coverage' parameter of {_OWNER} must be (least, most). Got {self.coverage}")
        for name, kinds in (("kinds", self.kinds), ("mention_rates", self.mention_rates)):
            for kind in kinds:
                check_choice(kind, name, _OWNER, KINDS)
        if not self.kinds or not 0 < _picked(self.videos, self.abnormal) < self.videos:
            raise ParameterError(
                f"The 'videos', 'abnormal' and 'kinds' parameters of {_OWNER} must give both normal and abnormal videos. "
                f"Got {self.videos}, {self.abnormal} and {self.kinds}"
            )


def render_scenes(
    folder: str | Path,
    settings: SceneSettings | None = None,
    *,
    on_video: Callable[[SceneVideo], None] | None = None,
    **changes: Any,
) -> SceneSet:
    """Render videos of people on a walkway under fixed cameras, some with an anomaly, with captions and labels.

    People walk right in the near lane and left in the far one; lower in the picture they are larger and faster. How many
    there are, the light and the exposure differ between videos; some people pause, hurry or are tall, which is normal.
    An abnormal video holds one kind of anomaly in ``coverage`` of its frames: ``fast`` (runners or cyclists at 2.5 to 4
    times walking pace), ``wrong_way`` (a walker against the lane) or ``large`` (a cart at walking pace). A frame is
    abnormal where at least a fifth of the object's width is inside the picture, whether or not somebody hides it.

    With a ``camera_spread`` above 0 every video has a camera of its own: viewing angle and nearness, building and colours,
    light, ways of the lanes, usual pace, and what the place is for (walkers, cyclists or carts). An anomaly is then what is
    unusual *there*: 2.5 to 4 times the place's pace, against its lanes, or, ``out_of_place``, another sort of figure than
    its traffic. What is unusual before one camera is usual before another.

    Writes ``videos/<name>.mp4``, ``captions/<name>.json``, ``labels.csv`` (video, label, split, class) and
    ``intervals.csv`` (video, start_frame, end_frame, class); labels last, so that their presence means a whole set.
    Video i depends on the seed, i and the other parameters, not on how many videos are rendered.

    Args:
        folder: Where to write; made if absent.
        settings: How many videos, of what; its defaults where nothing is said.
        on_video: Called with each video when it is written, for progress.
        changes: Fields of the settings by name, such as ``videos=40``.

    Returns:
        The folder's videos with their labels and intervals.

    Raises:
        ParameterError: A parameter is outside its range, or there would be only one label.
        DataError: The folder holds other videos or captions.
        MissingExtraError: PyAV or OpenCV is not installed.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     scenes = render_scenes(folder, videos=4, frames=(16, 24), size=(64, 96))
        ...     sorted(path.name for path in scenes.folder.iterdir())
        ['captions', 'intervals.csv', 'labels.csv', 'videos']
        >>> [(video.name, video.kind, video.split) for video in scenes.videos][:2]
        [('scene_0000', 'normal', 'train'), ('scene_0001', 'fast', 'train')]
    """
    chosen: SceneSettings = with_changes(settings or SceneSettings(), changes, _OWNER)
    videos = chosen.videos
    folder = Path(folder)
    labels, intervals = folder / "labels.csv", folder / "intervals.csv"
    _prepare(folder, videos, (labels, intervals))
    camera = _camera(chosen, 0)
    rendered = []
    for index in range(videos):
        camera = _camera(chosen, index) if chosen.camera_spread else camera
        rendered.append(_render(folder, chosen, index, *camera))
        if on_video is not None:
            on_video(rendered[-1])
    write_intervals(intervals, (Interval(video.name, *span, video.kind) for video in rendered for span in video.intervals))
    rows = ({"video": one.name, "label": one.label, "split": one.split, "class": one.kind} for one in rendered)
    write_table(labels, ("video", "label", "split", "class"), rows)
    return SceneSet(folder, tuple(rendered), labels, intervals)


def _camera(settings: SceneSettings, index: int) -> tuple[View, SceneRenderer]:
    """The camera of video ``index``; with no spread, the one camera of the set."""
    if settings.camera_spread:
        drawn, seed = np.random.SeedSequence(settings.seed_of_cameras, spawn_key=(index, 3)).spawn(2)
        place = Place.draw(np.random.default_rng(drawn), settings.camera_spread)
    else:
        place, seed = Place(), np.random.SeedSequence(settings.seed_of_cameras)
    view = View(*settings.size, float(settings.fps), place)
    return view, SceneRenderer(view, seed, noise=settings.noise)


def _render(folder: Path, settings: SceneSettings, index: int, view: View, renderer: SceneRenderer) -> SceneVideo:
    seeds = np.random.SeedSequence(settings.seed, spawn_key=(index,)).spawn(3)
    script, grain, words = (np.random.default_rng(seed) for seed in seeds)
    kind, split = _role(settings, index)
    frames = int(script.integers(settings.frames[0], settings.frames[1] + 1))
    people = int(script.integers(settings.people[0], settings.people[1] + 1))
    scene = write_scene(
        view, frames, people, None if kind == NORMAL else kind, script, coverage=settings.coverage, intruders=settings.intruders
    )
    captions = write_captions(
        view,
        scene,
        words,
        mention_rate={**DEFAULT_MENTION_RATES, **settings.mention_rates}.get(kind, 0.0),
        false_mention_rate=settings.false_mention_rate,
    )
    name = _name(index)
    path, sidecar = folder / "videos" / f"{name}.mp4", folder / "captions" / f"{name}.json"
    encode(path, renderer.pictures(scene, grain), view)
    write_text(sidecar, json.dumps(captions, indent=0) + "\n")
    label = NORMAL if kind == NORMAL else "abnormal"
    return SceneVideo(name, path, sidecar, label, split, kind, frames, runs_of(scene.abnormal))


def _role(settings: SceneSettings, index: int) -> tuple[str, str]:
    """Kind and split of video ``index``: spread evenly over the videos, whatever their number."""
    before, through = _picked(index, settings.abnormal), _picked(index + 1, settings.abnormal)
    is_abnormal = through > before
    place = before if is_abnormal else index - before
    train = math.ceil((place + 1) * settings.train) > math.ceil(place * settings.train)
    kind = settings.kinds[place % len(settings.kinds)] if is_abnormal else NORMAL
    return kind, "train" if train else "test"


def _picked(number: int, fraction: float) -> int:
    """How many of the first ``number`` videos are abnormal; the small term forgives 0.29 * 100 = 28.999..."""
    return math.floor(number * fraction + 1e-9)


def _name(index: int) -> str:
    return f"scene_{index:04d}"


def _prepare(folder: Path, videos: int, tables: tuple[Path, ...]) -> None:
    """Make the folders, refuse to mix with other files, and withdraw old labels before the first video changes."""
    ours = {_name(index) for index in range(videos)}
    for part in ("videos", "captions"):
        (folder / part).mkdir(parents=True, exist_ok=True)
        others = sorted(path.name for path in (folder / part).iterdir() if path.stem not in ours)
        others = [name for name in others if not name.startswith(".")]
        if others:
            raise DataError(
                "the folder holds files of another set",
                where=folder / part,
                expected=f"an empty folder, or {_name(0)} to {_name(videos - 1)} to be replaced",
                got=", ".join(others[:3]),
                fix="give another folder, or empty this one",
            )
    for table in tables:
        table.unlink(missing_ok=True)


def _pair(value: object, name: str) -> tuple[object, object]:
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise ParameterError(f"The '{name}' parameter of {_OWNER} must be a pair. Got {value!r} instead")
    return value[0], value[1]
