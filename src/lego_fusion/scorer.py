"""Scores from features with an exported detector: needs numpy and onnxruntime alone, not torch and not even lego-fusion.

This file may be copied: ``lego-fusion export`` puts it beside the model, so that the folder runs by itself.

    from scorer import Scorer
    scores = Scorer("model.onnx").score_video({"motion": motion, "appearance": appearance}, fps=25)   # (T, D) each
    alarm = scores.logits >= scores.threshold
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

METADATA = "lego_fusion"
FORMAT = 1


class ScorerError(ValueError):
    """A model or features that cannot be used; one line that says what to do."""


class WindowScores(NamedTuple):
    """Scores of the nodes of some windows.

    Args:
        logits: (B, N).
        scores: Their sigmoid, (B, N).
        graph: Fused graph (B, N, K), or None where the fusion has none.
    """

    logits: np.ndarray
    scores: np.ndarray
    graph: np.ndarray | None


class VideoScores(NamedTuple):
    """Scores of a video, one every so many frames.

    Args:
        logits: (S,); S is T, the number of snippets, but for a model that smooths the frames of a whole video.
        scores: (S,), in [0, 1].
        threshold: Logit of the calibration from which on there is an alarm; 0, a score of 0.5, where there is none.
        frames: From one score to the next.
    """

    logits: np.ndarray
    scores: np.ndarray
    threshold: float
    frames: int


class Scorer:
    """An exported detector.

    Args:
        path: ``model.onnx`` as ``lego-fusion export`` writes it.
        threads: Processor threads.

    Raises:
        ScorerError: If the file is missing, damaged, or no model of ours.
    """

    def __init__(self, path: str | Path, *, threads: int = 1) -> None:
        import onnxruntime

        if not Path(path).is_file():
            raise ScorerError(f"there is no model here ({path}). What to do: give model.onnx of an exported run.")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = threads
        try:
            self._session: Any = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            self.about: dict[str, Any] = json.loads(self._session.get_modelmeta().custom_metadata_map[METADATA])
        except Exception as error:  # onnxruntime's own errors share no base class
            raise ScorerError(f"not a model that lego-fusion exported ({path}): {str(error).splitlines()[0]}") from error
        if self.about.get("format") != FORMAT:
            raise ScorerError(f"the model is of another format ({path}): expected {FORMAT}, got {self.about.get('format')}")
        self.widths: dict[str, int] = self.about["widths"]
        self._outputs = [output.name for output in self._session.get_outputs()]

    def score(self, features: Mapping[str, np.ndarray]) -> WindowScores:
        """Score windows of nodes.

        Args:
            features: (B, N, D) of every modality by name, float; N is the model's own unless it takes any number.

        Raises:
            ScorerError: If a modality is missing or unknown, a shape is wrong, or a value is not finite.
        """
        self._check(features, dimensions=3)
        fixed = self.about["nodes"]
        given = next(iter(features.values())).shape
        if self.about["fixed_nodes"] and given[1] != fixed:
            raise ScorerError(f"the model relates {fixed} nodes to each other: expected (B, {fixed}, D), got {given}")
        found = self._session.run(None, {name: np.ascontiguousarray(features[name], np.float32) for name in self.widths})
        by_name = dict(zip(self._outputs, found, strict=True))
        return WindowScores(by_name["logit"], by_name["score"], by_name.get("graph"))

    def score_video(
        self, features: Mapping[str, np.ndarray], *, fps: float = 0.0, frames: int = 0, camera: str = ""
    ) -> VideoScores:
        """Score a whole video, as ``lego-fusion score`` does.

        Args:
            features: (T, D) of every modality by name, or (T, C, D) with the model's crops, from the extractors in ``about``.
            fps: Frames per second of the video, for a model that smooths its scores (``about["smoothing"]``, in seconds).
            frames: Of the video, for the end of the last snippet; by default it is taken as whole.
            camera: Whose threshold to give, where the calibration has one for each.

        Raises:
            ScorerError: As ``score``, or if modalities differ in length, or a model that smooths scores is not told ``fps``.
        """
        by_crop = {name: np.asarray(x) if np.ndim(x) == 3 else np.asarray(x)[:, None] for name, x in features.items()}
        self._check(by_crop, dimensions=3)
        rows = len(next(iter(by_crop.values())))
        crops = max(x.shape[1] for x in by_crop.values())
        windows = {}
        for name, x in by_crop.items():
            segments = self._segments(x.astype(np.float64))  # (N, C, D)
            windows[name] = np.broadcast_to(segments, (len(segments), crops, x.shape[2])).transpose(1, 0, 2)
        logits = self.score(windows).logits.astype(np.float64).mean(0)
        found, every = self._on_the_clock(logits, rows, fps, frames)
        thresholds = self.about.get("thresholds") or {}
        return VideoScores(found, _sigmoid(found), float(thresholds.get(camera, thresholds.get("", 0.0))), every)

    def _on_the_clock(self, logits: np.ndarray, rows: int, fps: float, frames: int) -> tuple[np.ndarray, int]:
        """Logits of segments to those of snippets, or, smoothed, of shorter steps; and the frames of a step."""
        seconds, snippets = float(self.about.get("smoothing") or 0.0), self.about["segment_snippets"]
        first = next(iter(self.about["manifests"].values()))
        stride = int(first["stride"])
        if not seconds:
            return self._rows(logits, rows), stride
        if not 0 < fps < np.inf:
            raise ScorerError(f"the model smooths its scores over {seconds:g} seconds: expected fps above 0, got {fps}")
        if snippets:
            return self._rows(_smooth(logits, snippets * stride / fps, seconds, causal=True), rows), stride
        whole = math.gcd(stride, int(first["snippet_frames"]))
        step = max(n for n in range(1, min(whole, max(1, int(fps * seconds / 2))) + 1) if whole % n == 0)
        steps = np.repeat(self._rows(logits, rows), stride // step)[: -(-(frames or rows * stride) // step)]
        return _smooth(steps, step / fps, seconds), step

    def _segments(self, x: np.ndarray) -> np.ndarray:
        """Mean over the snippets of each segment."""
        starts, ends = self._spans(len(x))
        sums = np.concatenate([np.zeros_like(x[:1]), np.cumsum(x, axis=0)])
        return (sums[ends] - sums[starts]) / (ends - starts)[:, None, None]  # type: ignore[no-any-return]

    def _rows(self, values: np.ndarray, rows: int) -> np.ndarray:
        """Mean over the segments that hold each snippet."""
        starts, ends = self._spans(rows)
        total, count = np.zeros(rows), np.zeros(rows)
        for value, start, end in zip(values, starts, ends, strict=True):
            total[start:end] += value
            count[start:end] += 1
        return total / count

    def _spans(self, rows: int) -> tuple[np.ndarray, np.ndarray]:
        """First snippet of each segment and the one after its last."""
        if self.about["segment_snippets"]:
            starts = np.arange(0, rows, self.about["segment_snippets"])
            return starts, np.minimum(starts + self.about["segment_snippets"], rows)
        bounds = np.linspace(0, rows, self.about["nodes"] + 1).astype(np.int64)
        return bounds[:-1], np.maximum(bounds[1:], bounds[:-1] + 1)

    def _check(self, features: Mapping[str, np.ndarray], *, dimensions: int) -> None:
        missing, unknown = set(self.widths) - set(features), set(features) - set(self.widths)
        if missing or unknown:
            what = f"modality '{min(missing)}' is missing" if missing else f"the model has no modality '{min(unknown)}'"
            raise ScorerError(f"{what}: expected {', '.join(self.widths)}, got {', '.join(features) or 'none'}")
        lengths = {name: np.shape(x)[: dimensions - 1] for name, x in features.items()}
        for name, x in features.items():
            if np.ndim(x) != dimensions or np.shape(x)[-1] != self.widths[name] or 0 in np.shape(x):
                raise ScorerError(
                    f"features of another shape ('{name}'): expected (..., {self.widths[name]}), got {np.shape(x)}"
                )
            if np.asarray(x).dtype.kind not in "fiu" or not np.isfinite(x).all():
                raise ScorerError(f"features are not finite numbers ('{name}'). What to do: look at how they were made.")
        if len({length[0] for length in lengths.values()}) > 1:
            raise ScorerError(f"modalities differ in length: {', '.join(f'{n} {s[0]}' for n, s in lengths.items())}")


def _smooth(values: np.ndarray, step: float, seconds: float, *, causal: bool = False) -> np.ndarray:
    """Gaussian means over values ``step`` seconds apart, of what is at most 4 ``seconds`` away, or that long ago."""
    reach = min(int(4 * seconds / step + 1e-9), len(values) - 1)
    weights = np.exp(-np.square(np.arange(-reach, reach + 1) * step / seconds) / 2)
    if causal:
        weights[:reach] = 0.0  # a convolution turns them round
    total, mixed = (np.convolve(x, weights)[reach : reach + len(values)] for x in (np.ones(len(values)), values - values[0]))
    return values[0] + mixed / total  # type: ignore[no-any-return]


def _sigmoid(x: np.ndarray) -> np.ndarray:
    small = np.exp(-np.abs(x))
    scores: np.ndarray = np.where(x >= 0, 1 / (1 + small), small / (1 + small))
    return scores
