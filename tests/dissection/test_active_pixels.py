"""Thresholds and active pixels are exact whatever was guessed; masks on other images are counted as if they lay there."""

import numpy as np
import pytest
import torch

from lego_fusion.dissection import alignment
from lego_fusion.dissection.active_pixels import Layer, active_pixels, guessed_bounds
from lego_fusion.dissection.alignment import align
from lego_fusion.dissection.concepts import ConceptCollector, Concepts


def layer_of(maps: np.ndarray, size: tuple[int, int], batch_size: int = 3) -> Layer:
    return Layer(maps, np.arange(len(maps)), np.arange(maps.shape[1]), size, batch_size, "cpu", "layer")


def upsampled(maps: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    single = torch.from_numpy(maps).flatten(0, 1)[:, None]
    resize = torch.nn.functional.interpolate(single, size, mode="bilinear", align_corners=False)
    return resize.reshape(*maps.shape[:2], *size).numpy()


def made(kind: str) -> np.ndarray:
    generator = np.random.default_rng(0)
    maps = generator.normal(size=(10, 3, 4, 5)).astype(np.float32)
    if kind == "rectified":
        maps = np.maximum(maps - 1.5, 0)  # fewer values above 0 than are kept
    if kind == "constant":
        maps[:, 1] = 0.1
    if kind == "rounded":
        maps = np.round(maps)
    return maps


@pytest.mark.parametrize("kind", ["plain", "rectified", "constant", "rounded"])
@pytest.mark.parametrize("guess", [-100.0, 0.0, 1.0, 100.0])
@pytest.mark.parametrize("size", [(4, 5), (9, 12)])
def test_a_guess_never_changes_a_result(kind: str, guess: float, size: tuple[int, int]) -> None:
    maps, kept = made(kind), 100
    large = upsampled(maps, size)
    least = torch.from_numpy(maps.min(axis=(0, 2, 3))).double()
    thresholds, parts = active_pixels(layer_of(maps, size), kept, torch.full((3,), guess), least)
    seen = np.zeros(large.shape, dtype=bool)
    for part in parts:
        run = torch.repeat_interleave(torch.arange(len(part.lengths)), part.lengths)
        rows, columns = np.divmod(part.places.numpy(), size[1])
        seen[part.start + part.images[run].numpy(), part.units[run].numpy(), rows, columns] = True
    for unit in range(3):
        values = np.sort(large[:, unit].ravel())[::-1]
        assert thresholds[unit] == values[kept]
        np.testing.assert_array_equal(seen[:, unit], large[:, unit] > values[kept])


def test_samples_are_values_of_the_upsampled_maps() -> None:
    maps = made("plain")
    for size, stride in (((9, 12), 1), ((9, 12), 4), ((3, 2), 2), ((4, 5), 3)):
        found = layer_of(maps, size).sample(torch.from_numpy(maps), stride)
        np.testing.assert_allclose(found, upsampled(maps, size)[:, :, ::stride, ::stride], atol=1e-6)


def test_bounds_lie_below_the_quantile_of_their_sample() -> None:
    sample = torch.arange(1000.0)[None]
    bound = float(guessed_bounds(sample, 0.1)[0])
    assert 800 < bound < 900
    assert float(guessed_bounds(sample, 1.0)[0]) == 0


def test_many_units_are_as_each_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    maps = np.random.default_rng(1).normal(size=(6, 5, 4, 4)).astype(np.float32)
    masks = np.random.default_rng(2).random((6, 3, 8, 8)) < 0.4
    whole = align(maps, Concepts.from_masks(masks), quantile=0.1, shuffles=3)
    monkeypatch.setattr(alignment, "_UNITS_AT_A_TIME", 2)
    monkeypatch.setattr(alignment, "_LARGEST_TABLE", 0)
    parts = align(maps, Concepts.from_masks(masks), quantile=0.1, shuffles=3)
    for one in (parts, align(maps[:, ::-1].copy(), Concepts.from_masks(masks), quantile=0.1, shuffles=3)):
        order = slice(None) if one is parts else slice(None, None, -1)
        np.testing.assert_array_equal(one.thresholds[order], whole.thresholds)
        np.testing.assert_array_equal(one.counts.intersection[:, order], whole.counts.intersection)
        np.testing.assert_array_equal(one.auroc[order], whole.auroc)
        np.testing.assert_array_equal(one.shuffled[:, order], whole.shuffled)
        np.testing.assert_array_equal(one.peaks[:, order], whole.peaks)


def test_a_shuffle_is_an_alignment_with_the_masks_of_other_images() -> None:
    maps = np.random.default_rng(1).normal(size=(7, 4, 4, 4)).astype(np.float32)
    concepts = Concepts.from_masks(np.random.default_rng(2).random((7, 3, 8, 8)) < 0.4)
    found = align(maps, concepts, quantile=0.1, shuffles=3, seed=5)
    generator = np.random.default_rng(5)
    for one in found.by_chance():
        moved = align(maps, concepts.take(generator.permutation(7)), quantile=0.1)
        np.testing.assert_array_equal(one.intersection, moved.overlap.intersection)
        np.testing.assert_array_equal(one.iou, moved.overlap.iou)


@pytest.mark.parametrize("count", [1, 7, 8, 9, 64, 65, 130])
def test_combinations_hold_any_number_of_concepts(count: int) -> None:
    masks = np.random.default_rng(count).random((4, count, 5, 6)) < 0.3
    found = Concepts.from_masks(masks)
    np.testing.assert_array_equal(found.masks(0, 4), masks)
    np.testing.assert_array_equal(found.areas(1, 3), masks[1:3].sum((2, 3)))
    np.testing.assert_array_equal(found.take(np.array([3, 0])).masks(0, 2, 2), masks[[3, 0], :, ::2, ::2])
    collector = ConceptCollector(found.names)
    for start in (0, 3):
        collector.add(masks[start : start + 3])
    np.testing.assert_array_equal(collector.concepts().masks(0, 4), masks)
