"""Every claim about speed in one table: what, target, measured, met or missed, and the share of the machine's limit.

    python benchmarks/bench.py [--quick] [--all] [--strict] [--only NAME ...]      (or: lego-fusion bench, make bench)

Each benchmark runs in a process of its own, one after the other, measures side by side in alternating rounds, and is stored
under benchmarks/results/ with the machine and its load. A missed target is printed as missed and stops nothing; with --strict
the exit code is then 1. --quick is for continuous integration: small sizes, few rounds, nothing stored. --all also runs the
benchmarks that print tables of their own.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from measuring import machine_facts, normalised, show_rows, store

HERE = Path(__file__).parent
CLAIMS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # arguments of rows(): quick, full
    "operator_kernels": ({"quick": True}, {}),
    "streaming": ({"quick": True}, {}),
    "distances": ({"quick": True}, {}),
    "sweep": ({"steps": 10, "rounds": 1, "every": 10}, {}),
    "training_step": ({"quick": True}, {}),
    "dataset_reading": ({"videos": 20, "rounds": 1}, {"rounds": 5}),
    "detection_metrics": ({"rounds": 3}, {}),
}
OTHERS = ("graph_operator", "scaling", "interpretation_cost", "information_cost")


def measure(name: str, *, quick: bool) -> dict[str, Any]:
    """The rows of one benchmark, in this process, and what they come from."""
    import importlib

    import torch

    torch.set_num_threads(1)
    load, started = os.getloadavg()[0], time.perf_counter()
    found = importlib.import_module(name).rows(**CLAIMS[name][0 if quick else 1])
    rows, facts = found if isinstance(found, tuple) else (found, {})
    seconds = round(time.perf_counter() - started, 1)
    return {"benchmark": name, "load": load, "seconds": seconds, "rows": [normalised(row) for row in rows], "facts": facts}


def in_own_process(name: str, *, quick: bool) -> dict[str, Any]:
    """The same in another process; a benchmark that fails becomes a row that says so."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "found.json"
        command = [sys.executable, str(HERE / "bench.py"), "--measure", name, str(out), *(["--quick"] if quick else [])]
        ended = subprocess.run(command, cwd=HERE, check=False)
        if ended.returncode == 0:
            return dict(json.loads(out.read_text()))
    why = f"failed with exit code {ended.returncode}"
    return {"benchmark": name, "rows": [{"name": name, "target": None, "measured": None, "unit": why}], "failed": True}


def main() -> int:
    """Measure, print, store; 1 if a benchmark fails, or with --strict if a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes, few rounds, nothing stored")
    parser.add_argument("--all", action="store_true", help=f"also {', '.join(OTHERS)}")
    parser.add_argument("--strict", action="store_true", help="exit code 1 if a target is missed")
    parser.add_argument("--only", nargs="+", choices=CLAIMS, default=list(CLAIMS), metavar="NAME", help=", ".join(CLAIMS))
    parser.add_argument("--measure", nargs=2, metavar=("NAME", "FILE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        name, out = options.measure
        Path(out).write_text(json.dumps(measure(name, quick=options.quick)))
        return 0
    rows: list[dict[str, Any]] = []
    failed = 0
    for name in options.only:
        print(f"{name} ...", file=sys.stderr, flush=True)
        found = in_own_process(name, quick=options.quick)
        rows += found["rows"]
        failed += found.pop("failed", False)
        if not options.quick and any(row["measured"] is not None for row in found["rows"]):
            store(name, found)
    flag = ["--quick"] if options.quick else []
    title = ", ".join(f"{key} {value}" for key, value in machine_facts().items()) + f", load {os.getloadavg()[0]:.1f}"
    show_rows(title + (" (quick: sizes below those of the targets)" if options.quick else ""), rows)
    missed = [row["name"] for row in rows if row.get("met") is False]
    print(f"{sum(row.get('met') is True for row in rows)} targets met, {len(missed)} missed", end="")
    print(": " + "; ".join(missed) if missed else "")
    for name in OTHERS if options.all else ():
        subprocess.run([sys.executable, str(HERE / f"{name}.py"), *flag], cwd=HERE, check=False)
    return 1 if failed or (options.strict and missed) else 0


if __name__ == "__main__":
    sys.exit(main())
