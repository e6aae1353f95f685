"""Classify samples that come in several views, and read which view, or which pair of views, decides.

    python examples/multi_view.py [figure.png]

A machine is measured by vibration and temperature; beside them lie 200 columns of nothing. It fails where strong vibration
meets low temperature, or weak vibration high temperature: no view alone tells.
"""

from __future__ import annotations

import sys

import numpy as np
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from lego_fusion import LegoClassifier, MultiView


def measured_machines(count: int, random: np.random.Generator) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Views by name, and whether each machine fails."""
    strong, hot = random.integers(0, 2, (2, count))
    views = {
        "vibration": np.outer(2 * strong - 1, [1.0, -0.5, 0.8]) + 0.4 * random.normal(size=(count, 3)),
        "temperature": np.outer(2 * hot - 1, [0.7, 1.0]) + 0.4 * random.normal(size=(count, 2)),
        "serial numbers": random.normal(size=(count, 200)),
    }
    return views, strong == 1 - hot


def main() -> None:
    views, fails = measured_machines(600, np.random.default_rng(0))
    train, test = ({name: view[part] for name, view in views.items()} for part in (slice(300), slice(300, None)))

    model = LegoClassifier(weights="full").fit(train, fails[:300])
    print(f"{100 * model.score(test, fails[300:]):.1f} % of new machines are told right")
    print("\n".join(str(model.coefficients_).splitlines()[:4]))
    print("first new machine fails with probability", model.predict_proba(test)[0, 1].round(3))

    lego = cross_val_score(LegoClassifier(), MultiView(views), fails, cv=3)  # rows of all views are indexed together
    svm = cross_val_score(make_pipeline(StandardScaler(), SVC()), np.hstack(list(views.values())), fails, cv=3)
    print(f"LEGO {100 * lego.mean():.1f} %, SVM {100 * svm.mean():.1f} % in three folds")
    if len(sys.argv) > 1:
        from lego_fusion.report.figures import coefficient_bars

        coefficient_bars(sys.argv[1], model.coefficients_, most=8, title="what decides whether a machine fails")


if __name__ == "__main__":
    main()
