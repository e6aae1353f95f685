"""Any image network that was exported to ONNX, as an extractor; found by name."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from jaxtyping import Float, Float32, UInt8
from pydantic import Field, JsonValue

from ..data.manifest import Nature
from ..data.video import Frame
from ..errors import DataError
from .base import (
    RegionExtractor,
    RegionText,
    files_hash,
    load_opencv,
    load_package,
    reduced_size,
    sample_evenly,
    with_settings,
)

_Side = Annotated[int, Field(ge=1, le=4096)]
_AboveZero = Annotated[float, Field(ge=1e-12)]
_SILENT = 4  # only fatal messages of onnxruntime; its errors are raised anyway
_ELEMENTS = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


@with_settings
class OnnxImage(RegionExtractor):
    """Describe a snippet by an ONNX image network, averaged over a few of its frames: ``(scale x - mean) / std``.

    A network that fixes its picture size gets pictures resized to it; one that leaves it open gets the picture as it
    is, reduced to ``longest_side``. An output map (batch, D, h, w) or tokens (batch, n, D) are averaged to D numbers.

    Args:
        path: The ``.onnx`` file. Only its name and the SHA-256 of its bytes enter the manifest.
        input_size: (h, w) to resize to where the network leaves it open; None for the picture's own size.
        longest_side: Largest side where the network leaves the size open, in [8, 4096].
        mean: Of each colour, after scaling.
        std: Of each colour, above 0.
        scale: What pixels in [0, 1] are multiplied by first, for example 255.
        layout: ``"nchw"`` or ``"nhwc"``; None to see it from the graph.
        output: Name of the output; None for the first.
        frames_per_snippet: Frames evenly spaced in the snippet, in [1, 256].
        threads: Threads that the network may use; one gives the same numbers everywhere.
        region: The part of the picture to look at, see ``Region.parse``: pixels outside get the mean colour of those inside, in
            each picture, before it is resized. None for the whole.

    Raises:
        DataError: The file is absent, not an ONNX network, or not one that takes pictures.
        MissingExtraError: onnxruntime is not installed.

    Example:
        >>> OnnxImage("no-such.onnx").width
        Traceback (most recent call last):
        lego_fusion.errors.DataError: no ONNX file (no-such.onnx). What to do: give the path of an exported network.
    """

    name: ClassVar[str] = "onnx"
    version: ClassVar[str] = "1"
    nature: ClassVar[Nature] = "direction"

    path: Path = Field(kw_only=False, strict=False, exclude=True)
    input_size: Annotated[tuple[_Side, _Side] | None, Field(strict=False)] = None
    longest_side: int = Field(default=640, ge=8, le=4096)
    mean: Annotated[tuple[float, float, float], Field(strict=False)] = (0.0, 0.0, 0.0)
    std: Annotated[tuple[_AboveZero, _AboveZero, _AboveZero], Field(strict=False)] = (1.0, 1.0, 1.0)
    scale: _AboveZero = 1.0
    layout: Literal["nchw", "nhwc"] | None = None
    output: str | None = None
    frames_per_snippet: int = Field(default=4, ge=1, le=256)
    threads: int = Field(default=1, ge=1, exclude=True)
    region: RegionText = None

    def __post_init__(self) -> None:
        if not self.path.is_file():
            raise DataError("no ONNX file", where=self.path, fix="give the path of an exported network")

    @property
    def settings(self) -> dict[str, JsonValue]:
        """Everything that was chosen and changes the numbers; the network goes by the name of its file."""
        return {"file": self.path.name, **super().settings}

    @cached_property
    def weights_hash(self) -> str:
        """SHA-256 of the file, and of the ``.data`` files beside it where weights are kept outside."""
        outside = sorted({*self.path.parent.glob(f"{self.path.name}*data"), *self.path.parent.glob(f"{self.path.stem}.data")})
        return files_hash((self.path, *outside))

    @cached_property
    def width(self) -> int:
        """D, found by showing the network a black picture."""
        return len(self._embed(np.zeros((64, 64, 3), dtype=np.uint8)))

    def snippet(self, frames: Sequence[Frame], before: Frame | None) -> Float32[np.ndarray, " width"]:
        """Describe one snippet by D numbers, see the class."""
        pictures = self.pictures(sample_evenly(frames, self.frames_per_snippet))
        mean = np.mean([self._embed(picture) for picture in pictures], axis=0, dtype=np.float64)
        return np.asarray(mean, dtype=np.float32)

    @cached_property
    def _network(self) -> _Network:
        return _Network(self.path, layout=self.layout, output=self.output, threads=self.threads)

    def _embed(self, image: UInt8[np.ndarray, "h w 3"]) -> Float32[np.ndarray, " width"]:
        cv2 = load_opencv()
        network = self._network
        height, width = self._size_for(image)
        reduced = height <= image.shape[0] and width <= image.shape[1]
        kind = cv2.INTER_AREA if reduced else cv2.INTER_LINEAR
        picture = cv2.resize(image, (width, height), interpolation=kind).astype(np.float32) / 255
        picture = (picture * self.scale - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)
        return network.embed(picture.astype(np.float32))

    def _size_for(self, image: UInt8[np.ndarray, "h w 3"]) -> tuple[int, int]:
        """Give the (h, w) that a picture is resized to: the graph's, else the chosen one, else its own, reduced."""
        width, height = reduced_size(image, self.longest_side)
        if self.input_size is not None:
            height, width = self.input_size
        fixed = self._network.size
        wanted = (fixed[0] or height, fixed[1] or width)
        if self.input_size is not None and wanted != self.input_size:
            raise DataError(
                "the network fixes another picture size",
                where=self.path,
                expected=fixed,
                got=self.input_size,
                fix="leave 'input_size' out",
            )
        return wanted


