"""Planted RGB-D scenes: each class is told by the modalities its table names, and by no other, whatever one looks at."""

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from known_answers.scenes import (
    CLASSES,
    COLOURS,
    HEIGHTS,
    LABELS,
    OUTLINES,
    SEEN_BY,
    TEXTURES,
    PlantedScenes,
    class_label,
    outline_mask,
    plant_scenes,
)
from lego_fusion.errors import ParameterError

PAIRS = sorted({(one.told_by, *sorted((one.name, one.rival))) for one in CLASSES if one.rival})


@pytest.fixture(scope="module")
def planted() -> PlantedScenes:
    return plant_scenes(700, seed=3)


def descriptions(planted: PlantedScenes) -> dict[str, np.ndarray]:
    """What one modality says about each object: mean, deviation and extremes over its pixels, and its number of pixels."""
    found: dict[str, list[np.ndarray]] = {"rgb": [], "depth": []}
    for one in planted.table:
        inside = planted.objects[one.scene] == one.number
        for name, pixels in (("rgb", planted.rgb[one.scene][inside]), ("depth", planted.depth[one.scene][inside][:, None])):
            said = [pixels.mean(0), pixels.std(0), pixels.min(0), pixels.max(0), [inside.sum() / 1000]]
            found[name].append(np.concatenate(said))
    return {name: np.stack(rows) for name, rows in found.items()}


def accuracy(rows: np.ndarray, labels: np.ndarray) -> float:
    """Of the nearest class among the 9 nearest objects of the other half."""
    rows = (rows - rows.mean(0)) / rows.std(0)
    half = len(rows) // 2
    return float(KNeighborsClassifier(9).fit(rows[:half], labels[:half]).score(rows[half:], labels[half:]))


def test_a_class_is_told_by_the_modalities_of_its_table_and_no_other(planted):
    said, labels = descriptions(planted), np.array([LABELS[one.label] for one in planted.table])
    said["both"] = np.concatenate([said["rgb"], said["depth"]], 1)
    assert [told_by for told_by, *_ in PAIRS] == ["both", "depth", "rgb"]
    for told_by, *pair in PAIRS:
        chosen = np.isin(labels, pair)
        assert chosen.sum() > 300
        for name, rows in said.items():
            share = accuracy(rows[chosen], labels[chosen])
            if name in (told_by, "both"):
                assert share > 0.9, (pair, name, share)
            else:
                assert abs(share - 0.5) < 4 * 0.5 / np.sqrt(chosen.sum() / 2), (pair, name, share)


def test_rivals_look_alike_to_the_modality_that_cannot_tell_them(planted):
    """Mean features of the two classes differ by no more than chance in every modality that cannot tell."""
    said, labels = descriptions(planted), np.array([LABELS[one.label] for one in planted.table])
    for told_by, first, second in PAIRS:
        for name in {"rgb", "depth"} - {told_by}:
            a, b = (said[name][labels == one] for one in (first, second))
            difference = np.abs(a.mean(0) - b.mean(0)) / np.sqrt(a.var(0) / len(a) + b.var(0) / len(b))
            assert (difference < 4).all(), (first, second, name, difference)


def test_both_modalities_show_every_outline(planted):
    """Where the picture is not grey, and where the map is not flat, are the same pixels: those of the objects."""
    clear = plant_scenes(20, noise=0.0, seed=5)
    there = clear.objects > 0
    np.testing.assert_array_equal(np.ptp(clear.rgb, axis=-1) > 0.1, there)
    np.testing.assert_array_equal(clear.depth > 0.1, there)
    noisy = (planted.objects > 0)[:50]
    for seen in (planted.depth[:50] > 0.17, np.abs(planted.rgb[:50, ..., 0] - planted.rgb[:50, ..., 1]) > 0.2):
        assert (seen & noisy).sum() / (seen | noisy).sum() > 0.95


def test_outlines_differ_at_every_size_and_fill_their_box():
    for side in range(5, 22):
        masks = [outline_mask(name, side) for name in OUTLINES]
        for first, mask in enumerate(masks):
            assert mask.any(0).all() and mask.any(1).all()
            assert (mask[:, ::-1] == mask).all()  # left is right
            for other in masks[:first]:
                assert (mask != other).mean() > 0.1


