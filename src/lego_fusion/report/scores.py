"""Scores as files: a table, a JSON document and a picture of one video, or of every video of a folder by several workers.

scores/
  summary.csv, summary.json      a row per video; .parquet if asked for
  videos/<video>.csv, .json, .png  as for one video
  records/<video>.json           what a video was scored from, so that it is not scored again
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from .. import __version__
from ..alarm.event_evaluation import events_of
from ..alarm.events import EventRule, as_score
from ..data.files import write_table
from ..engines import ENGINES, run_on_ray
from ..errors import LegoFusionError, MissingExtraError, check_choice, check_int
from ..extract.base import file_hash
from ..learn.processes import run_jobs
from ..learn.scoring import OpenRun, VideoScores, open_run, score_video
from ..measure.detection import micro_auc
from ..measure.scored import ScoredVideo
from ..writing import PARTIAL, written_whole
from .figures import score_curve


def scores_document(scores: VideoScores, rule: EventRule | None = None) -> dict[str, Any]:
    """Everything known about a video's scores, as JSON values; events by a rule, by default spans scored 0.5 or more."""
    rule = rule or EventRule()
    document: dict[str, Any] = {"video": scores.video, "fps": scores.fps, "frames": len(scores.scores)}
    document["rule"] = rule.model_dump(mode="json") | {"score": as_score(rule.threshold)}
    document["events"] = [vars(event) | {"peak_score": as_score(event.peak)} for event in events_of(scores, rule)]
    document["warnings"] = list(scores.warnings)
    document["seconds"] = scores.times.round(6).tolist()
    document["scores"] = scores.scores.tolist()
    document["truth"] = None if scores.truth is None else scores.truth.astype(int).tolist()
    return document


def save_score_table(folder: str | Path, scores: VideoScores) -> Path:
    """Write ``<video>.csv`` with frame, seconds, score (unrounded) and, where it is known, truth (0 or 1)."""
    columns = ["frame", "seconds", "score"] + (["truth"] if scores.truth is not None else [])
    path = Path(folder) / f"{scores.video}.csv"
    write_table(path, columns, _rows(scores))
    return path


def save_scores(
    folder: str | Path, scores: VideoScores, rule: EventRule | None = None, *, picture: bool = True
) -> dict[str, Path]:
    """Write ``<video>.csv``, ``<video>.json`` and ``<video>.png`` into a folder, each whole or not at all.

    Args:
        folder: Made if it is not there.
        scores: Scores of a video, with logits.
        rule: How events are found; by default spans scored 0.5 or more.
        picture: Whether to draw the curve.

    Returns:
        The files by their kind: csv, json, png.

    Raises:
        MissingExtraError: If a picture is asked for and matplotlib is not installed; the other files are written then.
    """
    folder = Path(folder)
    files = {"csv": save_score_table(folder, scores), "json": folder / f"{scores.video}.json"}
    with written_whole(files["json"]) as file:
        file.write((json.dumps(scores_document(scores, rule)) + "\n").encode())
    if picture:
        files["png"] = folder / f"{scores.video}.png"
        score_curve(files["png"], scores.scores, fps=scores.fps, truth=scores.truth, title=scores.video)
    return files


def _rows(scores: VideoScores) -> Iterator[dict[str, object]]:
    for frame, (seconds, score) in enumerate(zip(scores.times, scores.scores, strict=True)):
        row: dict[str, object] = {"frame": frame, "seconds": f"{seconds:.6f}", "score": float(score)}  # unrounded: no ties
        yield row if scores.truth is None else row | {"truth": int(scores.truth[frame])}


VIDEOS, RECORDS = "videos", "records"


@dataclass(frozen=True)
class VideoToScore:
    """One video of a folder and what lies beside it.

    Args:
        path: The video file.
        captions: Its caption file, for models with text.
        truth: A table of ground truth that names it.
    """

    path: Path
    captions: Path | None = None
    truth: Path | None = None


