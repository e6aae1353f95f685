"""Benchmarks of the field: sizes of their splits, metric, protocol, and what their names say; nothing is downloaded.

A number stands here only where a source states it or it was counted in a published list; None means that it is not checked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from ..errors import DataError, check_choice
from .lists import ListedVideo, NameRule


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
        found = self._wrong_total(sum(counted.values()))
        for split, known in self.sizes.items():
            normal, abnormal = counted[split, "normal"], counted[split, "abnormal"]
            if any(normal + abnormal == size.videos and size.abnormal in (None, abnormal) for size in known):
                continue
            expected = " or ".join(
                f"{size.videos} videos" + ("" if size.abnormal is None else f", {size.abnormal} of them abnormal")
                for size in known
            )
            got = f"{normal + abnormal} videos, {abnormal} of them abnormal"
            fix = f"complete the list ({self.obtain}), or allow a partial import"
            where = f"{self.title}, split '{split}'"
            found.append(DataError("the split has another size", where=where, expected=expected, got=got, fix=fix))
        return found

    def _wrong_total(self, videos: int) -> list[DataError]:
        if self.total in (None, videos):
            return []
        expected, got = f"{self.total} videos in all splits together", f"{videos} videos"
        fix = f"complete the list ({self.obtain}), or allow a partial import"
        return [DataError("the benchmark has another size", where=self.title, expected=expected, got=got, fix=fix)]


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
