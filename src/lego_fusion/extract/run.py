"""From a folder of videos to a dataset folder: each video decoded once, written whole, taken up again after a stop."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .. import __version__
from ..data.dataset import Dataset, write_dataset
from ..data.features import feature_path, read_provenance, write_features
from ..data.manifest import Manifest
from ..data.tables import DatasetConfig, Interval, VideoRecord, read_config, read_videos
from ..engines import ENGINES, WorkerLostError, run_in_processes, run_on_ray
from ..errors import DataError, check_choice, check_int
from .base import Extractor, FrameExtractor, SidecarExtractor, file_hash
from .describe import CaptionSource, Decoded, check_extractors, decode_video, describe_rest, frame_extractors
from .layouts import SourceVideo, list_source


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
    """One video of a run: what is to be extracted still, and what its features are made from."""

    video: SourceVideo
    hashes: Mapping[str, str | None]  # of the video and its captions, as provenance has them
    pending: tuple[str, ...]
    known: Mapping[str, Any]  # provenance of a modality that is there


@dataclass(eq=False)
class _Run:
    """One call of extract_dataset."""

    output: Path
    extractors: Mapping[str, Extractor]
    manifests: Mapping[str, Manifest]
    grid: dict[str, int]  # snippet_frames and stride
    known: dict[str, Mapping[str, Any]] = field(default_factory=dict)  # frames, fps, problem by video
    source_hashes: dict[str, str] = field(default_factory=dict)  # by video
    failures: dict[str, str] = field(default_factory=dict)  # why, by video
    seconds: dict[str, float] = field(default_factory=dict)

    def job(self, video: SourceVideo) -> _Job:
        """Find out what of a video has to be extracted."""
        self.source_hashes[video.name] = file_hash(video.path)
        hashes = {"source_sha256": self.source_hashes[video.name], "captions_sha256": _captions_hash(video.captions)}
        found = {modality: self._usable_record(modality, video.name, hashes) for modality in self.extractors}
        pending = tuple(modality for modality, record in found.items() if record is None)
        known = [record for record in found.values() if record is not None]
        return _Job(video, hashes, pending, known[-1] if known else {})

    def _provenance(self, modality: str, hashes: Mapping[str, str | None]) -> dict[str, Any]:
        """What features are made from; those of another making are made again."""
        provenance = {"manifest_hash": self.manifests[modality].hash, **hashes}
        if not isinstance(self.extractors[modality], SidecarExtractor):
            del provenance["captions_sha256"]
        return provenance

    def _usable_record(self, modality: str, video: str, hashes: Mapping[str, str | None]) -> Mapping[str, Any] | None:
        try:
            record = read_provenance(self.output, modality, video)
        except DataError:
            return None  # a damaged record is replaced
        wanted = self._provenance(modality, hashes).items()
        same = record is not None and all(record.get(key) == value for key, value in wanted)
        return record if same and feature_path(self.output, modality, video).is_file() else None

    def finish(self, job: _Job, decoded: Decoded) -> None:
        """Describe captions and other tracks of a decoded video and write everything that was pending."""
        pending, video = {modality: self.extractors[modality] for modality in job.pending}, job.video
        values = describe_rest(video.path, pending, decoded, video.captions, **self.grid, where=video.name)
        for stage, spent in decoded.seconds.items():
            self.seconds[stage] = self.seconds.get(stage, 0.0) + spent
        known = {"frames": decoded.frames, "fps": decoded.fps, "problem": decoded.problem, "notes": list(decoded.notes)}
        made = known | {"source": video.path.name, "lego_fusion": __version__}
        for modality in job.pending:
            write_features(self.output, modality, video.name, values[modality], made | self._provenance(modality, job.hashes))
        self.known[video.name] = known


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
    check_extractors(extractors)
    listing = list_source(source, layout=layout, labels=labels, intervals=intervals, captions=captions)
    on_captions = [name for name, one in extractors.items() if isinstance(one, SidecarExtractor)]
    if on_captions and all(video.captions is None for video in listing.videos):
        raise DataError(
            "no video has captions",
            where=source,
            expected="captions/<video>.json (or .csv, .srt, .vtt, .txt)",
            fix=f"add them, or leave out {', '.join(on_captions)}",
        )
    grid = {"snippet_frames": snippet_frames, "stride": stride}
    manifests = {name: one.manifest(name, **grid) for name, one in extractors.items()}
    before = _before(output)
    warnings = [*listing.warnings, *_changes(output, before, manifests, grid, {video.name for video in listing.videos})]
    run = _Run(output, extractors, manifests, grid)
    extracted = _extract_all(run, listing.videos, workers, engine, on_progress)
    truth = _truth_inside(run, listing.intervals, warnings)
    done = [video for video in listing.videos if video.name in run.known and video.name not in run.failures]
    if not done:
        first, why = next(iter(run.failures.items()))
        got = f"{len(run.failures)} failures, the first in '{first}': {why}"
        raise DataError("no video could be extracted", where=source, got=got)
    config = DatasetConfig(
        name=listing.name,
        snippet_frames=snippet_frames,
        stride=stride,
        modalities={**before.modalities, **manifests},
        locations={name: one for name, one in before.locations.items() if name not in manifests},
    )
    records = [_record(video, run.known[video.name]) for video in done]
    dataset = write_dataset(output, config, records, [one for one in truth if one.video not in run.failures])
    warnings += _outdated(run, [name for name in before.modalities if name not in manifests])
    warnings += [f"{video}: {known['problem']}" for video, known in sorted(run.known.items()) if known.get("problem")]
    failures = tuple(Failure(video, why) for video, why in run.failures.items())
    count = len(extracted - run.failures.keys())
    return ExtractionReport(dataset, failures, tuple(warnings), count, len(records) - count, run.seconds)


def _before(output: Path) -> DatasetConfig:
    """What a dataset folder is before the extraction; of one that is not there yet, one without modalities."""
    if not (output / "dataset.yaml").is_file():
        return DatasetConfig(name="none")
    config = read_config(output / "dataset.yaml")
    if config.members:
        fix = "extract into the folders it was joined from, then join them again"
        raise DataError("the dataset folder was joined from others", where=output, fix=fix)
    return config


def _changes(
    output: Path, before: DatasetConfig, manifests: Mapping[str, Manifest], grid: Mapping[str, int], videos: set[str]
) -> list[str]:
    """What changes for the modalities that a dataset folder holds beside those to extract."""
    kept = ", ".join(name for name in before.modalities if name not in manifests)
    if kept and (before.snippet_frames, before.stride) != (grid["snippet_frames"], grid["stride"]):
        raise DataError(
            "the dataset folder has another time grid",
            where=output,
            expected=f"snippets of {before.snippet_frames} frames every {before.stride}, as {kept}",
            got=f"{grid['snippet_frames']} every {grid['stride']}",
            fix="use the same numbers, or another folder",
        )
    table = output / "videos.csv"
    listed = {record.video for record in read_videos(table)} if before.modalities and table.is_file() else set()
    warnings = []
    if listed - videos:
        warnings.append(f"{len(listed - videos)} videos of the dataset are not in the source and are left out of it now")
    if kept and videos - listed:
        warnings.append(f"{len(videos - listed)} videos are new and have no features of {kept}")
    return warnings


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

    def report(video: str, *, reused: bool) -> None:
        nonlocal done
        done += 1
        if on_progress is not None:
            on_progress(Progress(video, done, len(videos), reused))

    for video in videos:
        try:
            job = run.job(video)
        except OSError as error:
            run.failures[video.name] = str(error)
            report(video.name, reused=False)
            continue
        if job.pending:
            jobs.append(job)
        else:
            run.known[video.name] = job.known
            report(video.name, reused=True)
    for job, outcome in _decoded(run, jobs, workers, engine):
        try:
            if isinstance(outcome, Exception):
                raise outcome
            run.finish(job, outcome)
        except (DataError, WorkerLostError) as error:
            run.failures[job.video.name] = str(error)
        report(job.video.name, reused=False)
    run.failures = dict(sorted(run.failures.items()))
    return {job.video.name for job in jobs}


@dataclass(frozen=True)
class _Shared:
    """What a worker needs of a run: extractors keep their network open from video to video."""

    extractors: Mapping[str, FrameExtractor]
    grid: Mapping[str, int]


def _decoded(run: _Run, jobs: Sequence[_Job], workers: int, engine: str) -> Iterator[tuple[_Job, Decoded | Exception]]:
    shared = _Shared(frame_extractors(run.extractors), run.grid)
    by_call = {(job.video.path, tuple(name for name in job.pending if name in shared.extractors)): job for job in jobs}
    found: Iterator[tuple[tuple[Path, tuple[str, ...]], Decoded | Exception]]
    if engine == "ray":
        found = run_on_ray(_decode_on_one_thread, shared, list(by_call), workers)
    elif min(workers, len(jobs)) > 1:
        found = run_in_processes(_decode, shared, list(by_call), workers, where="extract", start=_one_thread)
    else:
        found = ((call, _decode(shared, call)) for call in by_call)
    for call, outcome in found:
        yield by_call[call], outcome


def _decode(shared: _Shared, call: tuple[Path, tuple[str, ...]]) -> Decoded | DataError:
    path, modalities = call
    try:
        extractors = {name: shared.extractors[name] for name in modalities}
        return decode_video(path, extractors, snippet_frames=shared.grid["snippet_frames"], stride=shared.grid["stride"])
    except DataError as error:
        return error


def _decode_on_one_thread(shared: _Shared, call: tuple[Path, tuple[str, ...]]) -> Decoded | DataError:
    _one_thread()
    return _decode(shared, call)


def _one_thread() -> None:
    try:
        import cv2
    except ImportError:
        return  # an extractor that needs it says so
    cv2.setNumThreads(1)


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
            run.failures[video] = str(error)
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
