"""The whole dissection on a network whose every unit is known: colour in one stream, height in the other, outlines in both."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from known_answers.scenes import CLASSES, LABELS, OUTLINES, SEEN_BY, plant_scenes
from known_answers.silenced_classes import class_iou
from lego_fusion.dissection.ablation import ablate, unit_groups, unit_labels
from lego_fusion.dissection.alignment import align
from lego_fusion.dissection.collaboration import Streams, collaboration
from lego_fusion.dissection.concepts import Concepts, LevelConcepts, by_region
from lego_fusion.dissection.recorder import Recorder
from lego_fusion.dissection.variance import semantic_variance
from lego_fusion.explain.contributions import ModelValue
from lego_fusion.explain.information import decompose_table
from lego_fusion.explain.shapley import contributions

SCENES = plant_scenes(60, objects=(3, 6), noise=0.01, seed=77)
CONCEPTS = Concepts.from_masks(np.stack(list(SCENES.concepts().values()), 1), tuple(SEEN_BY))
TELLING = {told: [one.name for one in CLASSES if one.told_by == told] for told in ("rgb", "depth", "either", "both")}
IOU = class_iou({name: place for place, name in enumerate(LABELS) if place}, TELLING)
COLOURS, HEIGHTS = {"colour red", "colour green"}, {"height low", "height tall"}
SHARED = {f"outline {name}" for name in OUTLINES}


class Colour(nn.Module):
    """Red, green, and the outlines that are handed to it."""

    def forward(self, picture: Tensor, outlines: Tensor) -> Tensor:
        red = picture[:, :1] - picture[:, 1:2]
        return torch.cat([red.relu(), (-red).relu(), outlines], 1)


class Height(nn.Module):
    """Low (but above the plane), tall, and the outlines."""

    def forward(self, depth: Tensor, outlines: Tensor) -> Tensor:
        return torch.cat([(0.55 - depth).relu() * (depth > 0.15), (depth - 0.55).relu(), outlines], 1)


class Handmade(nn.Module):
    """Classes by rule from the units of both streams, the outline from whichever stream has it."""

    def __init__(self) -> None:
        super().__init__()
        self.rgb, self.depth, self.fused = Colour(), Height(), nn.Identity()

    def forward(self, rgb: Tensor, depth: Tensor, outlines: Tensor) -> Tensor:
        units = self.fused(torch.cat([self.rgb(rgb, outlines), self.depth(depth, outlines)], 1))
        green, tall = units[:, 1] - units[:, 0], units[:, 8] - units[:, 7]
        disc, square, triangle, cross, diamond = torch.maximum(units[:, 2:7], units[:, 9:14]).unbind(1)
        matched = green * tall
        told = [disc * (1 - green), disc * (1 + green), square * (1 - tall), square * (1 + tall), triangle, cross]
        return torch.stack([torch.full_like(disc, 0.1), *told, diamond * (1 + matched), diamond * (1 - matched)], 1)


def inputs() -> dict[str, Tensor]:
    outlines = CONCEPTS.masks(0, 60)[:, [CONCEPTS.names.index(f"outline {name}") for name in OUTLINES]]
    rgb, depth = torch.from_numpy(SCENES.rgb).permute(0, 3, 1, 2), torch.from_numpy(SCENES.depth)[:, None]
    uneven = 1 + 0.01 * torch.rand(60, 1, 48, 48, generator=torch.Generator().manual_seed(0))  # so that no values tie
    return {"rgb": rgb, "depth": depth, "outlines": torch.from_numpy(outlines) * uneven}


NETWORK = Handmade().eval()
BATCHES = [(inputs(), torch.from_numpy(SCENES.labels.astype(np.int64)))]
RECORDING = Recorder(NETWORK, {"rgb": {"late": "rgb"}, "depth": {"late": "depth"}}).record([inputs()], "spatial")
FUSED = Recorder(NETWORK, {"fused": {"late": "fused"}}).record([inputs()], "spatial")["fused", "late"]


def over_objects(maps: np.ndarray, quantile: float = 0.1):
    return align(*by_region(maps, CONCEPTS, SCENES.objects), quantile=quantile, batch_size=500)


ALIGNED = {m: {"late": over_objects(RECORDING[m, "late"])} for m in ("rgb", "depth")}


def test_every_unit_gets_its_name() -> None:
    outlines = tuple(f"outline {name}" for name in OUTLINES)
    assert unit_labels(ALIGNED["rgb"]["late"], "auroc") == ("colour red", "colour green", *outlines)
    assert unit_labels(ALIGNED["depth"]["late"], "auroc") == ("height low", "height tall", *outlines)


@pytest.mark.parametrize("mode", ["auroc", "normalised"])
def test_sets_are_those_planted(mode: str) -> None:
    cut = {"auroc": 0.9, "normalised": 0.5}[mode]
    sets = LevelConcepts("late", {m: ALIGNED[m]["late"].detected(mode, cut) for m in ("rgb", "depth")})
    assert (sets.shared, sets.special("rgb"), sets.special("depth")) == (SHARED, COLOURS, HEIGHTS)
    assert (sets.joint, sets.unique("rgb"), sets.unique("depth")) == pytest.approx((5 / 9, 2 / 9, 2 / 9))


def test_read_over_pixels_each_stream_seems_to_hold_what_it_cannot_see() -> None:
    """The low cut on pixels takes a unit for discs, which are red half of the time, for one that detects red."""
    pixels = {m: align(RECORDING[m, "late"], CONCEPTS, quantile=0.005).detected() for m in ("rgb", "depth")}
    assert pixels["rgb"] & HEIGHTS and pixels["depth"] & COLOURS


def test_special_concepts_vary_across_modalities_and_shared_ones_do_not() -> None:
    found = semantic_variance(ALIGNED, "best")
    variance = dict(zip(found.concepts, found.profiles[:, 0].var(axis=0), strict=True))
    assert all(variance[name] == 0 for name in SHARED)
    assert all(variance[name] > 0.1 for name in COLOURS | HEIGHTS)
    lead = dict(zip(found.concepts, found.profiles[0, 0] - found.profiles[1, 0], strict=True))
    assert all(lead[name] > 0 for name in COLOURS) and all(lead[name] < 0 for name in HEIGHTS)


@pytest.mark.parametrize(
    ("kept", "verdict", "shares"),
    [
        (list(range(14)), "keeps what it was given", (1.0, 1.0)),
        ([2, 3, 4, 5, 6], "undecided", (1.0, 0.0)),
        ([0, 1, 2, 3, 4, 5, 6], "undecided", (1.0, 0.5)),
        ([0, 1, 7, 8], "undecided", (0.0, 1.0)),
    ],
)
def test_the_verdict_follows_what_the_fused_level_keeps(kept: list[int], verdict: str, shares: tuple[float, float]) -> None:
    side = Streams(RECORDING, ALIGNED)
    (found,) = collaboration(side, side, {"late": over_objects(FUSED[:, kept])}, mode="auroc", cut=0.9)
    assert (found.verdict, found.trend) == (verdict, None)
    assert (found.shared_kept, found.special_kept) == shares


def changes(layer: str, groups: dict[str, list[int]] | None = None) -> dict[tuple[str, str], float]:
    labels = unit_labels(over_objects(FUSED) if layer == "fused" else ALIGNED[layer]["late"], "auroc")
    groups = groups or unit_groups(labels, {"colour": COLOURS, "height": HEIGHTS, "outline": SHARED})
    rows = ablate(NETWORK, layer, groups, BATCHES, IOU, draws=0, resamples=20)
    assert all(row.before > 0.99 and row.low <= row.change <= row.high for row in rows)
    return {(row.group, row.metric): row.change for row in rows}


def test_silenced_units_cost_the_classes_that_need_them_and_no_others() -> None:
    rgb, depth = changes("rgb"), changes("depth")
    assert set(rgb) == {(group, told) for group in ("colour", "outline") for told in TELLING}
    assert rgb["colour", "rgb"] < -0.5 and rgb["colour", "both"] < -0.5
    assert rgb["colour", "depth"] == rgb["colour", "either"] == 0
    assert depth["height", "depth"] < -0.5 and depth["height", "both"] < -0.5
    assert depth["height", "rgb"] == depth["height", "either"] == 0
    for told in TELLING:
        assert rgb["outline", told] == depth["outline", told] == 0, "the other stream has it too"


def test_what_both_streams_hold_is_missed_only_when_both_lose_it() -> None:
    both = changes("fused", {"outline": [2, 3, 4, 5, 6, 9, 10, 11, 12, 13]})
    assert all(both["outline", told] < -0.99 for told in TELLING)


def test_shapley_values_follow_what_tells_the_classes() -> None:
    given = inputs()
    outlines = given.pop("outlines")

    def metric(targets: np.ndarray, logits: np.ndarray) -> np.ndarray:
        rows = IOU.rows(torch.from_numpy(logits), torch.from_numpy(targets)).numpy()
        return np.array(list(IOU.values(rows).values()))

    def model(features: dict[str, Tensor]) -> Tensor:
        return NETWORK(*(features[m].permute(0, 3, 1, 2) for m in ("rgb", "depth")), outlines)

    features = {name: x.permute(0, 2, 3, 1) for name, x in given.items()}
    found = contributions(ModelValue(model, features, metric, SCENES.labels.astype(np.int64), "permute"), ["rgb", "depth"])
    (rgb, depth), cooperation = found.values, found.cooperation
    telling = list(TELLING)
    for told, high, low in (("rgb", rgb, depth), ("depth", depth, rgb)):
        assert high[telling.index(told)] > 0.2 and abs(low[telling.index(told)]) < 1e-9
        assert abs(cooperation[telling.index(told)]) < 1e-9
    assert cooperation[telling.index("both")] > 0.2
    assert abs(rgb[telling.index("either")]) < 1e-9 and abs(depth[telling.index("either")]) < 1e-9


def test_the_plant_in_bits() -> None:
    """Of a class, log2 5 bits (the outline) twice, a fifth of a bit in colour alone, in height alone, and in both together."""
    table = np.zeros((10, 10, len(LABELS) - 1))
    for place, outline in enumerate(OUTLINES):
        for green, tall in np.ndindex(2, 2):
            names = {"disc": green, "square": 2 + tall, "triangle": 4, "cross": 5, "diamond": 6 + int(green != tall)}
            table[2 * place + green, 2 * place + tall, names[outline]] += 1 / 20
    found = decompose_table(table, names=("rgb", "depth"))
    assert (found.redundancy, found.synergy) == pytest.approx((np.log2(5), 0.2), abs=1e-3)
    assert (found.unique["rgb"], found.unique["depth"]) == pytest.approx((0.2, 0.2), abs=1e-3)
