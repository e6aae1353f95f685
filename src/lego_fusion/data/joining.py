"""Several dataset folders as one: their tables are joined, their features stay where they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import DataError
from .dataset import Dataset, write_dataset
from .features import Member
from .manifest import Manifest
from .tables import CONFIG_FILE, DatasetConfig, VideoRecord


@dataclass(frozen=True, eq=False)
class JoinReport:
    """What ``join_datasets`` made.

    Args:
        dataset: The joined dataset folder.
        domains: Number of videos of each domain.
        notes: What a person should know, one line each.
    """

    dataset: Dataset
    domains: dict[str, int]
    notes: tuple[str, ...]


def join_datasets(folders: Sequence[str | Path], output: str | Path, *, name: str = "") -> JoinReport:
    """Join dataset folders into one whose videos know their domain.

    A video keeps its domain, or gets the name of its dataset. Where two datasets share a name of a video, all names of the
    datasets concerned get the name of the dataset and ``_`` before them; every source gets it and ``/``. Labels, splits and
    ground truth are copied as they are now; features are read from where they lie.

    Args:
        folders: Two or more dataset folders with different names and the same time grid.
        output: Dataset folder to write.
        name: Name of the joined dataset; that of the folder without it.

    Raises:
        DataError: Fewer than two folders, equal names, another time grid, no modality that all have, a folder that was
            joined itself, or an output folder that holds another dataset.
        ManifestError: A modality was made in another way in one of the folders; the difference is named.

    Example:
        >>> import tempfile
        >>> root, motion = Path(tempfile.mkdtemp()), Manifest(modality="motion", extractor="motion", version="1", width=2)
        >>> for name in ("street", "station"):
        ...     config = DatasetConfig(name=name, modalities={"motion": motion})
        ...     _ = write_dataset(root / name, config, [VideoRecord("v1", "normal", frames=16, fps=10.0)])
        >>> report = join_datasets([root / "street", root / "station"], root / "both")
        >>> [(record.video, record.domain) for record in report.dataset.videos]
        [('street_v1', 'street'), ('station_v1', 'station')]
    """
    output = Path(output)
    datasets = [Dataset.open(folder) for folder in folders]
    _check_joinable(datasets, output)
    modalities, notes = _shared_modalities(datasets)
    prefixes = _prefixes(datasets)
    first = datasets[0].config
    config = DatasetConfig(
        name=name or output.resolve().name,
        snippet_frames=first.snippet_frames,
        stride=first.stride,
        modalities=modalities,
        members={one.name: Member(root=str(one.root.resolve()), prefix=prefixes[one.name]) for one in datasets},
    )
    records, intervals = [], []
    for one in datasets:
        prefix = prefixes[one.name]
        records += [_joined(record, one.name, prefix) for record in one.videos]
        intervals += [replace(i, video=prefix + i.video) for found in one.ground_truth.values() for i in found]
        if not any(record.split for record in one.videos):
            notes.append(f"no video of '{one.name}' has a split: none of them will train where others have one")
    notes += [f"the videos of '{one}' are named '{prefix}...'" for one, prefix in prefixes.items() if prefix]
    domains = Counter(record.domain for record in records)
    return JoinReport(write_dataset(output, config, records, intervals), dict(domains), tuple(notes))


def _joined(record: VideoRecord, dataset: str, prefix: str) -> VideoRecord:
    """A video of one dataset among those of all: what is unique there stays so."""
    source = f"{dataset}/{record.source}" if record.source else ""
    return replace(record, video=prefix + record.video, domain=record.domain or dataset, source=source)


def _check_joinable(datasets: Sequence[Dataset], output: Path) -> None:
    if len(datasets) < 2:
        raise DataError("there is nothing to join", expected="at least two dataset folders", got=len(datasets))
    repeated = [name for name, count in Counter(one.name for one in datasets).items() if count > 1]
    if repeated:
        where = ", ".join(str(one.root) for one in datasets if one.name == repeated[0])
        fix = f"change 'name' in one {CONFIG_FILE}"
        raise DataError("two datasets have the same name", where=where, expected="a name each", got=repeated[0], fix=fix)
    for one in datasets:
        if one.config.members:
            fix = "join the folders that it was joined from"
            raise DataError("a joined folder cannot be joined again", where=one.root, fix=fix)
        grid, wanted = ((c.snippet_frames, c.stride) for c in (one.config, datasets[0].config))
        if grid != wanted:
            raise DataError(
                "the datasets have different time grids",
                where=one.root,
                expected=f"snippets of {wanted[0]} frames every {wanted[1]}, as {datasets[0].root}",
                got=f"{grid[0]} every {grid[1]}",
                fix="extract one of them again with the grid of the other",
            )
    if (output / CONFIG_FILE).is_file() and not Dataset.open(output).config.members:
        raise DataError("the output folder holds another dataset", where=output, fix="choose a new folder")
    if not (output / CONFIG_FILE).is_file() and output.is_dir() and any(output.iterdir()):
        raise DataError("the output folder is not empty and holds no dataset", where=output, fix="choose a new folder")


def _shared_modalities(datasets: Sequence[Dataset]) -> tuple[dict[str, Manifest], list[str]]:
    """Modalities that all have, made alike everywhere; and what is left out."""
    first, notes = datasets[0], []
    shared = {name: one for name, one in first.modalities.items() if all(name in other.modalities for other in datasets)}
    for name in dict.fromkeys(name for one in datasets for name in one.modalities):
        if name not in shared:
            lacking = ", ".join(f"'{one.name}'" for one in datasets if name not in one.modalities)
            notes.append(f"modality '{name}' is left out: {lacking} has none")
    if not shared:
        listed = "; ".join(f"{one.name}: {', '.join(one.modalities) or 'none'}" for one in datasets)
        raise DataError("no modality is in every dataset", where=first.root, got=listed, fix="extract one for all of them")
    for name, manifest in shared.items():
        for other in datasets[1:]:
            manifest.require_same(other.modalities[name], where=f"'{other.name}' against '{first.name}'")
        if manifest.extractor == "imported":
            notes.append(f"modality '{name}' is imported: nothing tells whether one network made it for all datasets")
    return shared, notes


def _prefixes(datasets: Sequence[Dataset]) -> Mapping[str, str]:
    """What to put before the names of each dataset's videos, so that all differ."""
    count = Counter(record.video for one in datasets for record in one.videos)
    return {one.name: f"{one.name}_" if any(count[record.video] > 1 for record in one.videos) else "" for one in datasets}
