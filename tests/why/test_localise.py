"""Back from a node to its units and their places."""

import numpy as np
import pytest
import torch

from lego_fusion.data.dataset import Dataset, write_dataset
from lego_fusion.data.features import write_features
from lego_fusion.data.manifest import Manifest
from lego_fusion.data.segments import with_presence
from lego_fusion.data.tables import DatasetConfig, VideoRecord
from lego_fusion.errors import ParameterError
from lego_fusion.fusion.elementwise import Concat
from lego_fusion.fusion.lego import LegoFusion
from lego_fusion.learn.bags import Bags, fit_frozen, load_bags
from lego_fusion.learn.methods import make_default_fusion
from lego_fusion.why.localise import heat_maps, trace_nodes, unit_novelty

ODD = {"v3": (2, 4), "v4": (1, 0)}  # video: snippet and cell of a 2 x 3 grid that moves as none does
MANIFESTS = {
    "motion": Manifest(modality="motion", extractor="m", version="1", width=3, nature="magnitude", stride=8),
    "cells": Manifest(
        modality="cells",
        extractor="x",
        version="1",
        width=2,
        nature="magnitude",
        unit_kind="cell",
        units=6,
        grid=(2, 3),
        stride=8,
    ),
    "words": Manifest(modality="words", extractor="x", version="1", width=4, unit_kind="word", units=5, stride=8),
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Dataset:
    random = np.random.default_rng(0)
    records = [VideoRecord(f"v{i}", "abnormal" if i > 2 else "normal", 40, 10.0) for i in range(5)]
    made = write_dataset(tmp_path_factory.mktemp("cells"), DatasetConfig(name="c", stride=8, modalities=MANIFESTS), records)
    for record in records:
        cells = random.random((5, 6, 2))
        if record.video in ODD:
            snippet, cell = ODD[record.video]
            cells[snippet, cell] = 9
        write_features(made.root, "motion", record.video, random.normal(size=(5, 3)))
        write_features(made.root, "cells", record.video, with_presence(cells))
        write_features(
            made.root, "words", record.video, with_presence(random.normal(size=(5, 5, 4)), random.random((5, 5)) < 0.6)
        )
    return made


@pytest.fixture(scope="module")
def bags(dataset) -> Bags:
    return load_bags(dataset, list(MANIFESTS), [record.video for record in dataset.videos], nodes=10)


@pytest.fixture(scope="module")
def fusion(bags) -> LegoFusion:
    made = make_default_fusion("lego", MANIFESTS, nodes=10)
    fit_frozen(made, bags)
    assert isinstance(made, LegoFusion)
    return made


def test_the_odd_cell_is_found_where_it_is(dataset, bags, fusion):
    for video, (snippet, cell) in ODD.items():
        heat = heat_maps(fusion, dataset, "cells", video)
        assert heat.shape == (5, 2, 3) and np.unravel_index(heat.argmax(), heat.shape) == (snippet, cell // 3, cell % 3)
        traced = trace_nodes(fusion, bags.named([video]), "cells", grid=(2, 3))
        for node in range(10):  # every snippet is in two nodes
            if node // 2 == snippet:
                assert traced.units[0, node, 0] == cell and traced.places[0, node, 0].tolist() == [cell // 3, cell % 3]


def test_what_is_traced_is_what_was_scored(bags, fusion):
    """Other units of a node can be anything: neither its degree nor its departure change."""
    known = fusion.known_units("words")
    known.most_novel = 2
    x = bags.inputs["words"]
    traced = trace_nodes(fusion, bags, "words")
    before = fusion.readings(bags.inputs)
    kept = torch.zeros(*x.shape[:3], dtype=torch.bool)
    for bag in range(5):
        for node in range(10):
            chosen = [unit for unit in traced.units[bag, node].tolist() if unit >= 0]
            assert len(chosen) == min(2, int(x[bag, node, :, -1].sum()))
            kept[bag, node, chosen] = True
    assert traced.places is None
    assert bool((traced.novelty[traced.units < 0] == 0).all())
    gone = torch.where(kept[..., None], x, torch.zeros_like(x))
    after = fusion.readings({**bags.inputs, "words": gone})
    known.most_novel = 8
    torch.testing.assert_close(after.degree[:, :, 2], before.degree[:, :, 2], equal_nan=True)
    torch.testing.assert_close(after.departure["words"], before.departure["words"])


def test_novelty_is_one_minus_the_mean_of_the_nearest_and_zero_where_absent(dataset, fusion):
    stored = dataset.features("words", "v0")
    novelty = unit_novelty(fusion, "words", stored)
    known = fusion.known_units("words")
    for t in range(5):
        for u in range(5):
            squared = ((torch.from_numpy(np.array(stored[t, u, :-1])) - known.references[0]) / known.near).square().sum(-1)
            relation = 1 / (1 + squared / known.bandwidth[0].square())
            expected = 1 - float(relation.topk(3).values.mean()) if stored[t, u, -1] else 0.0
            assert novelty[t, u] == pytest.approx(expected, abs=1e-4)


def test_what_cannot_be_located_is_refused(dataset, bags, fusion):
    with pytest.raises(ParameterError, match="'words' has no places in the picture: expected cells or patches"):
        heat_maps(fusion, dataset, "words", "v0")
    with pytest.raises(ParameterError, match="'motion' is not read unit by unit"):
        trace_nodes(fusion, bags, "motion")
    with pytest.raises(
        ParameterError, match=r"units are not related to known normal ones .*'cells'.*: got the fusion 'concat'"
    ):
        trace_nodes(Concat({"cells": 2}), bags, "cells")
    paper = make_default_fusion("lego-paper", {"cells": MANIFESTS["cells"]}, nodes=10)
    with pytest.raises(ParameterError, match=r"units are not related to known normal ones .*: got the fusion 'lego-paper'"):
        trace_nodes(paper, bags, "cells")
