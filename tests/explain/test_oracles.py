"""The same numbers from packages of others: captum, ckatorch and rsatoolbox. Skipped where they are not installed."""

from typing import Any

import numpy as np
import pytest
import torch

from lego_fusion.explain.contributions import model_contributions
from lego_fusion.explain.similarity import cka, minibatch_cka

WHY = "pip install 'lego-fusion[oracles]'"
oracle_warnings = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


def draw(samples: int, *widths: int) -> list[np.ndarray]:
    generator = np.random.default_rng(samples)
    signal = generator.normal(size=(samples, 2))
    return [signal @ generator.normal(size=(2, width)) + generator.normal(size=(samples, width)) for width in widths]


@oracle_warnings
def test_shapley_values_of_a_network_against_captum() -> None:
    attr = pytest.importorskip("captum.attr", reason=WHY)
    widths = {"motion": 3, "text": 4, "audio": 2, "pose": 1}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = torch.nn.Sequential(torch.nn.Linear(10, 6), torch.nn.Tanh(), torch.nn.Linear(6, 1)).double()
        features = {name: torch.randn(7, width, dtype=torch.float64) for name, width in widths.items()}

    def model(x: Any) -> torch.Tensor:
        return network(torch.cat([x[name] for name in widths], 1))[:, 0]

    groups = torch.cat([torch.full((width,), place) for place, width in enumerate(widths.values())])
    rows = torch.cat(list(features.values()), 1)
    explainer = attr.ShapleyValues(lambda whole: network(whole)[:, 0])

    def of_captum(baselines: Any) -> np.ndarray:
        """One column of each modality, to which captum gives the value of its group, in single precision."""
        attributed = explainer.attribute(rows, baselines=baselines, feature_mask=groups[None])
        starts = np.cumsum([0, *widths.values()])[:-1]
        return attributed.detach().numpy()[:, starts].T

    told = model_contributions(model, features, removal="zero")
    np.testing.assert_allclose(told.values, of_captum(0.0), atol=1e-6)
    told = model_contributions(model, features, removal="mean")
    np.testing.assert_allclose(told.values, of_captum(rows.mean(0, keepdim=True)), atol=1e-6)


@oracle_warnings
@pytest.mark.parametrize("widths", [(5, 8), (90, 40)])
@pytest.mark.parametrize("debiased", [True, False])
def test_cka_against_ckatorch(widths: tuple[int, int], debiased: bool) -> None:
    core = pytest.importorskip("ckatorch.core", reason=WHY)
    x, y = draw(30, *widths)
    expected = core.cka_base(torch.from_numpy(x), torch.from_numpy(y), unbiased=debiased)  # its method="hsic" is always biased
    assert cka(x, y, debiased=debiased) == pytest.approx(float(expected), abs=1e-9)


@oracle_warnings
def test_minibatch_cka_against_ckatorch() -> None:
    core = pytest.importorskip("ckatorch.core", reason=WHY)
    x, y = draw(60, 5, 70)
    expected = core.cka_batch(torch.from_numpy(x.reshape(4, 15, 5)), torch.from_numpy(y.reshape(4, 15, 70)))
    parts = [(x[start : start + 15], y[start : start + 15]) for start in range(0, 60, 15)]
    assert minibatch_cka(parts) == pytest.approx(float(expected), abs=1e-9)


@oracle_warnings
def test_biased_cka_against_rsatoolbox() -> None:
    rsatoolbox = pytest.importorskip("rsatoolbox", reason=WHY)
    x, y = draw(12, 6, 9)
    first, second = (rsatoolbox.rdm.calc_rdm(rsatoolbox.data.Dataset(one), method="euclidean") for one in (x, y))
    expected = float(rsatoolbox.rdm.compare(first, second, method="cosine_cov", sigma_k=None).squeeze())
    assert cka(x, y, debiased=False) == pytest.approx(expected, abs=1e-9)
