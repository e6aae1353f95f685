"""From a folder of videos to a dataset folder: each video decoded once, written whole, taken up again after a stop."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from .. import __version__
from ..data.dataset import Dataset, write_dataset
from ..data.features import FeatureLocation, feature_path, read_provenance, write_features
from ..data.manifest import Manifest
from ..data.tables import DatasetConfig, Interval, VideoRecord, read_config, read_videos
from ..engines import ENGINES, run_on_ray
from ..errors import DataError, LegoFusionError, check_choice, check_int
from .base import Extractor, FrameExtractor, SidecarExtractor, TrackExtractor, file_hash
from .describe import CaptionSource, Decoded, by_kind, decode_video, describe_video, extract_video, sidecar_rows, track_rows
from .layouts import SourceVideo, list_source

__all__ = ["ExtractionReport", "Failure", "Progress", "describe_video", "extract_dataset", "extract_video"]


@dataclass(frozen=True)
class Failure:
    """A video that could not be extracted, and why, in one line."""

    video: str
    message: str


@dataclass(frozen=True)
class Progress:
    """Where an extraction stands: ``done`` of ``total`` videos, the last of them ``video``."""

    video: str
    done: int
    total: int
    reused: bool


@dataclass(frozen=True, eq=False)
class ExtractionReport:
    """What ``extract_dataset`` did.

    Args:
        dataset: The dataset folder, without the videos that failed.
        failures: Videos left out, and why.
        warnings: What a person should know, one line each: damaged files, missing labels.
        extracted: Videos of which something was extracted.
        reused: Videos whose features were all there already.
        seconds: Time spent by modality, and ``"decode"``, summed over workers.
    """

    dataset: Dataset
    failures: tuple[Failure, ...]
    warnings: tuple[str, ...]
    extracted: int
    reused: int
    seconds: dict[str, float]


@dataclass(frozen=True, eq=False)
class _Job:
    """One video of a run: what is to be extracted still, and what is known already."""

    video: SourceVideo
    source_hash: str
    captions_hash: str | None
    pending: tuple[str, ...]
    known: Mapping[str, Any]  # provenance of a modality that is there


@dataclass(eq=False)
class _Run:
    """One call of extract_dataset."""

    output: Path
    extractors: Mapping[str, Extractor]
    manifests: Mapping[str, Manifest]
    snippet_frames: int
    stride: int
    known: dict[str, Mapping[str, Any]] = field(default_factory=dict)  # frames, fps, problem by video
    source_hashes: dict[str, str] = field(default_factory=dict)  # by video
    failures: list[Failure] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    def job(self, video: SourceVideo) -> _Job:
        """Find out what of a video has to be extracted."""
        source_hash, captions_hash = file_hash(video.path), _captions_hash(video.captions)
        self.source_hashes[video.name] = source_hash
        pending = []
        known: Mapping[str, Any] = {}
        for modality in self.extractors:
            record = self._usable_record(modality, video, source_hash, captions_hash)
            if record is None:
                pending.append(modality)
            else:
                known = record
        return _Job(video, source_hash, captions_hash, tuple(pending), known)

    def _usable_record(
        self, modality: str, video: SourceVideo, source_hash: str, captions_hash: str | None
    ) -> Mapping[str, Any] | None:
        try:
            record = read_provenance(self.output, modality, video.name)
        except DataError:
            return None  # a damaged record is replaced
        wanted: dict[str, Any] = {"manifest_hash": self.manifests[modality].hash, "source_sha256": source_hash}
        if isinstance(self.extractors[modality], SidecarExtractor):
            wanted["captions_sha256"] = captions_hash
        same = record is not None and all(record.get(key) == value for key, value in wanted.items())
        return record if same and feature_path(self.output, modality, video.name).is_file() else None

    def frame_extractors(self, job: _Job) -> dict[str, FrameExtractor]:
        """The extractors that have to see the frames of a video."""
        on_frames, _, _ = by_kind(self.extractors)
        return {name: one for name, one in on_frames.items() if name in job.pending}

    def finish(self, job: _Job, decoded: Decoded) -> None:
        """Describe captions and other tracks of a decoded video and write everything that was pending."""
        values, grid = dict(decoded.values), (self.snippet_frames, self.stride)
        for modality in job.pending:
            extractor, started = self.extractors[modality], time.perf_counter()
            if isinstance(extractor, SidecarExtractor):
                values[modality] = sidecar_rows(extractor, job.video.captions, decoded, *grid, where=job.video.name)
                self._spent(modality, time.perf_counter() - started)
            elif isinstance(extractor, TrackExtractor):
                values[modality] = track_rows(extractor, job.video.path, decoded, *grid)
                self._spent(modality, time.perf_counter() - started)
        for modality, spent in decoded.seconds.items():
            self._spent(modality, spent)
        known = {"frames": decoded.frames, "fps": decoded.fps, "problem": decoded.problem, "notes": list(decoded.notes)}
        for modality in job.pending:
            provenance = known | {
                "manifest_hash": self.manifests[modality].hash,
                "source": job.video.path.name,
                "source_sha256": job.source_hash,
                "lego_fusion": __version__,
            }
            if isinstance(self.extractors[modality], SidecarExtractor):
                provenance["captions_sha256"] = job.captions_hash
            write_features(self.output, modality, job.video.name, values[modality], provenance)
        self.known[job.video.name] = known

    def _spent(self, stage: str, seconds: float) -> None:
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds

    def fail(self, video: SourceVideo, error: Exception) -> None:
        """Note that a video is left out."""
        self.failures.append(Failure(video.name, str(error)))


def extract_dataset(
    source: str | Path,
    output: str | Path,
    *,
    extractors: Mapping[str, Extractor],
    labels: str | Path | None = None,
    intervals: str | Path | None = None,
    captions: str | Path | None = None,
    layout: str = "folder",
    snippet_frames: int = 16,
    stride: int = 16,
    workers: int = 1,
    engine: str = "processes",
    on_progress: Callable[[Progress], None] | None = None,
) -> ExtractionReport:
    """Extract features of all videos of a data set into a dataset folder.

    Every video is decoded once for all extractors; snippet t covers the frames [t stride, min(t stride +
    snippet_frames, frames)). Features that are there and were made from the same file by the same manifest are kept,
    so a run that was stopped goes on where it was; modalities that the folder holds beside these stay. A video that
    fails is left out and reported, the others are finished.

    Args:
        source: Folder of the data set, see layouts.
        output: The dataset folder; made if absent.
        extractors: By modality.
        labels: Label table, instead of the one beside the videos.
        intervals: Ground-truth table, instead of the one beside the videos.
        captions: Folder of caption files, instead of the one beside the videos.
        layout: ``"folder"`` or ``"ped2"``.
        snippet_frames: Frames that a row describes.
        stride: Frames from one row to the next.
        workers: Processes that decode; each starts Python anew, so a script needs ``if __name__ == "__main__"``.
        engine: ``"processes"`` of this machine, or ``"ray"``: the workers of a Ray cluster, which must see the videos; the
            files are the same. A worker that is lost is replaced and its video done again.
        on_progress: Called after each video.

    Raises:
        DataError: No videos, tables that do not fit, an output folder of another time grid, or every video failed.
        MissingExtraError: A package that an extractor needs is not installed.
    """
    output = Path(output)
    check_int(workers, "workers", "extract_dataset", low=1, high=1024)
    check_int(snippet_frames, "snippet_frames", "extract_dataset", low=1)
    check_int(stride, "stride", "extract_dataset", low=1)
    check_choice(engine, "engine", "extract_dataset", ENGINES)
    _, on_captions, _ = by_kind(extractors)
    listing = list_source(source, layout=layout, labels=labels, intervals=intervals, captions=captions)
    if on_captions and all(video.captions is None for video in listing.videos):
        raise DataError(
            "no video has captions",
            where=source,
            expected="captions/<video>.json (or .csv, .srt, .vtt, .txt)",
            fix=f"add them, or leave out {', '.join(on_captions)}",
        )
    manifests = {name: one.manifest(name, snippet_frames, stride) for name, one in extractors.items()}
    kept, warnings = _kept_modalities(output, manifests, {video.name for video in listing.videos})
    run = _Run(output, extractors, manifests, snippet_frames, stride)
    extracted = _extract_all(run, listing.videos, workers, engine, on_progress)
    records = [_record(video, run.known[video.name]) for video in listing.videos if video.name in run.known]
    truth = _truth_inside(run, listing.intervals, warnings)
    failed = {failure.video for failure in run.failures}
    records = [record for record in records if record.video not in failed]
    if not records:
        first = run.failures[0]
        raise DataError(
            "no video could be extracted",
            where=source,
            got=f"{len(run.failures)} failures, the first in '{first.video}': {first.message}",
        )
    config = DatasetConfig(
        name=listing.name,
        snippet_frames=snippet_frames,
        stride=stride,
        modalities={**kept, **manifests},
        locations=_kept_locations(output, manifests),
    )
    dataset = write_dataset(output, config, records, [one for one in truth if one.video not in failed])
    warnings = [*listing.warnings, *warnings, *_outdated(run, [name for name in kept if name not in manifests]), *_damaged(run)]
    reused = len(records) - len(extracted - failed)
    return ExtractionReport(dataset, tuple(run.failures), tuple(warnings), len(extracted - failed), reused, run.seconds)


def _kept_modalities(
    output: Path, manifests: Mapping[str, Manifest], videos: set[str]
) -> tuple[dict[str, Manifest], list[str]]:
    """The modalities that a dataset folder holds beside those to extract, and what changes for it."""
    if not (output / "dataset.yaml").is_file():
        return {}, []
    config = read_config(output / "dataset.yaml")
    if config.members:
        fix = "extract into the folders it was joined from, then join them again"
        raise DataError("the dataset folder was joined from others", where=output, fix=fix)
    kept = {name: manifest for name, manifest in config.modalities.items() if name not in manifests}
    wanted = next(iter(manifests.values()))
    grid, wanted_grid = (config.snippet_frames, config.stride), (wanted.snippet_frames, wanted.stride)
    if kept and grid != wanted_grid:
        raise DataError(
            "the dataset folder has another time grid",
            where=output,
            expected=f"snippets of {grid[0]} frames every {grid[1]}, as {', '.join(kept)}",
            got=f"{wanted_grid[0]} every {wanted_grid[1]}",
            fix="use the same numbers, or another folder",
        )
    before = {record.video for record in read_videos(output / "videos.csv")} if (output / "videos.csv").is_file() else set()
    warnings = []
    if before - videos:
        warnings.append(f"{len(before - videos)} videos of the dataset are not in the source and are left out of it now")
    if kept and videos - before:
        warnings.append(f"{len(videos - before)} videos are new and have no features of {', '.join(kept)}")
    return dict(config.modalities), warnings


def _kept_locations(output: Path, manifests: Mapping[str, Manifest]) -> dict[str, FeatureLocation]:
    """Where the imported features of a dataset folder lie, but for the modalities to extract."""
    path = output / "dataset.yaml"
    locations = read_config(path).locations if path.is_file() else {}
    return {name: location for name, location in locations.items() if name not in manifests}


def _extract_all(
    run: _Run,
    videos: Sequence[SourceVideo],
    workers: int,
    engine: str,
    on_progress: Callable[[Progress], None] | None,
) -> set[str]:
    """Extract what is pending, and give the names of the videos of which something was."""
    jobs: list[_Job] = []
    done = 0

    def notify(video: str, *, reused: bool) -> None:
        nonlocal done
        done += 1
        if on_progress is not None:
            on_progress(Progress(video, done, len(videos), reused))

    for video in videos:
        try:
            job = run.job(video)
        except OSError as error:
            run.fail(video, error)
            notify(video.name, reused=False)
            continue
        if job.pending:
            jobs.append(job)
        else:
            run.known[video.name] = job.known
            notify(video.name, reused=True)
    local = _in_this_process if workers == 1 or len(jobs) < 2 else _in_processes
    decode = _with_ray if engine == "ray" else local
    for job, outcome in decode(run, jobs, workers):
        try:
            if not isinstance(outcome, Decoded):
                raise outcome
            run.finish(job, outcome)
        except DataError as error:
            run.fail(job.video, error)
        notify(job.video.name, reused=False)
    run.failures.sort(key=lambda failure: failure.video)
    return {job.video.name for job in jobs}


def _in_this_process(run: _Run, jobs: Sequence[_Job], workers: int) -> Iterator[tuple[_Job, Decoded | DataError]]:
    for job in jobs:
        try:
            extractors = run.frame_extractors(job)
            yield job, decode_video(job.video.path, extractors, snippet_frames=run.snippet_frames, stride=run.stride)
        except DataError as error:
            yield job, error


def _in_processes(run: _Run, jobs: Sequence[_Job], workers: int) -> Iterator[tuple[_Job, Decoded | DataError]]:
    on_frames, _, _ = by_kind(run.extractors)
    pool = ProcessPoolExecutor(
        min(workers, len(jobs)), mp_context=get_context("spawn"), initializer=_start_worker, initargs=(on_frames,)
    )
    try:
        grid = (run.snippet_frames, run.stride)
        futures = {pool.submit(_work, job.video.path, tuple(run.frame_extractors(job)), grid): job for job in jobs}
        for future in as_completed(futures):
            try:
                yield futures[future], future.result()
            except DataError as error:
                yield futures[future], error
            except BrokenProcessPool as error:
                raise LegoFusionError(
                    "a worker process died",
                    where=futures[future].video.path,
                    fix="run again with fewer workers (it goes on where it was); in a script, call this under "
                    "if __name__ == '__main__'",
                ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _with_ray(run: _Run, jobs: Sequence[_Job], workers: int) -> Iterator[tuple[_Job, Decoded | DataError]]:
    on_frames, _, _ = by_kind(run.extractors)
    grid = (run.snippet_frames, run.stride)
    calls = {(job.video.path, tuple(run.frame_extractors(job)), grid): job for job in jobs}
    for call, outcome in run_on_ray(_work_on_ray, on_frames, list(calls), workers):
        lost = isinstance(outcome, Exception) and not isinstance(outcome, DataError)
        yield calls[call], DataError(str(outcome)) if lost else outcome  # type: ignore[misc]


def _work_on_ray(extractors: dict[str, FrameExtractor], call: tuple[Path, tuple[str, ...], tuple[int, int]]) -> Decoded:
    if not _worker_extractors:
        _start_worker({})
    _worker_extractors.update(extractors)
    return _work(*call)


# Belongs to a worker process: extractors are sent to it once, and keep their network open from video to video.
_worker_extractors: dict[str, FrameExtractor] = {}


def _start_worker(extractors: dict[str, FrameExtractor]) -> None:
    _worker_extractors.update(extractors)
    try:
        import cv2
    except ImportError:
        return  # an extractor that needs it says so
    cv2.setNumThreads(1)


def _work(path: Path, modalities: tuple[str, ...], grid: tuple[int, int]) -> Decoded:
    extractors = {modality: _worker_extractors[modality] for modality in modalities}
    return decode_video(path, extractors, snippet_frames=grid[0], stride=grid[1])


def _captions_hash(captions: CaptionSource | None) -> str | None:
    if captions is None:
        return None
    return file_hash(captions) if isinstance(captions, Path) else hashlib.sha256(json.dumps(captions).encode()).hexdigest()


def _record(video: SourceVideo, known: Mapping[str, Any]) -> VideoRecord:
    return VideoRecord(
        video=video.name,
        label=video.label,
        frames=int(known["frames"]),
        fps=float(known["fps"]),
        split=video.split,
        domain=video.domain,
        camera=video.camera,
        class_name=video.class_name,
        source=video.source,
        file=str(video.path),
    )


def _truth_inside(run: _Run, truth: Mapping[str, tuple[Interval, ...]], warnings: list[str]) -> list[Interval]:
    """Keep ground truth inside its video: what lies past the end of a damaged file is cut, of a sound one an error."""
    kept: list[Interval] = []
    for video, intervals in sorted(truth.items()):
        if video not in run.known:
            continue
        frames, damaged = int(run.known[video]["frames"]), run.known[video].get("problem") is not None
        over = [one for one in intervals if one.end_frame > frames]
        if over and not damaged:
            got = f"frames {over[0].start_frame} to {over[0].end_frame}"
            error = DataError("ground truth ends after its video", where=video, expected=f"at most {frames} frames", got=got)
            run.failures.append(Failure(video, str(error)))
            continue
        if over:
            warnings.append(f"{video}: ground truth past frame {frames}, where the damaged file ends, is cut")
        kept += [
            Interval(video, one.start_frame, min(one.end_frame, frames), one.class_name)
            for one in intervals
            if one.start_frame < frames
        ]
    return kept


def _outdated(run: _Run, kept: Sequence[str]) -> list[str]:
    """Warn of features that stay although their video is another file now."""
    warnings = []
    for modality in kept:
        changed = []
        for video, source_hash in sorted(run.source_hashes.items()):
            record = read_provenance(run.output, modality, video) or {}
            if record.get("source_sha256", source_hash) != source_hash:
                changed.append(video)
        if changed:
            warnings.append(
                f"{modality}: the features of {len(changed)} videos were made from another file, "
                f"extract it again: {', '.join(changed[:5])}"
            )
    return warnings


def _damaged(run: _Run) -> list[str]:
    return [f"{video}: {known['problem']}" for video, known in sorted(run.known.items()) if known.get("problem")]
