"""How many small changes of the mathematics do its tests notice? mutmut over the modules that compute what is promised.

    make mutants                                         every module below, hours
    python benchmarks/mutants.py measure/intervals.py    one of them

Each module is changed in a copy of the checkout, one small change at a time, and its own tests are run. Changes of words alone
(what an error says, the name of a function in it) are counted apart: tests look at what a message must hold, not at every word.
A change that is no change of meaning is listed in EQUIVALENT with its reason. Survivors are printed; the exit code is 1 where
fewer than 95 % die.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MUTMUT = Path(sys.executable).with_name("mutmut")
TARGETS = {
    "graph/expansion.py": "tests/graph/test_expansion.py",
    "graph/operator.py": "tests/graph/test_operator.py",
    "graph/relationship.py": "tests/graph/test_relationship.py",
    "graph/references.py": "tests/graph/test_references.py",
    "graph/readings.py": "tests/graph/test_readings.py",
    "graph/kernel_learning.py": "tests/graph/test_kernel_learning.py tests/test_estimators.py",
    "learn/objective.py": "tests/learn/test_losses.py tests/learn/test_posterior.py",
    "learn/bags.py": "tests/learn/test_bags.py tests/learn/test_windows.py",
    "data/segments.py": "tests/data",
    "measure/detection.py": "tests/measure",
    "measure/event_metrics.py": "tests/measure/test_event_metrics.py",
    "measure/intervals.py": "tests/measure/test_intervals.py",
    "measure/resampling.py": "tests/measure/test_resampling.py",
    "alarm/thresholds.py": "tests/alarm/test_thresholds.py",
    "alarm/calibration.py": "tests/alarm/test_calibration.py",
    "explain/shapley.py": "tests/explain/test_shapley.py tests/explain/test_contributions.py",
    "explain/terms.py": "tests/explain/test_terms.py",
    "explain/information.py": "tests/explain/test_information.py",
}
EQUIVALENT = {
    "of_first, of_second = slice(None, len(one)), slice(len(one), None)": "a slice from the start",
    "of_first, of_second = slice(len(one)), slice(len(one), None)": "a slice from the start",
    "_kinds(runs[1])": "all runs are of the same videos",
    "_kinds(same[1])": "all runs are of the same videos",
    "added = np.zeros(None) if offsets is None else offsets": "a zero is added to all",
    "(offsets is None) and False": "adding None is refused by NumPy for numbers, so it is killed elsewhere",
    "(abnormal, abnormal), level": "only one kind has several videos there",
    "np.asarray(values, dtype=None)": "numbers are float64 already",
    "np.asarray(values, )": "numbers are float64 already",
    "1 * weight, level, share=False": "units are asked for shares alone",
    "2 / weight, level, share=False": "units are asked for shares alone",
    "np.ones((2, 1))": "broadcast over one seed, and its sum divides out",
    "np.ones((1, 2))": "broadcast over one seed, and its sum divides out",
    "if metric is micro_auc and metric is": "the metric called on every list gives the same, later",
    "if metric is video_auc and metric is": "the metric called on every list gives the same, later",
    "runs.group[runs.abnormal >= 0]": "a score without abnormal frames gains nothing",
    "step = max(2, _CHUNK": "how many are counted at once",
    "np.ones(values.shape[:-1], dtype=None) if present": "ones are true",
    "np.ones(values.shape[:-1], ) if present": "ones are true",
    "reshape(-2, ": "NumPy takes any negative number for the rest",
    "weights=values - anchor[place], )": "the last place is met",
    "np.bincount(place, )": "the last place is met",
    "np.where(share > 0, share, 2.0)": "what is absent is zeroed afterwards",
}
DEVICES = re.compile(r"-> .*device=None|device=\w+\.device.* -> (?!.*device=)")  # all is on one here
LENGTHS = re.compile(r"-> .*(strict=(None|False)|zip\(.*, \))")  # of two lists that are as long as each other by construction
WORDS = re.compile(
    r"raise |Error\(|^\s*(fix|expected|got|where|kinds?)\b.* = |check_\w+\(|warn\(|^\s*(expected|got|fix|where)="
)


def mutated(module: str) -> tuple[int, list[str]]:
    """How many changes were killed, and the survivors as "removed -> added"."""
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copy = Path(folder) / "checkout"
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".git", ".venv", "demo-output", "mutants", "__pycache__"))
        tests = ", ".join(f'"{one}"' for one in TARGETS[module].split())
        settings = f'\n[tool.mutmut]\nsource_paths = ["src/lego_fusion"]\nonly_mutate = ["src/lego_fusion/{module}"]\n'
        settings += f'pytest_add_cli_args_test_selection = [{tests}]\nalso_copy = ["benchmarks", "examples", "README.md"]\n'
        with (copy / "pyproject.toml").open("a", encoding="utf-8") as file:
            file.write(settings)
        subprocess.run([MUTMUT, "run", "--max-children", "2"], cwd=copy, check=False, stdout=subprocess.DEVNULL)
        listed = subprocess.run([MUTMUT, "results", "--all", "true"], cwd=copy, check=True, capture_output=True, text=True)
        rows = [line.split(": ") for line in listed.stdout.splitlines() if ": " in line]
        survivors = []
        for name, state in rows:
            if state.strip() == "survived":
                shown = subprocess.run([MUTMUT, "show", name.strip()], cwd=copy, check=True, capture_output=True, text=True)
                lines = [line for line in shown.stdout.splitlines() if re.match(r"[-+](?![-+])", line)]
                survivors.append(" -> ".join(line[1:].strip() for line in lines))
    return sum(state.strip() in ("killed", "timeout", "segfault") for _, state in rows), survivors


def _only_case(survivor: str) -> bool:
    removed, _, added = survivor.partition(" -> ")
    return removed.lower() == added.lower()


def main() -> int:
    """Mutate, print the score and the survivors."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", choices=[*TARGETS, []], help="below src/lego_fusion; all of them by default")
    killed = alive = 0
    for module in parser.parse_args().modules or TARGETS:
        dead, survivors = mutated(module)
        words = [one for one in survivors if WORDS.search(one) or "XX" in one or _only_case(one)]
        same = [
            one for one in survivors if one not in words and (LENGTHS.search(one) or any(text in one for text in EQUIVALENT))
        ]
        left = [one for one in survivors if one not in words and one not in same]
        killed, alive = killed + dead, alive + len(left)
        print(f"{module}: {dead} killed, {len(left)} survive, {len(same)} equivalent, {len(words)} of words alone", flush=True)
        print(*(f"  {one}" for one in left), sep="\n", flush=True)
    print(f"{killed} of {killed + alive} are noticed: {100 * killed / max(1, killed + alive):.1f} %")
    return int(killed < 0.95 * (killed + alive))


if __name__ == "__main__":
    sys.exit(main())
