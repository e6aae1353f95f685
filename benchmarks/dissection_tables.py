"""The tables of docs/dissection.md, from the stored study.

python benchmarks/dissection_tables.py [results/dissection_study.json]
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from statistics import mean
from typing import Any

from known_answers.scenes import SEEN_BY
from lego_fusion.dissection.collaboration import APART, UNTRAINED
from measuring import RESULTS

LEVELS = ("1", "2", "3", "4", "5")
TOLD = {"rgb": "colour", "depth": "height", "either": "outline alone", "both": "colour XOR height"}

NULLS = (APART, UNTRAINED)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def over_seeds(seeds: dict[str, Any], pick: Callable[[Any], float]) -> str:
    """Mean, and the range over seeds."""
    values = [float(pick(seed)) for seed in seeds.values()]
    return f"{mean(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def consistency(seeds: dict[str, Any]) -> str:
    """J and U by level, and what no modality can see."""
    rows = []
    for reading in [name for name in next(iter(seeds.values()))["consistency"] if ", " in name]:
        for level in LEVELS:
            of = [seed["consistency"][reading][level] for seed in seeds.values()]
            numbers = [f"{mean(one[name] for one in of):.2f}" for name in ("J", "U rgb", "U depth")]
            counts = Counter(name.split()[0] for one in of for name in one["rgb"] if "rgb" in SEEN_BY[name])
            shared = mean(len([name for name in one["shared"] if name.startswith("outline")]) for one in of)
            wrong = sum(len(one["not visible"]) for one in of)
            kinds = ", ".join(f"{kind} {count / len(of):.1f}" for kind, count in sorted(counts.items()))
            rows.append([reading, level, *numbers, f"{shared:.1f} of 5", kinds, str(wrong)])
    return table(["reading", "level", "J", "U rgb", "U depth", "outlines shared", "rgb only", "not visible"], rows)


def variance(seeds: dict[str, Any]) -> str:
    """Ranking, sign and ANOVA."""
    rows = []
    for profile in ("mean", "best"):
        of = [seed["variance"][profile] for seed in seeds.values()]
        leads = Counter(name.split()[0] for one in of for name, right in one["right modality leads"].items() if right)
        signs = ", ".join(f"{kind} {leads[kind]}/{2 * len(of)}" for kind in ("colour", "height", "texture"))
        ranks = [
            f"{mean(one[name] for one in of):.2f} ({min(one[name] for one in of):.2f})"
            for name in ("pairs in order", "pairs in order without texture")
        ]
        rows.append([profile, *ranks, signs])
    first = table(["profile", "special above shared (worst seed)", "without texture", "right modality leads"], rows)
    rows = []
    for profile in ("mean", "best"):
        for part in ("consistency", "speciality"):
            of = [seed["variance"][profile]["anova"][part] for seed in seeds.values()]
            share = " to ".join(f"{end(one['share'][place] for one in of):.2f}" for place, end in ((1, min), (2, max)))
            cells = [f"{mean(one['share'][0] for one in of):.2f}", share, f"{mean(one['sum of squares'] for one in of):.2f}"]
            cells += [
                f"{mean(one[null][0] for one in of):.2f} (p <= {max(one[null][1] for one in of):.2f})"
                for null in ("units dealt anew", "labels shuffled")
            ]
            rows.append([profile, part, *cells])
    head = ["profile", "part", "share", "intervals of all seeds", "sum of squares", "units dealt anew", "labels shuffled"]
    return first + "\n\n" + table(head, rows)


def shapley(seeds: dict[str, Any], reading: str) -> str:
    """Values, cooperation and signs."""
    rows = []
    for place in next(iter(seeds.values()))["shapley"]:
        for told, name in TOLD.items():
            of = [seed["shapley"][place][reading][told] for seed in seeds.values()]
            cells = [f"{mean(one[key] for one in of):+.2f}" for key in ("rgb", "depth", "cooperation")]
            signs = [sum(one["rgb"] > one["depth"] for one in of), sum(one["cooperation"] > 0 for one in of)]
            rows.append([place, name, *cells, *(f"{sign} of {len(of)}" for sign in signs)])
    return table(["network", "classes told by", "rgb", "depth", "cooperation", "rgb above depth", "cooperation above 0"], rows)


def information(seeds: dict[str, Any]) -> str:
    """Bits of each part; the planted one first."""
    planted = {"disc": "unique rgb", "square": "unique depth", "triangle, cross": "redundancy", "diamond": "synergy"}
    rows = []
    for group, part in planted.items():
        for source in ("answers", "features"):
            of = [seed["information"][group][source] for seed in seeds.values()]
            cells = [
                f"{mean(one[key][0] for one in of):.2f}" for key in ("redundancy", "unique rgb", "unique depth", "synergy")
            ]
            largest = sum(max(one, key=lambda key: one[key][0]) == part for one in of)
            null = max(value[1] for value in chain.from_iterable(one.values() for one in of))
            rows.append([group, part, source, *cells, f"{largest} of {len(of)}", f"{null:.2f}"])
    head = ["objects", "planted: 1 bit", "read from", "R", "U rgb", "U depth", "S", "planted part largest", "highest null mean"]
    return table(head, rows)


def discrepancy(found: dict[str, Any]) -> str:
    """Across modalities against across seeds."""
    rows = []
    for level, one in found.items():
        cells = ["{:.2f} [{:.2f}, {:.2f}]".format(*one[name]) for name in ("across", "rgb", "depth", "same - across")]
        rows.append([level, *cells, f"{one['noise floor']:.3f}"])
    return table(["level", "rgb with depth", "rgb, two seeds", "depth, two seeds", "difference", "noise floor"], rows)


def _gain(gains: Sequence[Sequence[float]]) -> str:
    """Mean over seeds, and in how many of them the interval is above 0; nothing where nothing is fused."""
    above = sum(low > 0 for _, low, _ in gains)
    return f"{mean(value for value, _, _ in gains):+.3f}, above 0 in {above} of {len(gains)}" if gains else ""


def collaboration(result: dict[str, Any]) -> str:
    """Verdicts and what they rest on."""
    seeds = result["seeds"]
    rows = []
    for place, levels in next(iter(seeds.values()))["collaboration"].items():
        for level in levels:
            of = [seed["collaboration"][place][level] for seed in seeds.values()]
            verdicts = ", ".join(f"{name} {count}" for name, count in Counter(one["verdict"] for one in of).most_common())
            trends = ", ".join(f"{name or 'none'} {count}" for name, count in Counter(one["trend"] for one in of).most_common())
            cells = [" to ".join(f"{mean(one[key][side] for one in of):.2f}" for side in (0, 1)) for key in ("similarity", "J")]
            kept = [[one["kept"][side] for one in of if one["kept"][side] is not None] for side in (0, 1)]
            shares = " / ".join(f"{100 * mean(some):.0f} %" if some else "-" for some in kept)
            told = [_gain([one["gains"][null] for one in of if null in one["gains"]]) for null in NULLS]
            rows.append([place, level, verdicts, trends, *cells, shares, *told])
    head = [
        "network",
        "level",
        "verdict (seeds)",
        "trend (seeds)",
        "similarity apart to together",
        "J",
        "kept: shared / special",
        "gain over trained apart",
        "gain over never trained",
    ]
    null = Counter(one["trend"] or "none" for one in result["across seeds"]["apart against apart"])
    return table(head, rows) + f"\n\nApart against apart of another seed: {dict(null)}"


def early(seeds: dict[str, Any]) -> str:
    """What the trunk of early fusion detects."""
    kinds = ("colour", "texture", "height", "outline")
    rows = [
        [level, *(f"{mean(seed['early'][level][kind][0] for seed in seeds.values()):.1f}" for kind in kinds)]
        for level in LEVELS
    ]
    return table(["level", "colours of 2", "textures of 2", "heights of 2", "outlines of 5"], rows)


def ablation(seeds: dict[str, Any]) -> str:
    """Change of IoU, and beyond random units."""
    rows = []
    for place in next(iter(seeds.values()))["ablation"]:
        for m in ("rgb", "depth"):
            for group in ("colour", "height", "texture", "shared", "special"):
                of = [seed["ablation"][place][m][group] for seed in seeds.values() if group in seed["ablation"][place][m]]
                if not of:
                    continue
                cells = []
                for told in TOLD:
                    beyond = [one["beyond random"][told] for one in of if told in one["beyond random"]]
                    own = mean(one["change"][told][0] for one in of)
                    cells.append(f"{own:+.2f} ({mean(beyond):+.2f})" if beyond else f"{own:+.2f}")
                rows.append([place, m, group, f"{mean(one['units'] for one in of):.0f} ({len(of)})", *cells])
    return table(["network", "stream", "units for", "units (seeds)", *TOLD.values()], rows)


def main() -> None:
    """Print all tables."""
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else RESULTS / "dissection_study.json"
    result = json.loads(path.read_text(encoding="utf-8"))
    seeds = result["seeds"]
    places = next(iter(seeds.values()))["iou"]
    rows = [[place, *(over_seeds(seeds, lambda seed, p=place, t=told: seed["iou"][p][t]) for told in TOLD)] for place in places]
    parts = {"IoU": table(["network", *TOLD.values()], rows), "consistency": consistency(seeds), "variance": variance(seeds)}
    parts |= {f"Shapley, {name}": shapley(seeds, name) for name in next(iter(seeds.values()))["shapley"]["early"]}
    parts |= {"information": information(seeds), "discrepancy": discrepancy(result["across seeds"]["discrepancy"])}
    parts |= {"collaboration": collaboration(result), "early": early(seeds)}
    parts["ablation"] = ablation(seeds)
    for name, text in parts.items():
        print(f"## {name}\n\n{text}\n")


if __name__ == "__main__":
    main()
