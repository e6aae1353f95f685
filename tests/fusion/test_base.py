"""What the contract itself checks and offers."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lego_fusion.errors import DataError, ParameterError
from lego_fusion.fusion.base import ColumnScaling, Fusion, FusionOutput, mask_nodes
from lego_fusion.fusion.elementwise import Concat


class Plain(Fusion):
    """The least a fusion can be."""

    kind = "plain"

    def forward(self, features, mask=None):
        return FusionOutput(mask_nodes(self.select(features)[0], mask))

    def config(self):
        return {"modalities": self.modalities}


def test_what_a_fusion_does_unless_it_says_otherwise():
    fusion = Plain({"motion": 2})
    features = {"motion": torch.ones(1, 3, 2)}
    assert fusion.fit(features, torch.tensor([False]), torch.tensor([0])) is None
    frozen = (
        fusion.transform(features, crops=1),
        fusion.fit_transform(features, torch.tensor([False]), torch.tensor([0])),
    )
    assert all(found["motion"] is features["motion"] for found in frozen), "the features themselves"
    assert torch.equal(fusion(frozen[0]).nodes, fusion.fuse(features).nodes)
    shown = {"motion": torch.zeros(1, 3, 2)}
    found = fusion.transform(shown, video_ids=torch.tensor([0]))
    assert found["motion"] is shown["motion"]
    flags = (fusion.has_frozen_stage, fusion.knows_training, fusion.pools_crops, fusion.one_pass, fusion.draws_at_random)
    assert flags == (False, True, False, False, True)
    assert fusion.make_head() is None and fusion.frozen_config() == {}
    assert fusion(features).graph is None
    assert fusion.state_dict() == {}


def test_a_fusion_must_say_how_it_fuses():
    class Nothing(Fusion):
        pass

    with pytest.raises(TypeError, match="abstract"):
        Nothing({"motion": 2})


@pytest.mark.parametrize(
    ("modalities", "message"),
    [
        ({}, r"a fusion needs at least one modality \(Plain\)"),
        ({"motion": 0}, r"'modalities\['motion'\]' parameter of Plain must be an int in \[1, inf\)\. Got 0 instead"),
        ({"a.b": 2}, r"cannot be called 'a\.b'.*rename the modality, for example 'a_b_features'"),
        ({"keys": 2}, "cannot be called 'keys'"),
        ({"": 2}, "cannot be called ''"),
    ],
)
def test_modalities_a_fusion_cannot_have(modalities, message):
    with pytest.raises(ParameterError, match=message):
        Plain(modalities)


def test_select_returns_the_features_in_the_order_of_the_fusion():
    fusion = Plain({"text": 1, "motion": 2})
    motion, text = torch.zeros(2, 3, 2), torch.ones(2, 3, 1)
    chosen = fusion.select({"motion": motion, "text": text, "audio": torch.zeros(2, 3, 9)})
    assert chosen[0] is text and chosen[1] is motion


def test_select_without_any_modality():
    with pytest.raises(DataError, match="modality 'motion' is missing: expected motion, got no modality"):
        Plain({"motion": 2}).select({})


def test_mask_nodes():
    nodes = torch.arange(1.0, 7.0).reshape(1, 3, 2)
    assert mask_nodes(nodes, None) is nodes
    assert mask_nodes(nodes, torch.tensor([[True, False, True]])).tolist() == [[[1, 2], [0, 0], [5, 6]]]
    poisoned = nodes.masked_fill(torch.tensor([[[False], [True], [False]]]), float("nan"))
    assert torch.isfinite(mask_nodes(poisoned, torch.tensor([[True, False, True]]))).all()


@settings(max_examples=40, deadline=None)
@given(rows=st.lists(st.tuples(st.integers(-9, 9), st.integers(-9, 9)), min_size=2, max_size=8), shift=st.integers(-500, 500))
def test_column_scaling_by_hand_and_in_any_unit(rows, shift):
    values = torch.tensor(rows, dtype=torch.float64)
    scaling = ColumnScaling(2).double()
    scaling.fit(values)
    for column in range(2):
        numbers = [float(row[column]) for row in rows]
        mean = sum(numbers) / len(numbers)
        deviation = (sum((x - mean) ** 2 for x in numbers) / len(numbers)) ** 0.5 or 1.0
        expected = torch.tensor([(x - mean) / deviation for x in numbers], dtype=torch.float64)
        torch.testing.assert_close(scaling(values)[:, column], expected, rtol=1e-12, atol=1e-12)
    other = ColumnScaling(2).double()
    other.fit(100 * values + shift)
    constant = values.std(0, unbiased=False) == 0
    torch.testing.assert_close(other(100 * values + shift)[:, ~constant], scaling(values)[:, ~constant], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("value", [0.0, 3.3, 1e6 / 3, -1e-12])
def test_a_constant_column_is_centred_and_not_blown_up(value):
    scaling = ColumnScaling(1)
    scaling.fit(torch.full((1000, 1), value))
    assert scaling.deviation.item() == 1
    torch.testing.assert_close(scaling(torch.full((5, 1), value)), torch.zeros(5, 1), rtol=0, atol=abs(value) * 1e-6)


def test_column_scaling_takes_rows_of_any_arrangement():
    x = torch.randn(4, 5, 3)
    flat, nested = ColumnScaling(3), ColumnScaling(3)
    flat.fit(x.reshape(-1, 3))
    nested.fit(x)
    assert torch.equal(flat(x), nested(x))


def test_a_base_without_learned_numbers_counts_none():
    assert sum(1 for _ in Concat({"motion": 2}).parameters()) == 0
