"""Footage with one planted fault at a time; good footage of crowds and traffic has none."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from lego_fusion.data.video import Frame, VideoReader
from lego_fusion.extract.footage import FootageMonitor, check_footage

pytest.importorskip("cv2", reason="pip install 'lego-fusion[video]'")

FPS = 10.0
HEIGHT, WIDTH = 120, 160
Change = Callable[[np.ndarray, float], np.ndarray]


def scene(seed: int = 0) -> np.ndarray:
    """A wall of boxes, wider than the picture, (h, 2 w) grey levels."""
    random = np.random.default_rng(seed)
    wall = np.full((HEIGHT, 2 * WIDTH), 110.0)
    for _ in range(60):
        y, x = random.integers(0, HEIGHT - 20), random.integers(0, 2 * WIDTH - 30)
        wall[y : y + random.integers(8, 20), x : x + random.integers(8, 30)] = random.integers(40, 220)
    return wall


def film(change: Change = lambda picture, time: picture, *, seconds: float = 12.0, noise: float = 2.0) -> Iterator[Frame]:
    """A still camera on the wall, a dark box that walks through, noise, and one change."""
    random, wall = np.random.default_rng(1), scene()
    for index in range(int(seconds * FPS)):
        time = index / FPS
        picture = wall[:, WIDTH // 2 : WIDTH // 2 + WIDTH].copy()
        left = int(10 * time) % (WIDTH - 20)
        picture[50:90, left : left + 20] = 20
        picture = change(picture, time) + noise * random.normal(size=(HEIGHT, WIDTH))
        yield Frame(index, time, np.repeat(picture.clip(0, 255).astype(np.uint8)[..., None], 3, axis=2))


def kinds(frames: Iterator[Frame]) -> list[str]:
    return [warning.kind for warning in check_footage(frames)]


def test_good_footage_has_no_warning() -> None:
    assert kinds(film()) == []
    assert kinds(film(noise=8.0)) == []


def after(begin: float, change: Callable[[np.ndarray], np.ndarray]) -> Change:
    return lambda picture, time: change(picture) if time >= begin else picture


@pytest.mark.parametrize(
    ("kind", "change", "within"),
    [
        ("scene cut", lambda picture: scene(5)[:, :WIDTH], 0.3),
        ("camera moved", lambda picture: np.roll(picture, 16, axis=1), 3.0),
        ("camera moved", lambda picture: np.roll(picture, -12, axis=0), 3.0),
        ("dark", lambda picture: picture * 0.05, 1.5),
        ("light changed", lambda picture: picture * 0.6, 3.0),
    ],
)
def test_each_fault_is_told_by_name_and_when_it_begins(kind: str, change: Callable, within: float) -> None:
    found = check_footage(film(after(6.0, change)))
    assert kind in [warning.kind for warning in found]
    first = next(warning for warning in found if warning.kind == kind)
    assert 6.0 <= first.seconds <= 6.0 + within
    assert all(warning.kind == kind for warning in found if warning.seconds < 6.0 + within)


def test_a_frozen_picture_is_told_with_the_time_it_froze() -> None:
    frames = list(film(seconds=9.0))
    frozen = [*frames[:40], *(Frame(frame.index, frame.time, frames[39].image) for frame in frames[40:])]
    (warning,) = check_footage(iter(frozen))
    assert warning.kind == "frozen" and 3.5 <= warning.seconds <= 4.3
    short = [*frozen[:55], *frames[55:]]  # a second and a half
    assert kinds(iter(short)) == []


def test_a_new_size_is_told_at_its_frame() -> None:
    frames = list(film(seconds=6.0))
    smaller = [Frame(frame.index, frame.time, np.ascontiguousarray(frame.image[::2, ::2])) for frame in frames[30:]]
    (warning,) = check_footage([*frames[:30], *smaller])
    assert str(warning) == "size changed at 3.0 s: from 160 x 120 to 80 x 60 pixels"


def test_a_state_is_told_once_while_it_lasts_and_again_when_it_returns() -> None:
    def blackouts(picture: np.ndarray, time: float) -> np.ndarray:
        return picture * 0.05 if 3 <= time < 6 or 9 <= time < 12 else picture

    assert [kind for kind in kinds(film(blackouts, seconds=15.0)) if kind == "dark"] == ["dark", "dark"]


def test_a_camera_that_keeps_moving_is_told_three_times() -> None:
    wall = np.tile(scene(), 4)

    def pan(picture: np.ndarray, time: float) -> np.ndarray:
        left = 24 * int(time // 5)
        return wall[:, left : left + WIDTH]

    found = check_footage(film(pan, seconds=40.0))
    assert [warning.kind for warning in found] == ["camera moved"] * 3
    assert "keeps moving" in found[-1].message


def test_it_does_not_depend_on_the_frame_rate_and_keeps_no_history() -> None:
    frames = list(film(after(6.0, lambda picture: picture * 0.05)))
    half = [warning.kind for warning in check_footage(frames[::2])]
    assert half == [warning.kind for warning in check_footage(frames)]
    monitor = FootageMonitor()
    for frame in frames:
        monitor.look(frame)
    held = sum(value.nbytes for value in vars(monitor).values() if isinstance(value, np.ndarray))
    assert held < 100_000


def test_real_footage_of_a_crowd_has_no_warning(shared_data: Path) -> None:
    for name in ("test_11", "train_03"):
        with VideoReader(shared_data / "ped2" / "videos" / f"{name}.mp4") as frames:
            assert check_footage(frames) == []


def test_the_doctor_looks_at_the_videos_of_a_dataset(tmp_path: Path) -> None:
    pytest.importorskip("av", reason="pip install 'lego-fusion[video]'")
    from typer.testing import CliRunner

    from lego_fusion.cli import app
    from lego_fusion.data.dataset import write_dataset
    from lego_fusion.data.manifest import Manifest
    from lego_fusion.data.tables import DatasetConfig, VideoRecord
    from lego_fusion.extract.footage import footage_findings
    from lego_fusion.scenes.render import render_scenes

    scene = render_scenes(tmp_path / "scenes", videos=2, frames=(30, 30), size=(64, 96), seed=3).videos[0]
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"")
    manifest = Manifest(modality="motion", extractor="motion", version="1", width=2)
    records = [
        VideoRecord("good", "normal", scene.frames, 10.0, "train", file=str(scene.path)),
        VideoRecord("gone", "normal", 30, 10.0, "train", file="nowhere.mp4"),
        VideoRecord("empty", "normal", 30, 10.0, "train", file=str(broken)),
    ]
    dataset = write_dataset(tmp_path / "data", DatasetConfig(name="d", modalities={"motion": manifest}), records)
    found = {finding.where: (finding.severity, finding.check) for finding in footage_findings(dataset)}
    assert found == {"gone": ("warning", "footage"), "empty": ("error", "footage")}
    result = CliRunner().invoke(app, ["doctor", str(dataset.root), "--footage", "--json"], catch_exceptions=False)
    assert result.exit_code == 2 and '"gone"' in result.stdout
