"""Videos as bags of N segments, equal spans or of a fixed duration: features resampled once, graphs computed once.

A video of T snippets becomes N segments per modality and crop. Relations hold no learned parameter, so a training run sees
only M graphs of N x K numbers per bag; they depend on the statistics of the training videos, so each split has its own.
Modalities of finer units keep their units, (V * C, N, U, D + 1) with presence, for the fusions that read them; all others
meet the mean of a node's present units (``seen_by``).

A segment is S snippets, and the last one of a video what is left. The score of segment t is by definition the score of the last
node of the window of segments t - N + 1 to t (those that exist), with stride one. Against reference units a node is scored from
its own features alone, so one pass over a video gives the scores of all its windows.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..data.dataset import Dataset
from ..data.features import value_problems
from ..data.manifest import Manifest
from ..data.segments import to_segments, units_to_segments
from ..errors import DataError, ParameterError, check_int
from ..fusion.base import Fusion
from ..fusion.relation import mean_over_units
from .detector import DetectorOutput

Cut = Callable[[np.ndarray, Manifest], Tensor]  # stored features of a video, and their manifest, to segments (C, N, ...)


@dataclass(frozen=True)
class Bags:
    """V videos as bags; crops of one video are neighbouring bags that share its label and index.

    Args:
        videos: Names, V of them.
        labels: True where abnormal, (V,).
        crops: C, bags per video.
        inputs: By modality, features (V * C, N, D), finer units (V * C, N, U, D + 1) or graphs (V * C, N, K).
        mask: True where a segment exists, (V * C, N), where videos have segments of a fixed duration and so differ in their
            number; None where every video has N.
        window: How many segments, up to its own, a segment may be related to, where their duration is fixed; else None.
        related: Whether the inputs are graphs that were computed before (``graph_cache``).
    """

    videos: tuple[str, ...]
    labels: Bool[Tensor, " v"]
    crops: int
    inputs: dict[str, Tensor]
    mask: Bool[Tensor, "bags n"] | None = None
    window: int | None = None
    related: bool = False

    @property
    def bag_labels(self) -> Bool[Tensor, " bags"]:
        """Label of each bag, (V * C,)."""
        return self.labels.repeat_interleave(self.crops)

    @property
    def video_ids(self) -> Int[Tensor, " bags"]:
        """Index of each bag's video, (V * C,)."""
        return torch.arange(len(self.videos)).repeat_interleave(self.crops)

    def select(self, indices: Sequence[int] | Tensor) -> Bags:
        """The bags of some videos, by index, in the order given."""
        videos = torch.as_tensor(indices, dtype=torch.long)
        if torch.equal(videos.cpu(), torch.arange(len(self.videos))):
            return self
        bags = (videos[:, None] * self.crops + torch.arange(self.crops)).flatten()
        names = tuple(self.videos[int(index)] for index in videos)
        inputs = {name: tensor[bags] for name, tensor in self.inputs.items()}
        mask = None if self.mask is None else self.mask[bags]
        return replace(self, videos=names, labels=self.labels[videos], inputs=inputs, mask=mask)

    def named(self, videos: Sequence[str]) -> Bags:
        """The bags of the named videos, in the order given."""
        place = {video: index for index, video in enumerate(self.videos)}
        missing = [video for video in videos if video not in place]
        if missing:
            raise DataError("a video is not among the bags", where=missing[0], got=f"{len(self.videos)} other videos")
        return self.select([place[video] for video in videos])

    def with_modalities(self, modalities: Sequence[str]) -> Bags:
        """The same bags with some of the modalities, in the order given."""
        missing = [name for name in modalities if name not in self.inputs]
        if missing:
            raise DataError(f"modality '{missing[0]}' is missing", expected=", ".join(modalities), got=", ".join(self.inputs))
        return replace(self, inputs={name: self.inputs[name] for name in modalities})

    @classmethod
    def joined(cls, parts: Sequence[Bags]) -> Bags:
        """The bags of several videos, each of N segments, as one."""
        inputs = {name: torch.cat([part.inputs[name] for part in parts]) for name in parts[0].inputs}
        videos = tuple(video for part in parts for video in part.videos)
        return replace(parts[0], videos=videos, labels=torch.cat([part.labels for part in parts]), inputs=inputs)


