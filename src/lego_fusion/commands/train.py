"""``train``: a dataset folder to a run folder."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .terminal import (
    CONFIG,
    DEVICES,
    GROUP_BY,
    SMOOTHING_HELP,
    chosen,
    names,
    one_line_errors,
    print_json,
    progress,
    warn,
)

if TYPE_CHECKING:
    from ..data.dataset import Dataset
    from ..learn.checkpoint import RunConfig
    from ..learn.evaluation import Evaluation


@one_line_errors
def train(
    dataset: Annotated[Path | None, typer.Argument(help="Dataset folder, as 'extract' writes it.", show_default=False)] = None,
    run: Annotated[
        Path | None, typer.Argument(help="Run folder to write, or to go on with after a stop.", show_default=False)
    ] = None,
    modalities: Annotated[str, typer.Option(help="Which feature sets to fuse, with commas. Default: all.")] = "",
    fusion: Annotated[str, typer.Option(help="lego, lego-paper (the paper's reading), or a baseline such as concat.")] = "lego",
    seed: Annotated[int | None, typer.Option(help="Of the start and the batches. Default: 0.")] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="KEY=VALUE: fusion.references=512, fusion.orders=[1,2], training.prior_departure=2, nodes=64, ..."
        ),
    ] = None,
    config: Annotated[Path | None, typer.Option(help=CONFIG)] = None,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps; 0 leaves the start as it is.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Of the optimiser.")] = None,
    normal_only: Annotated[bool, typer.Option("--normal-only", help="Learn from normal videos alone.")] = False,
    validation: Annotated[
        float, typer.Option(help="Share of the training videos to hold out; the step with the lowest loss on them is kept.")
    ] = 0.0,
    group_by: Annotated[str, typer.Option(help=GROUP_BY)] = "",
    segment_snippets: Annotated[
        int | None,
        typer.Option(help="Make a model that 'watch' can run: segments of so many snippets each instead of 32 equal spans."),
    ] = None,
    smoothing: Annotated[float | None, typer.Option(help=SMOOTHING_HELP, show_default=False)] = None,
    snapshots: Annotated[
        int | None, typer.Option(help="Also keep the weights of the start, of every so many steps and of the end.")
    ] = None,
    threads: Annotated[int, typer.Option(help="Processor threads; more than one pays on large sets only.")] = 1,
    cache: Annotated[str, typer.Option(help="Keep graphs: 'auto' in the dataset folder, or in a folder.")] = "off",
    devices: Annotated[int, typer.Option(help=DEVICES)] = 1,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Only write the settings of --fusion as YAML, a comment a key.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Train a detector from video-level labels; the same command goes on where it was stopped.

    Trains on the videos whose split is 'train' (on all labelled ones if no video has a split) and, where there are test
    videos with ground truth, measures on them. Settings on the command line go before those of the file.

    Example: lego-fusion train my-dataset my-run --modalities motion,text --seed 1
    """
    from ..data.dataset import Dataset
    from ..data.grouping import group_videos
    from ..errors import ParameterError, check_choice
    from ..fusion.registry import FUSIONS
    from ..learn.evaluation import evaluate_runs
    from ..learn.processes import process_group
    from ..learn.runs import train_run
    from ..learn.settings import read_settings, settings_text
    from ..learn.splits import division_warnings, training_split
    from ..measure.result import save_results

    method = FUSIONS.typed(check_choice(fusion, "fusion", "train", FUSIONS))
    if print_config:
        typer.echo(settings_text(method), nl=False)
        return
    if dataset is None or run is None:
        absent = "DATASET" if dataset is None else "RUN"
        raise ParameterError(f"Missing argument '{absent}'", expected="lego-fusion train DATASET RUN")
    given = chosen(seed=seed, steps=steps, learning_rate=learning_rate, smoothing=smoothing, snapshot_every=snapshots)
    given |= ({"normal_only": True} if normal_only else {}) | ({"selection": "validation"} if validation else {})
    settings = read_settings(config, setting or [], given, fusions=[method])
    data = group_videos(Dataset.open(dataset), group_by)
    warn(division_warnings(data, training_split(data)))
    started, whole = time.perf_counter(), not run.exists()
    with process_group(devices, accelerator=settings.training.accelerator) as ranks, progress(f"training {method}") as notify:
        trained = train_run(
            data,
            run,
            modalities=names(modalities),
            method=method,
            training=settings.training,
            options=settings.options_of(method),
            nodes=settings.nodes,
            hidden=settings.hidden,
            segment_snippets=segment_snippets,
            smoothing=settings.smoothing,
            validation=validation,
            threads=threads,
            cache=cache,
            on_step=lambda step, loss: notify(step, settings.training.steps),
            ranks=ranks,
        )
    if not ranks.first:
        raise typer.Exit
    seconds = time.perf_counter() - started if whole else None
    measured = evaluate_runs([run], data, train_seconds=seconds) if _can_measure(data) else None
    if measured is not None:
        save_results(run / "results.jsonl", measured.results)
    count = len(trained.dataset["train"]) if isinstance(trained.dataset["train"], list) else 0
    _print_outcome(run, method, list(trained.manifests), count, measured, _next(run, dataset, trained), json=json)


def _can_measure(dataset: Dataset) -> bool:
    return any(dataset.has_ground_truth(record.video) for record in dataset.select(split="test"))


def _next(run: Path, dataset: Path, trained: RunConfig) -> str:
    """What to do with the model; features that were imported can be scored in their dataset alone."""
    extractors = {manifest.extractor for manifest in trained.manifests.values()}
    if "imported" in extractors:
        return f"next: lego-fusion explain {run} test --data {dataset}"
    verb = "score VIDEO" if trained.segment_snippets is None else "watch SOURCE"
    return f"next: lego-fusion {verb} --model {run}" + (" --onnx NETWORK" if "onnx" in extractors else "")


def _print_outcome(
    run: Path, method: str, modalities: list[str], videos: int, measured: Evaluation | None, follow: str, *, json: bool
) -> None:
    from .results import print_results

    if json:
        document: dict[str, Any] = {"run": str(run), "method": method, "modalities": modalities, "training_videos": videos}
        document["results"] = [one.model_dump(mode="json") for one in measured.results] if measured else []
        print_json(document | {"notes": list(measured.notes) if measured else []})
        return
    typer.echo(f"{method} on {' + '.join(modalities)}, trained on {videos} videos, is in {run}")
    if measured is None:
        typer.echo("not measured: no video of the split 'test' has ground truth in time")
    else:
        print_results(measured.results)
        warn(measured.notes)
    typer.echo(follow)