@dataclass(frozen=True)
class VideoSummary:
    """What the scores of a video come to.

    Args:
        video: Name.
        frames: How many it has.
        seconds: How long it lasts.
        highest_score: Of any frame, in [0, 1].
        highest_at: When, in seconds.
        events: Events that the rule finds.
        alarms: Those that raise an alarm.
        auc: Against the ground truth, where it is known and has both classes.
        warnings: What a person should know, joined by semicolons.
    """

    video: str
    frames: int
    seconds: float
    highest_score: float
    highest_at: float
    events: int
    alarms: int
    auc: float | None
    warnings: str


@dataclass(frozen=True)
class FolderReport:
    """What ``score_folder`` did.

    Args:
        rows: Of the videos that are scored, by name.
        failures: Why a video is not, in one line each, by name.
        reused: Videos that were scored before.
        files: Of the summary, by kind.
        world: In which the model lives (``Detector.world``).
    """

    rows: tuple[VideoSummary, ...]
    failures: dict[str, str]
    reused: int
    files: dict[str, Path]
    world: str


@dataclass(frozen=True)
class _Shared:
    """What all videos of a call have in common."""

    model: Path
    out: Path
    networks: tuple[tuple[str, Path], ...]
    rule: EventRule
    picture: bool
    key: str  # of model, rule and version


def score_folder(
    model: str | Path,
    videos: Sequence[VideoToScore],
    out: str | Path,
    *,
    rule: EventRule | None = None,
    networks: Mapping[str, Path] | None = None,
    workers: int = 1,
    engine: str = "processes",
    picture: bool = True,
    parquet: bool = False,
    on_video: Callable[[int, int], None] | None = None,
) -> FolderReport:
    """Score videos with a saved detector; those that were scored before with the same model from the same file are kept.

    Args:
        model: Run folder.
        videos: What to score; names (without suffix) differ.
        out: Folder to write or to go on with.
        rule: How events are found; by default spans scored 0.5 or more.
        networks: For each modality whose extractor is a network on disk, where it lies.
        workers: Processes. They start Python anew, so a script needs ``if __name__ == "__main__"``.
        engine: ``"processes"`` of this machine, or ``"ray"``: the workers of a Ray cluster that sees the same folders.
        picture: Whether to draw the curves.
        parquet: Whether to write the summary as Parquet too.
        on_video: Called with how many of how many videos are done.

    Raises:
        CheckpointError: If the model cannot be read.
        MissingExtraError: If a package that is needed is not installed.
        LegoFusionError: If a process of this machine dies; the same call goes on.
    """
    check_choice(engine, "engine", "score", ENGINES)
    check_int(workers, "workers", "score", low=1, high=1024)
    model, out, rule = Path(model), Path(out), rule or EventRule()
    if parquet:
        _pyarrow()
    world = open_run(model, networks=networks).detector.world  # and what is wrong with it is said once
    for folder in (VIDEOS, RECORDS):
        for leftover in (out / folder).glob(PARTIAL):  # of a kill in the middle of writing
            leftover.unlink(missing_ok=True)
    shared = _Shared(model, out, tuple((networks or {}).items()), rule, picture, _key(model, rule, picture=picture))
    work = functools.partial(_scored, shared)
    found = run_on_ray(_scored, shared, videos, workers) if engine == "ray" else run_jobs(work, videos, workers, where="score")
    rows: dict[str, VideoSummary] = {}
    failures: dict[str, str] = {}
    reused = 0
    for done, (job, outcome) in enumerate(found, start=1):
        if isinstance(outcome, MissingExtraError):
            raise outcome
        if isinstance(outcome, Exception):
            failures[job.path.stem] = _line(outcome)
        else:
            row, before = outcome
            rows[job.path.stem], reused = row, reused + before
        if on_video is not None:
            on_video(done, len(videos))
    ordered = tuple(rows[name] for name in sorted(rows))
    report = FolderReport(ordered, dict(sorted(failures.items())), reused, {}, world)
    return replace(report, files=_save_summary(out, report, parquet=parquet))


