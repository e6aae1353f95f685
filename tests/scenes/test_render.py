"""What the labels and the documentation promise is measured in the decoded pictures."""

import csv
import json
import shutil
import sys
from itertools import pairwise

import numpy as np
import pytest

pytest.importorskip("av", reason="needs PyAV: pip install 'lego-fusion[video]'")
cv2 = pytest.importorskip("cv2", reason="needs OpenCV: pip install 'lego-fusion[video]'")

from lego_fusion.data.video import VideoReader  # noqa: E402
from lego_fusion.errors import DataError, MissingExtraError, ParameterError  # noqa: E402
from lego_fusion.scenes.render import (  # noqa: E402
    ANOMALY_KINDS,
    render_scenes,
    write_captions,
)
from lego_fusion.scenes.script import (  # noqa: E402
    KINDS,
    Place,
    View,
    runs_of,
    write_scene,
)
from probing import probe_video  # noqa: E402

SMALL = {"frames": (24, 40), "size": (80, 120)}
MENTIONS = ("running", "runs past", "sprinting", "bicycle", "cyclist", "bike", "cart", "utility vehicle")
MENTIONS += ("against the flow", "opposite way", "coming the other way")


def pictures(video):
    with VideoReader(video.path) as reader:
        return np.array([frame.image for frame in reader])


def labels_of(video):
    labels = np.zeros(video.frames, dtype=bool)
    for start, end in video.intervals:
        labels[start:end] = True
    return labels


def mentioned(video):
    captions = json.loads(video.captions.read_text())
    return np.array([any(word in caption for word in MENTIONS) for caption in captions])


def object_tracks(video):
    """Follow what moves against the still background: rows of frame, centre x, foot y, width, height; whole objects only.

    The largest moving blob of each frame, where it does not touch the left or right edge.
    """
    images = pictures(video).astype(np.int16)
    background = np.median(images, axis=0)
    rows = []
    for index, image in enumerate(images):
        moving = (np.abs(image - background).max(axis=2) > 30).astype(np.uint8)
        moving = cv2.morphologyEx(moving, cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8))
        _, _, blobs, _ = cv2.connectedComponentsWithStats(moving)
        if len(blobs) < 2:
            continue
        left, top, width, height, area = max(blobs[1:], key=lambda blob: blob[4])
        if area > 60 and left > 0 and left + width < image.shape[1]:
            rows.append((index, left + width / 2, top + height, width, height))
    return np.array(rows)


