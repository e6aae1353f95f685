"""Is the promise about false alarms kept? Normal clips of Ped2 split again and again into training, calibration and the rest.

    python benchmarks/false_alarms.py DATASET [--splits 50]

For each seed: 4 random normal and 6 random abnormal clips to train on (references among them), 9 other normal clips to
calibrate on (alpha 0.1; the first 4 of them for alpha 0.2), and the normal clips left over are watched for alarms. The unit is
the clip: an alarm anywhere in it counts once. The mean over all splits must be at most alpha plus two standard errors; the
standard error is over splits, whose clips are shared, so it is too small if anything.

Events, at alpha 0.1 with pauses of up to a second inside an event, are measured on the normal clips left over and the six
abnormal ones that were not trained on: mean over splits, and between which values 95 % of the splits lie.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch

from lego_fusion.alarm.event_evaluation import event_video
from lego_fusion.alarm.events import EventRule
from lego_fusion.alarm.thresholds import block_threshold
from lego_fusion.data.dataset import Dataset
from lego_fusion.learn.bags import Bags, fit_frozen, load_bags
from lego_fusion.learn.configuration import TrainingConfig
from lego_fusion.learn.detector import Detector
from lego_fusion.learn.methods import frame_scores, make_default_fusion
from lego_fusion.learn.scoring import VideoScores
from lego_fusion.learn.train import fit, predict_logits
from lego_fusion.measure.event_metrics import EventMetrics, event_metrics
from measuring import store

CALIBRATION = {0.1: 9, 0.2: 4}


def maxima(detector: Detector, bags: Bags) -> np.ndarray:
    """Highest logit of each clip."""
    return predict_logits(detector, bags).double().amax(1).numpy()  # type: ignore[no-any-return]


def events(dataset: Dataset, detector: Detector, bags: Bags, threshold: float) -> EventMetrics:
    """How well the events of some videos are found."""
    videos = []
    for video, logits in zip(bags.videos, predict_logits(detector, bags).double(), strict=True):
        frames, record = frame_scores(dataset, video, logits).numpy(), dataset.records[video]
        times, truth = np.arange(record.frames) / record.fps, dataset.frame_labels(video)
        scores = VideoScores(video, record.fps, times, 1 / (1 + np.exp(-frames)), truth, logits=frames)
        videos.append(event_video(scores, EventRule(threshold=threshold, merge_seconds=1.0)))
    return event_metrics(videos)


def one_split(
    dataset: Dataset, bags: Bags, modalities: list[str], seed: int
) -> tuple[dict[float, tuple[int, int]], EventMetrics]:
    """Alarms and clips watched, by alpha; of abnormal clips that are found, under the negative of alpha; and event metrics."""
    draw = random.Random(seed)
    normal, abnormal = ([r.video for r in dataset.videos if r.label == label] for label in ("normal", "abnormal"))
    draw.shuffle(normal)
    draw.shuffle(abnormal)
    train = bags.named([*normal[:4], *abnormal[:6]])
    manifests = {name: dataset.modalities[name] for name in modalities}
    fusion = make_default_fusion("lego", manifests, nodes=32, seed=seed)
    fit_frozen(fusion, train)
    detector = Detector(fusion, seed=seed)
    fit(detector, train, TrainingConfig(seed=seed))
    calibration = maxima(detector, bags.named(normal[4:13]))
    rest, abnormal_rest = maxima(detector, bags.named(normal[13:])), maxima(detector, bags.named(abnormal[6:]))
    found = {}
    for share, count in CALIBRATION.items():
        threshold = block_threshold(calibration[:count], share)
        found[share] = (int((rest >= threshold).sum()), len(rest))
        found[-share] = (int((abnormal_rest >= threshold).sum()), len(abnormal_rest))
    unseen = bags.named([*normal[13:], *abnormal[6:]])
    return found, events(dataset, detector, unseen, block_threshold(calibration, 0.1))


def event_rows(measured: list[EventMetrics]) -> dict[str, list[float]]:
    """Mean over splits, and the 2.5 and 97.5 % quantiles."""
    columns = {
        "mAP": [one.mean_average_precision for one in measured],
        **{f"AP@{iou:g}": [one.average_precision[iou] for one in measured] for iou in measured[0].average_precision},
        "recall": [one.recall for one in measured],
        "delay_seconds": [one.delay_seconds for one in measured],
        "false_alarms_per_hour": [one.false_alarms_per_hour for one in measured],
    }
    rows = {}
    for name, values in columns.items():
        known = np.array([value for value in values if value is not None])
        rows[name] = [round(float(x), 4) for x in (known.mean(), *np.quantile(known, [0.025, 0.975]))]
    return rows


def main() -> None:
    """Measure and store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--splits", type=int, default=50)
    options = parser.parse_args()
    torch.set_num_threads(1)
    dataset = Dataset.open(options.dataset)
    rows: dict[str, Any] = {}
    for modalities in (["motion"], ["motion", "appearance"]):
        bags = load_bags(dataset, modalities, [record.video for record in dataset.videos])
        measured = [one_split(dataset, bags, modalities, seed) for seed in range(options.splits)]
        splits = [one for one, _ in measured]
        rows[f"{' + '.join(modalities)}, events"] = told = event_rows([one for _, one in measured])
        print(f"{' + '.join(modalities)}: {told}")
        for share, count in CALIBRATION.items():
            rates = [alarms / clips for alarms, clips in (split[share] for split in splits)]
            error = stdev(rates) / len(rates) ** 0.5
            found = mean(alarms / clips for alarms, clips in (split[-share] for split in splits))
            exact = 1 - np.ceil((count + 1) * (1 - share) - 1e-9) / (count + 1)
            row = {"alarms_in_normal_clips": mean(rates), "standard_error": error, "promised": share, "exact": float(exact)}
            row |= {"abnormal_clips_found": found, "kept": mean(rates) <= share + 2 * error, "calibration_clips": count}
            rows[f"{' + '.join(modalities)}, alpha {share:g}"] = row
            print(f"{' + '.join(modalities)}, alpha {share:g}: {mean(rates):.3f} ± {error:.3f} of normal clips, ", end="")
            print(f"{found:.3f} of abnormal clips found")
    print(f"stored: {store('false_alarms', {'benchmark': 'false_alarms', 'splits': options.splits, 'rows': rows})}")


if __name__ == "__main__":
    main()
