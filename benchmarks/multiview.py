"""LegoClassifier against what one would try first on multi-view data: defaults only, nothing tuned on test samples.

    python benchmarks/multiview.py [--data ../shared/data/multiview] [--rows 1000] [--quick]

Every .npz of a folder (views X0, X1..., labels y, and which views are text) is tested by five stratified folds, at most so
many rows of each. Dense views are standardised by the training rows and text rows brought to unit length, for every method
alike. The planted XOR (two views, a third of 200 columns of noise), labels of pure noise and the time to fit need no data.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
import torch
from rich.console import Console
from rich.table import Table
from scipy.stats import norm, rankdata
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from lego_fusion.estimators import LegoClassifier
from lego_fusion.graph import kernel_learning as learning
from lego_fusion.graph.relationship import gaussian_graph, median_distance
from lego_fusion.measure.intervals import mean_interval
from measuring import store

Views = dict[str, Any]
DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "multiview"
LEGO = "LegoClassifier"
CALIBRATED = (LEGO, "stacking (logistic regression)", "late fusion (mean probability)", "concatenation + logistic regression")
NOISE = ((40, 3), (80, 4), (60, 2))


class Split(NamedTuple):
    """Training and test rows of one split."""

    train: Views
    y_train: np.ndarray
    test: Views
    y_test: np.ndarray


def part(views: Views, rows: Any) -> Views:
    return {name: view[rows] for name, view in views.items()}


def folds(path: Path, rows: int) -> Iterator[Split]:
    with np.load(path, allow_pickle=False) as file:
        text = file["text"] if "text" in file.files else np.zeros(99, np.bool_)
        names = sorted(name for name in file.files if name[0] == "X" and name[1:].isdigit())
        views: Views = {name: file[name].astype(float) for name in names}
        views = {name: sp.csr_array(view) if text[int(name[1:])] else view for name, view in views.items()}
        y = file["y"]
    if rows < len(y):
        number = -(-len(y) // rows)  # the first of the stratified folds of about that size, filled up from the second
        parts = [tested for _, tested in StratifiedKFold(number, shuffle=True, random_state=0).split(y, y)]
        kept = np.sort(np.concatenate(parts)[:rows])
        views, y = part(views, kept), y[kept]
    for train, test in StratifiedKFold(5, shuffle=True, random_state=0).split(y, y):
        yield Split(part(views, train), y[train], part(views, test), y[test])


def planted_xor(seed: int, *, train: int = 1000, test: int = 400, width: int = 5, noise: int = 200) -> tuple[Split, float]:
    """The class is whether two views' hidden groups differ; a third view is noise. And the accuracy of knowing both centres.

    Centres have a random length, so that a view's groups may overlap: the best possible is to be right or wrong in both views.
    """
    random = np.random.default_rng(seed)
    groups = random.integers(0, 2, (train + test, 2))
    views: Views = {"noise": random.normal(size=(train + test, noise))}
    wrong = []
    for column, name in enumerate(("a", "b")):
        centre = random.normal(size=width)
        wrong.append(norm.cdf(-np.linalg.norm(centre) / 0.5))
        views[name] = (2 * groups[:, [column]] - 1) * centre + 0.5 * random.normal(size=(train + test, width))
    y = groups[:, 0] ^ groups[:, 1]
    best = float(np.prod(wrong) + np.prod(1 - np.array(wrong)))
    return Split(part(views, slice(train)), y[:train], part(views, slice(train, None)), y[train:]), best


def prepared(split: Split, *, balanced: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """All views beside each other, each as the estimator takes it."""
    train, test = [], []
    for name, view in split.train.items():
        other = split.test[name]
        if sp.issparse(view):
            one, two = (rows.toarray() / np.maximum(np.sqrt(rows.power(2).sum(1))[:, None], 1e-12) for rows in (view, other))
        else:
            scaler = StandardScaler().fit(view)
            one, two = scaler.transform(view), scaler.transform(other)
        weight = view.shape[1] ** -0.5 if balanced and not sp.issparse(view) else 1.0
        train.append(weight * one)
        test.append(weight * two)
    return np.hstack(train), np.hstack(test)


def concatenated(model: Any, split: Split) -> np.ndarray:
    train, test = prepared(split)
    model.fit(train, split.y_train)
    return np.asarray(model.predict_proba(test) if hasattr(model, "predict_proba") else model.predict(test))


def kernel_ridge(split: Split, *, balanced: bool) -> np.ndarray:
    """One Gaussian kernel of all columns, its width the median distance, the ridge by the leave-one-out error."""
    x, z = (torch.from_numpy(part)[None] for part in prepared(split, balanced=balanced))
    classes = np.unique(split.y_train)
    targets = torch.from_numpy(2.0 * (split.y_train[:, None] == classes) - 1)
    bandwidth = float(median_distance(x[0], at_most=400))
    among, across = (gaussian_graph(one, x, bandwidth=bandwidth)[0] for one in (x, z))
    solved = learning.solve_ridge(learning.centre_kernel(among), targets)
    return classes[((across - among.mean(0)) @ solved.coefficients + solved.mean).argmax(1).numpy()]


def from_single_views(split: Split) -> dict[str, np.ndarray]:
    """The best view alone (by its error out of fold), the mean of all views' probabilities, and stacking."""
    models = {name: LegoClassifier().fit({name: view}, split.y_train) for name, view in split.train.items()}
    said = {name: model.predict_proba({name: split.test[name]}) for name, model in models.items()}
    best = min(models, key=lambda name: models[name].out_of_fold_error_)
    outputs = np.hstack([model.out_of_fold_ for model in models.values()])
    new = np.column_stack([model.decision_function({name: split.test[name]}) for name, model in models.items()])
    stacker = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(outputs, split.y_train)
    return {
        "best view alone": said[best],
        "late fusion (mean probability)": np.mean(list(said.values()), axis=0),
        "stacking (logistic regression)": stacker.predict_proba(new),
    }


