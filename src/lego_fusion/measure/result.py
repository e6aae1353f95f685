"""The record in which every number travels, and the Markdown table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator

from ..errors import DataError
from ..writing import written_whole

Selection = Literal["last-step", "validation", "untrained", "none-learned", "test-best"]


class Result(BaseModel):
    """One number, with everything needed to say what it is a number of.

    Args:
        dataset: Name of the dataset.
        split: Name of its division into training and test videos.
        modalities: Names of the feature sets, in the order in which the model took them.
        fusion: Name of the fusion, or of the reference that learns nothing.
        seed: Training seed; None for a mean over seeds and for what has none.
        seeds: The seeds behind a mean.
        selection: How the model was chosen. ``"test-best"`` is the best of all evaluations on the test set: an
            optimistic number that nobody can reach without test labels. It is never a default, and stands only beside
            an honest one.
        metric: Name of the metric, for example ``"micro_auc"``.
        value: The number, in the unit of the metric (AUC as a share in [0, 1], not in percent).
        low: Lower end of its interval; None where there is no interval.
        high: Upper end of its interval.
        level: Share that the interval covers, in (0, 1).
        protocol: One line on how it was measured.
        condition: What was done to the features, ``"clean"`` for nothing (``learn.conditions``).
        smoothing: Standard deviation in seconds of the Gaussian that smoothed the scores; 0 for none (``measure.smoothing``).
        parameters: Learned parameters.
        train_seconds: Wall-clock time of training.
        score_seconds: Wall-clock time of scoring the test videos.
        domain: The domain whose test videos were measured; empty for all of them.
        extra: Anything else, as JSON values.

    Raises:
        pydantic.ValidationError: If a field is missing, unknown or of a wrong type, a number is not finite, or the
            interval does not hold the value.

    Example:
        >>> result = Result(
        ...     dataset="ped2", split="weak", modalities=("motion", "text"), fusion="lego", seed=0,
        ...     selection="last-step", metric="micro_auc", value=0.99, protocol="frame level, real frames",
        ... )
        >>> result.model_copy(update={"seed": 1}).model_dump(include={"fusion", "seed", "value"})
        {'fusion': 'lego', 'seed': 1, 'value': 0.99}
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    dataset: str = Field(min_length=1)
    split: str = Field(min_length=1)
    modalities: tuple[str, ...] = Field(min_length=1)
    fusion: str = Field(min_length=1)
    seed: int | None
    seeds: tuple[int, ...] = ()
    selection: Selection
    metric: str = Field(min_length=1)
    value: float
    low: float | None = None
    high: float | None = None
    level: float | None = Field(default=None, gt=0, lt=1)
    protocol: str = Field(pattern=r"^[^\r\n]+$")
    condition: str = Field(default="clean", min_length=1)
    smoothing: float = Field(default=0.0, ge=0)
    parameters: int | None = Field(default=None, ge=0)
    train_seconds: float | None = Field(default=None, ge=0)
    score_seconds: float | None = Field(default=None, ge=0)
    domain: str = ""
    extra: dict[str, JsonValue] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _agree(self) -> Result:
        bounds = (self.low, self.high, self.level)
        if any(bound is None for bound in bounds) and any(bound is not None for bound in bounds):
            raise ValueError("low, high and level go together: give all of them or none")
        if self.low is not None and self.high is not None and not self.low <= self.value <= self.high:
            raise ValueError(f"the interval [{self.low}, {self.high}] does not hold the value {self.value}")
        if self.seed is not None and self.seeds:
            raise ValueError("a result has one seed, or the seeds behind a mean, not both")
        if len(set(self.modalities)) < len(self.modalities) or len(set(self.seeds)) < len(self.seeds):
            raise ValueError("a modality or a seed is named twice")
        return self


def save_results(path: Path | str, results: Sequence[Result]) -> None:
    """Write results as JSON lines, one result a line; a file of that name is replaced, all of it or nothing.

    Args:
        path: File to write; missing folders are made.
        results: What to write, in this order.

    Raises:
        DataError: If the file cannot be written.
    """
    path = Path(path)
    try:
        with written_whole(path) as file:
            file.writelines(f"{result.model_dump_json()}\n".encode() for result in results)
    except OSError as error:
        raise DataError("results cannot be written", where=path, got=error, fix="choose another file") from error


def load_results(path: Path | str) -> list[Result]:
    """Read what ``save_results`` wrote.

    Args:
        path: File of JSON lines; empty lines are skipped.

    Returns:
        The results in the order of the file.

    Raises:
        DataError: If the file cannot be read, or a line is not a result: the line and the field are named.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError("results cannot be read", where=path, expected="a file of JSON lines", got=error) from error
    return [_parse(line, f"{path}:{number}") for number, line in enumerate(lines, start=1) if line.strip()]


def pipe_table(headings: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    r"""Cells as a Markdown table, its lines joined, without a final line break.

    Example:
        >>> pipe_table(["name", "value"], [["a|b", "1"]]).splitlines()
        ['| name | value |', '| --- | --- |', '| a\\|b | 1 |']
    """
    lines = [headings, ["---"] * len(headings), *cells]
    return "\n".join("| " + " | ".join(" ".join(cell.split()).replace("|", r"\|") for cell in line) + " |" for line in lines)


def _parse(line: str, where: str) -> Result:
    try:
        return Result.model_validate_json(line)
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, fault['loc'])) or 'line'}: {fault['msg']}" for fault in error.errors())
        raise DataError("a line is not a result", where=where, got=faults, fix="write results with save_results") from error
