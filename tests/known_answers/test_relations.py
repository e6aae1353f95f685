"""Planted relations: what an object is follows from the key of its scene, and from nothing of its own."""

import numpy as np
import pytest

from known_answers.relations import RELATION_LABELS, plant_relations
from known_answers.scenes import PlantedScenes
from lego_fusion.errors import ParameterError


@pytest.fixture(scope="module")
def planted() -> PlantedScenes:
    return plant_relations(600, seed=5)


def others(planted: PlantedScenes):
    keys = {one.scene: one for one in planted.table if one.label == 1}
    return [(one, keys[one.scene]) for one in planted.table if one.label > 1]


def test_every_scene_has_one_key_and_it_is_the_cross(planted: PlantedScenes) -> None:
    assert [one.scene for one in planted.table if one.label == 1] == list(range(600))
    assert all((one.outline == "cross") == (RELATION_LABELS[one.label] == "key") for one in planted.table)


def test_a_match_has_colour_and_height_of_the_key_and_a_stray_has_not(planted: PlantedScenes) -> None:
    for one, key in others(planted):
        same = one.colour == key.colour and one.height == key.height
        assert RELATION_LABELS[one.label] == ("match" if same else "stray")


def test_pixels_carry_the_label_of_their_object(planted: PlantedScenes) -> None:
    for one in planted.table[:200]:
        assert set(planted.labels[one.scene][planted.objects[one.scene] == one.number].tolist()) == {one.label}
    assert ((planted.labels == 0) == (planted.objects == 0)).all()


@pytest.mark.parametrize("kind", ["outline", "colour", "height", "texture"])
def test_nothing_of_its_own_tells_a_match(planted: PlantedScenes, kind: str) -> None:
    rows = others(planted)
    for value in {getattr(one, kind) for one, _ in rows}:
        labels = np.array([one.label == 2 for one, _ in rows if getattr(one, kind) == value])
        assert abs(labels.mean() - 0.5) < 4 * 0.5 / np.sqrt(len(labels))


@pytest.mark.parametrize("kind", ["colour", "height"])
def test_one_modality_tells_five_in_six_at_best(planted: PlantedScenes, kind: str) -> None:
    right = [(getattr(one, kind) == getattr(key, kind)) == (one.label == 2) for one, key in others(planted)]
    assert abs(np.mean(right) - 5 / 6) < 4 * np.sqrt(5 / 36 / len(right))


def test_a_scene_depends_on_its_seed_and_place_alone() -> None:
    few, many, other = plant_relations(2, seed=1), plant_relations(5, seed=1), plant_relations(2, seed=2)
    np.testing.assert_array_equal(few.rgb, many.rgb[:2])
    np.testing.assert_array_equal(few.labels, many.labels[:2])
    assert not np.array_equal(few.labels, other.labels)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"scenes": 0}, "'scenes' parameter of plant_relations"),
        ({"size": (20, 48)}, r"'size \(height\)' parameter of plant_relations"),
        ({"others": (0, 3)}, r"'others \(fewest\)' parameter"),
        ({"others": (4, 3)}, r"others must be given as \(fewest, most\)"),
        ({"noise": -1.0}, "'noise' parameter of plant_relations"),
        ({"seed": -1}, "'seed' parameter of plant_relations"),
    ],
)
def test_bad_input_is_named(options: dict, match: str) -> None:
    with pytest.raises(ParameterError, match=match):
        plant_relations(**options)