def lego(split: Split, **options: Any) -> np.ndarray:
    return LegoClassifier(**options).fit(split.train, split.y_train).predict_proba(split.test)


METHODS: dict[str, Callable[[Split], Any]] = {
    LEGO: lego,
    'weights="full"': lambda split: lego(split, weights="full", folds=0),
    'weights="additive"': lambda split: lego(split, weights="additive", folds=0),
    'weights="uniform"': lambda split: lego(split, weights="uniform", folds=0),
    "concatenation + logistic regression": lambda split: concatenated(LogisticRegression(max_iter=1000), split),
    "concatenation + RBF SVM": lambda split: concatenated(SVC(), split),
    "concatenation + RBF kernel ridge": lambda split: kernel_ridge(split, balanced=False),
    "balanced concatenation + RBF kernel ridge": lambda split: kernel_ridge(split, balanced=True),
    "single views": from_single_views,
}


def calibration_error(said: np.ndarray, right: np.ndarray, bins: int = 15) -> float:
    """ECE: how far the probability of the chosen class is from how often it is right, over bins of equal width."""
    sure = said.max(1)
    which = np.minimum((sure * bins).astype(int), bins - 1)
    return float(sum(abs(right[which == b].mean() - sure[which == b].mean()) * np.mean(which == b) for b in np.unique(which)))


def measure(name: str, splits: Iterator[Split]) -> dict[str, Any]:
    """Accuracy, log loss and calibration of every method over all test rows of a dataset, and its processor time a split."""
    right: dict[str, list[np.ndarray]] = {}
    said: dict[str, list[np.ndarray]] = {}
    seconds: dict[str, list[float]] = {}
    truth, rows = [], 0
    for number, split in enumerate(splits):
        classes = np.unique(split.y_train)
        rows = len(split.y_train) + len(split.y_test)
        truth.append(np.searchsorted(classes, split.y_test))
        for method, call in METHODS.items():
            start = time.process_time()
            found = call(split)
            seconds.setdefault(method, []).append(time.process_time() - start)
            for kind, answer in (found if isinstance(found, dict) else {method: found}).items():
                chosen = answer if answer.ndim == 1 else classes[answer.argmax(1)]
                right.setdefault(kind, []).append(chosen == split.y_test)
                if kind in CALIBRATED:
                    said.setdefault(kind, []).append(answer)
        print(f"{name} split {number}: {np.mean(right[LEGO][-1]):.4f}", file=sys.stderr, flush=True)
    numbers, methods = np.concatenate(truth), {}
    for method, parts in right.items():
        hits = np.concatenate(parts)
        methods[method] = {"accuracy": round(100 * float(hits.mean()), 2)}
        if method in said:
            every = np.concatenate(said[method])
            loss = -np.log(np.maximum(every[np.arange(len(numbers)), numbers], 1e-12)).mean()
            methods[method] |= {"log_loss": round(float(loss), 4), "ece": round(calibration_error(every, hits), 4)}
    cost = {method: round(float(np.mean(taken)), 2) for method, taken in seconds.items()}
    return {"rows": rows, "classes": len(np.unique(numbers)), "methods": methods, "cpu_seconds_per_split": cost}


def summary(datasets: dict[str, Any]) -> list[dict[str, Any]]:
    """By method over the datasets: mean rank (1 is best, ties share), ours minus its accuracy, calibration."""
    names = list(next(iter(datasets.values()))["methods"])
    accuracy = np.array([[one["methods"][name]["accuracy"] for name in names] for one in datasets.values()])
    ranks = np.mean([rankdata(-row) for row in accuracy], axis=0)
    rows = []
    for place, name in enumerate(names):
        differences = accuracy[:, names.index(LEGO)] - accuracy[:, place]
        row: dict[str, Any] = {"method": name, "mean_rank": round(float(ranks[place]), 2)}
        row["accuracy"] = round(float(accuracy[:, place].mean()), 2)
        if name != LEGO and len(datasets) > 2:
            found = mean_interval(differences.tolist(), unit="dataset")
            row["ours_minus_this"] = [round(number, 2) for number in (found.value, found.low, found.high)]
            row["won_tied_lost"] = [int((differences > 0).sum()), int((differences == 0).sum()), int((differences < 0).sum())]
        for key in ("log_loss", "ece"):
            values = [one["methods"][name][key] for one in datasets.values() if key in one["methods"][name]]
            row |= {key: round(float(np.mean(values)), 4)} if values else {}
        rows.append(row)
    return sorted(rows, key=lambda row: row["mean_rank"])


