"""Rewrite the tables and the plots of docs/performance.md from stored results; nothing is measured here.

    python benchmarks/performance_tables.py

The table of claims comes from the results of bench.py (each row with the load of the machine when its benchmark began), the
growth of cost from those of scaling.py. Text between the markers <!-- NAME --> and <!-- end of NAME --> is replaced.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import matplotlib

from bench import CLAIMS
from measuring import RESULTS, normalised, short

matplotlib.use("Agg")
import matplotlib.pyplot as plt

DOCS = Path(__file__).parents[1] / "docs"
PAGE, IMAGES = DOCS / "performance.md", DOCS / "images"
LETTERS = {"nodes": "nodes N", "order": "order P = Q", "modalities": "modalities M", "bags": "videos"}
PARTS = {"relate": "building the graphs", "fuse": "operator, forward + backward"}


def stored(name: str) -> dict[str, Any] | None:
    path = RESULTS / f"{name}.json"
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None


def claims() -> str:
    """What, target, measured, verdict and share of the machine's limit of every claim."""
    lines = ["| what | target | measured | | of the machine's limit |", "|---|---|---|---|---|"]
    loads = {}
    for name in CLAIMS:
        found = stored(name)
        if found is None or "rows" not in found:
            lines.append(f"| {name} | | not measured | | |")
            continue
        if "load" in found:
            loads[name] = found["load"]
        for row in map(normalised, found["rows"]):
            measured = "not measured" if row["measured"] is None else f"{short(row['measured'])} {row['unit']}"
            verdict = {True: "met", False: "**missed**", None: ""}[row.get("met")]
            limit = f"{100 * row['roofline']:.0f} %" if row.get("roofline") is not None else ""
            lines.append(f"| {row['name']} | {row['target'] or ''} | {measured} | {verdict} | {limit} |")
    machine = (stored(next(iter(CLAIMS))) or {}).get("machine", {})
    facts = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in machine.items() if key != "torch_threads")
    told = ", ".join(f"{name} {load:.1f}" for name, load in loads.items())
    return "\n".join([*lines, "", f"Machine: {facts}. Processes that wanted to run when each began: {told or 'not known'}."])


def growth() -> str:
    """How many times the cost when one size is doubled, by size."""
    found = stored("scaling")
    if found is None:
        return "Not measured."
    lines = ["| growing | from | to | graphs cost | operator costs |", "|---|---|---|---|---|"]
    for what, words in LETTERS.items():
        rows = [row for row in found["growth"] if row["growing"] == what]
        ratios = " | ".join(f"{rows[-1][f'{part}_ratio']:.1f} x" for part in PARTS)
        lines.append(f"| {words} | {rows[0]['size']} | {rows[-1]['size']} | {ratios} |")
    base = found["base"]
    start = f"From {base['bags']} bags, N = {base['nodes']}, P = Q = {base['order']}, M = {base['modalities']}."
    return "\n".join([*lines, "", start])


def growth_figure(what: str) -> Path:
    """Milliseconds over one size, on logarithmic axes, with a dotted line as steep as the size itself."""
    rows = [row for row in (stored("scaling") or {})["growth"] if row["growing"] == what]
    sizes = [row["size"] for row in rows]
    figure, axes = plt.subplots(figsize=(4.2, 3.0), layout="constrained")
    for (part, words), colour in zip(PARTS.items(), ("#1f77b4", "#d95f02"), strict=True):
        axes.plot(sizes, [1e3 * row[part] for row in rows], "o-", color=colour, label=words)
        first = 1e3 * rows[0][part]
        axes.plot(sizes, [first * size / sizes[0] for size in sizes], ":", color=colour, linewidth=1)
    axes.set(xscale="log", yscale="log", xlabel=LETTERS[what], ylabel="milliseconds")
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.minorticks_off()
    axes.legend(frameon=False, fontsize=8)
    path = IMAGES / f"performance-{what}.png"
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return path


def claims_figure() -> Path:
    """Each measured claim over its target, on a logarithmic axis: right of the line is met."""
    rows = [row for name in CLAIMS for row in map(normalised, (stored(name) or {}).get("rows", []))]
    shown = [row for row in rows if row.get("met") is not None and row["unit"] != "at most" and row["measured"] > 0]
    names, margins, colours = [], [], []
    for row in reversed(shown):
        match = re.fullmatch(r"(>=|<=|<|=) ([\d.e+-]+)", row["target"])
        if match is None or match[1] == "=":
            continue
        wanted = float(match[2])
        names.append(row["name"])
        margins.append(row["measured"] / wanted if match[1] == ">=" else wanted / row["measured"])
        colours.append("#1b9e77" if row["met"] else "#d95f02")
    figure, axes = plt.subplots(figsize=(9.0, 0.28 * len(names) + 0.9), layout="constrained")
    axes.hlines(range(len(names)), 1, margins, color=colours, linewidth=2)
    axes.scatter(margins, range(len(names)), color=colours, zorder=3)
    axes.axvline(1, color="black", linewidth=1)
    axes.set_yticks(range(len(names)), names, fontsize=7)
    axes.set(xscale="log")
    axes.set_xticks([0.5, 1, 2, 5, 10], ["0.5", "1", "2", "5", "10"])
    axes.set(xlabel="times better than the target")
    path = IMAGES / "performance-claims.png"
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return path


def rewritten(page: str, name: str, text: str) -> str:
    """The page with the text between two markers replaced."""
    start, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    if start not in page or end not in page:
        sys.exit(f"{PAGE} lacks the markers {start} and {end}")
    return page[: page.index(start) + len(start)] + f"\n{text}\n" + page[page.index(end) :]


def main() -> None:
    """Rewrite tables and plots."""
    page = PAGE.read_text(encoding="utf-8")
    for name, text in (("claims", claims()), ("growth", growth())):
        page = rewritten(page, name, text)
    beside = PAGE.with_suffix(".partial")
    beside.write_text(page, encoding="utf-8")
    beside.replace(PAGE)
    for path in (claims_figure(), *(growth_figure(what) for what in LETTERS)):
        print(path)


if __name__ == "__main__":
    main()
