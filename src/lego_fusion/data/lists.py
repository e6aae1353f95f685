"""Lists of videos as the field writes them, and what says which of them are abnormal.

The order of a list is never a label by itself: labels come from names, from a table, or from a number that the user states;
where two of them are given and disagree, nothing is imported.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import DataError
from .files import check_name, read_table, read_text

_ENDINGS = ("_i3d.npy", "_emb.npy", ".npy", ".mp4", ".avi")


@dataclass(frozen=True)
class ListedVideo:
    """A video as a list names it.

    Args:
        video: Name, without folder and ending.
        split: ``"train"``, ``"test"`` or another.
        label: ``"normal"``, ``"abnormal"``, or empty while nobody has said.
        class_name: Kind of anomaly.
        domain: Where it comes from.
        source: The recording it was cut from.
    """

    video: str
    split: str
    label: str = ""
    class_name: str = ""
    domain: str = ""
    source: str = ""


@dataclass(frozen=True)
class NameRule:
    r"""What the name of a video says about it: two patterns that must match the whole name, exactly one of them.

    Args:
        normal: Regular expression of normal names.
        abnormal: Regular expression of abnormal names; a group called ``class`` is the kind of anomaly.

    Example:
        >>> NameRule(r"Train\d{3}", r"Test\d{3}")("Test002")
        ('abnormal', '')
    """

    normal: str
    abnormal: str

    def __call__(self, video: str) -> tuple[str, str]:
        """Label and class of a name; ``DataError`` if no pattern matches, or both do."""
        normal, abnormal = (re.fullmatch(pattern, video) for pattern in (self.normal, self.abnormal))
        if bool(normal) == bool(abnormal):
            raise DataError(
                "the name of the video does not say whether it is normal",
                where=f"video '{video}'",
                expected=f"a name like {self.normal} or like {self.abnormal}, not both",
                fix="choose the right benchmark, or give the labels as a table",
            )
        return ("abnormal", abnormal.groupdict().get("class") or "") if abnormal else ("normal", "")


def video_name(entry: str) -> str:
    r"""Name of a video from a line of a list: without folders of any system, and without its ending.

    Example:
        >>> video_name("G:\\UCF\\Abuse028_x264_i3d.npy"), video_name("Train/One.Day.2011__#1_label_A.mp4")
        ('Abuse028_x264', 'One.Day.2011__#1_label_A')
    """
    name = entry.strip().replace("\\", "/").rpartition("/")[2]
    ending = next((ending for ending in _ENDINGS if name.endswith(ending)), "")
    return name.removesuffix(ending)


def read_list(path: str | Path) -> tuple[str, ...]:
    """Names of the videos of a list file, one path or name a line, in its order.

    Raises:
        DataError: If it is empty, or a name is listed twice or cannot be a file name; the message names the line.
    """
    path = Path(path)
    lines: dict[str, int] = {}
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        name, where = video_name(line), f"{path}, line {number}"
        try:
            check_name(name, "video")
        except DataError as error:
            raise DataError(error.what, where=where, expected=error.expected, fix="correct the list") from error
        if name in lines:
            got = f"lines {lines[name]} and {number}"
            raise DataError(f"the video '{name}' is listed twice", where=where, got=got, fix="remove one of them")
        lines[name] = number
    if not lines:
        raise DataError("the list names no video", where=path, expected="one video a line")
    return tuple(lines)


def read_lists(lists: Mapping[str, str | Path]) -> tuple[ListedVideo, ...]:
    """Videos of several lists, in order.

    Args:
        lists: List file of each split.

    Raises:
        DataError: If a list is wrong, or two of them share a video.
    """
    splits: dict[str, str] = {}
    shared: list[str] = []
    for split, path in lists.items():
        names = read_list(path)
        shared += [name for name in names if name in splits]
        splits |= dict.fromkeys(names, split)
    refuse_shared(shared, " and ".join(str(path) for path in lists.values()))
    return tuple(ListedVideo(video, split) for video, split in splits.items())


def refuse_shared(shared: Sequence[str], where: str) -> None:
    """Raise ``DataError`` that names the videos which stand in more than one split."""
    if shared:
        raise DataError(
            f"{len(shared)} videos are in more than one split",
            where=where,
            expected="lists that share no video",
            got=", ".join(shared[:5]) + (f" and {len(shared) - 5} more" if len(shared) > 5 else ""),
            fix="keep each video in one list",
        )


def read_labels(path: str | Path) -> tuple[ListedVideo, ...]:
    """Read labels from a table with the columns video, label and optionally split, class, domain and source.

    Raises:
        DataError: If the table is wrong, a label is unknown, or a video is listed twice.
    """
    path = Path(path)
    videos: dict[str, ListedVideo] = {}
    for line, row in read_table(path, ("video", "label"), ("split", "class", "domain", "source")):
        name, where = row["video"], f"{path}, line {line}"
        if row["label"] not in ("normal", "abnormal"):
            raise DataError("unknown label", where=where, expected="normal or abnormal", got=repr(row["label"]))
        if name in videos:
            refuse_shared([name] if videos[name].split != row.get("split", "") else [], where)
            raise DataError(f"the video '{name}' is listed twice", where=where, fix="remove one of them")
        optional = [row.get(column, "") for column in ("class", "domain", "source")]
        videos[name] = ListedVideo(name, row.get("split", ""), row["label"], *optional)
    if not videos:
        raise DataError("the table lists no video", where=path, fix="add one row per video")
    return tuple(videos.values())


def label_videos(
    videos: Iterable[ListedVideo],
    *,
    rule: NameRule | None = None,
    table: Iterable[ListedVideo] | None = None,
    abnormal_first: Mapping[str, int] | None = None,
) -> tuple[ListedVideo, ...]:
    """Label the videos of lists by everything that is given, which must agree.

    Args:
        videos: The videos, in the order of their lists.
        rule: What their names say.
        table: Rows of a table of labels; it must have all of them.
        abnormal_first: For a split, how many videos at the beginning of its list are abnormal.

    Raises:
        DataError: If nothing says what a video is, or two sources disagree about it.

    Example:
        >>> label_videos([ListedVideo("Test002", "train")], rule=NameRule("Train.*", "Test.*"))[0].label
        'abnormal'
    """
    rows = None if table is None else {row.video: row for row in table}
    places: dict[str, int] = {}
    labelled = []
    for video in videos:
        place = places[video.split] = places.get(video.split, 0) + 1
        said: dict[str, str] = {}
        if rule is not None:
            said["its name"], class_name = rule(video.video)
            video = replace(video, class_name=class_name)
        if rows is not None and video.video in rows:
            row = rows[video.video]
            refuse_shared([video.video] if row.split not in ("", video.split) else [], "the lists and the table of labels")
            said["the table of labels"] = row.label
            video = replace(video, class_name=row.class_name or video.class_name, domain=row.domain, source=row.source)
        if abnormal_first is not None and video.split in abnormal_first:
            said[f"its place {place} in the list"] = "abnormal" if place <= abnormal_first[video.split] else "normal"
        labelled.append(replace(video, label=_agreed(video, said)))
    return tuple(labelled)


def _agreed(video: ListedVideo, said: Mapping[str, str]) -> str:
    where = f"video '{video.video}', split '{video.split}'"
    if not said:
        raise DataError(
            "nothing says whether the video is normal",
            where=where,
            expected="a benchmark with known names, a table of labels, or the number of abnormal videos at the list's start",
            fix="give one of them",
        )
    if len(set(said.values())) > 1:
        got = ", ".join(f"{label} by {source}" for source, label in said.items())
        raise DataError("sources disagree about the label", where=where, got=got, fix="correct the one that is wrong")
    return next(iter(said.values()))