def body_heights_per_second(tracks, fps):
    """Signed speed between neighbouring frames in heights of the object itself, so that perspective drops out."""
    step = np.diff(tracks, axis=0)
    same = (step[:, 0] == 1) & (np.abs(step[:, 1]) < 40)
    return step[same, 1] / np.median(tracks[:, 4]) * fps


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return render_scenes(tmp_path_factory.mktemp("scenes"), videos=12, seed=3, **SMALL)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Nobody but the anomaly, no noise: two videos of each kind, and empty normal ones."""
    folder = tmp_path_factory.mktemp("alone")
    return render_scenes(folder, videos=12, people=(0, 0), noise=0.0, frames=(96, 96), seed=5)


def test_written_layout_says_what_is_returned(scenes):
    with scenes.labels.open() as file:
        rows = list(csv.DictReader(file))
    assert [(r["video"], r["label"], r["split"], r["class"]) for r in rows] == [
        (v.name, v.label, v.split, v.kind) for v in scenes.videos
    ]
    with scenes.intervals.open() as file:
        spans = [(r["video"], int(r["start_frame"]), int(r["end_frame"]), r["class"]) for r in csv.DictReader(file)]
    assert spans == [(v.name, *span, v.kind) for v in scenes.videos for span in v.intervals]
    assert {p.stem for p in (scenes.folder / "videos").iterdir()} == {v.name for v in scenes.videos}
    assert not list(scenes.folder.rglob("*.part*"))


def test_every_video_decodes_to_the_stated_frames(scenes):
    for video in scenes.videos:
        info = probe_video(video.path)
        assert (info.frames, info.height, info.width, info.problem) == (video.frames, 80, 120, None)
        np.testing.assert_allclose(info.times, np.arange(video.frames) / 10, atol=1e-6)
        assert 24 <= video.frames <= 40


def test_labels_lie_inside_and_cover_what_is_promised(scenes):
    for video in scenes.videos:
        labels = labels_of(video)
        assert all(0 <= start < end <= video.frames for start, end in video.intervals)
        assert (video.label == "abnormal") == (video.kind != "normal") == bool(labels.any())
        assert video.label == "normal" or 0.25 <= labels.mean() <= 0.9


def test_labels_kinds_and_splits_are_balanced(scenes):
    for split in ("train", "test"):
        kinds = [video.kind for video in scenes.videos if video.split == split]
        assert sorted(kinds) == sorted([*ANOMALY_KINDS, "normal", "normal", "normal"])


@pytest.mark.parametrize(("videos", "abnormal", "expected"), [(2, 0.5, 1), (7, 0.3, 2), (10, 0.29, 2), (5, 0.9, 4)])
def test_fraction_of_abnormal_videos(tmp_path, videos, abnormal, expected):
    scenes = render_scenes(tmp_path, videos=videos, abnormal=abnormal, frames=(16, 16), size=(64, 64), people=(0, 1))
    assert sum(video.label == "abnormal" for video in scenes.videos) == expected


def test_same_seed_same_pictures_captions_and_labels_whatever_the_number(scenes, tmp_path):
    again = render_scenes(tmp_path, videos=4, seed=3, **SMALL)
    for first, second in zip(scenes.videos, again.videos, strict=False):
        assert (first.kind, first.split, first.intervals) == (second.kind, second.split, second.intervals)
        assert first.captions.read_text() == second.captions.read_text()
        np.testing.assert_array_equal(pictures(first), pictures(second))


def test_other_seed_other_pictures(scenes, tmp_path):
    other = render_scenes(tmp_path, videos=2, seed=4, **SMALL)
    first, second = pictures(scenes.videos[0])[0], pictures(other.videos[0])[0]
    assert np.abs(first.astype(int) - second).mean() > 1


def test_caption_rates_do_not_change_pictures_or_labels(scenes, tmp_path):
    rates = {"mention_rates": {"fast": 0.0}, "false_mention_rate": 1.0}
    other = render_scenes(tmp_path, videos=2, seed=3, **SMALL, **rates)
    np.testing.assert_array_equal(pictures(scenes.videos[1]), pictures(other.videos[1]))
    assert scenes.videos[1].intervals == other.videos[1].intervals
    assert scenes.videos[1].captions.read_text() != other.videos[1].captions.read_text()


def test_captions_one_per_frame_held_for_about_eight(scenes):
    for video in scenes.videos:
        captions = json.loads(video.captions.read_text())
        assert len(captions) == video.frames
        changes = sum(a != b for a, b in pairwise(captions))
        assert changes <= video.frames / 6
        assert all(caption.endswith(".") for caption in captions)


def test_certain_captions_mention_anomalies_exactly_where_they_are(tmp_path):
    certain = dict.fromkeys(ANOMALY_KINDS, 1.0)
    scenes = render_scenes(tmp_path, videos=6, frames=(60, 80), size=(64, 96), mention_rates=certain, false_mention_rate=0.0)
    for video in scenes.videos:
        labels, words = labels_of(video), mentioned(video)
        away_from_changes = np.ones(video.frames, dtype=bool)
        for edge in [edge for span in video.intervals for edge in span]:
            away_from_changes[max(0, edge - 6) : edge + 6] = False  # half of the longest caption, and one
        np.testing.assert_array_equal(words[away_from_changes], labels[away_from_changes])


@pytest.mark.parametrize("kind", [*ANOMALY_KINDS, None])
def test_mention_rates_are_those_stated(kind):
    view, rng = View(160, 240, 10.0), np.random.default_rng(0)
    abnormal, normal = [], []
    for _ in range(60):
        scene = write_scene(view, 160, 3, kind, rng)
        captions = write_captions(view, scene, rng, mention_rate=0.4, false_mention_rate=0.1)
        words = np.array([any(word in caption for word in MENTIONS) for caption in captions])
        abnormal.append(words[scene.abnormal])
        normal.append(words[~scene.abnormal])
    # at least 400 captions of each sort, so a standard error of at most 0.025
    assert np.concatenate(normal).mean() == pytest.approx(0.1, abs=0.06)
    if kind is not None:
        assert np.concatenate(abnormal).mean() == pytest.approx(0.4, abs=0.08)


def test_pictures_differ_from_the_empty_view_exactly_where_labelled(alone):
    empty = np.median(pictures(next(v for v in alone.videos if v.kind == "normal")), axis=0)
    for video in alone.videos:
        images = pictures(video).astype(float)
        gain = np.median((images / np.maximum(empty, 1))[:, ::8, ::8], axis=(1, 2, 3))[:, None, None, None]
        changed = (np.abs(images - gain * empty).max(axis=3) > 45).sum(axis=(1, 2))
        labels = labels_of(video)
        if labels.any():
            assert (changed[labels] > 10).mean() > 0.9  # a lamp post may hide a far figure
        for start, end in runs_of(~labels):  # away from the edges of an interval, where up to a fifth is inside
            assert changed[start + 8 : max(0, end - 8)].max(initial=0) < 10


@pytest.mark.parametrize("kind", ANOMALY_KINDS)
def test_planted_motion_is_what_the_kind_says(alone, kind):
    walking = 0.82  # body heights per second
    for video in (v for v in alone.videos if v.kind == kind):
        tracks = object_tracks(video)
        speed = body_heights_per_second(tracks, fps=10)
        feet = np.median(tracks[:, 2]) / 160
        lane = 1 if feet > 0.62 else -1
        pace = np.median(speed) * lane / walking
        if kind == "fast":
            assert 1.6 < pace < 4.6  # ordinary people stay below 1.5
        elif kind == "wrong_way":
            assert -1.35 < pace < -0.7
        else:
            assert 0.5 < pace < 1.35  # the roof is higher than a person
        if kind == "large":
            assert np.median(tracks[:, 3] / tracks[:, 4]) > 1.2  # longer than it is high
        if kind == "wrong_way":
            assert np.median(tracks[:, 3] / tracks[:, 4]) < 0.8


def test_ordinary_people_keep_to_their_lanes_and_grow_towards_the_camera(tmp_path):
    scenes = render_scenes(tmp_path, videos=10, abnormal=0.1, people=(1, 1), noise=0.0, frames=(80, 80), seed=2)
    heights, met = {1: [], -1: []}, 0
    for video in (v for v in scenes.videos if v.kind == "normal"):
        tracks = object_tracks(video)
        for lane in (1, -1):
            own = tracks[lane * (tracks[:, 2] / 160 - 0.62) > 0]
            if len(own) < 20:
                continue
            met += 1
            speed = body_heights_per_second(own, fps=10)
            moving = speed[np.abs(speed) > 0.2]
            assert (moving * lane > 0).mean() > 0.9
            assert np.median(np.abs(moving)) < 1.7 * 0.82
            heights[lane].append(np.median(own[:, 4]))
    assert met >= 6
    assert min(heights[1]) > max(heights[-1])


def test_crowds_hide_anomalies_from_plain_frame_differences(tmp_path):
    """The number of people moves the frame difference more than the label does."""
    energies = {}
    for people in ((3, 3), (12, 12)):
        scenes = render_scenes(tmp_path / str(people[0]), videos=2, people=people, frames=(64, 64), kinds=["wrong_way"])
        images = [pictures(video).astype(np.int16) for video in scenes.videos]
        energies[people[0]] = [np.abs(np.diff(image, axis=0)).mean() for image in images]
    assert energies[12][0] > energies[3][1]


def test_rendering_again_replaces_and_never_mixes(scenes, tmp_path):
    folder = tmp_path / "set"
    shutil.copytree(scenes.folder, folder)
    render_scenes(folder, videos=12, seed=9, frames=(16, 16), size=(64, 64))
    with pytest.raises(DataError, match=r"holds files of another set .*scene_0000 to scene_0001.*scene_0002\.mp4"):
        render_scenes(folder, videos=2, seed=9, frames=(16, 16), size=(64, 64))


def test_an_interrupted_set_has_no_labels(tmp_path):
    render_scenes(tmp_path, videos=2, frames=(16, 16), size=(64, 64))

    def stop(video):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        render_scenes(tmp_path, videos=2, frames=(16, 16), size=(64, 64), on_video=stop)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["captions", "videos"]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"videos": 1}, r"'videos' parameter of render_scenes must be an int in \[2, inf\)"),
        ({"abnormal": 1.5}, "'abnormal' parameter"),
        ({"abnormal": 0.0}, "must give both normal and abnormal videos"),
        ({"videos": 3, "abnormal": 0.3}, "must give both normal and abnormal videos"),
        ({"kinds": ()}, "must give both normal and abnormal videos"),
        ({"kinds": ("slow",)}, "'kinds' parameter.*'fast', 'wrong_way', 'large'"),
        ({"camera_spread": 1.5}, "'camera_spread' parameter"),
        ({"camera_seed": -1}, "'camera_seed' parameter"),
        ({"coverage": (0.5, 0.5)}, "'coverage' parameter.*least, most"),
        ({"coverage": (0.5, 1.5)}, "'coverage' parameter"),
        ({"mention_rates": {"slow": 0.5}}, "'mention_rates' parameter"),
        ({"mention_rates": {"fast": 2.0}}, "'mention_rates' parameter"),
        ({"false_mention_rate": -0.1}, "'false_mention_rate' parameter"),
        ({"frames": (8, 20)}, r"'frames' parameter.*\[16"),
        ({"frames": (40, 20)}, r"'frames' parameter.*\[40"),
        ({"people": (3, 2)}, "'people' parameter"),
        ({"size": (81, 120)}, "'size' parameter.*even"),
        ({"size": (64, 640)}, "'size' parameter.*height, width"),
        ({"size": (32, 64)}, r"'size' parameter.*\[64"),
        ({"fps": 0.0}, "'fps' parameter"),
        ({"seed": -1}, "'seed' parameter"),
        ({"train": 2.0}, "'train' parameter"),
        ({"noise": -1.0}, "'noise' parameter"),
    ],
)
def test_parameters_are_checked_before_anything_is_written(tmp_path, parameters, message):
    with pytest.raises(ParameterError, match=message):
        render_scenes(tmp_path / "set", **parameters)
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize("package", ["av", "cv2"])
def test_an_absent_package_is_named_with_its_extra(tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=r"pip install 'lego-fusion\[video\]'"):
        render_scenes(tmp_path, videos=2, frames=(16, 16), size=(64, 64))


def test_the_same_seed_gives_the_same_bytes(tmp_path):
    """At a size and length at which the encoder's look-ahead gave others in one case of four."""
    files = [render_scenes(tmp_path / str(turn), videos=2, seed=3).videos[1].path.read_bytes() for turn in range(4)]
    assert files == files[:1] * 4


