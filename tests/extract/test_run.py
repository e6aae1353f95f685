"""From videos to a dataset folder: once, whole, taken up again, and what fails left out."""

import json
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from lego_fusion.data.dataset import Dataset
from lego_fusion.data.features import read_provenance
from lego_fusion.data.video import Frame
from lego_fusion.errors import DataError, MissingExtraError, ParameterError, VideoError
from lego_fusion.extract.appearance import Appearance
from lego_fusion.extract.base import FrameExtractor
from lego_fusion.extract.describe import decode_video, describe_video, extract_video
from lego_fusion.extract.motion import Motion
from lego_fusion.extract.run import Progress, extract_dataset
from lego_fusion.extract.text import Text
from lego_fusion.scenes.render import SceneSet

REASON = "pip install 'lego-fusion[video]'"
pytest.importorskip("av", reason=REASON)
pytest.importorskip("cv2", reason=REASON)
WriteVideo = Callable[..., Path]


class Brightness(FrameExtractor):
    """The mean of all pixels, and the number and first index of the frames; counts its calls."""

    name, version, nature = "brightness", "1", "magnitude"
    width = 3

    def __init__(self, scale: float = 1.0, *, broken_in_row: int | None = None) -> None:
        self.scale, self.broken_in_row, self.calls = scale, broken_in_row, 0

    @property
    def settings(self) -> dict[str, float]:
        return {"scale": self.scale}

    def snippet(self, frames: Sequence[Frame], before: Frame | None) -> np.ndarray:
        self.calls += 1
        row = [self.scale * np.mean([frame.image.mean() for frame in frames]), len(frames), frames[0].index]
        if self.broken_in_row is not None and frames[0].index == 16 * self.broken_in_row:
            row[1] = float("nan")
        return np.array(row, dtype=np.float32)


@pytest.fixture
def videos(tmp_path: Path, write_video: WriteVideo) -> Path:
    """A folder with flat videos of 40, 16 and 1 frames, of known brightness."""
    for name, frames, level in (("a", 40, 50), ("b", 16, 100), ("c", 1, 200)):
        write_video(tmp_path / "in" / f"{name}.mp4", np.full((frames, 32, 48, 3), level, dtype=np.uint8))
    (tmp_path / "in" / "labels.csv").write_text("video,label,split\na,abnormal,train\nb,normal,train\nc,normal,test\n")
    (tmp_path / "in" / "intervals.csv").write_text("video,start_frame,end_frame\na,30,40\n")
    return tmp_path / "in"


def test_a_dataset_holds_every_snippet_of_every_video(videos: Path, tmp_path: Path) -> None:
    report = extract_dataset(videos, tmp_path / "out", extractors={"light": Brightness(), "motion": Motion()})
    dataset = Dataset.open(tmp_path / "out")
    assert (report.failures, report.warnings, report.extracted, report.reused) == ((), (), 3, 0)
    assert [(r.video, r.label, r.split, r.frames, r.fps) for r in dataset.videos] == [
        ("a", "abnormal", "train", 40, 10.0),
        ("b", "normal", "train", 16, 10.0),
        ("c", "normal", "test", 1, 10.0),
    ]
    np.testing.assert_allclose(dataset.features("light", "a")[:, 1:], [[16, 0], [16, 16], [8, 32]])
    for video, level in (("a", 50), ("b", 100), ("c", 200)):
        np.testing.assert_allclose(dataset.features("light", video)[:, 0], level, atol=5)
    assert not dataset.features("motion", "c").any()  # one frame has no neighbour
    assert dataset.frame_labels("a").sum() == 10
    assert list(dataset.modalities) == ["light", "motion"]
    assert dataset.modalities["motion"] == Motion().manifest("motion")
    assert set(report.seconds) == {"light", "motion", "decode"}


@pytest.mark.parametrize(("length", "stride"), [(16, 16), (7, 3), (5, 9)])
def test_overlap_and_gaps_follow_the_grid(videos: Path, tmp_path: Path, length: int, stride: int) -> None:
    extract_dataset(videos, tmp_path / "out", extractors={"light": Brightness()}, snippet_frames=length, stride=stride)
    values = Dataset.open(tmp_path / "out").features("light", "a")
    expected = [[min(length, 40 - start), start] for start in range(0, 40, stride)]
    np.testing.assert_array_equal(values[:, 1:], expected)


