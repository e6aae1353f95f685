"""Plant two kinds of anomaly, train on video-level labels, and read which feature set gave each of them away.

No data is needed: features of 25 short "videos" are drawn at random. In some a third of the time is odd, in one test video by
its motion alone, in another by its words alone. The detector learns from one label per video, and is then asked why.

    python examples/explain_planted.py            prints the answers
    python examples/explain_planted.py cards      also writes the alarm cards there; open cards/index.html
"""

import sys
import tempfile
from pathlib import Path

import numpy as np

from lego_fusion import Dataset, Manifest, train_run, write_dataset, write_features
from lego_fusion.data.tables import DatasetConfig, Interval, VideoRecord
from lego_fusion.learn.checkpoint import load_detector
from lego_fusion.report.cards import save_cards
from lego_fusion.report.words import headline
from lego_fusion.why.explainer import Explainer
from lego_fusion.why.learned import reading_weights

ROWS, STRIDE = 40, 8  # a feature row every 8 frames
ODD = slice(14, 27)


def plant(folder: Path) -> Dataset:
    """Write a dataset folder: 12 normal and 9 abnormal videos to train on, and four to explain."""
    random = np.random.default_rng(0)
    named = {"motion": "magnitude", "text": "direction"}
    manifests = {
        name: Manifest(modality=name, extractor=name, version="1", width=6, stride=STRIDE, snippet_frames=STRIDE, nature=nature)
        for name, nature in named.items()
    }
    kinds = (("motion",), ("text",), ("motion", "text"))
    odd_in = {f"normal_{n:02d}": () for n in range(12)} | {f"odd_{n}": kinds[n % 3] for n in range(9)}
    explained = {"runs": ("motion",), "is_told_odd": ("text",), "runs_and_is_told": ("motion", "text"), "calm": ()}
    records, intervals = [], []
    for video, odd in (odd_in | explained).items():
        split = "test" if video in explained else "train"
        records.append(VideoRecord(video, "abnormal" if odd else "normal", ROWS * STRIDE, 10.0, split))
        intervals += [Interval(video, ODD.start * STRIDE, ODD.stop * STRIDE)] if odd else []
    config = DatasetConfig(name="planted", stride=STRIDE, snippet_frames=STRIDE, modalities=manifests)
    dataset = write_dataset(folder, config, records, intervals)
    for video, odd in (odd_in | explained).items():
        for name in named:
            usual, unusual = 3 * np.eye(6)[:2]
            values = usual + 0.25 * random.normal(size=(ROWS, 6))
            if name in odd:
                values[ODD] += unusual - usual
            write_features(folder, name, video, values)
    return dataset


def main(cards: str | None = None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        dataset = plant(Path(folder) / "data")
        run = Path(folder) / "run"
        train_run(dataset, run, nodes=20)
        weights = reading_weights(load_detector(run)[0])
        if weights is not None:
            print("It lives in the", weights.world)
            print("What labels taught about the way normals are left:", weights.departure)
        explainer = Explainer(run, dataset)
        explanations = [explainer.explain(record.video) for record in dataset.select(split="test")]
        for one in explanations:
            planted = dataset.intervals(one.video)
            where = (
                f"planted in frames {planted[0].start_frame} to {planted[0].end_frame - 1}" if planted else "nothing planted"
            )
            print(f"\n{one.video} ({where})")
            for event in one.events:
                print(" ", headline(one, event))
                for change in event.counterfactuals:
                    print(f"  without {change.modality}: score {change.without:.2f}")
            if not one.events:
                print(f"  no event, the highest score is {one.scores.max():.2f}")
        if cards is not None:
            files = save_cards(cards, explanations)
            print(f"\nwritten: {files['index'][0]}")


if __name__ == "__main__":
    main(*sys.argv[1:2])