def empty_view(video):
    return np.median(pictures(video), axis=0)


def test_with_a_spread_every_video_has_a_camera_of_its_own_and_the_camera_seed_keeps_it(tmp_path):
    settings = {"videos": 4, "people": (0, 0), "noise": 0.0, "kinds": ["fast"], "frames": (16, 16), "size": (80, 120)}
    first = render_scenes(tmp_path / "first", seed=1, camera_spread=1.0, **settings)
    again = render_scenes(tmp_path / "again", seed=1, camera_spread=1.0, **settings)
    later = render_scenes(tmp_path / "later", seed=2, camera_seed=1, camera_spread=1.0, **settings)
    one = render_scenes(tmp_path / "one", seed=1, **settings)
    assert [video.path.read_bytes() for video in first.videos] == [video.path.read_bytes() for video in again.videos]
    sets = {"first": first, "later": later, "one": one}
    views = {name: [empty_view(video) for video in scenes.videos[::2]] for name, scenes in sets.items()}
    exposure = 20 + 8  # between videos, and what light and the codec add: the same for a camera, whoever passes
    other = np.abs(views["first"][0] - views["first"][1]).mean()
    same = [np.abs(a - b).mean() for a, b in zip(views["first"], views["later"], strict=True)]
    assert other > max(same)
    assert max(same) < exposure
    corrected = [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(views["first"], views["later"], strict=True)]
    assert min(corrected) > 0.98
    assert np.corrcoef(*(view.ravel() for view in views["first"]))[0, 1] < 0.95
    assert np.corrcoef(*(view.ravel() for view in views["one"]))[0, 1] > 0.98


