"""Where learning the operator wins: two of four modalities have to agree, the other two are as they please.

    python benchmarks/agreement.py [--seeds 5]

A node of ``alpha`` and one of ``beta`` are each in one of 4 states; normal is that both are in the same one, abnormal (4
neighbouring nodes of 16 in every second video) that they are not. All states of either are normal by themselves, so no sum of
modalities tells, nor does any modality alone. ``gamma`` and ``delta`` are in one of 24 states at random. The product of all
four graphs looks for a known segment that is alike in everything, and few are; a learned A keeps the two that interact and
lets R^(0) = 1 stand for the others. 40 normal and 40 abnormal videos train, 60 test; noise 0.5, width 8. Settings were fixed
on seed 0; measured are seeds from 10 on, each other states and other videos. ``start`` is the product of all graphs, untrained:
-log of the mean of the 3 largest entries of each row of G. Stored as benchmarks/results/agreement.json.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from lego_fusion.fusion.lego import LegoFusion
from lego_fusion.fusion.registry import make_plain_fusion
from lego_fusion.learn.bags import Bags, fit_frozen
from lego_fusion.learn.configuration import TrainingConfig
from lego_fusion.learn.detector import Detector
from lego_fusion.learn.methods import nearest_neighbour_scores
from lego_fusion.learn.train import fit, predict
from measuring import store

TRAIN, TEST, NODES, WIDTH, EVENT, NOISE = 80, 60, 16, 8, 4, 0.5
STATES = {"alpha": 4, "beta": 4, "gamma": 24, "delta": 24}
FIRST_SEED = 10
BASELINES = ("concat", "mlp", "cross-attention", "score-average")
LEARNED = {"operator": "learned", "form": "rank1", "order": 1}


def agreeing(seed: int) -> tuple[Bags, Bags, Tensor]:
    """Bags to train and to test on, and which nodes of the test bags are abnormal, (V, N)."""
    random = np.random.default_rng(seed)
    means = {name: random.normal(size=(states, WIDTH)) for name, states in STATES.items()}
    labels = np.arange(TRAIN + TEST) % 2 == 1
    shape = (TRAIN + TEST, NODES)
    first = random.integers(0, NODES - EVENT + 1, size=(len(labels), 1))
    place = np.arange(NODES)
    abnormal = (place >= first) & (place < first + EVENT) & labels[:, None]
    states = {name: random.integers(count, size=shape) for name, count in STATES.items()}
    other = random.integers(1, STATES["beta"], size=shape)
    states["beta"] = (states["alpha"] + np.where(abnormal, other, 0)) % STATES["beta"]
    drawn = {name: means[name][states[name]] + NOISE * random.normal(size=(*shape, WIDTH)) for name in STATES}
    inputs = {name: torch.from_numpy(x).float() for name, x in drawn.items()}
    bags = Bags(tuple(f"bag_{number}" for number in range(len(labels))), torch.from_numpy(labels), 1, inputs)
    return bags.select(range(TRAIN)), bags.select(range(TRAIN, TRAIN + TEST)), torch.from_numpy(abnormal[TRAIN:])


def together(bags: Bags, normal: Bags) -> Bags:
    """All modalities as one, columns in deviations among normals: for nearest neighbours in everything at once."""
    scaled = [x / normal.inputs[name].flatten(0, 1).std(0) for name, x in bags.inputs.items()]
    return Bags(bags.videos, bags.labels, 1, {"together": torch.cat(scaled, dim=-1)})


def start_scores(fusion: LegoFusion, test: Bags) -> Tensor:
    """-log of the mean of the 3 largest entries of each row of the product of all graphs."""
    rows = {name: x.flatten(0, 1) for name, x in test.inputs.items()}
    surprise = torch.stack(list(fusion.frozen.surprises(rows, None, None, NODES).values())).sum(0)
    nearest = surprise.topk(3, dim=-1, largest=False).values
    return -torch.logsumexp(-nearest, dim=-1).view(len(test.labels), NODES)


def measure(seed: int) -> dict[str, Any]:
    """AUC over test nodes of every method on the bags of one seed, and the coefficients that were learned."""
    train, test, truth = agreeing(seed)
    widths = dict.fromkeys(STATES, WIDTH)
    row: dict[str, Any] = {"seed": seed}

    def note(name: str, scores: Tensor) -> None:
        row[name] = float(roc_auc_score(truth.flatten(), scores.detach().flatten()))
        print(seed, name, round(100 * row[name], 1), flush=True)

    def trained(fusion: Any) -> Tensor:
        fit_frozen(fusion, train)
        detector = Detector(fusion, seed=seed)
        fit(detector, train, TrainingConfig(seed=seed))
        return predict(detector, test)

    learned = LegoFusion(widths, seed=seed, **LEARNED)
    note("lego, A learned", trained(learned))
    row["A"] = {name: factor[0].tolist() for name, factor in learned.operator.factors.items()}
    note("lego, start of that A", start_scores(learned, test))
    note("lego, A fixed", trained(LegoFusion(widths)))
    for method in BASELINES:
        note(method, trained(make_plain_fusion(method, widths, seed=seed)))
    note("nearest neighbours, summed", nearest_neighbour_scores(train, test))
    normal = train.select((~train.labels).nonzero()[:, 0])
    note("nearest neighbours, in everything", nearest_neighbour_scores(together(train, normal), together(test, normal)))
    return row


def main() -> None:
    """Measure and store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = [measure(seed) for seed in range(FIRST_SEED, FIRST_SEED + options.seeds)]
    for name in (name for name in rows[0] if name not in ("seed", "A")):
        values = 100 * np.array([row[name] for row in rows])
        print(f"| {name} | {values.mean():.1f} +- {values.std(ddof=1) if len(rows) > 1 else 0:.1f} |")
    store("agreement", {"benchmark": "agreement", "rows": rows})


if __name__ == "__main__":
    main()