def load_bags(
    dataset: Dataset,
    modalities: Sequence[str],
    videos: Sequence[str],
    *,
    nodes: int = 32,
    threads: int | None = None,
    on_video: Callable[[str], None] | None = None,
    cut: Cut | None = None,
) -> Bags:
    """Resample the features of videos to N segments, reading each file once.

    A modality without crops is repeated for every crop of the others. Features stored as float16 stay so, which halves the
    memory of a large set: fusions bring them to float32 some bags at a time.

    Args:
        dataset: An open dataset folder.
        modalities: Names of feature sets, all of which every video must have.
        videos: Names of videos; an unlabelled one counts as normal here and must not be trained on.
        nodes: N.
        threads: Videos read at a time; None takes one per processor, up to 4.
        on_video: Called with each video's name when it is done, for progress.
        cut: Another way from the stored features of a video to its segments, (C, N, ...); shorter videos are padded with
            zeros then.

    Raises:
        DataError: If a modality or a file is missing or wrong, or crops differ between modalities that have several.
    """
    if not videos or not modalities:
        raise DataError("there is nothing to load", where=f"dataset '{dataset.name}'", expected="videos and modalities")
    counts = {dataset.modalities[modality].crops for modality in modalities} - {1}
    if len(counts) > 1:
        raise DataError("modalities have different numbers of crops", got=", ".join(str(count) for count in sorted(counts)))
    crops = counts.pop() if counts else 1
    wholes: dict[str, Tensor] = {}
    parts: dict[str, list[Tensor]] = {name: [] for name in modalities if cut is not None or dataset.modalities[name].has_units}
    cut = cut or (lambda values, manifest: segments_by_crop(values, manifest, nodes))

    def read(video: str) -> dict[str, Tensor]:
        return {name: _read_segments(dataset, name, video, cut) for name in modalities}

    with ThreadPoolExecutor(thread_count(threads)) as pool:
        for place, (video, found) in enumerate(zip(videos, pool.map(read, videos), strict=True)):
            for name, segments in found.items():
                every_crop = segments.expand(crops, *segments.shape[1:])
                if name in parts:
                    parts[name].append(every_crop)
                else:
                    wholes[name] = _placed(every_crop, wholes.get(name), place, len(videos))
            if on_video is not None:
                on_video(video)
    labels = torch.tensor([dataset.records[video].label == "abnormal" for video in videos], dtype=torch.bool)
    inputs = {name: _joined(parts[name]) if name in parts else wholes[name].flatten(0, 1) for name in modalities}
    return Bags(tuple(videos), labels, crops, inputs)


def _placed(segments: Tensor, whole: Tensor | None, place: int, count: int) -> Tensor:
    """One tensor of all videos, filled as they come so that none is twice in memory; float16 until one video is float32."""
    if whole is None:
        whole = segments.new_empty(count, *segments.shape)
    elif segments.dtype != whole.dtype:
        whole = whole.float()
    whole[place] = segments
    return whole


def thread_count(threads: int | None) -> int:
    """How many videos are read at a time: as many as there are processors, up to 4, unless it is said."""
    return min(4, os.cpu_count() or 1) if threads is None else check_int(threads, "threads", "load_bags", low=1)


def _read_segments(dataset: Dataset, modality: str, video: str, cut: Cut) -> Tensor:
    """The segments of one video, from finite features: what is not finite shows in the mean of its segment too."""
    values = dataset.features(modality, video, finite=False)
    segments = cut(values, dataset.modalities[modality])
    if not bool(
        segments.sum(dtype=torch.float32).isfinite()
    ):  # many times as fast as a look at every number, and never misses one
        for _, problem in value_problems(values, f"modality '{modality}', video '{video}'"):  # very large numbers pass
            raise problem
    return segments


def segments_by_crop(values: Float[np.ndarray, "rows ..."], manifest: Manifest, nodes: int) -> Float[Tensor, "c n ..."]:
    """Resample the stored features of one video to N segments, one bag per crop: (C, N, D), or (1, N, U, D + 1)."""
    if manifest.has_units:
        return torch.from_numpy(units_to_segments(values, nodes, manifest))[None]
    segments = torch.from_numpy(to_segments(values, nodes))  # (N, D) or (N, C, D)
    return segments[None] if segments.ndim == 2 else segments.transpose(0, 1)


def seen_by(fusion: Fusion, bags: Bags) -> Bags:
    """The modalities of a fusion, in its order; finer units that it does not read as the mean of those present."""
    return _averaged(bags.with_modalities(list(fusion.modalities)), set(fusion.units))


def without_units(bags: Bags) -> Bags:
    """The same bags with the mean of the present units in place of finer units."""
    return _averaged(bags, set())


def fit_frozen(fusion: Fusion, bags: Bags) -> None:
    """Fit a fusion's frozen stage on training bags."""
    fusion.fit(seen_by(fusion, bags).inputs, bags.bag_labels, bags.video_ids, bags.mask)