def test_places_lie_between_the_walkway_and_one_drawn_freely():
    for seed in range(50):
        near, far = (Place.draw(np.random.default_rng(seed), spread) for spread in (0.1, 1.0))
        assert Place.draw(np.random.default_rng(seed), 0.0) == Place()
        for place in (near, far):
            rows = (place.horizon, place.wall_foot, place.path_top, *place.lanes[1][:2], place.middle, *place.lanes[0][:2])
            assert np.all(np.diff([*rows, place.path_bottom]) > 0)  # from the horizon down
            assert place.lanes[0][2] == -place.lanes[1][2]
        assert abs(np.log(near.pace)) == pytest.approx(0.1 * abs(np.log(far.pace)))
        assert near.horizon - Place.horizon == pytest.approx(0.1 * (far.horizon - Place.horizon))
    drawn = [Place.draw(np.random.default_rng(seed), 1.0) for seed in range(200)]
    assert {place.usual for place in drawn} == {"walker", "cyclist", "cart"}
    assert 70 < sum(place.lanes[0][2] == -1 for place in drawn) < 130
    assert min(place.pace for place in drawn) < 0.85 < 1.4 < max(place.pace for place in drawn)


@pytest.mark.parametrize("usual", ["walker", "cyclist", "cart"])
@pytest.mark.parametrize("kind", [*KINDS, None])
def test_what_is_unusual_depends_on_the_place(usual, kind):
    place = Place(usual=usual, pace=1.5, lanes=((0.68, 0.92, -1), (0.45, 0.57, 1)))
    view = View(96, 144, 5.0, place)
    figures = {"fast": {"runner", "cyclist"} if usual == "walker" else {usual}, "wrong_way": {usual}, "large": {"cart"}}
    figures["out_of_place"] = {"walker", "cyclist", "cart"} - {usual}
    for seed in range(5):
        scene = write_scene(view, 500, 4, kind, np.random.default_rng(seed), coverage=(0.04, 0.12))
        ways = {actor.facing * (1 if actor.y.mean() / 96 > 0.62 else -1) for actor in scene.people}
        assert {actor.figure for actor in scene.people} == {usual}
        assert ways == {-1}
        if kind is None:
            assert not scene.abnormal.any()
            continue
        assert 0.04 <= scene.abnormal.mean() <= 0.12
        for actor in scene.anomalies:
            pace = np.abs(np.diff(actor.x)).mean() / actor.body.mean() * 5 / 0.82 / 1.5
            against = actor.facing * (1 if actor.y.mean() / 96 > 0.62 else -1) > 0
            assert against == (kind == "wrong_way")
            assert (pace > 2) == (kind == "fast")
            assert actor.figure in figures[kind]


