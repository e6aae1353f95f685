"""Which videos train, validate and test: a dataset's own split, random ones by source, and rotations of domains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from ..data.dataset import Dataset
from ..data.ground_truth import labels_from_intervals
from ..data.grouping import sources_of
from ..errors import DataError, check_choice, check_int, check_number

DomainSplit = Literal["left-out", "within"]
DOMAIN_SPLITS: tuple[DomainSplit, ...] = ("left-out", "within")
_DRAWS = 20  # of sources, of which the nearest counts
_MOST_DRAWS = 100  # until one is new
UNNAMED_DOMAIN = "(none)"  # of videos that name no domain


@dataclass(frozen=True)
class Split:
    """Names of training, test and (held out of training) validation videos."""

    name: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    validation: tuple[str, ...] = ()


def own_split(dataset: Dataset, name: str = "own") -> Split:
    """The split in ``videos.csv``: ``train`` and ``test`` rows, and ``validation`` rows if there are any."""
    parts = {part: tuple(record.video for record in dataset.select(split=part)) for part in ("train", "test", "validation")}
    if not parts["train"]:
        raise DataError("no video is marked for training", where="videos.csv", expected="'train' in the split column")
    return Split(name, parts["train"], parts["test"], parts["validation"])


def training_split(dataset: Dataset) -> Split:
    """The dataset's own split; where no video is in any split, all labelled videos train.

    Raises:
        DataError: If there are splits but nothing to train on, or no video has a label.
    """
    if any(record.split for record in dataset.videos):
        return own_split(dataset)
    labelled = tuple(record.video for record in dataset.videos if record.label)
    if not labelled:
        raise DataError("no video has a label", where=dataset.root, expected="normal or abnormal", fix="edit videos.csv")
    return Split("all", labelled, ())


def measurable_frames(dataset: Dataset, videos: Sequence[str]) -> bool:
    """Whether normal and abnormal frames are known among these videos, without which no AUC exists."""
    located = [video for video in videos if video in dataset.ground_truth]
    normal = any(dataset.records[video].label == "normal" for video in videos)
    return bool(located) and (normal or not all(_wholly_abnormal(dataset, video) for video in located))


def _wholly_abnormal(dataset: Dataset, video: str) -> bool:
    return bool(labels_from_intervals(dataset.ground_truth[video], dataset.records[video].frames).all())


def divided_sources(dataset: Dataset, split: Split) -> dict[str, tuple[str, ...]]:
    """Sources whose videos stand in more than one part of a split, each with its videos; empty for a sound split."""
    key = sources_of(dataset.videos)
    part = {video: number for number, videos in enumerate((split.train, split.validation, split.test)) for video in videos}
    members: dict[str, list[str]] = {}
    for video in part:
        members.setdefault(key[video], []).append(video)
    divided = [videos for videos in members.values() if len({part[video] for video in videos}) > 1]
    return {dataset.records[videos[0]].source: tuple(videos) for videos in divided}


def division_warnings(dataset: Dataset, split: Split) -> list[str]:
    """What to say of a split that divides sources, in a line; nothing of a sound one.

    It is a warning and no error, since published splits do so: the detector has then seen the place, the light and perhaps the
    very people of a test video.
    """
    divided = divided_sources(dataset, split)
    if not divided:
        return []
    listed = "; ".join(f"'{source}' ({', '.join(videos[:4])})" for source, videos in list(divided.items())[:3])
    more = f" and {len(divided) - 3} more" if len(divided) > 3 else ""
    return [
        f"the split '{split.name}' divides {len(divided)} of the sources between training and test or validation, so what it "
        f"measures is too good: {listed}{more}; correct the column 'split', or compare with --resplits"
    ]


def resplits(dataset: Dataset, count: int, *, seed: int = 0) -> list[Split]:
    """Random splits with as many normal and abnormal training videos as the dataset's own split, the rest for testing.

    The videos of a source train together or are tested together. The numbers of training videos are then as near to those of
    the own split as the nearest of 20 draws comes, no two splits are the same, and each can be measured.

    Args:
        dataset: A dataset whose own split says how many of each to train on.
        count: How many splits.
        seed: Split i is drawn from (seed, i), so that more splits do not change the first ones.

    Raises:
        DataError: If the sources cannot be divided into training and test, or not in so many ways.
    """
    check_int(count, "count", "resplits", low=1)
    own = own_split(dataset)
    everyone = (*own.train, *own.test, *own.validation)
    wanted = _label_counts(dataset, own.train)
    key = sources_of(dataset.videos)
    grouped = len({key[video] for video in everyone}) < len(everyone)
    drawn: list[Split] = []
    for index in range(count):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + index)
        if grouped:
            found = _draw(dataset, everyone, wanted, generator, [split.train for split in drawn], measurable=True)
        else:
            found = _draw_sources(dataset, everyone, wanted, generator)
        if found is None:
            fix = "ask for fewer splits, group by something finer, or write intervals of more videos"
            got = f"{len(drawn)} found"
            raise DataError("the sources do not divide in so many ways", expected=f"{count} splits", got=got, fix=fix)
        train, sources = found[0], {key[video] for video in found[0]}
        test = tuple(video for video in everyone if key[video] not in sources)
        drawn.append(Split(f"resplit-{seed}-{index}", tuple(train), test))
    return drawn


def hold_out(dataset: Dataset, split: Split, share: float, *, seed: int = 0) -> Split:
    """Move a share of the training videos of each label to validation: at least one, and never all.

    Videos of one source move together, as near to the share as the nearest of 20 draws comes.

    Raises:
        DataError: If a label has fewer than two training videos, or the sources cannot be divided.
    """
    check_number(share, "share", "hold_out", low=0.0, high=0.9)
    wanted = _label_counts(dataset, split.train)
    for label, count in wanted.items():
        if count < 2:
            got = f"{count} {label}"
            raise DataError("too few training videos to hold some out", expected="at least 2 of each label", got=got)
        wanted[label] = min(count - 1, max(1, round(share * count)))
    found = _draw(dataset, split.train, wanted, torch.Generator().manual_seed(seed))
    held, kept = found or ([], [])  # the first draw is new
    kept += [video for video in split.train if not dataset.records[video].label]
    return Split(split.name, tuple(kept), split.test, tuple(held))


def _label_counts(dataset: Dataset, videos: Sequence[str]) -> dict[str, int]:
    return {label: sum(dataset.records[video].label == label for video in videos) for label in ("normal", "abnormal")}


def _draw(
    dataset: Dataset,
    videos: Sequence[str],
    wanted: Mapping[str, int],
    generator: torch.Generator,
    before: Sequence[Sequence[str]] = (),
    *,
    measurable: bool = False,
) -> tuple[list[str], list[str]] | None:
    """The nearest of several draws of sources, or the first exact one; none of those before, and None if there is no other.

    With ``measurable`` only a draw counts whose other videos have known normal and abnormal frames.
    """
    known, best, nearest = {frozenset(one) for one in before}, None, -1
    for number in range(_MOST_DRAWS):
        found = _draw_sources(dataset, videos, wanted, generator)
        if frozenset(found[0]) not in known and (not measurable or measurable_frames(dataset, found[1])):
            counts = _label_counts(dataset, found[0])
            far = sum(abs(counts[label] - count) for label, count in wanted.items())
            if best is None or far < nearest:
                best, nearest = found, far
        if best is not None and (nearest == 0 or number + 1 >= _DRAWS):
            break
    return best


def _draw_sources(
    dataset: Dataset, videos: Sequence[str], wanted: Mapping[str, int], generator: torch.Generator
) -> tuple[list[str], list[str]]:
    """Labelled videos of whole sources, as near to the wanted number of each label as sources in random order come.

    A source is taken if that brings the numbers nearer, and leaves some of every label of which not all are wanted.

    Returns:
        The videos taken and the others, both in the order drawn, the normal ones first.
    """
    key = sources_of(dataset.select(videos))
    members: dict[str, list[str]] = {}
    for video in videos:
        members.setdefault(key[video], []).append(video)
    sizes = {source: _label_counts(dataset, group) for source, group in members.items()}
    most = {label: count - (wanted[label] < count) for label, count in _label_counts(dataset, videos).items()}
    got, taken, order = dict.fromkeys(wanted, 0), set[str](), list[str]()

    def far(extra: Mapping[str, int]) -> int:
        return sum(abs(got[label] + extra[label] - count) for label, count in wanted.items())

    def may_take(source: str) -> bool:
        return source not in taken and all(got[label] + sizes[source][label] <= most[label] for label in wanted)

    def take(source: str) -> None:
        taken.add(source)
        got.update({label: got[label] + sizes[source][label] for label in wanted})

    nothing = dict.fromkeys(wanted, 0)
    for label in wanted:
        having = [source for source, size in sizes.items() if size[label]]
        having = [having[int(place)] for place in torch.randperm(len(having), generator=generator)]
        order += [video for source in having for video in members[source] if dataset.records[video].label == label]
        for source in having:
            if may_take(source) and far(sizes[source]) < far(nothing):
                take(source)
        if wanted[label] and not got[label]:
            possible = [source for source in having if may_take(source)]
            if not possible:
                listed = f"{len(having)} sources with {label} videos"
                fix = "correct the column 'source', or group by something finer"
                raise DataError("the sources cannot be divided", where=dataset.root, got=listed, fix=fix)
            take(min(possible, key=lambda source: far(sizes[source])))
    return [video for video in order if key[video] in taken], [video for video in order if key[video] not in taken]


def require_labels(dataset: Dataset, split: Split) -> None:
    """Raise ``DataError`` unless every training and validation video is labelled."""
    for video in (*split.train, *split.validation):
        if dataset.records[video].label not in ("normal", "abnormal"):
            raise DataError("a training video has no label", where=video, expected="normal or abnormal", fix="edit videos.csv")


def rotate_domains(dataset: Dataset) -> list[Split]:
    """For every domain of a dataset, a split that tests on its videos and trains on those of all other domains.

    What the own split says of a video does not matter: each is tested when its domain is left out and trains otherwise (as
    validation, where it is marked so). Videos of a source that is tested do not train.

    Args:
        dataset: With labelled videos of at least two domains; where some videos are in a split, the others have no part.

    Returns:
        One split a domain with known normal and abnormal frames, in the order of ``videos.csv``, named ``"left-out:DOMAIN"``;
        it tests all videos of the domain, those without ground truth too.

    Raises:
        DataError: If the dataset has one domain only, or no split is possible.
    """
    parts = ("train", "test", "validation") if any(record.split for record in dataset.videos) else ("",)
    everyone = [record for record in dataset.videos if record.split in parts]
    domains = list(dict.fromkeys(record.domain for record in everyone))
    _require_domains(dataset, domains)
    key = sources_of(everyone)
    drawn = []
    for domain in domains:
        test = tuple(record.video for record in everyone if record.domain == domain)
        tested = {key[video] for video in test}
        others = [record for record in everyone if record.label and key[record.video] not in tested]
        train = tuple(record.video for record in others if record.split != "validation")
        if train and measurable_frames(dataset, test):
            held = tuple(record.video for record in others if record.split == "validation")
            drawn.append(Split(f"left-out:{domain or UNNAMED_DOMAIN}", train, test, held))
    if not drawn:
        fix = "label the videos, and write intervals.csv"
        raise DataError("no domain can be tested by what the others teach", where=dataset.root, fix=fix)
    return drawn


def domain_splits(dataset: Dataset, kind: DomainSplit = "left-out") -> list[Split]:
    """For every domain of a dataset, a split that tests on the test videos of that domain.

    Args:
        dataset: With training videos of at least two domains, or of one for ``"within"``.
        kind: ``"left-out"``: trained on the training videos of all other domains; ``"within"``: on its own ones. The same
            videos are tested, so that the two can be compared with each other and with the own split (all domains pooled).

    Returns:
        One split a domain, in the order of ``videos.csv``, named ``"left-out:DOMAIN"`` or ``"within:DOMAIN"``. A domain
        without test videos has none; one without training videos has only ``"left-out"``.

    Raises:
        DataError: If the dataset has one domain only (for ``"left-out"``), or no split is possible.
    """
    check_choice(kind, "kind", "domain_splits", DOMAIN_SPLITS)
    own = own_split(dataset)
    domains = list(dict.fromkeys(record.domain for record in dataset.videos))
    if kind == "left-out":
        _require_domains(dataset, domains)

    def part(videos: Sequence[str], domain: str) -> tuple[str, ...]:
        return tuple(video for video in videos if (dataset.records[video].domain == domain) == (kind == "within"))

    drawn = []
    for domain in domains:
        test = tuple(video for video in own.test if dataset.records[video].domain == domain)
        train = part(own.train, domain)
        if train and test:
            drawn.append(Split(f"{kind}:{domain or UNNAMED_DOMAIN}", train, test, part(own.validation, domain)))
    if not drawn:
        raise DataError("no domain has test videos, and training videos to go with them", where="videos.csv")
    return drawn


def _require_domains(dataset: Dataset, domains: Sequence[str]) -> None:
    if len(domains) < 2:
        fix = "fill the column 'domain', or join datasets with `lego-fusion join`"
        got = "".join(domains) or "none"
        raise DataError("there is only one domain", where=dataset.root, expected="at least two", got=got, fix=fix)
