"""Fusions by name."""

import pytest

from lego_fusion.errors import ParameterError
from lego_fusion.fusion.registry import FUSIONS, make_fusion


def test_names_are_those_the_classes_give_themselves():
    assert {"lego", "concat", "mtn"} <= set(FUSIONS)
    assert all(fusion.kind == kind for kind, fusion in FUSIONS.items())


@pytest.mark.parametrize("kind", FUSIONS)
def test_every_fusion_is_made_from_modalities_alone(kind):
    fusion = make_fusion(kind, {"modalities": {"motion": 4, "text": 3}})
    assert type(fusion) is FUSIONS[kind]
    assert fusion.modalities == {"motion": 4, "text": 3}


def test_an_unknown_name_lists_those_that_exist():
    with pytest.raises(ParameterError, match=r"must be one of 'lego', 'concat', 'mtn'.*Got 'atention' instead"):
        make_fusion("atention", {"modalities": {"motion": 4}})


@pytest.mark.parametrize("kind", FUSIONS)
def test_an_unknown_argument_is_named(kind):
    with pytest.raises(ParameterError, match=f"fusion '{kind}' cannot be made: .*'ranks'.*expected modalities"):
        make_fusion(kind, {"modalities": {"motion": 4}, "ranks": 3})


@pytest.mark.parametrize("kind", FUSIONS)
def test_a_missing_argument_is_named(kind):
    with pytest.raises(ParameterError, match=f"fusion '{kind}' cannot be made: missing a required argument: 'modalities'"):
        make_fusion(kind, {})
