"""Captions of a rendered scene, as an automatic captioner would write them: rough, repetitive and sometimes wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from .places import Figure
from .script import ANOMALY_KINDS, SEEN, Actor, Scene, View

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
