"""Ground truth as the field stores it, one long array, annotation files, masks; apart from ``importers``: a format each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Bool

from ..errors import DataError, check_choice, check_int, located
from .features import load_features
from .files import read_text
from .lists import video_name
from .tables import Interval, read_intervals

Array = np.ndarray[Any, np.dtype[Any]]
Intervals = dict[str, tuple[Interval, ...]]
Form = Literal["array", "ucf-crime", "xd-violence", "masks", "intervals"]


@dataclass(frozen=True)
class Span:
    """One video as ground truth needs to know it.

    Args:
        video: Name.
        label: ``"normal"`` or ``"abnormal"``.
        frames: Its frames.
        padded: Its frames when padded to whole snippets.
        slack: By how many frames at most ``frames`` may be wrong: 0 where they were counted, a snippet less one where
            they follow from the number of feature rows.
    """

    video: str
    label: str
    frames: int
    padded: int
    slack: int = 0


def read_ground_truth(path: str | Path, spans: Sequence[Span], form: str = "auto", others: Sequence[Span] = ()) -> Intervals:
    """Read ground truth of any form the field uses.

    Args:
        path: A ``.npy`` array over the frames of all videos, an annotation file of UCF-Crime or XD-Violence, a folder of
            masks, or a table of intervals.
        spans: The test videos, in the order of their list.
        form: ``"array"``, ``"ucf-crime"``, ``"xd-violence"``, ``"masks"``, ``"intervals"``, or ``"auto"`` by what is there.
        others: Videos that may have ground truth too, such as those of training; an array says nothing of them.

    Returns:
        Intervals by video; frames counted from 0, half open.

    Raises:
        DataError: If it cannot be read, or does not fit the videos.
    """
    path = Path(path)
    form = _form_of(path) if form == "auto" else check_choice(form, "form", "read_ground_truth", get_args(Form))
    if form == "array":
        return intervals_from_array(load_features(path, f"ground truth {path.name}"), spans, where=str(path))
    if form == "masks":
        return _from_masks(path, spans, others)
    by_video = read_intervals(path) if form == "intervals" else read_annotations(path, form)
    return {span.video: by_video[span.video] for span in (*spans, *others) if span.video in by_video}


def intervals_from_array(values: Array, spans: Sequence[Span], *, where: str) -> Intervals:
    """Cut one frame-level array over all videos, in the order of their list, into intervals of each.

    The array holds either the real frames of every video, or each video padded to whole snippets, as TEVAD and RTFM write it;
    frames of the padding are left out where the real number of frames is known.

    Args:
        values: Zeros and ones, shape (frames of all videos,).
        spans: The videos, in order.
        where: Name of the file, for the messages.

    Raises:
        DataError: If it holds anything else, or its length fits neither; the message names the first video that is off.

    Example:
        >>> spans = [Span("a", "abnormal", 3, 4), Span("b", "normal", 4, 4)]
        >>> intervals_from_array(np.array([0, 1, 1, 1, 0, 0, 0, 0]), spans, where="gt.npy")
        {'a': (Interval(video='a', start_frame=1, end_frame=3, class_name=''),)}
    """
    if values.ndim != 1 or values.dtype.kind not in "biuf" or not np.isin(values, (0, 1)).all():
        got = f"shape {values.shape}, type {values.dtype}"
        raise DataError("not a frame-level ground truth", where=where, expected="one line of zeros and ones", got=got)
    labels = np.asarray(values, dtype=bool)
    lengths = {"padded": [span.padded for span in spans], "real": [span.frames for span in spans]}
    fitting = [sizes for sizes in lengths.values() if sum(sizes) == len(labels)]
    if not fitting:
        raise _wrong_length(labels, spans, where)
    found: Intervals = {}
    for span, part in zip(spans, np.split(labels, np.cumsum(fitting[0])[:-1]), strict=True):
        if intervals := intervals_from_labels(span.video, part[: span.frames]):
            found[span.video] = intervals
    return found


def _wrong_length(labels: Bool[np.ndarray, " frames"], spans: Sequence[Span], where: str) -> DataError:
    """The error that names the first video at which the array and the list part."""
    start = 0
    for span in spans:
        part = labels[start : start + span.padded]
        if len(part) < span.padded:
            first, why = span, f"it ends {span.padded - len(part)} frames before the end of that video"
            break
        if part.any() != (span.label == "abnormal"):
            what = "no abnormal frame in an abnormal" if span.label == "abnormal" else "abnormal frames in a normal"
            first, why = span, f"it has {what} video"
            break
        start += span.padded
    else:
        first, why = spans[-1], f"{len(labels) - start} frames are left after that last video"
    return DataError(
        f"the ground truth has the wrong length; the first video that is off is '{first.video}': {why}",
        where=where,
        expected=f"{sum(span.padded for span in spans)} frames (rows x stride of {len(spans)} videos in list order)",
        got=f"{len(labels)} frames",
        fix="use the list, features and ground truth of one publication",
    )


def read_annotations(path: str | Path, form: str) -> Intervals:
    """Read a file of temporal annotations, one video a line; frames are taken as they stand, half open.

    A line of UCF-Crime is ``name.mp4  Class  start end  start end``, -1 where there is none; one of XD-Violence is
    ``name start end start end ...``. A video without an interval is not in the result.

    Args:
        path: The file.
        form: ``"ucf-crime"`` or ``"xd-violence"``.

    Raises:
        DataError: If a line has another form; the message names it.
    """
    found: Intervals = {}
    for where, words in _lines(Path(path)):
        with located(where):
            if form == "ucf-crime" and len(words) < 4:
                raise DataError("not a line of UCF-Crime", expected="name, class, start and end", got=" ".join(words))
            if form == "ucf-crime":
                class_name, frames = words[1], words[2:]
            else:
                class_name = words[0].rpartition("_label_")[2].removesuffix(".mp4") if "_label_" in words[0] else ""
                frames = words[1:]
            found[video_name(words[0])] = _pairs(video_name(words[0]), frames, class_name)
    return {video: intervals for video, intervals in found.items() if intervals}


def _lines(path: Path) -> list[tuple[str, list[str]]]:
    lines = enumerate(read_text(path).splitlines(), start=1)
    return [(f"{path}, line {number}", line.split()) for number, line in lines if line.strip()]


def _pairs(video: str, words: Sequence[str], class_name: str) -> tuple[Interval, ...]:
    try:
        numbers = [int(float(word)) for word in words]
    except (ValueError, OverflowError) as error:
        raise DataError("not a frame number", expected="whole numbers", got=" ".join(words)) from error
    if len(numbers) % 2:
        raise DataError("a start frame without an end frame", expected="pairs", got=" ".join(words))
    pairs = [pair for pair in zip(numbers[::2], numbers[1::2], strict=True) if pair != (-1, -1)]
    return tuple(Interval(video, start, end, class_name) for start, end in pairs)


def _from_masks(folder: Path, spans: Sequence[Span], others: Sequence[Span]) -> Intervals:
    found: Intervals = {}
    for number, span in enumerate((*spans, *others)):
        path = _mask_file(folder, span.video)
        if path is None:
            if span.label == "abnormal" and number < len(spans):
                raise DataError(
                    "an abnormal video has no mask",
                    where=f"video '{span.video}'",
                    expected=folder / f"{span.video}.npy",
                    fix="add it: one value or one picture per frame",
                )
            continue
        labels = read_mask(path)
        if abs(len(labels) - span.frames) > span.slack:
            expected = f"{span.frames} frames" + (f", give or take {span.slack}" if span.slack else "")
            raise DataError("the mask has another length than the video", where=path, expected=expected, got=len(labels))
        if intervals := intervals_from_labels(span.video, labels[: span.frames]):
            found[span.video] = intervals
    return found


def _mask_file(folder: Path, video: str) -> Path | None:
    names = [video, *([str(int(video))] if video.isdecimal() else [])]
    candidates = (folder / f"{name}{ending}" for name in names for ending in (".npy", "_label.mat", ".mat"))
    return next((path for path in candidates if path.is_file()), None)


def read_mask(path: str | Path) -> Bool[np.ndarray, " frames"]:
    """One truth value per frame from a mask file: a frame is abnormal where its value, or any of its pixels, is not 0.

    Args:
        path: ``.npy`` of shape (F,) or (F, H, W) as ShanghaiTech has them, or ``.mat`` with ``volLabel``, a cell of F
            pictures, as Avenue has them.

    Raises:
        DataError: If it is neither.
    """
    path = Path(path)
    if path.suffix == ".npy":
        values = load_features(path, f"mask {path.name}")
        if values.ndim not in (1, 3) or values.dtype.kind not in "biuf":
            raise DataError("not a mask", where=path, expected="shape (F,) or (F, H, W)", got=f"{values.shape}, {values.dtype}")
        return np.asarray(values.reshape(len(values), -1).any(axis=1))
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        cells = loadmat(path)["volLabel"]
    except (MatReadError, ValueError, NotImplementedError, KeyError, TypeError) as error:
        raise DataError(f"not a mask file of Avenue: {error}", where=path, expected="a .mat file with volLabel") from error
    return np.array([bool(np.any(picture)) for picture in cells.ravel()])


def audit(spans: Iterable[Span], ground_truth: Mapping[str, Sequence[Interval]]) -> list[DataError]:
    """What is wrong between labels and ground truth in time.

    Args:
        spans: Videos whose ground truth should be known.
        ground_truth: Intervals by video.

    Returns:
        One error for each video: abnormal without an abnormal frame, normal with one, or an interval beyond its end.
    """
    problems = []
    for span in spans:
        intervals, where = ground_truth.get(span.video, ()), f"video '{span.video}'"
        if span.label == "abnormal" and not intervals:
            fix = "correct the ground truth, or allow a partial import: the video is then measured by nothing"
            problems.append(DataError("the video is abnormal and has no abnormal frame", where=where, fix=fix))
        if span.label == "normal" and intervals:
            got = f"frames {intervals[0].start_frame} to {intervals[0].end_frame}"
            fix = "correct the label or the ground truth"
            problems.append(DataError("the video is normal and has abnormal frames", where=where, got=got, fix=fix))
        last = max((interval.end_frame for interval in intervals), default=0)
        if last > span.frames + span.slack:
            expected = f"at most {span.frames} frames" + (f", give or take {span.slack}" if span.slack else "")
            fix = "give the real number of frames, or allow a partial import: the interval is then cut"
            problems.append(DataError("ground truth after the end", where=where, expected=expected, got=last, fix=fix))
    return problems


def _form_of(path: Path) -> Form:
    if path.is_dir():
        return "masks"
    by_ending: dict[str, Form] = {".npy": "array", ".csv": "intervals"}
    if path.suffix in by_ending:
        return by_ending[path.suffix]
    words = next((words for _, words in _lines(path)), [])
    second = words[1] if len(words) > 1 else ""
    return "xd-violence" if second.lstrip("-").replace(".", "", 1).isdecimal() or len(words) == 1 else "ucf-crime"


def labels_from_intervals(intervals: Iterable[Interval], frames: int) -> Bool[np.ndarray, " frames"]:
    """One truth value per frame of a video: True inside any of its intervals, which may overlap.

    Args:
        intervals: Intervals of one video.
        frames: Number of frames of that video, at least 1.

    Returns:
        Truth values, shape (frames,).

    Raises:
        DataError: If an interval ends after the video.

    Example:
        >>> labels_from_intervals([Interval("v01", 1, 3)], frames=4).tolist()
        [False, True, True, False]
    """
    labels = np.zeros(check_int(frames, "frames", "labels_from_intervals", low=1), dtype=bool)
    for interval in intervals:
        if interval.end_frame > frames:
            raise DataError(
                "an interval ends after its video",
                where=f"video '{interval.video}'",
                expected=f"at most {frames} frames",
                got=f"frames {interval.start_frame} to {interval.end_frame}",
                fix="correct intervals.csv, or the number of frames in videos.csv",
            )
        labels[interval.start_frame : interval.end_frame] = True
    return labels


def intervals_from_labels(video: str, labels: Bool[np.ndarray, " frames"], class_name: str = "") -> tuple[Interval, ...]:
    """Longest runs of True in the frames of a video, in time order.

    Args:
        video: Name of the video.
        labels: One truth value per frame, shape (frames,).
        class_name: Kind of event to write into every interval.

    Returns:
        The intervals; ``labels_from_intervals`` turns them back into the same labels.

    Example:
        >>> intervals_from_labels("v01", np.array([False, True, True, False]))
        (Interval(video='v01', start_frame=1, end_frame=3, class_name=''),)
    """
    steps = np.diff(labels.astype(np.int8), prepend=0, append=0)
    starts, ends = np.flatnonzero(steps == 1).tolist(), np.flatnonzero(steps == -1).tolist()
    return tuple(Interval(video, start, end, class_name) for start, end in zip(starts, ends, strict=True))