def measure_noise(draws: int) -> list[dict[str, Any]]:
    """How often labels of pure noise, as many of each, are told right by the outputs out of fold: one half, if honest."""
    rows = []
    for count, views in NOISE:
        found = []
        for seed in range(draws):
            random = np.random.default_rng((count, seed))
            samples = {f"view {number}": random.normal(size=(count, 5)) for number in range(views)}
            y = random.permutation(np.arange(count) % 2)
            found.append(float(np.mean((LegoClassifier().fit(samples, y).out_of_fold_[:, 0] > 0) == y)))
        deviation = float(np.std(found, ddof=1) / np.sqrt(draws))
        rows.append({"rows": count, "views": views, "draws": draws, "accuracy": float(np.mean(found)), "error": deviation})
    return rows


def measure_xor(seeds: int) -> dict[str, Any]:
    chosen = (LEGO, 'weights="full"', 'weights="additive"', "concatenation + logistic regression", "concatenation + RBF SVM")
    splits, best = zip(*(planted_xor(seed) for seed in range(seeds)), strict=True)
    accuracy: dict[str, list[float]] = {}
    for name in chosen:
        for split in splits:
            found = METHODS[name](split)
            answer = found if found.ndim == 1 else found.argmax(1)
            accuracy.setdefault(name, []).append(round(100 * float(np.mean(answer == split.y_test)), 2))
    model = LegoClassifier(weights="full", folds=0).fit(splits[0].train, splits[0].y_train)
    ceiling = [round(100 * one, 2) for one in best]
    return {"accuracy": accuracy, "best_possible": ceiling, "coefficients_seed_0": dict(list(model.coefficients_.items())[:5])}


def measure_time(rounds: int) -> dict[str, Any]:
    """Processor seconds of a fit on 1,000 rows of three views (18 kernels), with and without folds."""
    (split, _), seconds = planted_xor(0), {}
    for folds_ in (0, 5):
        taken = []
        for _ in range(rounds):
            start = time.process_time()
            LegoClassifier(folds=folds_).fit(split.train, split.y_train)
            taken.append(time.process_time() - start)
        seconds[f"cpu_seconds_{folds_}_folds"] = min(taken)
    return {"rows": len(split.y_train), "kernels": 18, **seconds}


def show(result: dict[str, Any]) -> None:
    console = Console(width=150)
    table = Table(title=f"{len(result['datasets'])} datasets, five folds each")
    for heading in ("method", "mean rank", "accuracy %", "ours minus this", "won, tied, lost", "log loss", "ECE"):
        table.add_column(heading, justify="left" if heading == "method" else "right")
    for row in result["summary"]:
        less = row.get("ours_minus_this")
        low = "{:+.2f} [{:+.2f}, {:+.2f}]".format(*less) if less else ""
        won = ", ".join(map(str, row.get("won_tied_lost", ())))
        facts = (f"{row['mean_rank']:.2f}", f"{row['accuracy']:.2f}", low, won)
        table.add_row(row["method"], *facts, str(row.get("log_loss", "")), str(row.get("ece", "")))
    console.print(table, result["noise"], result["planted_xor"], result["time"])


def main() -> int:
    """Measure, print, store; 1 where data are absent, or noise is told from noise."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA, help="folder of .npz files")
    parser.add_argument("--rows", type=int, default=1000, help="stratified rows of each dataset that are used")
    parser.add_argument("--quick", action="store_true", help="planted data only, and nothing stored")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    result: dict[str, Any] = {"benchmark": "multiview", "rows_at_most": arguments.rows}
    result["noise"] = measure_noise(5 if arguments.quick else 100)
    result["planted_xor"] = measure_xor(1 if arguments.quick else 5)
    result["time"] = measure_time(1 if arguments.quick else 3)
    files = [] if arguments.quick else sorted(arguments.data.glob("*.npz"))
    if not files and not arguments.quick:
        print(f"no data at {arguments.data}: name the folder with --data", file=sys.stderr)
        return 1
    result["datasets"] = {path.stem: measure(path.stem, folds(path, arguments.rows)) for path in files}
    result["summary"] = summary(result["datasets"]) if files else []
    show(result)
    if files:
        store("multiview", result)
    return int(any(abs(row["accuracy"] - 0.5) > 0.02 + 2 * row["error"] for row in result["noise"]))


if __name__ == "__main__":
    sys.exit(main())