def test_scenes_are_extracted_with_labels_captions_and_truth(scenes: SceneSet, tiny_text_model: Path, tmp_path: Path) -> None:
    text = Text(tiny_text_model)
    extractors = {"motion": Motion(), "text": text}
    report = extract_dataset(scenes.folder, tmp_path / "out", extractors=extractors)
    dataset = report.dataset
    assert {r.video: (r.label, r.split, r.frames) for r in dataset.videos} == {
        video.name: (video.label, video.split, video.frames) for video in scenes.videos
    }
    for video in scenes.videos:
        assert [(one.start_frame, one.end_frame) for one in dataset.intervals(video.name)] == list(video.intervals)
        per_frame = text.encode(json.loads(video.captions.read_text()))
        expected = [per_frame[start : start + 16].mean(axis=0) for start in range(0, video.frames, 16)]
        np.testing.assert_allclose(dataset.features("text", video.name), expected, rtol=1e-4, atol=1e-5)
        alone = extract_video(video.path, extractors, captions=video.captions)
        for modality in extractors:
            np.testing.assert_allclose(alone[modality].values, dataset.features(modality, video.name), atol=1e-6)


def test_a_second_run_extracts_nothing(videos: Path, tmp_path: Path) -> None:
    extract_dataset(videos, tmp_path / "out", extractors={"light": Brightness()})
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    again, told = Brightness(), []
    report = extract_dataset(videos, tmp_path / "out", extractors={"light": again}, on_progress=told.append)
    assert (again.calls, report.extracted, report.reused) == (0, 0, 3)
    assert told == [Progress(video, done, 3, reused=True) for done, video in enumerate("abc", start=1)]
    assert before == {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}


def test_a_run_that_was_stopped_goes_on_to_the_same_result(videos: Path, tmp_path: Path) -> None:
    def stop(progress: Progress) -> None:
        if progress.done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract_dataset(videos, tmp_path / "out", extractors={"light": Brightness()}, on_progress=stop)
    assert not (tmp_path / "out" / "dataset.yaml").exists()
    rest = Brightness()
    report = extract_dataset(videos, tmp_path / "out", extractors={"light": rest})
    extract_dataset(videos, tmp_path / "whole", extractors={"light": Brightness()})
    assert (rest.calls, report.extracted, report.reused) == (1, 1, 2)
    for path in (tmp_path / "whole").rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (tmp_path / "out" / path.relative_to(tmp_path / "whole")).read_bytes()


def test_what_changed_is_extracted_again_and_the_rest_kept(videos: Path, tmp_path: Path, write_video: WriteVideo) -> None:
    out = tmp_path / "out"
    extract_dataset(videos, out, extractors={"light": Brightness(), "other": Brightness(3.0)})
    write_video(videos / "b.mp4", np.full((20, 32, 48, 3), 30, dtype=np.uint8))
    same, changed = Brightness(), Brightness(2.0)
    report = extract_dataset(videos, out, extractors={"light": same})
    assert (same.calls, report.extracted, report.reused) == (2, 1, 2)
    assert report.dataset.records["b"].frames == 20
    report = extract_dataset(videos, out, extractors={"light": changed})
    assert changed.calls == 3 + 2 + 1
    assert report.dataset.modalities["light"].settings == {"scale": 2.0}
    np.testing.assert_allclose(report.dataset.features("light", "a")[:, 0], 100, atol=10)
    assert list(report.dataset.modalities) == ["light", "other"]
    np.testing.assert_allclose(report.dataset.features("other", "a")[:, 0], 150, atol=15)
    assert "other: the features of 1 videos were made from another file, extract it again: b" in report.warnings


