"""What each modality contributes to what saved detectors reach on videos with ground truth."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ..data.dataset import Dataset
from ..errors import DataError, check_choice
from ..explain.contributions import model_contributions
from ..explain.shapley import Contributions
from ..learn.bags import Bags, is_cached, load_bags, mean_over_crops, scoring_inputs, training_inputs
from ..learn.checkpoint import load_detector
from ..learn.detector import Detector
from ..learn.evaluation import measurable_videos
from ..learn.methods import scored_videos
from ..learn.scoring import require_same_features
from ..measure.detection import micro_auc
from ..measure.scored import ScoredVideo
from .localise import require_same_references, training_bags

Quantity = Literal["micro-auc", "abnormal-logit"]
QUANTITIES: dict[Quantity, str] = {"micro-auc": "micro AUC", "abnormal-logit": "mean logit of abnormal frames"}


def run_contributions(
    run_folders: Sequence[str | Path],
    dataset: Dataset,
    *,
    split: str = "test",
    quantity: Quantity = "micro-auc",
    draws: int = 16,
    intervals: bool = True,
) -> Contributions:
    """Shapley values of the modalities for a metric of a run, or of the mean of runs that differ in their seed.

    Args:
        run_folders: Run folders.
        dataset: The dataset they were trained on.
        split: Name of the videos' split; those without ground truth in time are left out.
        quantity: As for ``detector_contributions``.
        draws: As there.
        intervals: As there.

    Raises:
        DataError: If no video of the split has ground truth, the training videos are not there, or the runs do not see the
            same inputs.
    """
    if not run_folders:
        raise DataError("there is no run to explain", expected="at least one run folder")
    loaded = [load_detector(Path(folder)) for folder in run_folders]
    config = loaded[0][1]
    for folder, (_, other) in zip(run_folders, loaded, strict=True):
        other.require_equal_spans("explain")
        require_same_features(other, dataset)
        same = all(getattr(other, name) == getattr(config, name) for name in ("manifests", "nodes", "smoothing", "dataset"))
        if not same or list(other.manifests) != list(config.manifests):
            fix = "explain them one after the other"
            raise DataError("the runs were not trained on the same videos and modalities", where=Path(folder), fix=fix)
    test = load_bags(dataset, list(config.manifests), measurable_videos(dataset, split)[0], nodes=config.nodes)
    detectors = [detector for detector, _ in loaded]
    train = training_bags(config, dataset)
    for detector in detectors:
        require_same_references(detector.fusion, train, dataset.name)
    given: dict[str, Any] = {"quantity": quantity, "draws": draws, "intervals": intervals}
    return detector_contributions(detectors, dataset, train, test, smoothing=config.smoothing, **given)


def detector_contributions(
    detectors: Sequence[Detector],
    dataset: Dataset,
    train: Bags,
    test: Bags,
    *,
    quantity: Quantity = "micro-auc",
    draws: int = 16,
    intervals: bool = True,
    smoothing: float = 0.0,
) -> Contributions:
    """Shapley values, cooperation and interactions of the modalities on test videos, with intervals over videos.

    A removed modality is taken from a normal *training* video drawn at random, all removed ones from the same. (To a detector
    of the unusual, zeros or means are the most unusual input of all.) Where a model has a frozen stage, what that made of the
    video is drawn, as the head was trained on it: cross-fitted.

    Args:
        detectors: One, or several that differ in their seed; then v is the mean over them.
        dataset: Where the bags come from; it knows the ground truth.
        train: The training bags, with features.
        test: Bags of videos with ground truth.
        quantity: ``"micro-auc"``, or ``"abnormal-logit"``: the mean logit of all abnormal frames, which does not saturate.
        draws: How many normal videos stand in for each video; v is the mean over them.
        intervals: Whether to give every value its interval over videos.
        smoothing: Of the frames, in seconds (``measure.smoothing``).

    Raises:
        DataError: If there is no normal training video, or detectors that are explained together see different inputs.
    """
    check_choice(quantity, "quantity", "detector_contributions", tuple(QUANTITIES))
    if bool(train.labels.all()):
        raise DataError("nothing normal to put in a modality's place", expected="normal training videos")
    seen = [scoring_inputs(one.fusion, test) for one in detectors]
    inputs = seen[0].inputs
    for number, other in enumerate(seen):
        if any(name not in other.inputs or not _same(other.inputs[name], values) for name, values in inputs.items()):
            where = f"model {number + 1} of {len(seen)}"
            raise DataError(
                "models that are explained together see different inputs", where=where, fix="explain each by itself"
            )
    known = training_inputs(detectors[0].fusion, train)
    background = {name: values[~known.bag_labels] for name, values in known.inputs.items()}
    return model_contributions(
        [_scored_by(detector, dataset, seen[0], smoothing) for detector in detectors],
        inputs,
        micro_auc if quantity == "micro-auc" else abnormal_mean,
        removal="permute",
        background=background,
        label=f"permute, {draws} draws of normal training videos",
        repeats=draws,
        resamples=int(intervals),  # of videos there is nothing to draw: they are left out one by one
    )


def abnormal_mean(scored: Sequence[ScoredVideo]) -> float:
    """Mean score of all abnormal frames.

    Raises:
        DataError: If no frame is abnormal.

    Example:
        >>> abnormal_mean([ScoredVideo.from_frames("v01", [-3.0, 2.0, 1.0, 7.0], [0, 0, 1, 1])])
        4.0
    """
    frames = sum(float(one.weights[one.labels].sum()) for one in scored)
    if frames == 0:
        raise DataError("no frame is abnormal", got=f"{len(scored)} videos")
    return sum(float((one.scores * one.weights)[one.labels].sum()) for one in scored) / frames


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one, other)


def _scored_by(
    detector: Detector, dataset: Dataset, test: Bags, smoothing: float
) -> Callable[[Mapping[str, Tensor]], list[ScoredVideo]]:
    """Inputs of the detector -> test videos with the logits of their frames."""

    @torch.no_grad()
    def scored(inputs: Mapping[str, Tensor]) -> list[ScoredVideo]:
        detector.eval()
        logits = mean_over_crops(detector(inputs, cached=is_cached(detector.fusion)).logits, test.crops).double()
        return scored_videos(dataset, dict(zip(test.videos, logits, strict=True)), smoothing=smoothing)

    return scored
