"""Where the modalities start: noise is told from what has a memory, and does not get the largest weight."""

import math

import pytest
import torch

from lego_fusion.fusion.lego import LegoFusion
from lego_fusion.fusion.start import LEAST_GATE, Memory, memory, noise_gate, start_weights

ONE = torch.ones(1)


def autoregressive(r: float, *, bags: int = 40, nodes: int = 60) -> torch.Tensor:
    """A stationary first-order process with autocorrelation r, (B, N, 1)."""
    generator = torch.Generator().manual_seed(0)
    steps = torch.randn(bags, nodes, generator=generator)
    values = [steps[:, 0]]
    for node in range(1, nodes):
        values.append(r * values[-1] + math.sqrt(1 - r * r) * steps[:, node])
    return torch.stack(values, 1)[..., None]


@pytest.mark.parametrize("r", [0.0, 0.3, 0.8])
def test_memory_is_the_autocorrelation(r):
    seen = memory(autoregressive(r), ONE)
    assert seen.autocorrelation == pytest.approx(r, abs=0.05)
    assert seen.pairs == 40 * 59


def test_copies_of_a_snippet_are_no_memory():
    """Noise that is held for three nodes is noise still."""
    held = autoregressive(0.0).repeat_interleave(3, dim=1)
    seen = memory(held, ONE)
    assert seen.autocorrelation == pytest.approx(0.0, abs=0.05)
    assert seen.pairs == 40 * 59


def test_memory_does_not_depend_on_which_reference_is_which():
    graph = torch.rand(3, 9, 4, generator=torch.Generator().manual_seed(0))
    weights = torch.tensor([0.5, 0.3, 0.15, 0.05])
    assert memory(graph, weights) == memory(graph[..., [2, 0, 3, 1]], weights)
    scaled = memory(5 * graph + 1, weights)
    assert scaled.autocorrelation == pytest.approx(memory(graph, weights).autocorrelation, abs=1e-5)


def test_what_never_varies_is_not_called_noise():
    seen = memory(torch.ones(2, 5, 3), torch.ones(3))
    assert noise_gate(seen) == 1.0


def test_the_gate_opens_with_the_evidence():
    gates = [noise_gate(Memory(r, 400)) for r in (-0.5, 0.0, 0.05, 0.1, 0.11, 0.2, 0.5, 1.0)]
    assert gates == sorted(gates)
    assert gates[:4] == [LEAST_GATE] * 4  # up to two standard errors of 1 / 20
    assert gates[-1] == pytest.approx(1 - 4 / 400)
    assert noise_gate(Memory(0.2, 4000)) > noise_gate(Memory(0.2, 400))


def test_start_weights_by_hand():
    generator = torch.Generator().manual_seed(0)
    graph = torch.rand(6, 5, 4, generator=generator)
    normal = torch.tensor([True, True, True, True, False, False])
    relations = {"a": graph, "b": 2 * graph, "c": 4 * graph}
    assert start_weights(relations, normal, dict.fromkeys("abc", 1.0)) == pytest.approx({"a": 12 / 7, "b": 6 / 7, "c": 3 / 7})
    assert start_weights(relations, normal, {"a": 0.5, "b": 1.0, "c": 1.0}) == pytest.approx({"a": 1.2, "b": 1.2, "c": 0.6})
    beyond = {name: torch.where(normal[:, None, None], x, 100 * x) for name, x in relations.items()}
    assert start_weights(beyond, normal, dict.fromkeys("abc", 1.0)) == pytest.approx({"a": 12 / 7, "b": 6 / 7, "c": 3 / 7})


def slow_and_noise(videos: int = 12, nodes: int = 32) -> tuple[dict[str, torch.Tensor], torch.Tensor, torch.Tensor]:
    """One modality that drifts, and 64 columns of independent noise."""
    generator = torch.Generator().manual_seed(0)
    drift = torch.randn(videos, nodes, 8, generator=generator).cumsum(1) / 4
    noise = torch.randn(videos, nodes, 64, generator=generator)
    return {"slow": drift, "noise": noise}, torch.arange(videos) % 3 == 2, torch.arange(videos)


@pytest.mark.parametrize("gated", [True, False])
def test_pure_noise_would_start_with_the_largest_weight_and_is_gated_out(gated):
    features, labels, videos = slow_and_noise()
    fusion = LegoFusion({"slow": 8, "noise": 64}, nodes=32, noise_gate=gated)
    fusion.fit_statistics(features, labels, videos)
    graphs = fusion.training_relations(features, labels, videos)
    fusion.balance_start(graphs, labels)
    first = {name: float(fusion.operator.factors[name][m, 1].detach()) for m, name in enumerate(fusion.modalities)}
    shares = fusion.relevance({name: graph[~labels] for name, graph in graphs.items()})
    assert sum(shares.values()) == pytest.approx(1.0)
    if gated:
        assert first["noise"] < 0.3 * first["slow"]
        assert shares["noise"] < 0.1
        assert fusion.start_gates["noise"] == LEAST_GATE
        assert fusion.start_gates["slow"] > 0.9
    else:
        assert first["noise"] > 2 * first["slow"]
        assert shares["noise"] > 0.4
        assert fusion.start_gates == {"slow": 1.0, "noise": 1.0}


def test_one_modality_has_no_gate():
    fusion = LegoFusion({"noise": 4}, nodes=6, references=3)
    fusion.balance_start({"noise": torch.rand(5, 6, 3)})
    assert fusion.start_gates == {"noise": 1.0}


def test_the_gate_is_part_of_the_configuration():
    fusion = LegoFusion({"a": 2, "b": 2}, noise_gate=False)
    assert LegoFusion(**fusion.config()).noise_gate is False
    old = {name: value for name, value in fusion.config().items() if name != "noise_gate"}
    assert LegoFusion(**old).noise_gate is True, "configurations saved without it still load"