def training_inputs(fusion: Fusion, bags: Bags, *, shown: Bags | None = None) -> Bags:
    """What the learned stage is trained on: the frozen stage of the training bags, cross-fitted.

    Args:
        fusion: With fitted statistics.
        bags: The training bags, with features; what is known of normals comes from them.
        shown: Other features of the same bags to see against that; None sees their own.
    """
    if bags.related:
        return _cached(fusion, bags)
    bags = seen_by(fusion, bags)
    seen = bags if shown is None else seen_by(fusion, shown)
    if not is_cached(fusion, bags):
        return seen
    found = fusion.transform(seen.inputs, bags.mask, video_ids=bags.video_ids, crops=bags.crops)
    return _frozen(fusion, bags, found)


def scoring_inputs(fusion: Fusion, bags: Bags) -> Bags:
    """What unseen bags are scored from: the frozen stage against all that is known."""
    if bags.related:
        return _cached(fusion, bags)
    bags = seen_by(fusion, bags)
    if not is_cached(fusion, bags):
        return bags
    return _frozen(fusion, bags, fusion.transform(bags.inputs, bags.mask, crops=bags.crops))


def _frozen(fusion: Fusion, bags: Bags, inputs: dict[str, Tensor]) -> Bags:
    """Bags with what the frozen stage made of them; one a video where it takes the mean over crops."""
    if not fusion.pools_crops or bags.crops == 1:
        return replace(bags, inputs=inputs)
    mask = None if bags.mask is None else bags.mask[:: bags.crops]
    return replace(bags, inputs=inputs, crops=1, mask=mask)


def without_graphs(fusion: Fusion, bags: Bags, modalities: Sequence[str]) -> Bags:
    """Frozen inputs of which some are zero.

    Of a graph inside the video the operator then leaves every power >= 1 out: an empty graph has R^(p) = 0 for p >= 1 and the
    same R^(0) as any other. Of readings of known normals it is what a typical normal segment has.

    Raises:
        ParameterError: If the fusion has no frozen stage.
        DataError: If a modality is not among them.
    """
    if not is_cached(fusion):
        raise ParameterError("'drop-term' needs a fusion with graphs", got=f"'{fusion.kind}'", fix="use missing=mean")
    missing = [name for name in modalities if name not in bags.inputs]
    if missing:
        raise DataError(f"modality '{missing[0]}' is missing", expected=", ".join(modalities), got=", ".join(bags.inputs))
    return replace(bags, inputs={**bags.inputs, **{name: torch.zeros_like(bags.inputs[name]) for name in modalities}})


def is_cached(fusion: Fusion, bags: Bags | None = None) -> bool:
    """Whether ``training_inputs`` are more than features, of some bags or of bags of N segments.

    Where segments have a fixed duration and are related to each other, every segment has a window, and so graphs, of its own.
    """
    return fusion.has_frozen_stage and (bags is None or bags.window is None or fusion.one_pass)


def mean_over_crops(values: Tensor, crops: int) -> Tensor:
    """(V * C, N, ...) -> (V, N, ...): the mean over a video's crops."""
    return values.reshape(-1, crops, *values.shape[1:]).mean(1)


def _cached(fusion: Fusion, bags: Bags) -> Bags:
    if not is_cached(fusion, bags):
        raise ParameterError(f"the fusion '{fusion.kind}' reads features, and these bags hold graphs", fix="use no cache")
    return bags.with_modalities(list(fusion.modalities))


def _averaged(bags: Bags, kept: set[str]) -> Bags:
    fine = {name for name, tensor in bags.inputs.items() if tensor.ndim == 4} - kept
    return replace(bags, inputs={name: mean_over_units(x) if name in fine else x for name, x in bags.inputs.items()})


def _joined(tensors: Sequence[Tensor]) -> Tensor:
    """Stack bags; those of fewer segments get zeros, and where nodes hold finer units, those of fewer get absent ones."""
    most = torch.tensor([tensor.shape[1:-1] for tensor in tensors]).amax(0)
    missing = [(most - torch.tensor(tensor.shape[1:-1])).flip(0).tolist() for tensor in tensors]
    padding = [(0, 0, *(side for number in numbers for side in (0, number))) for numbers in missing]
    return torch.cat([torch.nn.functional.pad(tensor, pad) for tensor, pad in zip(tensors, padding, strict=True)])


WINDOWS_AT_ONCE = 1024  # scored in one call; gradients need all of them


def fixed_segments(values: Float[np.ndarray, "rows ..."], manifest: Manifest, snippets: int) -> Float[Tensor, "c n ..."]:
    """Average every S snippets of one video: (C, N, D), or (1, N, U, D + 1), with N = ceil(T / S).

    Args:
        values: Stored features, (T, D), (T, C, D) or (T, U, D + 1).
        manifest: Of the modality.
        snippets: S, at least 1; the last segment has the snippets that are left.
    """
    parts = [segments_by_crop(values[first : first + snippets], manifest, 1) for first in range(0, len(values), snippets)]
    if parts[0].ndim == 4:
        most = max(part.shape[2] for part in parts)
        parts = [torch.nn.functional.pad(part, (0, 0, 0, most - part.shape[2])) for part in parts]
    return torch.cat(parts, dim=1)


