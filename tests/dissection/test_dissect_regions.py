"""The default of ``dissect`` on planted scenes and a network made by hand: each stream says what it sees, and nothing else."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from known_answers.scenes import OUTLINES, SEEN_BY, plant_scenes
from lego_fusion.dissection.ablation import causal_check, mean_metric
from lego_fusion.dissection.dissect import dissect
from lego_fusion.dissection.records import Dissection
from lego_fusion.errors import DataError, LegoFusionError, ParameterError
from lego_fusion.report.dissection_page import dissection_page
from lego_fusion.report.dissection_words import consistency_words, reading_words

SCENES = plant_scenes(60, objects=(3, 6), noise=0.01, seed=77)
MASKS = np.stack(list(SCENES.concepts().values()), 1)
COLOURS, HEIGHTS = {"colour red", "colour green"}, {"height low", "height tall"}
SHARED = {f"outline {name}" for name in OUTLINES}
LAYERS = {"rgb": {"late": "rgb"}, "depth": {"late": "depth"}}
QUICK: dict[str, Any] = {"resamples": 20, "permutations": 9, "shuffles": 8, "dtype": "float32", "untrained": 0}


class Colour(nn.Module):
    """Any object, red, green, and the outlines that are handed to it."""

    def forward(self, picture: Tensor, outlines: Tensor) -> Tensor:
        red = picture[:, :1] - picture[:, 1:2]
        return torch.cat([red.abs(), red.relu(), (-red).relu(), outlines], 1)


class Height(nn.Module):
    """Any object, low, tall, and the outlines."""

    def forward(self, depth: Tensor, outlines: Tensor) -> Tensor:
        return torch.cat([(depth > 0.15) * depth, (0.55 - depth).relu() * (depth > 0.15), (depth - 0.55).relu(), outlines], 1)


class Handmade(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rgb, self.depth, self.fused = Colour(), Height(), nn.Identity()

    def forward(self, rgb: Tensor, depth: Tensor, outlines: Tensor) -> Tensor:
        return self.fused(torch.cat([self.rgb(rgb, outlines), self.depth(depth, outlines)], 1))


def batches(size: int = 20, *, objects: bool = False, change: Any = None) -> Iterator[Any]:
    outlines = torch.from_numpy(MASKS[:, [list(SEEN_BY).index(f"outline {name}") for name in OUTLINES]])
    uneven = 1 + 0.01 * torch.rand(60, 1, 48, 48, generator=torch.Generator().manual_seed(0))
    inputs = {
        "rgb": torch.from_numpy(SCENES.rgb).permute(0, 3, 1, 2),
        "depth": torch.from_numpy(SCENES.depth)[:, None],
        "outlines": outlines * uneven,
    }
    numbers = SCENES.objects if change is None else change(SCENES.objects)
    for start in range(0, 60, size):
        part = slice(start, start + size)
        pair = {name: x[part] for name, x in inputs.items()}, MASKS[part]
        yield (*pair, numbers[part]) if objects or change is not None else pair


def dissected(**settings: Any) -> Dissection:
    data = settings.pop("data", batches)
    return dissect(Handmade().eval(), LAYERS, data, tuple(SEEN_BY), **QUICK | settings)


@pytest.fixture(scope="module")
def found() -> Dissection:
    return dissected(fused={"late": "fused"}, apart=Handmade().eval())


def test_the_default_is_what_was_planted(found: Dissection) -> None:
    (sets,) = found.sets
    assert (sets.shared, sets.special("rgb"), sets.special("depth")) == (SHARED, COLOURS, HEIGHTS)
    assert sets.fused == SHARED | COLOURS | HEIGHTS
    assert (found.mode, found.cut, found.regions) == ("auroc", 0.8, len(SCENES.table))
    assert "Read over" in reading_words(found) and "objects found in the labels" in reading_words(found)
    assert found.over in dissection_page(found)


def test_read_over_pixels_a_unit_for_every_object_has_each_colour_and_height(found: Dissection) -> None:
    pixels = dissected(read="pixels")
    assert pixels.sets[0].detected["rgb"] & HEIGHTS and pixels.sets[0].detected["depth"] & COLOURS
    assert (pixels.mode, pixels.regions, pixels.over) == ("normalised", 0, "pixels, as asked for")
    assert pixels.sets[0].joint > found.sets[0].joint


def test_nothing_is_missing_in_the_default(found: Dissection) -> None:
    for count in found.detectors.values():
        assert count.chance is not None and count.chance.mean < 1 and not count.doubtful
        assert count.chance.p_value == pytest.approx(1 / 9)
    for name in ("J", "U of rgb", "U of depth"):
        bounds = found.intervals[f"{name} at late"]
        assert 0 < bounds.low <= bounds.value <= bounds.high < 1
    assert found.relabelled["consistency, sum of squares"].p_value == pytest.approx(1 / 9)
    assert found.settings["profile"] == "best"
    rgb, depth = found.variance.profiles[:, 0]
    lead = dict(zip(found.variance.concepts, rgb - depth, strict=True))
    assert all(lead[name] > 0 for name in COLOURS) and all(lead[name] < 0 for name in HEIGHTS)
    assert found.collaboration is not None
    (level,) = found.collaboration
    assert (level.verdict, level.trend, level.joint.joint) == ("keeps what it was given", None, found.sets[0].joint)


def test_objects_that_come_with_the_labels_are_those_found(found: Dissection) -> None:
    given = dissected(data=lambda: batches(objects=True))
    assert given.over == "objects that came with the labels"
    assert given.sets[0].detected == found.sets[0].detected
    np.testing.assert_array_equal(given.variance.profiles, found.variance.profiles)


def test_results_do_not_depend_on_batches(found: Dissection) -> None:
    other = dissected(data=lambda: batches(7), fused={"late": "fused"}, batch_size=3)
    assert other.intervals == found.intervals
    assert (other.sets, other.detectors, other.relabelled) == (found.sets, found.detectors, found.relabelled)


def test_galleries_show_whole_objects(found: Dissection) -> None:
    one = next(one for one in found.galleries if (one.row.modality, one.row.concept) == ("rgb", "colour red"))
    place = list(SEEN_BY).index("colour red")
    for image, mask in zip(one.images, one.masks, strict=True):
        assert mask.any() and (mask <= MASKS[image, place]).all()
        assert set(np.unique(SCENES.objects[image][mask])).isdisjoint(np.unique(SCENES.objects[image][~mask]))


def test_what_was_never_trained_is_said() -> None:
    """Streams without weights are the same before any training."""
    words = " ".join(consistency_words(dissected(untrained=1)))
    assert "never trained detect all of these too" in words
    assert "never trained" not in " ".join(consistency_words(dissected()))
    once = dissected(data=batches(), untrained=1)
    assert (
        once.untrained is None and "copies that were never trained are not read: the data can be read once only" in once.notes
    )


def test_silenced_units_are_reported_by_group(found: Dissection) -> None:
    red = list(SEEN_BY).index("colour red")

    def told(outputs: Tensor, labels: np.ndarray) -> Tensor:
        return ((outputs[:, 1] > outputs[:, 2]) & torch.from_numpy(labels[:, red])).sum((1, 2)).float()

    rows = causal_check(Handmade().eval(), found, batches, mean_metric("red", told), by="zero", draws=1, resamples=9)
    change = {(row.modality, row.group): row.change for row in rows if row.group != "random"}
    assert change["rgb", "special"] < 0
    assert change["rgb", "shared"] == change["depth", "special"] == change["depth", "shared"] == 0
    with pytest.raises(ParameterError, match="there is no level 'early': expected late"):
        causal_check(Handmade().eval(), found, batches, mean_metric("red", told), levels=["early"])
    with pytest.raises(ParameterError, match="can be read once only"):
        causal_check(Handmade().eval(), found, batches(), mean_metric("red", told))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda x: x[:, :40], r"regions have another size than the labels \(batch 0\): expected \(20, 48, 48\)"),
        (lambda x: x * 0, "objects cannot be read over: got there are no regions"),
        (lambda x: x * 0 + 1, "every region is a whole image"),
        (
            lambda x: np.arange(x[0].size).reshape(1, 48, 48) + 0 * x,
            r"too many regions \(batch 0\): .*1000 in an image, got 2303",
        ),
        (lambda x: x / 2, r"not maps of regions \(batch 0\).*float64"),
        (lambda x: np.where(np.arange(60)[:, None, None] < 2, x, 0), "there are only"),
    ],
)
def test_bad_regions_are_named(change: Any, match: str) -> None:
    with pytest.raises(LegoFusionError, match=match) as error:
        dissected(data=lambda: batches(change=change))
    assert isinstance(error.value, DataError) and "\n" not in str(error.value)


def test_regions_in_some_batches_only_are_refused() -> None:
    with pytest.raises(DataError, match="only some batches have regions: expected all or none, got 1 of 3"):
        dissected(data=lambda: (row[: 2 + (place == 0)] for place, row in enumerate(batches(objects=True))))


def test_where_nothing_lies_on_objects_pixels_are_read_and_it_is_said() -> None:
    masks = np.random.default_rng(0).random((60, 11, 48, 48)) < 0.1
    speckled = [(inputs, masks[place * 20 : place * 20 + 20]) for place, (inputs, _) in enumerate(batches())]
    one = dissected(data=speckled)
    assert (one.regions, one.mode) == (0, "normalised")
    assert one.over == "pixels, since most labelled pixels do not lie on connected areas" and one.over in dissection_page(one)
    with pytest.raises(DataError, match=r"most labelled pixels do not lie on connected areas.*read='pixels'"):
        dissected(data=speckled, read="regions")


def test_tokens_and_samples_have_no_regions() -> None:
    inputs, _ = next(batches(60))
    labels = torch.arange(60) % 11
    one = dissected(data=[(inputs, labels)], kind="pooled", quantile=0.2)
    assert one.over.startswith("each place") and one.regions == 0
    with pytest.raises(DataError, match="regions are parts of pictures"):
        dissected(data=[(inputs, labels)], kind="pooled", quantile=0.2, read="regions")
    with pytest.raises(DataError, match=r"regions are parts of pictures \(batch 0\)"):
        dissected(data=[(inputs, labels, SCENES.objects)], kind="pooled", quantile=0.2)


@pytest.mark.usefixtures("unchecked_types")
def test_an_unknown_reading_is_refused() -> None:
    with pytest.raises(ParameterError, match="'read' parameter of dissect"):
        dissected(read="objects")


def test_a_folder_of_regions_is_read(tmp_path: Path, found: Dissection) -> None:
    class Folded(Handmade):
        def forward(self, rgb: Tensor, depth: Tensor) -> Tensor:  # type: ignore[override]
            return super().forward(rgb[:, :3], depth, rgb[:, 3:])

    for name in ("rgb", "depth", "labels", "regions"):
        (tmp_path / name).mkdir()
    for inputs, masks, numbers in batches(1, objects=True):
        place = f"{len(list((tmp_path / 'labels').iterdir())):02d}"
        np.save(tmp_path / "rgb" / place, torch.cat([inputs["rgb"], inputs["outlines"]], 1)[0].permute(1, 2, 0).numpy())
        np.save(tmp_path / "depth" / place, inputs["depth"][0, 0].numpy())
        np.savez(tmp_path / "labels" / place, **{name: masks[0, at] for at, name in enumerate(SEEN_BY)})
        np.save(tmp_path / "regions" / place, numbers[0])
    one = dissect(Folded().eval(), LAYERS, tmp_path, **QUICK)
    assert one.over == "objects that came with the labels"
    assert one.sets[0].detected == found.sets[0].detected
    (tmp_path / "regions" / "00.npy").unlink()
    with pytest.raises(DataError, match=r"there is no '00' \(.*regions\)"):
        dissect(Folded().eval(), LAYERS, tmp_path, **QUICK)
    np.save(tmp_path / "regions" / "00", np.zeros((48, 48)))
    with pytest.raises(DataError, match=r"not a map of regions.*float64"):
        dissect(Folded().eval(), LAYERS, tmp_path, **QUICK)
