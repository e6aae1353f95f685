"""Segments of a fixed duration, as a stream has them: each is scored from the last N segments up to its own.

A segment is S snippets, and the last one of a video what is left. The score of segment t is by definition the score of the last
node of the window of segments t - N + 1 to t (those that exist), with stride one. Against reference units a node is scored from
its own features alone, so one pass over a video gives the scores of all its windows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..data.dataset import Dataset
from ..data.manifest import Manifest
from ..errors import check_int
from ..fusion.base import Fusion
from .bags import Bags, is_cached, load_bags, segments_by_crop
from .detector import DetectorOutput

WINDOWS_AT_ONCE = 1024  # scored in one call; gradients need all of them


def fixed_segments(values: Float[np.ndarray, "rows ..."], manifest: Manifest, snippets: int) -> Float[Tensor, "c n ..."]:
    """Average every S snippets of one video: (C, N, D), or (1, N, U, D + 1), with N = ceil(T / S).

    Args:
        values: Stored features, (T, D), (T, C, D) or (T, U, D + 1).
        manifest: Of the modality.
        snippets: S; the last segment has the snippets that are left.
    """
    check_int(snippets, "segment_snippets", "fixed_segments", low=1)
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
    return replace(bags, mask=mask, window=check_int(nodes, "nodes", "load_fixed_bags", low=1))


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
