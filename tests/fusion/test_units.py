"""Finer units in LegoFusion: identities with whole segments, invariances, cross-fitting, and relations by hand."""

import jaxtyping
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lego_fusion.errors import DataError, ParameterError
from lego_fusion.fusion.lego import LegoFusion
from lego_fusion.fusion.registry import make_fusion
from lego_fusion.fusion.relation import RELATION_KINDS
from lego_fusion.fusion.units import UNIT_POOLINGS, UnitRelation, mean_over_units

N, U, D = 5, 6, 3
LABELS = torch.tensor([False, True, False, False, True, False])
VIDEOS = torch.arange(6)
every_pooling = pytest.mark.parametrize("pooling", UNIT_POOLINGS)
every_relation = pytest.mark.parametrize("kind", RELATION_KINDS)


def units(bags: int = 6, seed: int = 0, share: float = 0.7, count: int = U) -> Tensor:
    """(B, N, U, D + 1) with some absent ones, and at least the first of every node present."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(bags, N, count, D, generator=generator)
    present = torch.rand(bags, N, count, 1, generator=generator) < share
    present[:, :, 0] = True
    return torch.cat([values * present, present], dim=-1)


def whole(bags: int = 6, seed: int = 9) -> Tensor:
    return torch.randn(bags, N, D, generator=torch.Generator().manual_seed(seed))


def fitted(given_units: Tensor | None = None, *, groups: int = 1, kind: str = "gaussian", **options) -> LegoFusion:
    fusion = LegoFusion({"cells": D}, nodes=N, relations=kind, references=7, units={"cells": groups}, **options)
    fusion.fit_statistics({"cells": units() if given_units is None else given_units}, LABELS, VIDEOS)
    return fusion.eval()


def graph(fusion: LegoFusion, x: Tensor) -> Tensor:
    return fusion.relations({"cells": x})["cells"]


@every_relation
@every_pooling
def test_one_unit_per_node_is_a_segment(kind, pooling):
    """With one present unit a node, the pooled graph is the graph of that unit as a segment, sorted."""
    x, test = whole(), whole(3, seed=1)

    def as_units(values: Tensor) -> Tensor:
        return torch.cat([values, torch.ones(*values.shape[:2], 1)], dim=-1)[:, :, None]

    fine = fitted(as_units(x), kind=kind, unit_pooling=pooling)
    coarse = LegoFusion({"cells": D}, nodes=N, relations=kind, references=7)
    coarse.fit_statistics({"cells": x}, LABELS, VIDEOS)
    expected = coarse.relations({"cells": test})["cells"].sort(dim=-1, descending=True).values
    torch.testing.assert_close(graph(fine, as_units(test)), expected, rtol=1e-5, atol=1e-6)
    trained = coarse.training_relations({"cells": x}, LABELS, VIDEOS)["cells"].sort(dim=-1, descending=True).values
    again = fine.training_relations({"cells": as_units(x)}, LABELS, VIDEOS)["cells"]
    torch.testing.assert_close(again, trained, rtol=1e-5, atol=1e-6)
    fused = [one({"cells": values}).nodes for one, values in ((fine, as_units(test)), (coarse, test))]
    torch.testing.assert_close(fused[0], fused[1], rtol=1e-5, atol=1e-6)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), pooling=st.sampled_from(UNIT_POOLINGS), kind=st.sampled_from(RELATION_KINDS))
def test_the_order_of_units_does_not_matter(seed, pooling, kind):
    fusion, test = fitted(kind=kind, unit_pooling=pooling, most_novel=2), units(2, seed)
    order = torch.randperm(U, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(graph(fusion, test[:, :, order]), graph(fusion, test), rtol=1e-5, atol=1e-6)


@every_pooling
def test_within_a_row_of_the_picture_too_but_not_across(pooling):
    fusion, test = fitted(units(share=1.0), groups=2, unit_pooling=pooling), units(2, 3, share=1.0)
    within = test[:, :, [2, 0, 1, 5, 4, 3]]
    torch.testing.assert_close(graph(fusion, within), graph(fusion, test), rtol=1e-5, atol=1e-6)
    across = test[:, :, [3, 4, 5, 0, 1, 2]]
    assert not torch.allclose(graph(fusion, across), graph(fusion, test), atol=1e-3)


@pytest.mark.parametrize("references", [0, 7])
@every_pooling
def test_absent_units_change_nothing(pooling, references):
    if pooling == "novel" and not references:
        pytest.skip("novel to what")
    x, test = units(), units(3, 4)
    more = torch.zeros(6, N, 4, D + 1)
    fusions = []
    for given_units in (x, torch.cat([x, more], dim=2)):
        fusion = LegoFusion({"cells": D}, nodes=N, references=references, units={"cells": 1}, unit_pooling=pooling)
        fusion.fit_statistics({"cells": given_units}, LABELS, VIDEOS)
        fusions.append(fusion.eval())
    expected = graph(fusions[0], test)
    garbage = torch.cat([torch.full((3, N, 4, D), 9.0), torch.zeros(3, N, 4, 1)], dim=-1)
    for padded in (torch.cat([test, more[:3]], dim=2), torch.cat([garbage, test], dim=2)):
        torch.testing.assert_close(graph(fusions[0], padded), expected, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(graph(fusions[1], padded), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("references", [0, 7])
def test_a_node_without_units_relates_to_nothing(references):
    fusion = LegoFusion({"cells": D}, nodes=N, references=references, units={"cells": 1}, unit_pooling="mean")
    test = units(2, 5)
    fusion.fit_statistics({"cells": units()}, LABELS, VIDEOS)
    test[0, 2] = 0
    made = graph(fusion, test)
    assert not made[0, 2].any() and made[0, 1].any() and torch.isfinite(made).all()


@every_relation
def test_a_pooled_row_by_hand(kind):
    """Sorted similarities to the references of the unit's row of the picture, over the two units that know least."""
    fusion, test = fitted(units(share=1.0), groups=2, kind=kind, most_novel=2), units(2, 6)
    relation = fusion.unit_relation("cells")
    for bag in range(2):
        for node in range(N):
            rows = []
            for unit in range(U):
                *values, present = test[bag, node, unit].tolist()
                if present:
                    references = relation.references[unit // 3]
                    row = relation.relate(torch.tensor([[values]]), references[None])[0, 0].tolist()
                    rows.append(sorted(row, reverse=True))
            rows = sorted(rows, key=lambda row: row[0])[:2]
            expected = torch.tensor(rows).mean(0)
            torch.testing.assert_close(graph(fusion, test)[bag, node], expected, rtol=1e-4, atol=1e-5)


@every_pooling
def test_between_nodes_the_relations_of_their_units_are_pooled(pooling):
    if pooling == "novel":
        with pytest.raises(ParameterError, match=r"needs reference units to be novel to: got references=0"):
            LegoFusion({"cells": D}, references=0, units={"cells": 1})
        return
    plain = {"relations": "dot", "references": 0, "centre": False, "unit_pooling": pooling}
    fusion = LegoFusion({"cells": D}, nodes=N, units={"cells": 1}, **plain)
    x = units(2)
    made = graph(fusion, x)  # not fitted: the scale is 1
    for i in range(N):
        for j in range(N):
            products = [
                float(x[0, i, u, :D] @ x[0, j, v, :D]) for u in range(U) for v in range(U) if x[0, i, u, D] and x[0, j, v, D]
            ]
            expected = max(products) if pooling == "max" else sum(products) / len(products)
            assert float(made[0, i, j]) == pytest.approx(expected, abs=1e-5)


def test_a_normal_training_video_never_meets_its_own_units():
    x = units(share=1.0)
    relation = fitted(x, groups=2).unit_relation("cells")
    everyone, by_video = relation.choose(x, LABELS, VIDEOS, 7)
    assert set(by_video) == {0, 2, 3, 5}
    for video, index in by_video.items():
        owner = index // (N * U)
        assert not (owner == video).any() and not LABELS[owner].any()
    for index in (everyone, *by_video.values()):
        assert [sorted(set((row % U // 3).tolist())) for row in index] == [[0], [1]]
    poisoned = x.clone()
    poisoned[0] += 100 * torch.tensor([1.0, 1, 1, 0])  # video 0 changes: what it meets does not
    assert torch.equal(relation.choose(poisoned, LABELS, VIDEOS, 7)[1][0], by_video[0])


def test_crops_and_windows_of_one_video_are_that_video():
    x = units(share=1.0)
    relation = fitted(x).unit_relation("cells")
    videos = torch.tensor([0, 1, 0, 3, 4, 5])
    for video, index in relation.choose(x, LABELS, videos, 7)[1].items():
        assert not (videos[index // (N * U)] == video).any()


def test_references_are_units_that_can_be_shown():
    x = units(share=1.0)
    relation = fitted(x, groups=2).unit_relation("cells")
    for g in range(2):
        for k in range(7):
            bag, node, unit = relation.reference_places[g, k].tolist()
            assert unit // 3 == g and not LABELS[bag]
            assert torch.equal(x[bag, node, unit, :D], relation.references[g, k])


def test_a_row_of_the_picture_where_nothing_moves_repeats_what_it_knows():
    x = units(share=1.0)
    x[:, :, :3, :D] = 0
    fusion = fitted(x, groups=2)
    assert not fusion.unit_relation("cells").references[0].any()
    assert fusion.unit_relation("cells").references[1].unique(dim=0).shape[0] == 7
    assert torch.isfinite(graph(fusion, units(2, 3))).all()


def test_the_kth_nearest_meets_the_kth_nearest():
    """Beside whole segments, a pooled graph's sorted row goes where the segments' row has its ranks."""
    features = {"motion": whole(), "cells": units()}
    fusion = LegoFusion({"motion": D, "cells": D}, nodes=N, references=7, units={"cells": 1})
    fusion.fit_statistics(features, LABELS, VIDEOS)
    for graphs in (fusion.relations(features), fusion.training_relations(features, LABELS, VIDEOS)):
        order = graphs["motion"].argsort(dim=-1, descending=True)
        ranked = graphs["cells"].gather(-1, order)
        assert (ranked.diff(dim=-1) <= 1e-7).all()
    alone = fitted(features["cells"], kind="cosine")
    k = fusion.columns
    torch.testing.assert_close(fusion.relations(features)["motion"].shape[-1], k)
    assert alone.columns == 7


def test_a_fusion_with_units_is_made_again_from_its_config():
    features = {"motion": whole(), "cells": units()}
    fusion = LegoFusion({"motion": D, "cells": D}, nodes=N, references=7, units={"cells": 2}, most_novel=3)
    fusion.fit_statistics(features, LABELS, VIDEOS)
    again = make_fusion("lego", fusion.config())
    again.load_state_dict(fusion.state_dict())
    assert torch.equal(again.eval()(features).nodes, fusion.eval()(features).nodes)
    assert "units" not in LegoFusion({"motion": D}).config()


def test_the_mean_over_units_counts_the_present_ones():
    x = units(2)
    for bag in range(2):
        for node in range(N):
            there = x[bag, node][x[bag, node, :, D] > 0][:, :D]
            torch.testing.assert_close(mean_over_units(x)[bag, node], there.mean(0))
    assert not mean_over_units(torch.zeros(1, 1, 2, 4)).any()


def test_bad_units_are_refused(monkeypatch):
    with pytest.raises(ParameterError, match="units names 'flow', which is no modality"):
        LegoFusion({"cells": D}, units={"flow": 1})
    with pytest.raises(ParameterError, match="rows='propagate' needs one vector per node"):
        LegoFusion({"cells": D}, units={"cells": 1}, rows="propagate")
    with pytest.raises(ParameterError, match="own_features=True needs one vector per node: got units of cells"):
        LegoFusion({"cells": D}, units={"cells": 1}, own_features=True)
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ParameterError, match="'unit_pooling' parameter of LegoFusion must be one of 'novel', 'mean', 'max'"):
        LegoFusion({"cells": D}, units={"cells": 1}, unit_pooling="least")
    with pytest.raises(ParameterError, match="'most_novel' parameter"):
        LegoFusion({"cells": D}, units={"cells": 1}, most_novel=0)
    monkeypatch.undo()
    fusion = fitted(units(share=1.0), groups=2)
    for wrong in (units(2)[..., :D], units(2)[:, :, 0, :D], units(2, count=5)):
        with pytest.raises(DataError, match=r"features have another shape .*'cells'\): expected \(2, 5, .*, 4\)"):
            fusion.select({"cells": wrong})
    with pytest.raises(ParameterError, match="'motion' is not read unit by unit: expected a fine modality, got cells"):
        fusion.unit_relation("motion")
    with pytest.raises(DataError, match="at least 2 normal training videos, got 1"):
        fitted().fit_references({"cells": units(3)}, torch.tensor([False, True, True]), torch.arange(3))
    nothing = units()
    nothing[[2, 3, 5]] = 0
    with pytest.raises(DataError, match=r"too few normal training videos have units .*at least 2 of them, got 1"):
        fitted(nothing)
    with pytest.raises(DataError, match="no unit is present in the training videos"):
        UnitRelation(D, "cosine", references=3).fit(torch.zeros(6, N, U, D + 1), ~LABELS)