class _Network:
    """An open ONNX session whose input and output have been understood."""

    def __init__(self, path: Path, *, layout: str | None, output: str | None, threads: int) -> None:
        runtime = load_package("onnxruntime", extra="onnx")
        options = runtime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = _SILENT
        self.path = path
        try:
            self.session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has a dozen classes of errors, all direct children of Exception
            reason = str(error).splitlines()[0].removeprefix("[ONNXRuntimeError] : ")
            raise DataError(
                "not an ONNX network that can be loaded", where=path, got=reason, fix="export the network again"
            ) from error
        self.input = self._picture_input()
        self.layout = layout or self._seen_layout()
        shape = self.input.shape[2:] if self.layout == "nchw" else self.input.shape[1:3]
        self.size = tuple(side if isinstance(side, int) and side > 0 else None for side in shape)
        self.output = self._chosen_output(output)

    def embed(self, picture: Float32[np.ndarray, "h w 3"]) -> Float32[np.ndarray, " width"]:
        """Run one picture and average what comes out to (D,)."""
        batch = picture[None] if self.layout == "nhwc" else np.ascontiguousarray(picture.transpose(2, 0, 1))[None]
        try:
            (out,) = self.session.run([self.output], {self.input.name: batch.astype(_ELEMENTS[self.input.type])})
        except Exception as error:
            reason = str(error).splitlines()[0].removeprefix("[ONNXRuntimeError] : ")
            raise DataError(
                "the ONNX network does not run", where=self.path, got=f"{reason} for pictures of {picture.shape[:2]}"
            ) from error
        return self._pooled(np.asarray(out))

    def _pooled(self, out: np.ndarray) -> Float32[np.ndarray, " width"]:
        if out.ndim < 2 or out.ndim > 4 or out.shape[0] != 1 or not np.issubdtype(out.dtype, np.floating):
            raise DataError(
                "the network's output is not an embedding",
                where=f"{self.path}, output '{self.output}'",
                expected="floats (batch, D), (batch, tokens, D) or (batch, D, h, w)",
                got=f"{out.dtype} {out.shape}",
                fix="choose another output by name",
            )
        values: Float[np.ndarray, ...] = out[0].astype(np.float64)
        if values.ndim == 3:
            values = values.mean(axis=(1, 2) if self.layout == "nchw" else (0, 1))
        elif values.ndim == 2:
            values = values.mean(axis=0)
        return values.astype(np.float32)

    def _picture_input(self) -> Any:
        inputs = self.session.get_inputs()
        fits = [entry for entry in inputs if len(entry.shape) == 4 and entry.type in _ELEMENTS]
        batch = inputs[0].shape[0] if fits else None
        if len(inputs) != 1 or not fits or (isinstance(batch, int) and batch > 1):
            got = "; ".join(f"{entry.name} {entry.type} {entry.shape}" for entry in inputs) or "none"
            raise DataError(
                "not an image network",
                where=self.path,
                expected="one float input (batch or 1, 3, h, w) or (batch or 1, h, w, 3)",
                got=got,
            )
        return fits[0]

    def _seen_layout(self) -> str:
        shape = self.input.shape
        if shape[1] == 3:
            return "nchw"
        if shape[3] == 3:
            return "nhwc"
        raise DataError(
            "not a network for colour pictures",
            where=f"{self.path}, input '{self.input.name}'",
            expected="3 channels in the second or last place",
            got=shape,
            fix="give 'layout' if the graph leaves its channels open",
        )

    def _chosen_output(self, output: str | None) -> str:
        names = [entry.name for entry in self.session.get_outputs()]
        if output is not None and output not in names:
            raise DataError("no such output", where=self.path, expected=" or ".join(names), got=output)
        return str(output if output is not None else names[0])