def test_the_rule_of_the_classes():
    """Written out: 5 outlines x 2 colours x 2 heights."""
    told = {key: LABELS[class_label(*key)] for key in ((o, c, h) for o in OUTLINES for c in COLOURS for h in HEIGHTS)}
    assert {name for (outline, *_), name in told.items() if outline == "disc"} == {"red disc", "green disc"}
    assert told["disc", "red", "tall"] == told["disc", "red", "low"] == "red disc"
    assert told["square", "red", "tall"] == told["square", "green", "tall"] == "tall square"
    assert {told["triangle", c, h] for c in COLOURS for h in HEIGHTS} == {"triangle"}
    assert told["diamond", "green", "tall"] == told["diamond", "red", "low"] == "matched diamond"
    assert told["diamond", "green", "low"] == told["diamond", "red", "tall"] == "mismatched diamond"
    assert set(told.values()) == set(LABELS[1:])


def test_attributes_are_even_and_independent(planted):
    kinds = {"outline": OUTLINES, "colour": COLOURS, "height": HEIGHTS, "texture": TEXTURES}
    codes = {kind: np.array([names.index(getattr(one, kind)) for one in planted.table]) for kind, names in kinds.items()}
    count = len(planted.table)
    for kind, names in kinds.items():
        share = np.bincount(codes[kind]) / count
        assert np.abs(share - 1 / len(names)).max() < 4 * np.sqrt(0.25 / count)
        for other, names_of_other in kinds.items():
            if other != kind:
                joint = np.histogram2d(codes[kind], codes[other], bins=(len(names), len(names_of_other)))[0] / count
                even = np.outer(np.bincount(codes[kind]), np.bincount(codes[other])) / count**2
                assert np.abs(joint - even).max() < 4 * np.sqrt(0.25 / count)


def test_labels_objects_and_concepts_agree(planted):
    concepts = planted.concepts()
    assert set(concepts) == set(SEEN_BY)
    there = planted.labels > 0
    np.testing.assert_array_equal(planted.objects > 0, there)
    for kind, count in (("colour", 2), ("texture", 2), ("height", 2), ("outline", 5)):
        maps = [where for name, where in concepts.items() if name.startswith(kind)]
        assert len(maps) == count
        np.testing.assert_array_equal(np.sum(maps, axis=0), there)  # exactly one of each kind
    red_disc = concepts["colour red"] & concepts["outline disc"]
    np.testing.assert_array_equal(planted.labels == LABELS.index("red disc"), red_disc)
    matched = concepts["outline diamond"] & (concepts["colour green"] == concepts["height tall"])
    np.testing.assert_array_equal(planted.labels == LABELS.index("matched diamond"), matched)


def test_objects_are_whole_and_apart(planted):
    for one in planted.table:
        row, column, side = one.box
        inside = planted.objects[one.scene] == one.number
        expected = np.zeros_like(inside)
        expected[row : row + side, column : column + side] = outline_mask(one.outline, side)
        np.testing.assert_array_equal(inside, expected)
    per_scene = np.bincount([one.scene for one in planted.table], minlength=700)
    assert per_scene.min() >= 1 and per_scene.max() <= 4
    assert (planted.rgb >= 0).all() and (planted.rgb <= 1).all() and np.isfinite(planted.depth).all()


def test_texture_stripes_the_picture_and_not_the_map():
    clear = plant_scenes(40, noise=0.0, seed=1)
    for one in clear.table:
        inside = clear.objects[one.scene] == one.number
        assert (clear.rgb[one.scene][inside].std(0).max() > 0.05) == (one.texture == "striped")
        assert np.ptp(clear.depth[one.scene][inside]) == 0


def test_a_scene_depends_on_the_seed_and_its_place_alone():
    few, many, other = plant_scenes(3, seed=7), plant_scenes(5, seed=7), plant_scenes(3, seed=8)
    for name in ("rgb", "depth", "labels", "objects"):
        np.testing.assert_array_equal(getattr(few, name), getattr(many, name)[:3])
        assert not np.array_equal(getattr(few, name), getattr(other, name))
    assert few.table == tuple(one for one in many.table if one.scene < 3)


def test_size_and_number_of_objects():
    planted = plant_scenes(4, size=(32, 64), objects=(1, 1))
    assert planted.rgb.shape == (4, 32, 64, 3) and planted.labels.dtype == np.uint8
    assert len(planted.table) == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scenes": 0}, "'scenes' parameter"),
        ({"size": (48, 20)}, r"'size \(width\)' parameter .* \[24, inf\)"),
        ({"objects": (0, 3)}, "'objects \\(fewest\\)'"),
        ({"objects": (3, 2)}, r"\(fewest, most\)"),
        ({"noise": -0.1}, "'noise' parameter"),
        ({"seed": -1}, "'seed' parameter"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ParameterError, match=message):
        plant_scenes(**options)


def test_unknown_outline():
    with pytest.raises(ParameterError, match="expected disc, square, triangle, cross, diamond, got star"):
        outline_mask("star", 9)
