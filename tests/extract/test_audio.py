"""Sound as log-mel energies: the right band rises in the right snippet, whatever the clocks of the tracks say."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lego_fusion.data.dataset import Dataset
from lego_fusion.errors import DataError, ParameterError, VideoError
from lego_fusion.extract.audio import RATE, Audio, mel_centres, mel_filter_bank, read_sound
from lego_fusion.extract.describe import extract_video
from lego_fusion.extract.registry import extractor_for
from lego_fusion.extract.run import extract_dataset

av = pytest.importorskip("av", reason="pip install 'lego-fusion[video]'")
SOURCE_RATE = 44_100


def tone(hertz: float, seconds: float, amplitude: float = 0.5) -> np.ndarray:
    return amplitude * np.sin(2 * np.pi * hertz * np.arange(round(seconds * SOURCE_RATE)) / SOURCE_RATE)


@pytest.fixture
def write_film(tmp_path: Path) -> Callable[..., Path]:
    """Write a grey video with sound that begins ``start`` seconds after the first frame, or without any.

    ``hole`` is (at, seconds): nothing is there for so long after so many seconds of sound.
    """

    def write(
        sound: np.ndarray | None,
        *,
        name: str = "film.mkv",
        frames: int = 64,
        fps: int = 16,
        start: float = 0.0,
        video_start: int = 0,
        hole: tuple[float, float] = (0.0, 0.0),
    ) -> Path:
        codec = {".mkv": "pcm_s16le", ".mp4": "aac"}[Path(name).suffix]
        with av.open(str(tmp_path / name), "w") as container:
            video = container.add_stream("mpeg4", rate=fps)
            video.width, video.height, video.pix_fmt = 32, 32, "yuv420p"
            video.time_base = Fraction(1, fps)
            audio = None if sound is None else container.add_stream(codec, rate=SOURCE_RATE, layout="mono")
            packets = []
            for index in range(frames):
                frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 2 * index % 255, np.uint8), format="rgb24")
                frame.pts, frame.time_base = index + video_start, Fraction(1, fps)
                packets += video.encode(frame)
            packets += video.encode()
            if audio is not None and sound is not None:
                blocks = [sound[i : i + 1024] for i in range(0, len(sound), 1024)]
                offset = round((start + video_start / fps) * SOURCE_RATE)
                for number, block in enumerate(blocks):
                    values = (block * 32767).astype(np.int16)[None]
                    frame = av.AudioFrame.from_ndarray(values, format="s16", layout="mono")
                    late = round(hole[1] * SOURCE_RATE) if 1024 * number >= hole[0] * SOURCE_RATE else 0
                    frame.sample_rate, frame.time_base = SOURCE_RATE, Fraction(1, SOURCE_RATE)
                    frame.pts = offset + 1024 * number + late
                    packets += audio.encode(frame)
                packets += audio.encode()
            for packet in sorted(packets, key=lambda one: float((one.dts or 0) * one.time_base)):
                container.mux(packet)
        return tmp_path / name

    return write


def rows_of(path: Path, **options: Any) -> np.ndarray:
    return extract_video(path, {"audio": Audio(**options)})["audio"].values


# The filter bank


@pytest.mark.parametrize("bands", [8, 40, 64, 128])
def test_the_triangles_add_up_to_one_between_the_first_and_the_last_centre(bands: int) -> None:
    bank, centres = mel_filter_bank(bands), mel_centres(bands)
    frequencies = np.linspace(0, RATE / 2, bank.shape[1])
    between = (frequencies >= centres[0]) & (frequencies <= centres[-1])
    np.testing.assert_allclose(bank.sum(axis=0)[between], 1, atol=1e-12)
    assert (bank >= 0).all() and (bank.sum(axis=0) <= 1 + 1e-12).all() and (bank.max(axis=1) > 0).all()


def test_centres_are_equally_spaced_in_mel_and_where_the_formula_puts_them() -> None:
    centres = mel_centres(64)
    mel = 1127.01048 * np.log(1 + centres / 700)  # the same scale by its other formula, 2595 / ln 10 = 1127.01048
    np.testing.assert_allclose(np.diff([0, *mel, 1127.01048 * np.log(1 + 8000 / 700)]), mel[0], rtol=1e-4)


def test_a_band_peaks_at_its_centre_and_ends_at_its_neighbours() -> None:
    bank = mel_filter_bank(8, bins=16_000)  # one bin per Hz
    centres = np.concatenate([[0], mel_centres(8), [8000]])
    for band, weights in enumerate(bank):
        low, centre, high = centres[band : band + 3]
        assert abs(int(weights.argmax()) - centre) <= 1
        inside = np.flatnonzero(weights)
        assert abs(inside[0] - low) <= 1.5 and abs(inside[-1] - high) <= 1.5


# What a snippet is described by


@settings(deadline=None, max_examples=20)
@given(hertz=st.floats(200.0, 6000.0), amplitude=st.floats(0.05, 1.0))
def test_the_energies_of_a_tone_add_up_to_its_mean_square(hertz: float, amplitude: float) -> None:
    samples = amplitude * np.sin(2 * np.pi * hertz * np.arange(RATE) / RATE)
    energies = 10 ** (Audio()._energy(samples, np.arange(10, 60)) / 10) - 1e-8
    np.testing.assert_allclose(energies.sum(axis=1), amplitude**2 / 2, rtol=0.02)
    assert abs(int(energies.mean(axis=0).argmax()) - int(np.abs(mel_centres(64) - hertz).argmin())) <= 1


@pytest.mark.parametrize(("name", "hertz"), [("film.mkv", 440.0), ("film.mkv", 3000.0), ("film.mp4", 1000.0)])
def test_the_band_of_a_tone_rises_in_its_snippet_and_nowhere_else(write_film, name: str, hertz: float) -> None:
    silence = np.zeros(SOURCE_RATE)
    rows = rows_of(write_film(np.concatenate([silence, silence, tone(hertz, 1), silence]), name=name))  # snippets of 1 s
    assert rows.shape == (4, 128)
    band = int(np.abs(mel_centres(64) - hertz).argmin())
    means = rows[:, :64]
    assert int(means[2].argmax()) in (band - 1, band, band + 1)
    assert means[2, band] > -20 and (means[[0, 1, 3], band] < -60).all()
    assert rows[2, 64 + band] < 12 and means[2, band] - np.median(means[2]) > 30


@pytest.mark.parametrize("name", ["film.mkv", "film.mp4"])
@pytest.mark.parametrize("video_start", [0, 24])
def test_sound_that_begins_later_is_where_the_clock_of_the_file_puts_it(write_film, name: str, video_start: int) -> None:
    """The track begins at 2.5 s with a tone of 0.5 s: the third snippet is half without sound, and all of it is tone."""
    sound = np.concatenate([tone(1000, 0.5), np.zeros(SOURCE_RATE)])
    rows = rows_of(write_film(sound, name=name, start=2.5, video_start=video_start), gaps="silence")
    band = int(np.abs(mel_centres(64) - 1000).argmin())
    loud = rows[:, band]
    assert (loud[:2] == -80).all() and loud[2] > -15 and loud[3] < -50
    assert rows[2, 64 + band] < 8


def test_windows_are_counted_by_their_centre(write_film) -> None:
    """A tone of 0.25 s in a snippet of 1 s is heard in a quarter of its windows: mean and deviation tell how many."""
    sound = np.concatenate([np.zeros(SOURCE_RATE // 2), tone(1000, 0.25), np.zeros(13 * SOURCE_RATE // 4)])
    rows = rows_of(write_film(sound))
    band = int(np.abs(mel_centres(64) - 1000).argmin())
    share = (rows[0, band] + 80) / (rows_of(write_film(tone(1000, 4), name="loud.mkv"))[0, band] + 80)
    assert share == pytest.approx(0.25 + 0.0125, abs=0.02)  # windows at the borders hear a part of it


def test_rows_are_as_many_as_snippets_and_a_short_last_one_has_sound(write_film) -> None:
    for frames in (1, 15, 17, 33):
        path = write_film(tone(500, frames / 16), name=f"film{frames}.mkv", frames=frames)
        rows = rows_of(path)
        assert rows.shape == (-(-frames // 16), 128) and rows.dtype == np.float32
        assert (rows[:, :64].max(axis=1) > -30).all()


def test_a_tone_twice_as_loud_is_six_decibels_more_in_its_bands(write_film) -> None:
    soft, loud = (rows_of(write_film(tone(800, 4, a), name=f"a{a}.mkv"))[1, :64] for a in (0.25, 0.5))
    band = int(loud.argmax())
    assert loud[band] - soft[band] == pytest.approx(20 * np.log10(2), abs=0.05)


# What lacks


def test_a_video_without_a_track_is_named_once_or_silent_if_asked(write_film) -> None:
    path = write_film(None)
    assert read_sound(path) is None
    with pytest.raises(DataError, match=r"no audio track \(film\.mkv\).*gaps=silence"):
        rows_of(path)
    rows = rows_of(path, gaps="silence")
    assert (rows[:, :64] == -80).all() and (rows[:, 64:] == 0).all() and rows.shape == (4, 128)


def test_sound_that_ends_early_is_an_error_that_says_where_or_silence(write_film) -> None:
    path = write_film(tone(1000, 1.5))
    with pytest.raises(DataError, match=r"no sound for a part .*film\.mkv, 2\.00 to 3\.00 s.*sound from 0\.00 to 1\.50 s"):
        rows_of(path)
    rows = rows_of(path, gaps="silence")
    assert (rows[1, :64].max() > -20) and (rows[2:, :64] == -80).all()


def test_a_hole_in_the_track_is_no_sound_and_moves_nothing(write_film) -> None:
    path = write_film(tone(1000, 2), hole=(0.9, 2.1))
    assert [round(piece.start, 1) for piece in read_sound(path)] == [0.0, 3.0]
    rows = rows_of(path, gaps="silence")
    assert (rows[[0, 3], :64].max(axis=1) > -20).all() and (rows[[1, 2], :64].max(axis=1) < -60).all()
    with pytest.raises(DataError, match=r"1\.00 to 2\.00 s.*sound from 0\.00 to 0\.9\d s, sound from 3"):
        rows_of(path)


def test_sound_that_ends_within_a_tenth_of_a_second_is_taken_as_whole(write_film) -> None:
    rows = rows_of(write_film(tone(1000, 2.95), frames=49))  # the last snippet is one frame, from 3 s on
    assert rows.shape == (4, 128) and rows[3, :64].max() > -20


def test_a_broken_file_and_wrong_arguments(tmp_path: Path) -> None:
    (tmp_path / "film.mp4").write_bytes(b"no video")
    with pytest.raises(VideoError, match=r"not a video"):
        read_sound(tmp_path / "film.mp4")
    with pytest.raises(ParameterError, match=r"'bands' parameter of Audio"):
        Audio(bands=4)
    with pytest.raises(ParameterError, match=r"'gaps' parameter of Audio"):
        Audio(gaps="nearest")


# As other extractors


def test_a_folder_of_videos(write_film, tmp_path: Path) -> None:
    write_film(tone(1000, 4), name="loud.mkv"), write_film(None, name="mute.mkv")
    report = extract_dataset(tmp_path, tmp_path / "out", extractors={"sound": Audio()})
    assert [failure.video for failure in report.failures] == ["mute"]
    dataset = Dataset.open(tmp_path / "out")
    assert dataset.features("sound", "loud").shape == (4, 128)
    assert extractor_for(dataset.modalities["sound"]).settings == {"bands": 64, "gaps": "error"}
    assert dataset.modalities["sound"].nature == "magnitude"
    again = extract_dataset(tmp_path, tmp_path / "out", extractors={"sound": Audio()})
    assert again.reused == 1


def test_columns_are_named() -> None:
    assert len(Audio().columns()) == Audio().width == 128
    assert len(set(Audio().columns())) == 128


def test_the_track_of_a_real_video(shared_data: Path) -> None:
    rows = rows_of(shared_data / "videos" / "car-detection.mp4")
    assert rows.shape == (24, 128) and np.isfinite(rows).all()
