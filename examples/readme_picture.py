"""The picture of the README: a frame of a demo video at its highest score, and the score curve with the ground truth.

    make demo && python examples/readme_picture.py demo-output docs/images/demo.png

The video is the abnormal test video of the kind asked for (large by default) that comes first.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from lego_fusion import Dataset, VideoScores, score_dataset
from lego_fusion.data.ground_truth import intervals_from_labels
from lego_fusion.data.video import VideoReader
from lego_fusion.report.figures import CURVE, TRUTH


def frame_at(video: Path, index: int) -> np.ndarray:
    with VideoReader(video) as reader:
        return next(frame.image for frame in reader if frame.index == index)


def draw(scores: VideoScores, picture: np.ndarray, index: int, path: Path) -> None:
    figure = Figure(figsize=(9, 2.7), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=[1, 1.6])
    left.imshow(picture)
    left.set(xticks=[], yticks=[], title=f"{scores.times[index]:.1f} s, score {scores.scores[index]:.2f}")
    if scores.truth is not None:
        for span in intervals_from_labels(scores.video, scores.truth):
            start, end = span.start_frame / scores.fps, span.end_frame / scores.fps
            right.axvspan(start, end, color=TRUTH, alpha=0.3, lw=0, label="abnormal (ground truth)")
    edges = np.arange(len(scores.scores) + 1) / scores.fps
    right.stairs(scores.scores, edges, color=CURVE, lw=1.8, baseline=None, label="abnormality score")
    right.axvline(scores.times[index], color="black", lw=0.8, ls=":")
    right.set(xlim=(0, edges[-1]), ylim=(-0.02, 1.02), xlabel="seconds", ylabel="score")
    right.spines[["top", "right"]].set_visible(False)
    handles = dict(zip(*reversed(right.get_legend_handles_labels()), strict=True))
    figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def main() -> None:
    demo, path = Path(sys.argv[1]), Path(sys.argv[2])
    kind = sys.argv[3] if len(sys.argv) > 3 else "large"
    dataset = Dataset.open(demo / "dataset")
    video = next(one for one in dataset.select(split="test", label="abnormal") if one.class_name == kind)
    scores = score_dataset(demo / "runs" / "lego-seed-0", dataset, [video.video])[0]
    index = int(np.flatnonzero(scores.scores == scores.scores.max()).mean())
    draw(scores, frame_at(demo / "scenes" / "videos" / f"{video.video}.mp4", index), index, path)


if __name__ == "__main__":
    main()
