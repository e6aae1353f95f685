"""Which videos belong together: cut from one recording, or alike in a column, so that no split may divide them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace

from ..errors import DataError, ParameterError
from .dataset import Dataset
from .tables import VideoRecord

GROUP_COLUMNS = {"source": "source", "camera": "camera", "domain": "domain", "class": "class_name"}
"""Columns that videos can be grouped by, and their fields."""
_PART = re.compile(
    r"(?P<stem>.+?)(?:[_\-. ]+(?:part|p|clip|seg|segment|chunk|cut)[_\-. ]*\d+|(?P<bare>-\d{2,}))", flags=re.IGNORECASE
)


def sources_of(videos: Iterable[VideoRecord]) -> dict[str, str]:
    """A key for each video, the same for all videos of one source; a video without a source is alone.

    Example:
        >>> parts = [VideoRecord(name, "", 9, 10.0, source="door") for name in ("a", "b")]
        >>> keys = sources_of([*parts, VideoRecord("c", "", 9, 10.0)])
        >>> keys["a"] == keys["b"], len(set(keys.values()))
        (True, 2)
    """
    return {one.video: f"source {one.source}" if one.source else f"video {one.video}" for one in videos}


def group_videos(dataset: Dataset, by: str) -> Dataset:
    """The dataset with its videos grouped as splits are to keep them together; no file is changed.

    Args:
        dataset: Whose sources hold in any case: groups that share a source become one.
        by: ``"source"``, ``"camera"``, ``"domain"``, ``"class"`` (of abnormal videos), or a regular expression that is looked
            for in the names: videos with the same first group, or the same match where it has no group, belong together.
            Videos without a value, or whose name does not match, stay as they are. Empty changes nothing.

    Raises:
        DataError: If no video has a value in the column.
        ParameterError: If the expression is none, or no name matches it.

    Example:
        >>> import tempfile
        >>> from lego_fusion.data.dataset import write_dataset
        >>> from lego_fusion.data.tables import DatasetConfig
        >>> records = [VideoRecord(name, "normal", 9, 10.0) for name in ("door_01_a", "door_01_b", "yard_01_a")]
        >>> dataset = write_dataset(tempfile.mkdtemp(), DatasetConfig(name="doors"), records)
        >>> [one.source for one in group_videos(dataset, r"(.+)_[a-z]").videos]
        ['door_01', 'door_01', 'yard_01']
    """
    keys = _by_column(dataset, by) if by in GROUP_COLUMNS else _by_name(dataset, by) if by else {}
    sources = {one.video: one.source for one in dataset.videos if one.source}
    groups = sources if by in ("", "source") else _merged(keys, sources)
    videos = tuple(replace(one, source=groups.get(one.video, "")) for one in dataset.videos)
    return replace(dataset, videos=videos)


def likely_sources(names: Iterable[str]) -> dict[str, list[str]]:
    """Names that look like parts of one recording, by what they have in common: at least two each.

    A part ends in ``part``, ``p``, ``clip``, ``seg``, ``segment``, ``chunk`` or ``cut`` and a number, in any case. A number
    behind a hyphen alone counts only where it divides the names into three sources or more, and what all names begin with is
    none, since many folders just count.

    Example:
        >>> likely_sources(["door_01_part1", "door_01_Part2", "yard", "scene-01", "scene-02"])
        {'door_01': ['door_01_part1', 'door_01_Part2']}
    """
    found: dict[bool, dict[str, list[str]]] = {True: {}, False: {}}
    names = list(names)
    for name in names:
        match = _PART.fullmatch(name)
        if match is not None:
            found[match["bare"] is not None].setdefault(match["stem"], []).append(name)
    bare = found[True] if len(found[True]) >= 3 else {}
    return {stem: parts for group in (found[False], bare) for stem, parts in group.items() if 1 < len(parts) < len(names)}


def _by_column(dataset: Dataset, column: str) -> dict[str, str]:
    field = GROUP_COLUMNS[column]
    keys = {one.video: getattr(one, field) for one in dataset.videos if column != "class" or one.label != "normal"}
    found = {video: key for video, key in keys.items() if key}
    if not found:
        fix = f"fill the column '{column}' of videos.csv, or group by another column or by names"
        raise DataError(f"no video has a {column} to group by", where=f"dataset '{dataset.name}'", fix=fix)
    return found


def _by_name(dataset: Dataset, pattern: str) -> dict[str, str]:
    expected = f"{', '.join(GROUP_COLUMNS)}, or a regular expression of names such as '(.+)_part'"
    try:
        matches = {one.video: re.search(pattern, one.video) for one in dataset.videos}
    except re.error as error:
        raise ParameterError("the videos cannot be grouped so", expected=expected, got=f"{pattern!r}: {error}") from error
    found = {video: match[1 if match.re.groups else 0] or "" for video, match in matches.items() if match is not None}
    if not any(found.values()):
        got, fix = repr(pattern), f"names are such as '{dataset.videos[0].video}'"
        raise ParameterError("no column is called so, and no name of a video matches", expected=expected, got=got, fix=fix)
    return {video: key for video, key in found.items() if key}


def _merged(*groupings: Mapping[str, str]) -> dict[str, str]:
    """Groups of which none divides one of several groupings, named by the first of them that knows the video."""
    parents: dict[str, str] = {}

    def root(node: str) -> str:
        while parents.setdefault(node, node) != node:
            node = parents[node]
        return node

    named: dict[str, str] = {}
    for number, grouping in enumerate(groupings):
        for video, key in grouping.items():
            parents[root(f"video {video}")] = root(f"{number} {key}")
            named.setdefault(video, key)
    first: dict[str, str] = {}
    return {video: first.setdefault(root(f"video {video}"), key) for video, key in named.items()}