def _scored(shared: _Shared, job: VideoToScore) -> tuple[VideoSummary, bool] | LegoFusionError | OSError:
    """Score a video and write its files, or find that it was done before."""
    try:
        inputs = {name: None if path is None else file_hash(path) for name, path in vars(job).items()}
        record = shared.out / RECORDS / f"{job.path.stem}.json"
        known = _known(record, shared, inputs)
        if known is not None:
            return known, True
        opened = _opened(shared.model, shared.networks, shared.key)
        scores = score_video(opened, job.path, captions=job.captions, intervals=job.truth)
        row = _summary(scores, shared.rule)
        save_scores(shared.out / VIDEOS, scores, shared.rule, picture=shared.picture)
        document = {"key": shared.key, "inputs": inputs, "row": asdict(row)}
        with written_whole(record) as file:
            file.write(json.dumps(document, indent=2).encode())
    except (LegoFusionError, OSError) as error:
        return error
    return row, False


@functools.lru_cache(maxsize=1)
def _opened(model: Path, networks: tuple[tuple[str, Path], ...], key: str) -> OpenRun:
    """A run, opened once for all videos of a process; ``key`` tells a model from one that replaced it."""
    return open_run(model, networks=dict(networks))


def _known(record: Path, shared: _Shared, inputs: dict[str, str | None]) -> VideoSummary | None:
    """The row of a video that was scored before from the same file, if all that was written is there."""
    kinds = ("csv", "json", "png") if shared.picture else ("csv", "json")
    if not all((shared.out / VIDEOS / f"{record.stem}.{kind}").is_file() for kind in kinds):
        return None
    try:
        document = json.loads(record.read_text(encoding="utf-8"))
        return VideoSummary(**document["row"]) if (document["key"], document["inputs"]) == (shared.key, inputs) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None  # a record that is damaged is replaced


def _key(model: Path, rule: EventRule, *, picture: bool) -> str:
    facts = [file_hash(model / name) for name in ("config.json", "model.safetensors")]
    return hashlib.sha256(json.dumps([*facts, rule.model_dump(mode="json"), picture, __version__]).encode()).hexdigest()


def _summary(scores: VideoScores, rule: EventRule) -> VideoSummary:
    place, events, truth = int(scores.scores.argmax()), events_of(scores, rule), scores.truth
    auc = None
    if truth is not None and truth.any() and not truth.all():
        auc = micro_auc([ScoredVideo.from_frames(scores.video, scores.scores, truth)])
    return VideoSummary(
        video=scores.video,
        frames=len(scores.scores),
        seconds=round(len(scores.scores) / scores.fps, 6),
        highest_score=float(scores.scores[place]),
        highest_at=round(float(scores.times[place]), 6),
        events=len(events),
        alarms=sum(event.alarm_seconds is not None for event in events),
        auc=auc,
        warnings="; ".join(scores.warnings),
    )


def _save_summary(out: Path, report: FolderReport, *, parquet: bool) -> dict[str, Path]:
    files = {"csv": out / "summary.csv", "json": out / "summary.json"}
    columns, tables = [field.name for field in fields(VideoSummary)], [asdict(row) for row in report.rows]
    write_table(files["csv"], columns, tables)
    with written_whole(files["json"]) as file:
        document = {"videos": tables, "failures": report.failures, "world": report.world}
        file.write((json.dumps(document, indent=2) + "\n").encode())
    if parquet:
        arrow, writer = _pyarrow()
        files["parquet"] = out / "summary.parquet"
        kinds = {"str": arrow.string(), "int": arrow.int64(), "float": arrow.float64(), "float | None": arrow.float64()}
        schema = arrow.schema([(field.name, kinds[str(field.type)]) for field in fields(VideoSummary)])
        with written_whole(files["parquet"]) as file:
            writer.write_table(arrow.Table.from_pylist(tables, schema=schema), file)
    return files


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError("pyarrow", "formats") from error
    return pyarrow, pyarrow.parquet


def _line(error: Exception) -> str:
    if isinstance(error, OSError) and not isinstance(error, LegoFusionError):
        return f"{error.strerror or error}" + (f" ({error.filename})" if error.filename else "")
    return str(error)
