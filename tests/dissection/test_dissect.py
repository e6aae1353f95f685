"""``dissect`` end to end on a network whose units are made by hand, against what they were made to see."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from lego_fusion.dissection.collaboration import APART, UNTRAINED
from lego_fusion.dissection.dissect import dissect
from lego_fusion.dissection.read_network import chosen_layers
from lego_fusion.dissection.records import Dissection
from lego_fusion.errors import CheckpointError, DataError, LegoFusionError, ParameterError

NAMES = ("red", "tall", "any")
LAYERS = {"rgb": ["rgb.0", "rgb.1"], "depth": ["depth.0", "depth.1"]}


class Chosen(nn.Module):
    """Channels that a layer passes on, with weights."""

    def __init__(self, weights: list[list[float]]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weights))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("kc,bchw->bkhw", self.weight, x)


class ByHand(nn.Module):
    """Channel 0 of each picture is its own concept, channel 1 the shared one, the last noise.

    The colour stream holds red and any; the depth stream tall, and any from its second level on.
    """

    def __init__(self) -> None:
        super().__init__()
        everything = [[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0]]
        self.rgb = nn.Sequential(Chosen(everything), Chosen(everything))
        self.depth = nn.Sequential(Chosen([[1.0, 0, 0], [0, 0, 1.0], [0, 0, -1.0]]), Chosen(everything))
        self.skip = Chosen([[0.0, 0, 0], [0, 1.0, 0], [0, 0, 0]])
        self.fusion = nn.Identity()

    def forward(self, rgb: Tensor, depth: Tensor) -> Tensor:
        first = self.depth[0](depth)
        late = self.depth[1](torch.stack([first[:, 0], depth[:, 1], first[:, 1]], 1))
        return self.fusion(torch.cat([self.rgb(rgb), late[:, :1]], 1))


def made(samples: int = 40, size: int = 8, seed: int = 0) -> tuple[dict[str, Tensor], Tensor]:
    generator = torch.Generator().manual_seed(seed)
    masks = torch.rand(samples, 3, size, size, generator=generator) < 0.1
    masks[:, 2, 0, 0] = True
    noise = torch.rand(samples, 3, size, size, generator=generator)
    other = torch.rand(samples, 3, size, size, generator=generator)
    rgb = torch.stack([masks[:, 0] + 0.1 * noise[:, 0], masks[:, 2] + 0.1 * noise[:, 1], noise[:, 2]], 1)
    depth = torch.stack([masks[:, 1] + 0.1 * other[:, 0], masks[:, 2] + 0.1 * other[:, 1], other[:, 2]], 1)
    return {"rgb": rgb, "depth": depth}, masks


def batches(size: int = 7, **settings: int) -> list[tuple[dict[str, Tensor], Tensor]]:
    inputs, masks = made(**settings)
    parts = zip(*(x.split(size) for x in inputs.values()), strict=True)
    split = [dict(zip(inputs, one, strict=True)) for one in parts]
    return list(zip(split, masks.split(size), strict=True))


QUICK: dict[str, Any] = {"quantile": 0.05, "resamples": 12, "permutations": 9, "shuffles": 5, "dtype": "float32"}


def dissected(**settings: Any) -> Dissection:
    settings = {"data": batches(), "concepts": NAMES, "model": ByHand().eval(), "layers": LAYERS} | QUICK | settings
    return dissect(settings.pop("model"), settings.pop("layers"), settings.pop("data"), settings.pop("concepts"), **settings)


@pytest.fixture(scope="module")
def found() -> Dissection:
    return dissected(fused="fusion")


def test_shared_and_special_concepts_are_those_the_units_were_made_for(found: Dissection) -> None:
    first, last = found.sets
    assert (first.shared, first.special("rgb"), first.special("depth")) == (set(), {"red", "any"}, {"tall"})
    assert (last.shared, last.special("rgb"), last.special("depth")) == ({"any"}, {"red"}, {"tall"})
    assert (first.joint, last.joint) == (0, pytest.approx(1 / 3))
    assert last.unique("rgb") + last.unique("depth") + last.joint == pytest.approx(1)
    assert (last.shared_kept, last.special_kept) == (1.0, 1.0)
    assert first.fused is None
    assert found.levels == ("level 1", "level 2")
    assert found.images == 40


def test_shuffled_masks_are_not_detected_and_intervals_hold_the_value(found: Dissection) -> None:
    for count in found.detectors.values():
        assert count.chance is not None
        assert (count.chance.mean, count.doubtful) == (0, frozenset())
    for one in found.intervals.values():
        assert one.low <= one.high
    assert found.intervals["J at level 2"].value == pytest.approx(1 / 3)
    assert found.intervals["U of rgb at level 1"].value == pytest.approx(2 / 3)
    np.testing.assert_allclose(sum(found.variance.shares.parts.values()), 1)


def test_a_concept_that_lies_always_in_one_place_is_doubtful() -> None:
    inputs, masks = made()
    masks[:, 0] = False
    masks[:, 0, :2, :2] = True
    inputs["rgb"][:, 0] = masks[:, 0] + 0.1 * inputs["rgb"][:, 2]
    one = dissected(data=[(inputs, masks)]).detectors["rgb", "level 1"]
    assert "red" in one.doubtful
    assert "any" not in one.doubtful


def test_results_do_not_depend_on_batches_nor_on_where_the_data_comes_from(found: Dissection) -> None:
    other = dissected(data=lambda: iter(batches(40)), batch_size=3, fused={"level 2": "fusion"})
    for modality, row in found.alignments.items():
        for level, one in row.items():
            np.testing.assert_array_equal(one.thresholds, other.alignments[modality][level].thresholds)
            np.testing.assert_array_equal(one.counts.intersection, other.alignments[modality][level].counts.intersection)
            np.testing.assert_array_equal(one.auroc, other.alignments[modality][level].auroc)
            np.testing.assert_array_equal(one.shuffled, other.alignments[modality][level].shuffled)
    assert found.intervals == other.intervals
    assert found.sets == other.sets
    np.testing.assert_allclose(found.similarity.values, other.similarity.values, atol=1e-6)


def test_integer_labels_are_masks_that_exclude_each_other() -> None:
    inputs, masks = made()
    labels = torch.where(masks.any(1), masks.float().argmax(1), torch.tensor(-1))
    exclusive = torch.stack([labels == place for place in range(3)], 1)
    one, two = dissected(data=[(inputs, labels)]), dissected(data=[(inputs, exclusive)])
    assert one.intervals == two.intervals


def test_units_that_find_things_without_telling_them_apart_are_counted() -> None:
    inputs, masks = made()
    labels = torch.where(masks[:, 0], 0, torch.where(masks[:, 1], 1, torch.where(masks[:, 2], 2, -1)))
    things = (labels >= 0).float()[:, None] + 0.1 * inputs["rgb"][:, 2:]
    alike = {name: torch.cat([things, x[:, 2:], -x[:, 2:]], 1) for name, x in inputs.items()}
    layers = {"rgb": ["rgb.0"], "depth": ["depth.0"]}
    assert dissected(data=[(alike, labels)], layers=layers, cut=0.1).vague == (2, 2)
    assert dissected(data=[(alike, labels)], layers=layers, cut=0.9).vague == (0, 0)
    assert dissected().vague[0] == 0


def test_half_precision_on_disk_changes_nothing_that_matters(found: Dissection) -> None:
    half = dissected(dtype="float16", fused="fusion")
    assert half.sets == found.sets
    np.testing.assert_allclose(half.variance.profiles, found.variance.profiles, atol=0.02)


def test_the_network_and_the_folder_are_left_as_they_were(tmp_path: Path) -> None:
    network = ByHand().eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    dissected(model=network, scratch=tmp_path, checkpoints={"half": {k: v / 2 for k, v in before.items()}})
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert not any(module._forward_hooks for module in network.modules())
    assert not list(tmp_path.iterdir())


def test_galleries_show_pictures_and_where_the_unit_is_active(found: Dissection) -> None:
    one = next(one for one in found.galleries if (one.row.modality, one.row.concept) == ("rgb", "red"))
    inputs, masks = made()
    assert one.pictures is not None
    picture = inputs["rgb"][one.images[0]]
    np.testing.assert_allclose(one.pictures[0], (picture - picture.min()) / (picture.max() - picture.min()), atol=1e-6)
    assert one.masks.any()
    assert (one.masks <= masks[list(one.images), 0].numpy()).all()  # q is half the area, so the unit never leaves the concept


def test_checkpoints_show_how_concepts_come_about(tmp_path: Path) -> None:
    early, late = ByHand(), ByHand()
    with torch.no_grad():
        early.rgb[0].weight[0] = torch.tensor([0.0, 0, 0])
    for name, network in (("step-1", early), ("step-2", late)):
        save_file(network.state_dict(), tmp_path / f"{name}.safetensors")
    found = dissected(checkpoints=[tmp_path / "step-1.safetensors", tmp_path / "step-2.safetensors"])
    assert [one.name for one in found.snapshots] == ["step-1", "step-2"]
    assert "red" not in found.snapshots[0].levels[0].detected["rgb"]
    assert found.snapshots[1].levels == found.sets
    np.testing.assert_array_equal(found.snapshots[1].variance.profiles, found.variance.profiles)
    assert found.snapshots[1].to_last["rgb", "level 1"] == pytest.approx(1)
    assert found.snapshots[0].to_last["depth", "level 1"] == pytest.approx(1)
    assert found.snapshots[0].to_last["rgb", "level 1"] < 0.95


def test_streams_trained_apart_give_a_verdict() -> None:
    apart = ByHand().eval()
    with torch.no_grad():
        apart.depth[1].weight[1] = torch.tensor([0.0, 0, 1.0])  # without the shared concept
    one = dissected(apart={"rgb": ByHand().eval(), "depth": apart}, fused="fusion")
    assert one.collaboration is not None
    verdicts = {row.level: (row.verdict, row.trend) for row in one.collaboration}
    assert verdicts["level 2"] == ("alignment", "alignment")  # apart, side by side, hold the shared concept as well
    assert set(one.collaboration[1].gains) == {APART, UNTRAINED}
    assert one.collaboration[1].gains[APART].low <= 0 < one.collaboration[1].gains[UNTRAINED].value
    together = dissected(apart=apart)
    assert together.collaboration is not None
    assert together.collaboration[1].verdict == "alignment"
    assert dissected().collaboration is None


def test_level_names_and_patterns() -> None:
    network = ByHand()
    named = {"rgb": {"early": "rgb.0", "late": "rgb.1"}, "depth": {"early": "depth.0", "late": "depth.1"}}
    assert chosen_layers(network, named, "fusion")["fused"] == {"late": "fusion"}
    assert chosen_layers(network, named)["rgb"] == named["rgb"]
    assert chosen_layers(network, {"rgb": "rgb.*", "depth": "depth.*"})["depth"] == {"level 1": "depth.0", "level 2": "depth.1"}
    assert chosen_layers(network, LAYERS, ["skip", "fusion"])["fused"] == {"level 1": "skip", "level 2": "fusion"}


def last(change: Callable[[dict[str, Tensor], Tensor], tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    inputs, masks = made()
    return [change(inputs, masks)]


class Broken(ByHand):
    def forward(self, rgb: Tensor, depth: Tensor) -> Tensor:
        return super().forward(rgb / 0, depth)


class Flat(ByHand):
    def forward(self, rgb: Tensor, depth: Tensor) -> Tensor:
        return self.fusion(rgb.mean((2, 3)))


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"layers": {"rgb": ["rgb.9"], "depth": ["depth.0"]}}, r"no layer 'rgb.9' .*'rgb.0'"),
        ({"layers": {"rgb": "rgb.*", "depth": ["depth.0"]}}, r"different numbers of levels: .*rgb 2 \(rgb.0, rgb.1\); depth 1"),
        ({"layers": {"rgb": "rgb.*"}}, "nothing to compare: expected two modalities or more, .*got rgb"),
        ({"layers": {"rgb": ["rgb"], "fused": ["fusion"]}}, "none called 'fused'"),
        ({"fused": "nowhere"}, "no layer 'nowhere'"),
        ({"fused": {"middle": "fusion"}}, "no level 'middle' for a fused layer: expected level 1, level 2"),
        ({"fused": ["skip", "skip", "fusion"]}, "more fused layers than levels"),
        ({"fused": "*"}, r"the pattern '\*' matches 4 layers"),
        ({"model": ByHand().train()}, "training mode"),
        ({"model": Broken().eval()}, r"activations are not finite \(layer 'rgb.0'"),
        (
            {"model": Flat().eval(), "layers": {"rgb": ["fusion"], "depth": ["fusion"]}},
            "no spatial extent.*kind='pooled'",
        ),
        (
            {"data": last(lambda x, y: ({**x, "depth": x["depth"][:, :, ::2, ::2]}, y))},
            "different resolutions.*rgb 8 x 8, depth 4 x 4",
        ),
        (
            {"data": last(lambda x, y: (x, y[:, :, ::2]))},
            r"labels have another size than the images .*expected \(8, 8\), got \(4, 8\)",
        ),
        ({"data": last(lambda x, y: (x, y[:9]))}, "labels are of other images"),
        ({"data": last(lambda x, y: (x, y & (torch.arange(40) > 2).reshape(-1, 1, 1, 1)))}, r"3 of 40 images have no label"),
        ({"data": last(lambda x, y: (x, y & False))}, "40 of 40 images have no label"),
        ({"data": last(lambda x, y: (x, y.float()))}, "neither masks nor numbers.*float32"),
        ({"data": last(lambda x, y: (x, y[:, 0].long() * 7))}, r"a label has no name \(batch 0\): expected at most 2"),
        ({"data": last(lambda x, y: (x, y[:, :2]))}, "masks of another number of concepts"),
        ({"data": last(lambda x, y: (x, y[:, 0, 0].long()))}, "labels have a wrong shape"),
        ({"data": last(lambda x, y: (x, {"rgb": y}))}, "labels of other modalities"),
        ({"data": [made()[0]]}, "pairs of inputs and labels .*batch 0.*got dict"),
        ({"data": []}, "no batches"),
        ({"data": iter(batches()), "apart": ByHand().eval()}, "can be read once only"),
        ({"concepts": None}, "concepts have no names"),
        ({"apart": {"rgb": ByHand().eval()}}, "networks trained apart: expected one for each of rgb, depth"),
        ({"checkpoints": ["nowhere.safetensors"]}, "not a safetensors file"),
        ({"checkpoints": {"odd": {"x": torch.zeros(1)}}}, r"weights do not fit the network \(odd\)"),
        ({"quantile": 0.0001}, "keeps 0 of 2560 pixels"),
        ({"resamples": 0}, "'resamples' parameter"),
    ],
)
def test_bad_input_gets_one_clear_line(settings: dict[str, Any], match: str) -> None:
    with pytest.raises(LegoFusionError, match=match) as error:
        dissected(**settings)
    assert isinstance(error.value, DataError | ParameterError | CheckpointError)
    assert "\n" not in str(error.value)


@pytest.mark.usefixtures("unchecked_types")
def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(ParameterError, match="'mode' parameter of dissect"):
        dissected(mode="other")


def test_a_concept_that_never_occurs_is_noted_and_left_out() -> None:
    found = dissected(
        data=last(lambda x, y: (x, torch.cat([y[:, :2], y[:, :1] & False, y[:, 2:]], 1))),
        concepts=["red", "tall", "blue", "any"],
    )
    assert "blue" not in found.variance.concepts
    assert any("never occur: blue" in note for note in found.notes)
    assert found.sets[-1].shared == {"any"}


def test_unlabelled_images_are_left_out_if_asked_for() -> None:
    inputs, masks = made()
    masks[:3] = False
    found = dissected(data=[(inputs, masks)], unlabelled="drop")
    assert found.images == 37
    rest = dissected(data=[({name: x[3:] for name, x in inputs.items()}, masks[3:])])
    np.testing.assert_array_equal(found.variance.profiles, rest.variance.profiles)


def test_data_that_changes_its_order_is_refused() -> None:
    inputs, masks = made()
    orders = iter([torch.arange(40), torch.arange(40).flip(0)] * 2)

    def shuffled() -> Iterator[Any]:
        order = next(orders)
        yield {name: x[order] for name, x in inputs.items()}, masks[order]

    with pytest.raises(DataError, match=r"another order the second time\. What to do: do not shuffle"):
        dissected(data=shuffled, apart=ByHand().eval(), untrained=0)


def test_a_single_number_for_each_sample_is_a_pooled_concept() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 3
    rgb = torch.nn.functional.one_hot(labels, 3).float()[:, :, None, None] + 0.1 * torch.rand(60, 3, 2, 2, generator=generator)
    depth = torch.rand(60, 3, 2, 2, generator=generator)
    found = dissected(data=[({"rgb": rgb, "depth": depth}, labels)], kind="pooled", quantile=0.2, mode="auroc", cut=0.95)
    assert found.sets[0].special("rgb") == set(NAMES)
    assert not found.sets[0].detected["depth"]
    assert not found.galleries


def test_summary_says_the_sets(found: Dissection) -> None:
    assert "level 2: 1 shared, rgb alone 1, depth alone 1 (J 0.33)" in found.summary()
    assert json.dumps({key: str(value) for key, value in found.settings.items()})