def test_a_modality_is_added_beside_the_others(videos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    extract_dataset(videos, out, extractors={"light": Brightness()})
    report = extract_dataset(videos, out, extractors={"look": Appearance()})
    assert list(report.dataset.modalities) == ["light", "look"]
    assert report.dataset.features("light", "a").shape == (3, 3)
    with pytest.raises(DataError, match=r"another time grid .*snippets of 16 frames every 16, as light, look, got 8 every 8"):
        extract_dataset(videos, out, extractors={"motion": Motion()}, snippet_frames=8, stride=8)


def test_changed_captions_are_read_again(scenes: SceneSet, tiny_text_model: Path, tmp_path: Path) -> None:
    shutil.copytree(scenes.folder, tmp_path / "in")
    text = {"text": Text(tiny_text_model)}
    extract_dataset(tmp_path / "in", tmp_path / "out", extractors=text)
    sidecar = tmp_path / "in" / "captions" / scenes.videos[0].captions.name
    sidecar.write_text(json.dumps(["a cart drives by"] * scenes.videos[0].frames))
    report = extract_dataset(tmp_path / "in", tmp_path / "out", extractors=text)
    assert (report.extracted, report.reused) == (1, 3)


def test_several_processes_give_the_same_numbers(videos: Path, scenes: SceneSet, tmp_path: Path) -> None:
    shutil.copytree(scenes.folder, tmp_path / "scenes")
    (tmp_path / "scenes" / "videos" / "broken.mp4").write_text("no video")
    extractors = {"motion": Motion(), "look": Appearance()}
    one, two = (
        extract_dataset(tmp_path / "scenes", tmp_path / f"out{workers}", extractors=extractors, workers=workers)
        for workers in (1, 2)
    )
    assert [failure.video for failure in two.failures] == ["broken"]
    assert one.failures == two.failures
    for video in scenes.videos:
        for modality in extractors:
            values = [report.dataset.features(modality, video.name) for report in (one, two)]
            np.testing.assert_array_equal(*values)


def test_a_file_that_is_no_video_is_left_out_and_reported(videos: Path, tmp_path: Path) -> None:
    (videos / "d.mp4").write_text("I am text")
    (videos / "e.avi").write_bytes(b"")
    report = extract_dataset(videos, tmp_path / "out", extractors={"light": Brightness()})
    assert [record.video for record in report.dataset.videos] == ["a", "b", "c"]
    assert [failure.video for failure in report.failures] == ["d", "e"]
    assert "not a video that can be read" in report.failures[0].message
    assert "got text" in report.failures[0].message
    assert report.extracted == 3


def test_a_cut_video_is_described_as_far_as_it_goes(videos: Path, tmp_path: Path, write_video: WriteVideo) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, size=(40, 32, 48, 3), dtype=np.uint8)
    path = write_video(videos / "a.mp4", pictures)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 7 // 10])
    report = extract_dataset(videos, tmp_path / "out", extractors={"light": Brightness()})
    frames = report.dataset.records["a"].frames
    assert 16 < frames < 40
    assert report.failures == ()
    assert any(warning.startswith("a: ") and "ends early" in warning for warning in report.warnings)
    assert f"a: ground truth past frame {frames}, where the damaged file ends, is cut" in report.warnings
    assert report.dataset.features("light", "a").shape == (-(-frames // 16), 3)
    problem = describe_video(path, {"light": Brightness()}).decoded.problem
    assert problem is not None
    again = extract_dataset(videos, tmp_path / "out", extractors={"light": Brightness()})
    assert again.warnings == report.warnings  # also where nothing is extracted


def test_truth_after_the_end_of_a_sound_video_leaves_it_out(videos: Path, tmp_path: Path) -> None:
    (videos / "intervals.csv").write_text("video,start_frame,end_frame\na,30,41\n")
    report = extract_dataset(videos, tmp_path / "out", extractors={"light": Brightness()})
    assert [failure.video for failure in report.failures] == ["a"]
    assert "expected at most 40 frames, got frames 30 to 41" in report.failures[0].message
    assert [record.video for record in report.dataset.videos] == ["b", "c"]


def test_an_extractor_that_gives_nan_is_named_with_its_place(videos: Path, tmp_path: Path) -> None:
    report = extract_dataset(videos, tmp_path / "out", extractors={"light": Brightness(broken_in_row=1)})
    assert [failure.video for failure in report.failures] == ["a"]
    assert "not finite (a.mp4, modality 'light', row 1, column 1)" in report.failures[0].message
    assert not (tmp_path / "out" / "features" / "light" / "a.npy").exists()
    with pytest.raises(DataError, match="not finite"):
        extract_video(videos / "a.mp4", {"light": Brightness(broken_in_row=0)})


def test_no_usable_video_is_an_error(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    with pytest.raises(DataError, match="no videos in the folder"):
        extract_dataset(folder, tmp_path / "out", extractors={"light": Brightness()})
    (folder / "a.mp4").write_text("text")
    with pytest.raises(DataError, match=r"no video could be extracted .*1 failures, the first in 'a': not a video"):
        extract_dataset(folder, tmp_path / "out", extractors={"light": Brightness()})
    assert not (tmp_path / "out" / "dataset.yaml").exists()
    with pytest.raises(VideoError, match="not a video that can be read"):
        extract_video(folder / "a.mp4", {"light": Brightness()})


def test_captions_shorter_than_the_video_leave_it_out(scenes: SceneSet, tiny_text_model: Path, tmp_path: Path) -> None:
    shutil.copytree(scenes.folder, tmp_path / "in")
    first, second = (video.name for video in scenes.videos[:2])
    frames = scenes.videos[0].frames
    (tmp_path / "in" / "captions" / f"{first}.json").write_text(json.dumps(["a cart"] * (frames - 3)))
    (tmp_path / "in" / "captions" / f"{second}.json").unlink()
    report = extract_dataset(tmp_path / "in", tmp_path / "out", extractors={"text": Text(tiny_text_model)})
    assert [failure.video for failure in report.failures] == [first, second]
    assert "captions are shorter than the video (" in report.failures[0].message
    assert f"expected captions for {frames} frames, got captions for {frames - 3}" in report.failures[0].message
    assert "the video has no captions" in report.failures[1].message
    report = extract_dataset(tmp_path / "in", tmp_path / "out", extractors={"text": Text(tiny_text_model, gaps="nearest")})
    assert [failure.video for failure in report.failures] == [second]
    shutil.rmtree(tmp_path / "in" / "captions")
    with pytest.raises(DataError, match=r"no video has captions .*leave out text"):
        extract_dataset(tmp_path / "in", tmp_path / "out", extractors={"text": Text(tiny_text_model)})


def test_videos_that_come_and_go_are_told(videos: Path, tmp_path: Path, write_video: WriteVideo) -> None:
    extract_dataset(videos, tmp_path / "out", extractors={"light": Brightness()})
    (videos / "c.mp4").unlink()
    write_video(videos / "d.mp4", np.zeros((3, 32, 48, 3), np.uint8))
    report = extract_dataset(videos, tmp_path / "out", extractors={"other": Brightness(2.0)})
    assert "1 videos of the dataset are not in the source and are left out of it now" in report.warnings
    assert "1 videos are new and have no features of light" in report.warnings
    assert report.dataset.records["d"].label == ""


def test_provenance_tells_where_features_come_from(videos: Path, tmp_path: Path) -> None:
    extract_dataset(videos, tmp_path / "out", extractors={"light": Brightness()})
    record = read_provenance(tmp_path / "out", "light", "a")
    assert record is not None
    assert record["manifest_hash"] == Brightness().manifest("light").hash
    assert (record["source"], record["frames"], record["fps"], record["rows"]) == ("a.mp4", 40, 10.0, 3)
    assert len(record["source_sha256"]) == 64
    (tmp_path / "out" / "features" / "light" / "a.json").write_text("damaged")
    again = Brightness()
    extract_dataset(videos, tmp_path / "out", extractors={"light": again})
    assert again.calls == 3


def test_rows_have_the_times_of_their_frames(videos: Path) -> None:
    features = extract_video(videos / "a.mp4", {"light": Brightness()})["light"]
    np.testing.assert_allclose(features.spans, [[0.0, 1.6], [1.6, 3.2], [3.2, 4.0]], atol=1e-9)


def test_without_extractors_a_video_is_only_counted(videos: Path) -> None:
    decoded = decode_video(videos / "a.mp4", {})
    assert (decoded.frames, decoded.values, round(decoded.fps, 9)) == (40, {}, 10.0)


def test_what_is_not_an_extractor_or_a_worker_is_refused(videos: Path, tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="no extractor given"):
        extract_dataset(videos, tmp_path / "out", extractors={})
    with pytest.raises(ParameterError, match="'workers' parameter of extract_dataset"):
        extract_dataset(videos, tmp_path / "out", extractors={"light": Brightness()}, workers=0)


def test_a_missing_extra_stops_the_run_with_its_name(videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(MissingExtraError, match=r"lego-fusion\[video\]"):
        extract_dataset(videos, tmp_path / "out", extractors={"motion": Motion()})


def test_three_ordinary_videos_give_finite_rows(shared_data: Path) -> None:
    path = shared_data / "videos" / "bottle-detection.mp4"
    features = extract_video(path, {"look": Appearance(frames_per_snippet=1)}, snippet_frames=64, stride=64)["look"]
    assert features.values.shape[0] == len(features.spans)
    assert (np.diff(features.spans[:, 0]) > 0).all()
