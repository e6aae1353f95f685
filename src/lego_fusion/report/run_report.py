"""A report of a saved run on a dataset's videos, or on one video file, with the card of its model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..alarm.calibration import ALL_CAMERAS, read_calibration
from ..alarm.event_evaluation import UNCALIBRATED, evaluate_events, rule_of_run
from ..data.dataset import Dataset
from ..data.tables import VideoRecord
from ..errors import DataError
from ..fusion.reading_head import ReadingHead
from ..learn.checkpoint import RunConfig, load_detector
from ..learn.detector import Detector
from ..learn.evaluation import Evaluation, evaluate_runs, measure_runs, selection_of
from ..learn.runs import read_method
from ..measure.result import Result
from ..measure.scored import ScoredVideo
from ..why.learned import reading_weights
from ..why.reading import Reader, VideoReading, coefficient_tables
from ..writing import write_text
from .pictures import Pictures, find_video, read_pictures
from .report_data import DEFAULT_MEGABYTES, Report, wanted_segments
from .report_page import report_page

Lines = Mapping[str, str]
_MOST_NAMES = 40


def model_card(
    folder: str | Path, dataset: Dataset | None = None, results: Sequence[Result] = (), split: str = "test"
) -> dict[str, Lines]:
    """Everything a reader should know before trusting a model, in words: sections of named lines.

    Args:
        folder: Run folder.
        dataset: The dataset it was trained on, if at hand: it tells labels, cameras and kinds of anomaly.
        results: What was measured, if anything was.
        split: Of the videos that were measured.

    Returns:
        Sections "Model", "Trained on", "Labels", "Measured on", "Calibration", "Not tried on" and "Limits".

    Raises:
        CheckpointError: If the folder holds no run.
    """
    folder = Path(folder)
    detector, config = load_detector(folder)
    trained = _trained_videos(config)
    same = dataset is not None and config.dataset.get("name") == dataset.name
    known = {one.video: one for one in dataset.videos} if dataset is not None and same else {}
    records = [known[video] for video in trained if video in known]
    return {
        "Model": _model(folder, config, detector),
        "Trained on": _training(config, trained, records),
        "Labels": _labels(config),
        "Measured on": _card_results(results),
        "Calibration": _calibration(folder),
        "Not tried on": _untried(records, dataset, results, split),
        "Limits": _LIMITS,
    }


_LIMITS = {
    "new is not harmful": "what is unlike the normal training videos scores high, whether it matters to anyone or not, and "
    "what was common in them scores low, even if it does",
    "scores": "a score is what a model says, no probability and no proof; scores near 1 all look alike, logits do not",
    "change": "a camera that was moved, another season or lens can raise all scores: calibrate again on new normal footage",
    "people": "nothing was measured about whether some groups of people cause more alarms than others; a person should look "
    "at the footage before anything follows from an alarm",
}


def _model(folder: Path, config: RunConfig, detector: Detector) -> dict[str, str]:
    modalities = [f"{name} ({one.extractor} {one.version}, {one.width} numbers)" for name, one in config.manifests.items()]
    spans = f"{config.nodes} equal spans of each video"
    if config.segment_snippets is not None:
        spans = f"{config.segment_snippets} snippets each, from windows of {config.nodes}"
    training, head = config.training, detector.reading_head
    lines = {"fusion": read_method(folder, config), "modalities": ", ".join(modalities)}
    lines["parameters"] = f"{detector.parameter_count():,}"
    lines |= {} if head is None else {"world": head.world}
    lines |= {"segments": spans, "training": f"{_length(training, head)}, chosen by: {selection_of(config)}"}
    lines |= {"known normals": f"{len(config.references)} segments"} if config.references else {}
    lines["smoothing"] = f"Gaussian of {config.smoothing:g} s over its scores" if config.smoothing else "none"
    return lines | {"weights": f"SHA-256 {config.weights_hash}", "lego-fusion": config.lego_fusion}


def _length(training: Mapping[str, Any], head: ReadingHead | None) -> str:
    """How long was trained, and what was drawn at random."""
    if head is None:
        return f"{training.get('steps')} steps, seed {training.get('seed')}"
    if training.get("steps") == 0 or training.get("normal_only"):
        return "untrained: all degrees count alike, the departure not at all; nothing is random"
    return f"at most {training.get('iterations')} iterations to the most probable weights; nothing is random"


def _training(config: RunConfig, trained: Sequence[str], records: Sequence[VideoRecord]) -> dict[str, str]:
    lines = {"dataset": str(config.dataset.get("name") or "unnamed"), "dataset hash": str(config.dataset.get("hash") or "")}
    counted = f"{len(trained)}"
    if len(records) == len(trained):
        normal = sum(one.label == "normal" for one in records)
        hours = sum(one.frames / one.fps for one in records) / 3600
        counted += f": {normal} normal, {len(records) - normal} abnormal, {hours:.2g} hours"
    more = f" and {len(trained) - _MOST_NAMES} more" if len(trained) > _MOST_NAMES else ""
    lines |= {"videos": counted, "names": ", ".join(trained[:_MOST_NAMES]) + more}
    cameras = sorted({one.camera for one in records if one.camera})
    return lines | ({"cameras": ", ".join(cameras)} if cameras else {})


def _labels(config: RunConfig) -> dict[str, str]:
    if config.training.get("normal_only"):
        return {"training": "normal videos alone; no abnormal video was learned from"}
    return {"training": "one word per video, normal or abnormal; when in a video it happens was not told"}


def _card_results(results: Sequence[Result]) -> dict[str, str]:
    if not results:
        return {"nothing": "no ground truth was at hand for this report"}
    return {"videos": f"split '{results[0].split}' of {results[0].dataset}; the numbers are in the table of metrics"}


def _calibration(folder: Path) -> dict[str, str]:
    calibration = read_calibration(folder)
    if calibration is None:
        return {"none": UNCALIBRATED}
    lines = {"promise": calibration.promise()}
    lines |= {"dataset": calibration.dataset} if calibration.dataset else {}
    for camera, one in calibration.cameras.items():
        threshold = f"logit {one.rule.threshold:.2f}"
        footage = f"; {len(one.videos)} videos, {one.hours:.2g} hours" if one.videos else ""
        lines["threshold" if camera == ALL_CAMERAS else f"camera {camera}"] = threshold + footage
        for video, second in one.suspects:
            lines[f"suspect {video}"] = f"may hold an event at {second:.1f} s, which would make the threshold too high"
    return lines


def _untried(records: Sequence[VideoRecord], dataset: Dataset | None, results: Sequence[Result], split: str) -> dict[str, str]:
    measured = dataset.select(split=split) if dataset is not None and results else ()
    seen = [*records, *measured]
    cameras = sorted({one.camera for one in seen if one.camera})
    rates = sorted({one.fps for one in seen})
    kinds = sorted({one.class_name for one in measured if one.class_name})
    places = f"cameras other than {', '.join(cameras)}" if cameras else "any camera or place that is not in these videos"
    lines = {"other places": places}
    if rates:
        lines["other rates"] = "frame rates other than " + ", ".join(f"{rate:g}" for rate in rates)
    lines["other anomalies"] = f"kinds other than {', '.join(kinds)}" if kinds else "kinds that are not in the measured videos"
    if not results:
        lines["any at all"] = "in this report the model was measured on no video"
    return lines | {"other conditions": "night, weather, a dirty lens or lost frames, unless these videos have them"}


def _trained_videos(config: RunConfig) -> list[str]:
    names = config.dataset.get("train")
    return [str(name) for name in names] if isinstance(names, list) else []


StepCallback = Callable[[int, int], None]


def run_report(
    folder: str | Path,
    dataset: Dataset,
    *,
    split: str = "test",
    videos: Sequence[str] = (),
    on_video: StepCallback | None = None,
) -> Report:
    """A run on the videos of a split: how good it is, and what it saw in each.

    Args:
        folder: Run folder.
        dataset: Made by the same extractors as the run's training data.
        split: Whose videos are shown and, where they have ground truth, measured.
        videos: Names of the videos to show instead; nothing is measured on a choice of videos.
        on_video: Called with how many videos of how many are read.

    Raises:
        DataError: If no video is in the split.
        ManifestError: If the dataset's features were made in another way.
        CheckpointError: If the folder holds no run.
    """
    folder = Path(folder)
    records = [dataset.records[video] for video in videos] or list(dataset.select(split=split))
    if not records:
        there = ", ".join(sorted({record.split or "(none)" for record in dataset.videos}))
        fix = "choose another with --split"
        raise DataError(f"no video is in the split '{split}'", where=dataset.root, got=f"splits {there}", fix=fix)
    reader = Reader(folder, dataset)
    readings = reader.dataset_videos(dataset, [record.video for record in records], on_video=on_video)
    measured = events = Evaluation((), ())
    if not videos and any(dataset.has_ground_truth(record.video) for record in records):
        measured = evaluate_runs([folder], dataset, split=split)
        events = evaluate_events(folder, dataset, split=split)
    which = f"split {split}" if not videos else "chosen videos"
    return _report(
        f"{folder.name} on {dataset.name}, {which}",
        reader,
        readings,
        measured,
        events,
        dataset=dataset,
        split=split,
        labels={record.video: record.label for record in records},
    )


def video_report(
    folder: str | Path,
    video: str | Path,
    *,
    dataset: Dataset | None = None,
    captions: str | Path | None = None,
    networks: Mapping[str, Path] | None = None,
    intervals: str | Path | None = None,
    camera: str = "",
) -> Report:
    """A run on one video file.

    Args:
        folder: Run folder.
        video: Video file.
        dataset: The dataset that the run was trained on, for what each modality adds and for the model card.
        captions: Caption sidecar, for models with a text modality.
        networks: For each modality whose extractor is a network on disk, where it lies.
        intervals: ``intervals.csv`` with ground truth for this video, if known.
        camera: Whose calibration to use.

    Raises:
        ParameterError: If something the model needs is missing.
        VideoError: If the video cannot be decoded.
        CheckpointError: If the folder holds no run.
    """
    folder, video = Path(folder), Path(video)
    reader = Reader(folder, dataset)
    reading = reader.video_file(video, captions=captions, networks=networks, intervals=intervals, camera=camera)
    title = f"{video.name} as {folder.name} sees it"
    return _report(title, reader, [reading], _measured(reader, reading), Evaluation((), ()), dataset=dataset)


def report_pictures(
    report: Report,
    dataset: Dataset | None = None,
    *,
    folder: str | Path | None = None,
    files: Mapping[str, Path] | None = None,
    on_video: StepCallback | None = None,
) -> Pictures:
    """The frames that a report shows; what cannot be decoded is a note.

    Args:
        report: Which.
        dataset: Its column ``source`` says where the videos lie.
        folder: Where they lie instead, as ``<video>.<suffix>``.
        files: Where some of them lie, by name; goes before both.
        on_video: Called with how many videos of how many are done.
    """
    records = {one.video: one for one in dataset.videos} if dataset is not None else {}
    wanted = wanted_segments(report.readings)
    paths = {video: find_video(video, records.get(video), folder) for video in wanted} | dict(files or {})
    return read_pictures(wanted, paths, on_video=on_video)


def save_report(
    path: str | Path, report: Report, pictures: Pictures | None = None, *, megabytes: float = DEFAULT_MEGABYTES
) -> Path:
    """Write a report as one HTML file, whole or not at all.

    Args:
        path: In a folder that is there.
        report: What to show.
        pictures: From ``report_pictures``; None leaves all pictures out.
        megabytes: Most of graphs and pictures together; Plotly's 5 MB come to it.

    Raises:
        DataError: If the folder is not there or the path is a folder.
        MissingExtraError: If Plotly is not installed.
    """
    path = check_place(path)
    write_text(path, report_page(report, pictures, megabytes=megabytes))
    return path


def check_place(path: str | Path) -> Path:
    """A path that a report can be written to.

    Raises:
        DataError: If its folder is not there, or it is a folder itself.
    """
    path = Path(path)
    if path.is_dir():
        raise DataError("this is a folder", where=path, expected="a file to write", fix="give a file name such as report.html")
    if not path.parent.is_dir():
        raise DataError("the folder to write into is not there", where=path.parent, fix="make it first, or write elsewhere")
    return path


def _report(
    title: str,
    reader: Reader,
    readings: Sequence[VideoReading],
    measured: Evaluation,
    events: Evaluation,
    *,
    dataset: Dataset | None,
    split: str = "",
    labels: Mapping[str, str] | None = None,
) -> Report:
    fusion = reader.detector.fusion
    _, promise = rule_of_run(reader.folder)
    notes = [*reader.notes, *measured.notes, *events.notes, *([promise] if promise == UNCALIBRATED else [])]
    notes += [f"{one.video}: {warning}" for one in readings for warning in one.scores.warnings]
    weights = reading_weights(reader.detector)
    if weights is None and not fusion.relates_within:
        notes.append(f"the fusion '{fusion.kind}' has no relation graphs, no operator and no terms: they are left out")
    return Report(
        title=title,
        run=reader.folder.name,
        readings=tuple(readings),
        coefficients=tuple(coefficient_tables(reader.detector)),
        weights=weights,
        results=measured.results,
        event_results=events.results,
        promise=promise,
        card=model_card(reader.folder, dataset, measured.results, split),
        settings=_settings(reader.config),
        manifests={name: manifest.model_dump(mode="json") for name, manifest in reader.config.manifests.items()},
        labels=dict(labels or {}),
        notes=tuple(dict.fromkeys(notes)),
        has_graphs=any(one.fused is not None for one in readings),
        square=fusion.relates_within,
    )


def _measured(reader: Reader, reading: VideoReading) -> Evaluation:
    """Metrics over the frames of one video; nothing where its ground truth is not known or of one class."""
    scores = reading.scores
    if scores.truth is None or not scores.truth.any() or scores.truth.all():
        return Evaluation((), ())
    return measure_runs(
        [[ScoredVideo.from_frames(scores.video, scores.scores, scores.truth)]],
        dataset=scores.video,
        split="one video",
        modalities=tuple(reader.config.manifests),
        fusion=read_method(reader.folder, reader.config),
        seed=int(str(reader.config.training["seed"])),
        selection=selection_of(reader.config),
        parameters=reader.detector.parameter_count(),
    )


def _settings(config: RunConfig) -> dict[str, Any]:
    """What made the model, without the lists that the model card has."""
    shown = config.model_dump(mode="json", exclude={"manifests", "references", "dataset"})
    return shown | {"references": len(config.references)}
