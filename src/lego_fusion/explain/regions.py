"""Alignment object by object instead of pixel by pixel, so that finding objects is not taken for telling them apart.

Where concepts lie on objects and most of a picture is background, a unit that is active on every object alike overlaps with
each attribute of objects far more than random pixels do: of two colours that are equally common it holds half of each. Read
over regions, one number for each object, such a unit is at chance for every attribute.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Int

from ..errors import DataError
from .concepts import Concepts


def by_region(
    maps: Any, concepts: Concepts, regions: Int[np.ndarray, "n h w"]
) -> tuple[Float32[np.ndarray, "r k 1 1"], Concepts]:
    """Mean activation of every unit over every region, and the concepts of the regions, ready for ``align``.

    Args:
        maps: Activations (N, K, h, w), array (memory-mapped too) or tensor; upsampled bilinearly to the size of the regions.
        concepts: Of the same N images and the size of the regions; a region has a concept that covers more than half of it.
        regions: Number of the region a pixel belongs to, counted from 1 in each image; 0 or less for none.

    Returns:
        R regions as images of one pixel, in the order of images and numbers, and their concepts.

    Raises:
        DataError: If maps, concepts and regions are of other images or sizes, or there is no region.

    Example:
        >>> maps = np.array([[[[0.0, 2.0], [0.0, 4.0]]]])
        >>> masks = np.array([[[[False, True], [False, True]]]])
        >>> pooled, found = by_region(maps, Concepts.from_masks(masks, ["right"]), np.array([[[1, 2], [1, 2]]]))
        >>> pooled.ravel().tolist(), found.masks(0, 2).ravel().tolist()
        ([0.0, 3.0], [False, True])
    """
    if maps.ndim != 4 or len(maps) != len(regions) or len(concepts) != len(regions):
        got = f"activations {tuple(maps.shape)}, {len(concepts)} images with concepts, regions {regions.shape}"
        raise DataError("activations, concepts and regions are of other images", expected="the same N images", got=got)
    if concepts.size != regions.shape[1:]:
        raise DataError("concepts and regions differ in size", expected=concepts.size, got=regions.shape[1:])
    means, owners = [], []
    for image, numbers in enumerate(regions):
        present, place = np.unique(numbers, return_inverse=True)
        inside = np.eye(len(present))[:, present > 0][place.ravel()]  # (H W, regions of this image)
        inside = inside / inside.sum(axis=0)
        row = torch.as_tensor(maps[image : image + 1]).detach().cpu().float()
        large = torch.nn.functional.interpolate(row, size=concepts.size, mode="bilinear", align_corners=False)
        means.append((large[0].flatten(1).numpy() @ inside).T)
        masks = concepts.masks(image, image + 1)[0]
        owners.append((masks.reshape(len(masks), -1) @ inside).T > 0.5)
    pooled = np.concatenate(means).astype(np.float32)
    if not len(pooled):
        raise DataError("there are no regions", expected="numbers of at least 1")
    return pooled[:, :, None, None], Concepts.from_masks(np.concatenate(owners)[:, :, None, None], concepts.names)