def load_fixed_bags(
    dataset: Dataset,
    modalities: Sequence[str],
    videos: Sequence[str],
    *,
    segment_snippets: int,
    nodes: int = 32,
    threads: int | None = None,
    on_video: Callable[[str], None] | None = None,
) -> Bags:
    """Videos as bags of segments of a fixed duration: as many as each video has, the shorter ones padded and masked.

    Args:
        dataset: An open dataset folder.
        modalities: Names of feature sets, all of which every video must have.
        videos: Names of videos.
        segment_snippets: S, snippets of a segment.
        nodes: N, segments of a window.
        threads: As for ``load_bags``.
        on_video: Called with each video's name when it is done, for progress.

    Raises:
        DataError: As ``load_bags``.
    """
    if segment_snippets < 1 or nodes < 1:
        got = f"segment_snippets={segment_snippets}, nodes={nodes}"
        raise ParameterError(
            "a segment and a window hold at least one", expected="segment_snippets and nodes from 1 on", got=got
        )
    bags = load_bags(
        dataset,
        modalities,
        videos,
        threads=threads,
        on_video=on_video,
        cut=lambda values, manifest: fixed_segments(values, manifest, segment_snippets),
    )
    counts = torch.tensor([-(-dataset.rows(video) // segment_snippets) for video in videos])
    mask = torch.arange(int(counts.max())) < counts.repeat_interleave(bags.crops)[:, None]
    return replace(bags, mask=mask, window=nodes)


def bag_of_segments(video: str, segments: Mapping[str, Float[Tensor, "c n ..."]], *, window: int) -> Bags:
    """One video of segments of a fixed duration as bags, unlabelled (which counts as normal)."""
    crops, count = next(iter(segments.values())).shape[:2]
    labels, mask = torch.zeros(1, dtype=torch.bool), torch.ones(crops, count, dtype=torch.bool)
    return Bags((video,), labels, crops, dict(segments), mask, window)


def window_rows(length: int, window: int) -> tuple[Int[Tensor, "t n"], Bool[Tensor, "t n"]]:
    """For every segment of a video the segments of its window, the last one its own, and which of them exist.

    Args:
        length: T, segments of the video.
        window: N.

    Example:
        >>> window_rows(3, 2)
        (tensor([[0, 0],
                [0, 1],
                [1, 2]]), tensor([[False,  True],
                [ True,  True],
                [ True,  True]]))
    """
    index = torch.arange(length)[:, None] + torch.arange(1 - window, 1)
    return index.clamp_min(0), index >= 0


def segment_outputs(model: Callable[..., DetectorOutput], fusion: Fusion, bags: Bags) -> DetectorOutput:
    """Logits of the segments of bags made by ``training_inputs`` or ``scoring_inputs``; without a graph where windows overlap.

    Args:
        model: A detector, or what a training loop has made of it.
        fusion: The detector's.
        bags: Cached graphs or features.
    """
    if bags.window is None or fusion.one_pass:
        return model(bags.inputs, bags.mask, cached=is_cached(fusion, bags))
    first = next(iter(bags.inputs.values()))
    index, exists = window_rows(first.shape[1], bags.window)
    mask = torch.ones(first.shape[:2], dtype=torch.bool) if bags.mask is None else bags.mask
    places = mask.nonzero()  # (rows, 2): bag and segment of each window
    at_once = len(places) if torch.is_grad_enabled() else WINDOWS_AT_ONCE
    found = [_last_logits(model, bags.inputs, part, index, exists) for part in places.split(at_once)]
    logits = first.new_zeros(mask.shape).masked_scatter(mask, torch.cat(found))
    return DetectorOutput(logits, None)


def _last_logits(
    model: Callable[..., Any], inputs: Mapping[str, Tensor], places: Tensor, index: Tensor, exists: Tensor
) -> Float[Tensor, " rows"]:
    """Logit of the last node of the window of each place."""
    bag, segment = places.unbind(1)
    windows = {name: tensor[bag[:, None], index.to(bag.device)[segment]] for name, tensor in inputs.items()}
    logits: Tensor = model(windows, exists.to(bag.device)[segment]).logits[:, -1]
    return logits


def load_segments(
    dataset: Dataset,
    modalities: Sequence[str],
    videos: Sequence[str],
    nodes: int,
    segment_snippets: int | None,
    *,
    threads: int | None = None,
) -> Bags:
    """Videos as N equal spans, or as segments of so many snippets."""
    if segment_snippets is None:
        return load_bags(dataset, modalities, videos, nodes=nodes, threads=threads)
    return load_fixed_bags(dataset, modalities, videos, segment_snippets=segment_snippets, nodes=nodes, threads=threads)
