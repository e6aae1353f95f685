"""Small pictures with the pixels where a unit is active, as data URIs."""

from __future__ import annotations

import base64
import struct
import zlib

import numpy as np
from jaxtyping import Bool, Float32, UInt8

_LONGEST_SIDE = 96
_LINE = np.array([213.0, 94.0, 0.0])  # Okabe and Ito's vermilion
_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def gallery_uri(picture: Float32[np.ndarray, "c h w"], mask: Bool[np.ndarray, "g v"]) -> str:
    """A picture of which all but the mask is pale, the mask outlined.

    Args:
        picture: In [0, 1]; of 3 channels or more the first three are colours, else the first is gray.
        mask: Resampled to the picture.
    """
    step = -(-max(picture.shape[1:]) // _LONGEST_SIDE)
    small = picture[:3, ::step, ::step] if picture.shape[0] >= 3 else np.repeat(picture[:1, ::step, ::step], 3, axis=0)
    colours = 255.0 * np.moveaxis(np.clip(small, 0, 1), 0, -1)
    rows, columns = (np.arange(size) * old // size for size, old in zip(colours.shape[:2], mask.shape, strict=True))
    inside = mask[rows][:, columns]
    shown = np.where(inside[..., None], colours, 0.45 * colours + 0.55 * 128)
    shown[outline(inside)] = _LINE
    return png_uri((shown.astype(np.uint8) >> 3 << 3).astype(np.uint8))  # fewer colours: half the size


def outline(mask: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Pixels outside that touch the inside.

    Example:
        >>> outline(np.array([[False, False, False], [False, True, False]])).astype(int).tolist()
        [[0, 1, 0], [1, 0, 1]]
    """
    wide = np.pad(mask, 1)
    near = wide[:-2, 1:-1] | wide[2:, 1:-1] | wide[1:-1, :-2] | wide[1:-1, 2:]
    return np.asarray(near & ~mask)


def png_uri(image: UInt8[np.ndarray, "h w 3"]) -> str:
    """A picture as a PNG data URI, by the standard library alone."""
    height, width = image.shape[:2]
    rows = np.concatenate(
        [np.zeros((height, 1), np.uint8), image.reshape(height, -1)], axis=1
    )  # each row begins with its filter
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 9)), (b"IEND", b""))
    data = _SIGNATURE + b"".join(_chunk(kind, content) for kind, content in parts)
    return "data:image/png;base64," + base64.b64encode(data).decode("ascii")


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
