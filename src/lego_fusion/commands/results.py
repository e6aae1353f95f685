"""Result records as tables for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

from .terminal import print_table

if TYPE_CHECKING:
    from ..measure.result import Result

_METRICS = {
    "micro_auc": "micro AUC",
    "abnormal_auc": "AUC, abnormal videos only",
    "macro_auc": "macro AUC",
    "average_precision": "average precision",
    "video_auc": "AUC of videos",
    "video_average_precision": "average precision of videos",
}


def print_results(results: Sequence[Result]) -> None:
    """Show a row per method and metric, and under the table how they were measured."""
    by_domain = any(one.domain for one in results)
    rows = [
        (_method(one), *([one.domain or "all"] if by_domain else []), _METRICS.get(one.metric, one.metric), *_percent(one))
        for one in results
    ]
    columns = ("method", *(["domain"] if by_domain else []), "metric", "%", "interval")
    print_table(columns, rows, left=len(columns) - 2)
    for line in dict.fromkeys(f"{_where(one)}: {_made(one)}; {one.protocol}" for one in results if one.metric == "micro_auc"):
        typer.echo(line)


def print_events(results: Sequence[Result]) -> None:
    """Show a row per run and metric of events, each in its own unit; nothing where there is none."""
    if not results:
        return
    rows = []
    for one in results:
        share = one.metric.startswith("event")
        ends = (one.low, one.high) if one.low is not None and one.high is not None else ()
        value, *interval = [f"{100 * x:.1f} %" if share else f"{x:.2f}" for x in (one.value, *ends)]
        rows.append((_method(one), str(one.seed), one.metric, value, f"[{', '.join(interval)}]" if interval else ""))
    print_table(("method", "seed", "metric", "value", "interval"), rows, left=3)
    for line in dict.fromkeys(one.protocol for one in results):
        typer.echo(line)


def print_comparison(results: Sequence[Result]) -> None:
    """Show a row per method: its size, the two AUCs and the time of training."""
    methods: dict[str, dict[str, Result]] = {}
    for result in results:
        methods.setdefault(result.fusion, {})[result.metric] = result
    rows = []
    for method, found in methods.items():
        one = found["micro_auc"]
        aucs = [" ".join(_percent(found[name])) if name in found else "-" for name in ("micro_auc", "abnormal_auc")]
        seconds = f"{one.train_seconds:.1f}" if one.train_seconds else "-"
        rows.append([method, f"{one.parameters or 0:,}", *aucs, seconds])
    print_table(("method", "parameters", "micro AUC %", "abnormal videos %", "training s"), rows)
    for line in dict.fromkeys(f"{one.protocol}" for one in results if one.metric == "micro_auc"):
        typer.echo(line)


def _method(result: Result) -> str:
    return f"{result.fusion} on {' + '.join(result.modalities)}"


def _where(result: Result) -> str:
    return f"{_method(result)}, {result.domain}" if result.domain else _method(result)


def _made(result: Result) -> str:
    seeds = ", ".join(map(str, result.seeds)) or str(result.seed)
    return f"{result.parameters or 0:,} parameters, seeds {seeds}, {result.selection}"


def _percent(result: Result) -> tuple[str, str]:
    if result.low is None or result.high is None:
        return f"{100 * result.value:.1f}", ""
    return f"{100 * result.value:.1f}", f"[{100 * result.low:.1f}, {100 * result.high:.1f}]"
