"""Finer units: known unit by unit by the default, related to each other by the paper's reading."""

import math
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lego_fusion.errors import DataError, ParameterError
from lego_fusion.fusion.lego import LegoFusion
from lego_fusion.fusion.options import UnitPooling
from lego_fusion.fusion.paper import PaperFusion
from lego_fusion.fusion.registry import make_fusion
from lego_fusion.fusion.relation import UnitRelation, mean_over_units

N, U, D = 5, 6, 3
LABELS = torch.tensor([False, True, False, False, True, False])
VIDEOS = torch.arange(6)
every_pooling = pytest.mark.parametrize("pooling", get_args(UnitPooling))


def units(bags: int = 6, seed: int = 0, share: float = 0.7, count: int = U) -> Tensor:
    """(B, N, U, D + 1) with some absent ones, and at least the first of every node present."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(bags, N, count, D, generator=generator)
    present = torch.rand(bags, N, count, 1, generator=generator) < share
    present[:, :, 0] = True
    return torch.cat([values * present, present], dim=-1)


def whole(bags: int = 6, seed: int = 9) -> Tensor:
    return torch.randn(bags, N, D, generator=torch.Generator().manual_seed(seed))


def as_units(values: Tensor) -> Tensor:
    return torch.cat([values, torch.ones(*values.shape[:2], 1)], dim=-1)[:, :, None]


def fitted(given_units: Tensor | None = None, *, groups: int = 1, **options) -> LegoFusion:
    fusion = LegoFusion({"cells": D}, units={"cells": groups}, **options)
    fusion.fit({"cells": units() if given_units is None else given_units}, LABELS, VIDEOS)
    return fusion.eval()


def nodes(fusion: LegoFusion, x: Tensor) -> Tensor:
    return fusion.fuse({"cells": x}).nodes


def test_one_unit_per_node_is_a_segment():
    """With one present unit a node, its readings are those of that unit as a segment."""
    x, test = whole(), whole(3, seed=1)
    fine, coarse = fitted(as_units(x)), LegoFusion({"cells": D})
    coarse.fit({"cells": x}, LABELS, VIDEOS)
    torch.testing.assert_close(nodes(fine, as_units(test)), coarse.fuse({"cells": test}).nodes, rtol=1e-3, atol=1e-4)
    trained = [
        fusion.transform({"cells": values}, video_ids=VIDEOS)["cells"] for fusion, values in ((fine, as_units(x)), (coarse, x))
    ]
    torch.testing.assert_close(trained[0], trained[1], rtol=1e-3, atol=1e-4)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000))
def test_the_order_of_units_does_not_matter(seed):
    fusion, test = fitted(most_novel=2), units(2, seed)
    order = torch.randperm(U, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(nodes(fusion, test[:, :, order]), nodes(fusion, test), rtol=1e-3, atol=1e-4)


def test_within_a_row_of_the_picture_too_but_not_across():
    fusion, test = fitted(units(share=1.0), groups=2), units(2, 3, share=1.0)
    within = test[:, :, [2, 0, 1, 5, 4, 3]]
    torch.testing.assert_close(nodes(fusion, within), nodes(fusion, test), rtol=1e-3, atol=1e-4)
    across = test[:, :, [3, 4, 5, 0, 1, 2]]
    assert not torch.allclose(nodes(fusion, across), nodes(fusion, test), atol=1e-3)


def test_absent_units_change_nothing():
    x, test = units(), units(3, 4)
    more = torch.zeros(6, N, 4, D + 1)
    plain, padded = fitted(x), fitted(torch.cat([x, more], dim=2))
    garbage = torch.cat([torch.full((3, N, 4, D), 9.0), torch.zeros(3, N, 4, 1)], dim=-1)
    expected = nodes(plain, test)
    for given_units in (torch.cat([test, more[:3]], dim=2), torch.cat([garbage, test], dim=2)):
        torch.testing.assert_close(nodes(plain, given_units), expected, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(nodes(padded, given_units), expected, rtol=1e-3, atol=1e-4)


def test_a_node_without_units_is_like_a_typical_one():
    test = units(2, 5)
    test[0, 2] = 0
    made = nodes(fitted(), test)
    assert made.isfinite().all()
    assert not made[0, 2, :2].any() and not made[0, 2, 4:].any() and made[0, 1].any()


def test_the_degree_of_a_node_by_hand():
    """Over its two most novel units: the mean of their degrees, by the 3 nearest known units of their row of the picture."""
    fusion, test = fitted(units(share=1.0), groups=2, most_novel=2), units(2, 6)
    known = fusion.known_units("cells")
    found = fusion.readings({"cells": test}).degree
    for bag in range(2):
        for node in range(N):
            by_unit = []
            for unit in range(U):
                *values, present = test[bag, node, unit].tolist()
                if not present:
                    continue
                group, relations = unit // 3, []
                for reference, s in zip(known.references[group], known.bandwidth[group], strict=True):
                    if float(s) > 0:
                        d = math.dist(*((torch.tensor(row) / known.near).tolist() for row in (values, reference.tolist())))
                        relations.append(1 / (1 + (d / float(s)) ** 2))
                by_unit.append(sorted(relations, reverse=True)[:3])
            novel = sorted(by_unit, key=sum)[:2]
            for place, p in enumerate((1, 2)):
                phi = [-math.log(sum(r**p for r in row) / len(row)) / (2 * p) for row in novel]
                assert float(found[bag, node, 0, place]) == pytest.approx(sum(phi) / len(phi), rel=1e-3, abs=1e-4)


def test_a_normal_training_video_never_meets_its_own_units():
    x = units(share=1.0)
    x[2, 3, 4, :D] = 40.0
    fusion = fitted(x)
    trained, predicted = fusion.readings({"cells": x}, video_ids=VIDEOS), fusion.readings({"cells": x})
    assert float(trained.degree[2, 3, 0, 0]) > 1.5 * float(predicted.degree[2, 3, 0, 0])
    together = torch.tensor([0, 1, 2, 2, 4, 5])
    x[3] = x[2]
    fusion = fitted(x)
    apart, joined = (fusion.readings({"cells": x}, video_ids=videos) for videos in (VIDEOS, together))
    assert float(joined.degree[3, 3, 0, 0]) > 1.5 * float(apart.degree[3, 3, 0, 0]), "crops of one video are that video"


def test_references_are_units_that_can_be_shown():
    x = units(share=0.6)
    known = fitted(x, groups=2).known_units("cells")
    for group in range(2):
        for k in range(known.references.shape[1]):
            bag, node, unit = known.places[group, k].tolist()
            assert (bag >= 0) == bool(known.bandwidth[group, k] > 0)
            if bag >= 0:
                assert unit // 3 == group and not LABELS[bag] and x[bag, node, unit, D] == 1
                assert torch.equal(x[bag, node, unit, :D], known.references[group, k])


def test_a_row_of_the_picture_where_nothing_moves():
    x = units(share=1.0)
    x[:, :, :3, :D] = 0
    fusion = fitted(x, groups=2)
    known = fusion.known_units("cells")
    assert int((known.bandwidth[0] > 0).sum()) == 4, "one still unit of every normal video"
    assert nodes(fusion, units(2, 3)).isfinite().all()


def test_novelty_of_units_lies_between_nothing_and_all():
    fusion, test = fitted(), units(2, 3)
    test[0, 0, 0, :D] = 1e6
    novelty = fusion.known_units("cells").unit_novelty(test, 3)
    assert ((novelty >= 0) & (novelty <= 1)).all()
    assert float(novelty[0, 0, 0]) == pytest.approx(1, abs=1e-6)
    assert not novelty[test[..., D] == 0].any()


def test_beside_whole_segments_every_modality_has_its_readings():
    features = {"motion": whole(), "cells": units()}
    fusion = LegoFusion({"motion": D, "cells": D}, units={"cells": 2}, most_novel=3)
    fusion.fit(features, LABELS, VIDEOS)
    again = make_fusion("lego", fusion.config())
    again.load_state_dict(fusion.state_dict())
    made = fusion.eval().fuse(features).nodes
    assert made.shape == (6, N, 8 + 2 * D) and made.isfinite().all()
    assert torch.equal(again.eval().fuse(features).nodes, made)
    learned = LegoFusion({"motion": D, "cells": D}, units={"cells": 2}, operator="learned")
    learned.fit(features, LABELS, VIDEOS)
    assert learned.fuse(features).nodes.shape == (6, N, 10 + 2 * D)


def test_bad_units_are_refused():
    fusion = fitted(units(share=1.0), groups=2)
    for wrong in (units(2)[..., :D], units(2)[:, :, 0, :D], units(2, count=5)):
        with pytest.raises(DataError, match=r"features have another shape .*'cells'\): expected \(2, 5, .*, 4\)"):
            fusion.select({"cells": wrong})
    with pytest.raises(ParameterError, match="'motion' is not read unit by unit: expected a fine modality, got cells"):
        fusion.known_units("motion")
    nothing = units()
    nothing[[2, 3, 5]] = 0
    with pytest.raises(DataError, match=r"too few normal training videos have units .*at least 2 of them, got 1"):
        fitted(nothing)
    with pytest.raises(DataError, match="nothing normal to know"):
        fitted(torch.zeros(6, N, U, D + 1))


# ---- the paper's reading


def graph(fusion: PaperFusion, x: Tensor) -> Tensor:
    return fusion.relations({"cells": x})["cells"]


@every_pooling
def test_between_nodes_the_relations_of_their_units_are_pooled(pooling):
    fusion = PaperFusion({"cells": D}, nodes=N, units={"cells": 1}, relations="dot", unit_pooling=pooling)
    x = units(2)
    made = graph(fusion, x)  # not fitted: the scale is 1
    for i in range(N):
        for j in range(N):
            products = [
                float(x[0, i, u, :D] @ x[0, j, v, :D]) for u in range(U) for v in range(U) if x[0, i, u, D] and x[0, j, v, D]
            ]
            expected = max(products) if pooling == "max" else sum(products) / len(products)
            assert float(made[0, i, j]) == pytest.approx(expected, abs=1e-5)


@every_pooling
@pytest.mark.parametrize("kind", ["cosine", "gaussian", "dot"])
def test_one_unit_per_node_is_the_graph_of_segments(kind, pooling):
    x, test = whole(), whole(3, seed=1)
    fine = PaperFusion({"cells": D}, nodes=N, units={"cells": 1}, relations=kind, unit_pooling=pooling)
    coarse = PaperFusion({"cells": D}, nodes=N, relations=kind)
    fine.fit({"cells": as_units(x)}, LABELS, VIDEOS)
    coarse.fit({"cells": x}, LABELS, VIDEOS)
    torch.testing.assert_close(graph(fine, as_units(test)), graph(coarse, test), rtol=1e-4, atol=1e-5)


@every_pooling
def test_absent_units_and_nodes_without_units_relate_to_nothing(pooling):
    fusion = PaperFusion({"cells": D}, nodes=N, units={"cells": 1}, unit_pooling=pooling)
    test = units(2, 5)
    test[0, 2] = 0
    made = graph(fusion, test)
    assert not made[0, 2].any() and made[0, 1].any() and torch.isfinite(made).all()
    garbage = torch.cat([torch.full((2, N, 4, D), 9.0), torch.zeros(2, N, 4, 1)], dim=-1)
    torch.testing.assert_close(graph(fusion, torch.cat([garbage, test], dim=2)), made, rtol=1e-5, atol=1e-6)


def test_the_mean_over_units_counts_the_present_ones():
    x = units(2)
    for bag in range(2):
        for node in range(N):
            there = x[bag, node][x[bag, node, :, D] > 0][:, :D]
            torch.testing.assert_close(mean_over_units(x)[bag, node], there.mean(0))
    assert not mean_over_units(torch.zeros(1, 1, 2, 4)).any()


def test_nothing_present_is_refused():
    with pytest.raises(DataError, match="no unit is present in the training videos"):
        UnitRelation(D, "cosine").fit(torch.zeros(6, N, U, D + 1))
