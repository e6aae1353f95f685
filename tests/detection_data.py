"""A small dataset folder with planted anomalies, for every room that trains or reads a detector."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lego_fusion.data.dataset import Dataset, write_dataset
from lego_fusion.data.features import write_features
from lego_fusion.data.manifest import Manifest
from lego_fusion.data.tables import DatasetConfig, Interval, VideoRecord


def manifests(crops: int = 1) -> dict[str, Manifest]:
    return {
        "motion": Manifest(
            modality="motion", extractor="motion", version="1", width=3, stride=8, snippet_frames=8, nature="magnitude"
        ),
        "text": Manifest(modality="text", extractor="text", version="1", width=5, stride=8, snippet_frames=8, crops=crops),
    }


@pytest.fixture(scope="session")
def write_planted() -> Callable[..., Dataset]:
    """Write a dataset of short videos; in abnormal ones a third of the time moves fast and is told in other words.

    ``train`` and ``test`` are (normal, abnormal) numbers of videos. Videos have 61 to 130 frames at a stride of 8, so most
    end with a partial snippet, and the ground truth is exact in frames.
    """

    def write(root: Path, *, train: tuple[int, int] = (6, 4), test: tuple[int, int] = (3, 3), crops: int = 1) -> Dataset:
        random = np.random.default_rng(0)
        records, intervals, features = [], [], {}
        usual, unusual = np.eye(5)[:2]
        for split, counts in (("train", train), ("test", test)):
            for label, count in zip(("normal", "abnormal"), counts, strict=True):
                for number in range(count):
                    video = f"{split}_{label}_{number}"
                    frames = int(random.integers(61, 130))
                    rows = -(-frames // 8)
                    odd = np.zeros(rows, bool)
                    if label == "abnormal":
                        first = int(random.integers(0, rows - rows // 3))
                        odd[first : first + rows // 3] = True
                        intervals.append(Interval(video, first * 8, min(frames, (first + rows // 3) * 8)))
                    motion = 1 + 0.2 * random.normal(size=(rows, 3)) + 3 * odd[:, None] * np.array([1, 0.5, 0])
                    words = np.where(odd[:, None], unusual, usual)[:, None] + 0.2 * random.normal(size=(rows, crops, 5))
                    features[video] = {"motion": motion, "text": words[:, 0] if crops == 1 else words}
                    records.append(VideoRecord(video, label, frames, 10.0, split))
        config = DatasetConfig(name="planted", stride=8, snippet_frames=8, modalities=manifests(crops))
        dataset = write_dataset(root, config, records, intervals)
        for video, by_modality in features.items():
            for modality, values in by_modality.items():
                write_features(root, modality, video, values)
        return dataset

    return write


@pytest.fixture(scope="session")
def planted(write_planted: Callable[..., Dataset], tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The dataset as it is written by default; do not change it."""
    return write_planted(tmp_path_factory.mktemp("planted") / "dataset")
