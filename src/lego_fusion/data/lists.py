"""Lists of videos as the field writes them, what says which are abnormal, and what is known of the field's benchmarks.

The order of a list is never a label by itself: labels come from names, from a table, or from a number that the user states;
where two of them are given and disagree, nothing is imported.

A number stands here only where a source states it or it was counted in a published list; None means that it is not checked.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..errors import DataError, check_choice, located
from .files import check_name, read_table, read_text, shorten

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
        with located(f"{path}, line {number}"):
            name = check_name(video_name(line), "video")
            if name in lines:
                got = f"lines {lines[name]} and {number}"
                raise DataError(f"the video '{name}' is listed twice", got=got, fix="remove one of them")
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
            got=shorten(shared, most=5),
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
        name, split = row["video"], row.get("split", "")
        with located(f"{path}, line {line}"):
            if row["label"] not in ("normal", "abnormal"):
                raise DataError("unknown label", expected="normal or abnormal", got=repr(row["label"]))
            if name in videos:
                refuse_shared([name] if videos[name].split != split else [], str(path))
                raise DataError(f"the video '{name}' is listed twice", fix="remove one of them")
        videos[name] = ListedVideo(name, split, row["label"], *(row.get(one, "") for one in ("class", "domain", "source")))
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


@dataclass(frozen=True)
class SplitSize:
    """How many videos a split has, and how many of them are abnormal; None where that is not known here."""

    videos: int
    abnormal: int | None = None


@dataclass(frozen=True)
class Benchmark:
    """What is known about a benchmark under the weakly supervised protocol.

    Args:
        title: Name as papers write it.
        metric: Metric that papers report.
        protocol: How videos are split and what training sees, in one line.
        obtain: Where the videos are to be had.
        sizes: Sizes of each split; more than one where published lists differ.
        names: What names say about labels; None where no rule is known.
        total: Videos of the whole benchmark, where its weakly supervised splits differ but share them all out.
    """

    title: str
    metric: str
    protocol: str
    obtain: str
    sizes: dict[str, tuple[SplitSize, ...]] = field(default_factory=dict)
    names: NameRule | None = None
    total: int | None = None

    def problems(self, videos: Iterable[ListedVideo]) -> list[DataError]:
        """Every split whose size is none of the known ones, and a whole that is not complete.

        Args:
            videos: Labelled videos.
        """
        counted = Counter((video.split, video.label) for video in videos)
        found, fix = [], f"complete the list ({self.obtain}), or allow a partial import"
        if self.total not in (None, counted.total()):
            expected, got = f"{self.total} videos in all splits together", f"{counted.total()} videos"
            found.append(DataError("the benchmark has another size", where=self.title, expected=expected, got=got, fix=fix))
        for split, known in self.sizes.items():
            normal, abnormal = counted[split, "normal"], counted[split, "abnormal"]
            if any(normal + abnormal == size.videos and size.abnormal in (None, abnormal) for size in known):
                continue
            expected = " or ".join(
                f"{size.videos} videos" + ("" if size.abnormal is None else f", {size.abnormal} of them abnormal")
                for size in known
            )
            got = f"{normal + abnormal} videos, {abnormal} of them abnormal"
            where = f"{self.title}, split '{split}'"
            found.append(DataError("the split has another size", where=where, expected=expected, got=got, fix=fix))
        return found


_VIDEO_LABELS = "training sees video-level labels only"
_MICRO = "frame-level micro AUC"
_UCF_CLASSES = (
    "Abuse|Arrest|Arson|Assault|Burglary|Explosion|Fighting|RoadAccidents|Robbery|Shooting|Shoplifting|Stealing|Vandalism"
)

BENCHMARKS: dict[str, Benchmark] = {
    "ped2": Benchmark(
        "UCSD Ped2",
        _MICRO,
        f"weak split of TEVAD, RTFM and MSAD: six abnormal and four normal clips train, 18 clips test; {_VIDEO_LABELS}",
        "project page 'UCSD Anomaly Detection Dataset'",
        {"train": (SplitSize(10, 6),), "test": (SplitSize(18, 6),)},
        NameRule(r"(?i:train)_?\d+", r"(?i:test)_?\d+"),
    ),
    "avenue": Benchmark(
        "CUHK Avenue",
        _MICRO,
        f"published weak splits of the 16 normal and 21 test videos differ, so only the total is checked; {_VIDEO_LABELS}",
        "project page 'Abnormal Event Detection at 150 FPS in Matlab'",
        total=37,
    ),
    "shanghaitech": Benchmark(
        "ShanghaiTech",
        _MICRO,
        f"weak split over all 437 videos of both original parts; {_VIDEO_LABELS}",
        "project page 'ShanghaiTech Campus dataset (Anomaly Detection)'",
        {"train": (SplitSize(238, 63),), "test": (SplitSize(199, 44),)},
        NameRule(r"\d{2}_\d{3}", r"\d{2}_\d{4}"),
    ),
    "street-scene": Benchmark(
        "Street Scene",
        _MICRO,
        f"published weak splits of the 46 normal and 35 test videos differ, so only the total is checked; {_VIDEO_LABELS}",
        "project page 'Street Scene' of Mitsubishi Electric Research Laboratories",
        total=81,
    ),
    "ucf-crime": Benchmark(
        "UCF-Crime",
        _MICRO,
        f"official split; {_VIDEO_LABELS}",
        "project page 'Real-world Anomaly Detection in Surveillance Videos'",
        {"train": (SplitSize(1610, 810),), "test": (SplitSize(290, 140),)},
        NameRule(r"Normal_Videos_?\d+(_x264)?", rf"(?P<class>{_UCF_CLASSES})\d+(_x264)?"),
    ),
    "xd-violence": Benchmark(
        "XD-Violence",
        "frame-level average precision",
        f"official split (TEVAD's training list lacks three videos); {_VIDEO_LABELS}",
        "project page 'XD-Violence'",
        {"train": (SplitSize(3954), SplitSize(3951, 1904)), "test": (SplitSize(800),)},
        NameRule(r".+_label_A", r".+_label_(?P<class>(?:B\d|G)(?:-(?:B\d|G|0))*)"),
    ),
    "msad": Benchmark(
        "MSAD",
        _MICRO,
        f"protocol ii: 360 normal and 120 abnormal videos train, 120 and 120 test; {_VIDEO_LABELS}",
        "project page 'MSAD: Multi-Scenario Anomaly Detection dataset'",
        {"train": (SplitSize(480, 120),), "test": (SplitSize(240, 120),)},
        NameRule(r"MSAD_normal.*", r"(?!MSAD_normal).*"),
    ),
}


def benchmark(name: str) -> Benchmark:
    """The definition of a benchmark; ``ParameterError`` that lists the known names.

    Example:
        >>> benchmark("shanghaitech").sizes["train"]
        (SplitSize(videos=238, abnormal=63),)
    """
    known: Benchmark = BENCHMARKS[check_choice(name, "name", "benchmark", tuple(BENCHMARKS))]
    return known
