"""Where the videos, labels, captions and ground truth of a data set lie: listings of folders people really have."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ..data.files import check_name, read_table
from ..data.ground_truth import intervals_from_labels
from ..data.tables import Interval, read_intervals
from ..data.video import find_videos
from ..errors import DataError, check_choice
from .captions import CAPTION_SUFFIXES, texts_by_video

# TEVAD, RTFM and MSAD use the same weakly supervised lists; every other clip is for testing.
PED2_TRAIN = frozenset(
    [f"test_{clip:02d}" for clip in (2, 6, 9, 10, 11, 12)] + [f"train_{clip:02d}" for clip in (7, 8, 14, 15)]
)
_LABELS = ("normal", "abnormal")
_LABEL_COLUMNS = ("split", "domain", "camera", "class", "source")


@dataclass(frozen=True)
class SourceVideo:
    """One video to extract, and what is known about it.

    Args:
        name: Name in the dataset.
        path: The video file.
        label: ``"normal"``, ``"abnormal"``, or empty where nobody has said.
        split: Name of its split; empty for none.
        domain: Where it comes from.
        camera: Name of the camera.
        class_name: Kind of anomaly.
        source: The recording it was cut from.
        captions: The caption file; or one text or None per frame; None where there are no captions.
    """

    name: str
    path: Path
    label: str = ""
    split: str = ""
    domain: str = ""
    camera: str = ""
    class_name: str = ""
    source: str = ""
    captions: Path | tuple[str | None, ...] | None = None


@dataclass(frozen=True)
class Listing:
    """The videos of a data set before extraction.

    Args:
        name: Name of the data set.
        videos: Sorted by name.
        intervals: Ground truth by video; a video without any is absent.
        warnings: What is odd but no obstacle, one line each.
    """

    name: str
    videos: tuple[SourceVideo, ...]
    intervals: Mapping[str, tuple[Interval, ...]] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def list_source(
    source: str | Path,
    *,
    layout: str = "folder",
    labels: str | Path | None = None,
    intervals: str | Path | None = None,
    captions: str | Path | None = None,
) -> Listing:
    """List the videos below ``source`` with labels, ground truth and captions.

    Args:
        source: Folder of the data set.
        layout: ``"folder"`` (see list_folder) or ``"ped2"`` (see list_ped2).
        labels: Label table, instead of the one beside the videos.
        intervals: Ground-truth table, instead of the one beside the videos.
        captions: Folder of caption files (for ``"ped2"`` the JSON file), instead of the one beside the videos.

    Raises:
        DataError: No videos, or tables that contradict each other or the videos.
    """
    check_choice(layout, "layout", "list_source", tuple(LAYOUTS))
    given = (Path(path) if path is not None else None for path in (labels, intervals, captions))
    return LAYOUTS[layout](Path(source), *given)


def list_folder(
    source: Path, labels: Path | None = None, intervals: Path | None = None, captions: Path | None = None
) -> Listing:
    """List a folder of videos, or one with the videos in its sub-folder ``videos/``.

    Picked up beside the videos (or beside ``videos/``) unless given: ``labels.csv`` (columns video, label and
    optionally split, domain, camera, class, source; names with or without suffix), ``intervals.csv`` (video, start_frame,
    end_frame, class) and ``captions/<video>.json`` (or .csv, .srt, .vtt, .txt).
    """
    inner = source / "videos"
    paths = find_videos(inner if inner.is_dir() else source)
    labels, intervals, captions = (
        given or _if_there(source / name)
        for given, name in ((labels, "labels.csv"), (intervals, "intervals.csv"), (captions, "captions"))
    )
    names = {path.name: path.stem for path in paths} | {path.stem: path.stem for path in paths}
    table, warnings = _read_labels(labels, names) if labels else ({}, [f"no labels: no labels.csv in {source}"])
    sidecars = _find_captions(captions, {path.stem for path in paths}) if captions else {}
    videos = [_described(path, table.get(path.stem, {}), sidecars.get(path.stem)) for path in paths]
    truth, odd = _read_truth(intervals, names) if intervals else ({}, [])
    return Listing(source.resolve().name, tuple(videos), truth, (*warnings, *odd))


def list_ped2(source: Path, labels: Path | None = None, intervals: Path | None = None, captions: Path | None = None) -> Listing:
    """List UCSD Ped2 with one label per frame, captions, and the weakly supervised split of TEVAD.

    Expects ``videos/{train,test}_NN.mp4``, ``labels.csv`` (split, clip, frame, label) and optionally
    ``captions_gpt4o.json`` (``{"train" | "test": {"NN": [text or null, ...]}}``).
    """
    paths = find_videos(source / "videos")
    truth = _ped2_labels(labels or source / "labels.csv")
    if intervals is not None:
        raise DataError("the ped2 layout takes its ground truth from labels.csv", got=intervals, fix="leave it out")
    found = captions or _if_there(source / "captions_gpt4o.json")
    texts = _ped2_captions(found) if found else {}
    videos, spans = [], {}
    for path in paths:
        if path.stem not in truth:
            raise DataError("a clip has no labels", where=path, fix="complete labels.csv")
        abnormal = truth[path.stem]
        split = "train" if path.stem in PED2_TRAIN else "test"
        label = _LABELS[int(abnormal.any())]
        videos.append(SourceVideo(path.stem, path, label, split, camera="ped2", captions=texts.get(path.stem)))
        if abnormal.any():
            spans[path.stem] = intervals_from_labels(path.stem, abnormal)
    return Listing("ped2", tuple(videos), spans)


LAYOUTS: dict[str, Callable[[Path, Path | None, Path | None, Path | None], Listing]] = {
    "folder": list_folder,
    "ped2": list_ped2,
}


def _if_there(path: Path) -> Path | None:
    return path if path.exists() else None


def _described(path: Path, row: Mapping[str, str], captions: Path | None) -> SourceVideo:
    facts = {column: row.get(column, "") for column in ("label", *_LABEL_COLUMNS)}
    facts["class_name"] = facts.pop("class")
    return SourceVideo(check_name(path.stem, "video"), path, captions=captions, **facts)


def _read_labels(path: Path, names: Mapping[str, str]) -> tuple[dict[str, dict[str, str]], list[str]]:
    """Read a label table by video, and warn of videos that only one side knows."""
    table: dict[str, dict[str, str]] = {}
    unknown: list[str] = []
    for line, row in read_table(path, ("video", "label"), _LABEL_COLUMNS):
        where = f"{path}, line {line}"
        if row["label"] not in (*_LABELS, ""):
            raise DataError("unknown label", where=where, expected="normal, abnormal or empty", got=repr(row["label"]))
        video = names.get(row["video"])
        if video is None:
            unknown.append(row["video"])
        elif video in table:
            raise DataError(f"the video '{video}' is labelled twice", where=where, fix="remove one of the rows")
        else:
            table[video] = row
    if not table:
        raise DataError(
            "the label table names none of the videos",
            where=path,
            expected=f"names such as {next(iter(names.values()))}",
            got=_some(unknown) if unknown else "no rows",
            fix="write the file names of the videos in the column 'video'",
        )
    warnings = _not_there(path, unknown)
    missing = sorted(set(names.values()) - set(table))
    if missing:
        warnings.append(f"{path.name} has no row for {len(missing)} videos, which stay unlabelled: {_some(missing)}")
    return table, warnings


def _read_truth(path: Path, names: Mapping[str, str]) -> tuple[dict[str, tuple[Interval, ...]], list[str]]:
    table: dict[str, tuple[Interval, ...]] = {}
    given = read_intervals(path)
    for name in (name for name in given if name in names):
        video = names[name]
        table[video] = table.get(video, ()) + tuple(replace(one, video=video) for one in given[name])
    return table, _not_there(path, [name for name in given if name not in names])


def _not_there(path: Path, names: list[str]) -> list[str]:
    return [f"{path.name} names {len(names)} videos that are not there: {_some(names)}"] if names else []


def _find_captions(folder: Path, videos: set[str]) -> dict[str, Path]:
    """Find one caption file per video by its stem."""
    if not folder.is_dir():
        raise DataError("not a folder of caption files", where=folder, expected="a folder with <video>.json or the like")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in CAPTION_SUFFIXES or path.stem not in videos or not path.is_file():
            continue
        if path.stem in found:
            raise DataError(
                "two caption files for one video",
                where=folder,
                got=f"{found[path.stem].name} and {path.name}",
                fix="remove one of them",
            )
        found[path.stem] = path
    return found


def _ped2_labels(path: Path) -> dict[str, np.ndarray]:
    """Read one truth value per frame of every clip."""
    frames: dict[str, dict[int, bool]] = {}
    for line, row in read_table(path, ("split", "clip", "frame", "label")):
        try:
            clip, frame, label = (int(row[column]) for column in ("clip", "frame", "label"))
        except ValueError as error:
            raise DataError("not a number", where=f"{path}, line {line}", got=error) from error
        frames.setdefault(f"{row['split']}_{clip:02d}", {})[frame] = bool(label)
    for clip_name, labels in frames.items():
        if sorted(labels) != list(range(len(labels))):
            raise DataError("labels of some frames are missing", where=f"{path}, clip {clip_name}")
    return {name: np.array([labels[frame] for frame in range(len(labels))]) for name, labels in frames.items()}


def _ped2_captions(path: Path) -> dict[str, tuple[str | None, ...]]:
    texts = texts_by_video(path)
    if not texts:
        expected = '{"train" or "test": {"NN": [text or null, ...]}}'
        raise DataError("not the captions of Ped2", where=path, expected=expected, got="no texts of a video")
    return {video: tuple(of_frames) for video, of_frames in texts.items()}


def _some(names: list[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