def test_captions_speak_of_what_is_usual_there():
    for usual, word in (("cyclist", "cyclist"), ("cart", "small cart")):
        view, rng = View(96, 144, 5.0, Place(usual=usual)), np.random.default_rng(0)
        scene = write_scene(view, 300, 4, None, rng)
        captions = [
            one for one in write_captions(view, scene, rng, mention_rate=0.0, false_mention_rate=0.0) if "mpty" not in one
        ]
        assert captions
        seen = [one for one in captions if "Nobody" not in one]
        assert all(word in one for one in seen)
        assert not any("pedestrian" in one or "walking" in one for one in seen)


def test_an_anomaly_that_no_figure_can_be_is_refused_and_not_looked_for_without_end():
    view = View(96, 144, 5.0)
    with pytest.raises(ParameterError, match=r"no anomaly of kind 'wrong_way' .*coverage=\(0\.021, 0\.029\) of 100 frames"):
        write_scene(view, 100, 0, "wrong_way", np.random.default_rng(0), coverage=(0.021, 0.029))


@pytest.mark.parametrize(
    ("kind", "people", "anomalies", "abnormal", "columns"),
    [
        ("fast", 5, 1, ((16, 52),), -6185.773),
        ("wrong_way", 5, 1, ((29, 96),), -4102.585),
        ("large", 5, 1, ((31, 96),), 12525.542),
        (None, 5, 0, (), -7807.793),
    ],
)
def test_the_scripts_of_one_camera_stay_what_they_were_before_there_were_others(kind, people, anomalies, abnormal, columns):
    scene = write_scene(View(160, 240, 10.0), 96, 3, kind, np.random.default_rng(7))
    assert (len(scene.people), len(scene.anomalies), runs_of(scene.abnormal)) == (people, anomalies, abnormal)
    assert sum(actor.x.sum() for actor in (*scene.people, *scene.anomalies)) == pytest.approx(columns, abs=1e-3)
