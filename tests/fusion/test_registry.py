"""Fusions by name."""

import pytest

from lego_fusion.errors import ParameterError
from lego_fusion.fusion.registry import FUSIONS, make_fusion, make_plain_fusion


def test_names_are_those_the_classes_give_themselves():
    elementwise = {"concat", "add", "product", "gated", "mlp", "score-average"}
    others = {"cross-attention", "self-attention", "bilinear", "tensor", "low-rank-tensor", "mtn", "graph-convolution"}
    assert set(FUSIONS) == {"lego", "lego-paper"} | elementwise | others
    assert all(fusion.kind == kind for kind, fusion in FUSIONS.items())


@pytest.mark.parametrize("kind", FUSIONS)
def test_every_fusion_is_made_from_modalities_alone(kind):
    fusion = make_fusion(kind, {"modalities": {"motion": 4, "text": 3}})
    assert type(fusion) is FUSIONS[kind]
    assert fusion.modalities == {"motion": 4, "text": 3}


def test_an_unknown_name_lists_those_that_exist():
    with pytest.raises(
        ParameterError, match=r"must be one of 'lego', 'lego-paper', 'concat', 'add', .*'mtn'.*Got 'atention' instead"
    ):
        make_fusion("atention", {"modalities": {"motion": 4}})


@pytest.mark.parametrize("kind", FUSIONS)
def test_an_unknown_argument_is_named(kind):
    with pytest.raises(ParameterError, match=f"fusion '{kind}' cannot be made: .*'ranks'.*expected modalities"):
        make_fusion(kind, {"modalities": {"motion": 4}, "ranks": 3})


@pytest.mark.parametrize("kind", FUSIONS)
def test_a_missing_argument_is_named(kind):
    with pytest.raises(ParameterError, match=f"fusion '{kind}' cannot be made: missing a required argument: 'modalities'"):
        make_fusion(kind, {})


@pytest.mark.parametrize("kind", FUSIONS)
def test_a_plain_fusion_has_default_arguments_and_the_seed_where_there_is_one(kind):
    modalities = {"motion": 4, "text": 3}
    default = FUSIONS[kind](modalities).config()
    given = make_plain_fusion(kind, modalities, seed=5).config()
    assert given == default | ({"seed": 5} if "seed" in default else {})


def test_an_unknown_plain_fusion_lists_those_that_exist():
    with pytest.raises(ParameterError, match=r"must be one of 'lego', .*'score-average'.*Got 'glue' instead"):
        make_plain_fusion("glue", {"motion": 4})
