"""What every benchmark here shares: timings taken side by side in one run, the machine they came from, and where they go."""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results"


def alternating(candidates: Mapping[str, Callable[[], object]], *, rounds: int, warmup: int = 2) -> dict[str, list[float]]:
    """Seconds of every call, each candidate once per round, so that whatever slows the machine meets all of them alike.

    Args:
        candidates: Functions without arguments, by name; a call must not return before its work is done.
        rounds: How often each is timed.
        warmup: Rounds before those, not timed.
    """
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for number in range(-warmup, rounds):
        for name, call in candidates.items():
            start = time.perf_counter()
            call()
            if number >= 0:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def median_ratio(slow: list[float], fast: list[float]) -> float:
    """Median over rounds of how many times faster ``fast`` was than ``slow`` in the same round."""
    return median(a / b for a, b in zip(slow, fast, strict=True))


def normalised(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row with its target as a comparison in words, None where nothing was measured, and whether the target is met."""
    made, target = dict(row), row.get("target")
    if isinstance(made["measured"], str):
        made["measured"] = None
    if isinstance(target, int | float):
        at_most = row["unit"] == "at most"
        made["target"] = f"{'<=' if at_most else '>='} {target:g}"
        if made["measured"] is not None:
            made["met"] = bool(made["measured"] <= target if at_most else made["measured"] >= target)
    return made


def short(value: float) -> str:
    """Three digits, or all before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def show_rows(title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Print rows of name, target, measured, unit, and where they have them roofline and met."""
    table = Table(title=title)
    for heading in ("what", "measured", "unit", "target", "share of the machine's limit"):
        table.add_column(heading, justify="left" if heading in ("what", "unit") else "right")
    for row in rows:
        verdict = {True: " met", False: " MISSED", None: ""}[row.get("met")]
        measured = "not measured" if row["measured"] is None else short(row["measured"])
        limit = f"{100 * row['roofline']:.0f} %" if "roofline" in row else "-"
        table.add_row(row["name"], measured, row["unit"], f"{row['target'] or '-'}{verdict}", limit)
    Console(width=160).print(table)


def machine_facts() -> dict[str, Any]:
    """Processor, cores, versions and threads: what a reader needs to judge a timing, and nothing that names the machine."""
    facts: dict[str, Any] = {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torch_threads": torch.get_num_threads(),
    }
    if torch.cuda.is_available():
        facts["gpu"] = torch.cuda.get_device_name()
    return facts


def store(name: str, result: Mapping[str, Any]) -> Path:
    """Write ``result`` with the machine's facts to ``results/<name>.json``, whole or not at all."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    beside = path.with_suffix(".json.partial")
    beside.write_text(json.dumps({"machine": machine_facts(), **result}, indent=2) + "\n", encoding="utf-8")
    return beside.replace(path)


def _cpu_model() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown"


def main_of_rows(
    description: str | None, name: str, title: str, rows: Callable[..., list[dict[str, Any]]], *, quick_means: str
) -> int:
    """Measure the rows of a benchmark on one thread, print them, store them; with --strict 1 where a target is missed."""
    parser = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help=f"{quick_means}, and nothing stored")
    parser.add_argument("--strict", action="store_true", help="exit code 1 if a target is missed")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = rows(quick=options.quick)
    show_rows(title, found)
    if not options.quick:
        store(name, {"benchmark": name, "rows": found})
    missed = any(row.get("met") is False for row in found)
    return 1 if options.strict and missed else 0
