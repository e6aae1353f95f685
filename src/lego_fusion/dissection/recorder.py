"""Record what the layers of any network do, by name and grouped as modality x level, without changing the network."""

from __future__ import annotations

import difflib
import json
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..errors import DataError, ParameterError, check_choice
from ..writing import write_text

Key = tuple[str, str]  # modality, level
LayerNames = Mapping[str, str] | Sequence[str] | str  # by level, in order, or a pattern
FLOATS = ("float16", "float32")
INDEX = "recording.json"


@dataclass(frozen=True, eq=False)
class Recording:
    """Activations of the same N samples in every layer.

    Args:
        arrays: (N, K), (N, K, h, w) or (N, K, T, 1) by (modality, level).
        layers: Name of the layer of each.
        kind: "pooled", "spatial" or "tokens".
    """

    arrays: dict[Key, NDArray[Any]]
    layers: dict[Key, str]
    kind: str

    def __getitem__(self, key: Key) -> NDArray[Any]:
        """Activations of (modality, level)."""
        if key not in self.arrays:
            have = ", ".join(" ".join(name) for name in self.arrays)
            raise DataError(f"nothing was recorded for {' '.join(key)}", expected=f"one of {have}")
        return self.arrays[key]

    @property
    def modalities(self) -> tuple[str, ...]:
        """In the order they were given."""
        return tuple(dict.fromkeys(modality for modality, _ in self.arrays))

    def levels(self, modality: str) -> tuple[str, ...]:
        """Levels of a modality, in order."""
        return tuple(level for name, level in self.arrays if name == modality)

    def pooled(self) -> dict[str, NDArray[Any]]:
        """Mean over places (N, K) by "modality level", as the similarities take it."""
        return {
            " ".join(key): array.astype(np.float32) if array.ndim == 2 else place_means(array)
            for key, array in self.arrays.items()
        }

    @classmethod
    def open(cls, folder: str | Path) -> Recording:
        """Open a folder that a recorder wrote; the arrays stay on disk until they are read.

        Raises:
            DataError: If the folder is not such a recording.
        """
        folder = Path(folder)
        try:
            index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
            rows = {(row["modality"], row["level"]): row for row in index["arrays"]}
            arrays = {key: np.load(folder / row["file"], mmap_mode="r", allow_pickle=False) for key, row in rows.items()}
            return cls(arrays, {key: row["layer"] for key, row in rows.items()}, index["kind"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError("not a recording", where=folder, expected=f"{INDEX} and its .npy files", got=error) from error


def place_means(array: NDArray[Any], samples: int = 32) -> NDArray[Any]:
    """Means over places (N, K) in float32 of (N, K, h, w), read so many samples at a time."""
    parts = [
        torch.from_numpy(np.array(array[start : start + samples])).float().mean((2, 3))
        for start in range(0, len(array), samples)
    ]
    return torch.cat(parts).numpy()


def _write_header(file: BinaryIO, shape: tuple[int, ...], dtype: str) -> None:
    """Begin an ``.npy`` file; its length does not depend on the number of rows, so that it can be written again."""
    description = np.lib.format.dtype_to_descr(np.dtype(dtype))
    np.lib.format.write_array_header_1_0(file, {"descr": description, "fortran_order": False, "shape": shape})


Kind = Literal["pooled", "spatial", "tokens"]
Call = Callable[[nn.Module, Any], object]
_WILD = "*?["


class Recorder:
    """Activations of named layers for every batch; hooks exist only while a batch runs, and are removed whatever happens.

    The network must be in evaluation mode: the recorder refuses one that trains rather than switching it, so nothing about
    the network ever changes. A layer is a name as in ``model.named_modules()`` or a pattern in which ``*`` stands for any
    text between two dots. In place of the levels of a modality a single pattern takes all layers it matches, in the order
    of the network.

    Args:
        model: The network, in evaluation mode.
        layers: For each modality the layer of each level, in order, by the name of the level or as a list; or one pattern.
        call: Runs the network on a batch. None: a mapping is handed on as keywords, a tuple or list as arguments, all else
            as the one argument.
        grid: Height and width of the tokens, for layers whose tokens are patches; tokens before the last height x width
            (a class token) are left out. Only ``kind="spatial"`` reads it.

    Raises:
        ParameterError: If a layer is unknown (the nearest names are listed), or a pattern matches none or several.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3)).eval()
        >>> recorder = Recorder(model, {"rgb": {"early": "0", "late": "2"}})
        >>> recorder.record([torch.zeros(2, 3, 8, 8), torch.zeros(1, 3, 8, 8)], kind="spatial")["rgb", "late"].shape
        (3, 5, 4, 4)
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Mapping[str, LayerNames],
        *,
        call: Call | None = None,
        grid: tuple[int, int] | None = None,
    ) -> None:
        self.model, self.call, self.grid = model, call or _call, grid
        names = [name for name, _ in model.named_modules(remove_duplicate=False) if name]
        if not layers:
            raise ParameterError("there are no layers to record", expected="at least one modality")
        self.layers: dict[Key, str] = {}
        for modality, levels in layers.items():
            for level, layer in _levels(levels, names, modality).items():
                self.layers[modality, level] = layer

    def stream(self, batches: Iterable[Any], kind: Kind = "pooled") -> Iterator[dict[Key, Tensor]]:
        """Yield the activations of each batch, by (modality, level).

        Args:
            batches: What ``call`` takes, one after the other.
            kind: "pooled" (b, K), the mean over places; "spatial" (b, K, h, w); "tokens" (b, K, T, 1).

        Raises:
            ParameterError: If the network is in training mode.
            DataError: If a layer was not reached, gave no tensor, has no spatial extent where one is asked for, or gave
                numbers that are not finite; it names the layer.
        """
        check_choice(kind, "kind", "Recorder", ("pooled", "spatial", "tokens"))
        for number, batch in enumerate(batches):
            self._refuse_training()
            outputs = self._run(batch)
            yield {key: self._arrange(outputs, key, kind, number) for key in self.layers}

    def record(
        self,
        batches: Iterable[Any],
        kind: Kind = "pooled",
        *,
        folder: str | Path | None = None,
        dtype: Literal["float16", "float32"] | None = None,
    ) -> Recording:
        """Record all batches, in memory or in a folder of ``.npy`` files that are read memory-mapped.

        Args:
            batches: As for ``stream``.
            kind: As for ``stream``.
            folder: New folder to write; it appears complete or not at all. None: in memory.
            dtype: Of what is kept. None: float16 in a folder, float32 in memory. A value beyond the range of float16 is
                refused; rounding to it is relative 2^-11.

        Returns:
            Arrays (N, ...) by (modality, level).

        Raises:
            DataError: As ``stream``, if there are no batches, a shape changes between batches, or the folder exists.
        """
        kept = check_choice(dtype or ("float32" if folder is None else "float16"), "dtype", "Recorder", FLOATS)
        if folder is None:
            return self._in_memory(batches, kind, kept)
        folder = Path(folder)
        if folder.exists():
            raise DataError("the folder is there already", where=folder, fix="remove it, or choose another")
        partial = folder.with_name(f".{secrets.token_hex(8)}.partial")
        partial.mkdir(parents=True)
        try:
            self._on_disk(batches, kind, kept, partial)
            partial.replace(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return Recording.open(folder)

    def _in_memory(self, batches: Iterable[Any], kind: Kind, dtype: str) -> Recording:
        parts: dict[Key, list[NDArray[Any]]] = {key: [] for key in self.layers}
        for key, rows in self._rows(batches, kind, dtype):
            parts[key].append(rows)
        return Recording({key: np.concatenate(rows) for key, rows in parts.items()}, dict(self.layers), kind)

    def _on_disk(self, batches: Iterable[Any], kind: Kind, dtype: str, folder: Path) -> None:
        shapes: dict[Key, tuple[int, ...]] = {}
        names = {key: f"{place:03d}.npy" for place, key in enumerate(self.layers)}
        with ExitStack() as stack:
            files = {key: stack.enter_context((folder / name).open("wb+")) for key, name in names.items()}
            for key, rows in self._rows(batches, kind, dtype):
                if key not in shapes:
                    shapes[key] = (0, *rows.shape[1:])
                    _write_header(files[key], shapes[key], dtype)
                files[key].write(np.ascontiguousarray(rows).data)
                shapes[key] = (shapes[key][0] + len(rows), *rows.shape[1:])
            for key, file in files.items():
                file.seek(0)
                _write_header(file, shapes[key], dtype)
        listed = [{"modality": key[0], "level": key[1], "layer": self.layers[key], "file": names[key]} for key in names]
        write_text(folder / INDEX, json.dumps({"kind": kind, "arrays": listed}, indent=1))

    def _rows(self, batches: Iterable[Any], kind: Kind, dtype: str) -> Iterator[tuple[Key, NDArray[Any]]]:
        """Activations of each layer in each batch, as they are kept; they must keep their shape, and there must be some."""
        shapes: dict[Key, tuple[int, ...]] = {}
        for activations in self.stream(batches, kind):
            for key, value in activations.items():
                shape = tuple(value.shape[1:])
                expected = shapes.setdefault(key, shape)
                if shape != expected:
                    wrong = "the activations change their shape between batches"
                    raise DataError(wrong, where=self._where(key), expected=expected, got=shape)
                yield key, self._kept(value, key, dtype)
        if not shapes:
            raise DataError("there are no batches to record", expected="at least one")

    def _refuse_training(self) -> None:
        training = [name or type(module).__name__ for name, module in self.model.named_modules() if module.training]
        if training:
            raise ParameterError(
                "the model is in training mode, where dropout and batch statistics change what its layers do",
                where=f"{training[0]} and {len(training) - 1} more" if len(training) > 1 else training[0],
                fix="call model.eval() first",
            )

    def _run(self, batch: Any) -> dict[str, list[Any]]:
        outputs: dict[str, list[Any]] = {layer: [] for layer in self.layers.values()}
        modules = dict(self.model.named_modules(remove_duplicate=False))
        handles = []
        try:
            for layer, kept in outputs.items():
                handles.append(modules[layer].register_forward_hook(_keep(kept)))
            with torch.no_grad():
                self.call(self.model, batch)
        finally:
            for handle in handles:
                handle.remove()
        return outputs

    def _arrange(self, outputs: Mapping[str, list[Any]], key: Key, kind: Kind, number: int) -> Tensor:
        layer = self.layers[key]
        where = self._where(key)
        seen = outputs[layer]
        if len(seen) != 1:
            raise DataError(
                "a layer must run once for each batch",
                where=where,
                got=f"{len(seen)} times",
                fix="give the layers around it, which belong to one modality"
                if seen
                else "record layers that this call reaches",
            )
        value = seen[0]
        if not isinstance(value, Tensor) or value.ndim not in (2, 3, 4) or not value.is_floating_point():
            raise DataError(
                "a layer gives nothing that can be recorded",
                where=where,
                expected="a tensor of floats (b, K), (b, T, K) or (b, K, h, w)",
                got=tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__,
            )
        if not bool(value.isfinite().all()):
            wrong = int((~value.isfinite()).sum())
            raise DataError("activations are not finite", where=f"{where}, batch {number}", got=f"{wrong} NaN or infinite")
        return _shaped(value.float(), kind, self.grid, where)

    def _where(self, key: Key) -> str:
        return f"layer '{self.layers[key]}', {key[0]} {key[1]}"

    def _kept(self, value: Tensor, key: Key, dtype: str) -> NDArray[Any]:
        largest = float(value.abs().max()) if value.numel() else 0.0
        if dtype == "float16" and largest > float(np.finfo(np.float16).max):
            raise DataError(
                "activations beyond the range of float16", where=self._where(key), got=largest, fix="say dtype='float32'"
            )
        return value.cpu().numpy().astype(dtype)


def _levels(levels: LayerNames, names: list[str], modality: str) -> dict[str, str]:
    if isinstance(levels, str):
        found = [name for name in names if _matches(name, levels)]
        if not found:
            raise _unknown(levels, names, modality)
        return {name: name for name in found}
    if not levels:
        raise ParameterError("a modality has no levels", where=modality, expected="at least one layer")
    named = levels if isinstance(levels, Mapping) else {f"level {place + 1}": layer for place, layer in enumerate(levels)}
    return {level: _one_layer(layer, names, f"{modality} {level}") for level, layer in named.items()}


def _one_layer(layer: str, names: list[str], where: str) -> str:
    found = [layer] if layer in names else [name for name in names if _matches(name, layer)]
    if not found:
        raise _unknown(layer, names, where)
    if len(found) > 1:
        raise ParameterError(
            f"the pattern '{layer}' matches {len(found)} layers", where=where, expected="one", got=_listed(found)
        )
    return found[0]


def _matches(name: str, pattern: str) -> bool:
    """Whether each part between dots fits."""
    parts, wanted = name.split("."), pattern.split(".")
    return len(parts) == len(wanted) and all(fnmatchcase(part, want) for part, want in zip(parts, wanted, strict=True))


def _unknown(layer: str, names: list[str], where: str) -> ParameterError:
    text = "".join(letter for letter in layer if letter not in _WILD + "]")
    near = difflib.get_close_matches(text, names, n=5, cutoff=0.0)
    return ParameterError(f"the model has no layer '{layer}'", where=where, expected=f"a name such as {_listed(near)}")


def _listed(names: list[str]) -> str:
    return ", ".join(f"'{name}'" for name in names[:5]) + (" ..." if len(names) > 5 else "")


def _keep(kept: list[Any]) -> Callable[[nn.Module, Any, Any], None]:
    def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
        value = _first_tensor(output)
        kept.append(value.detach().clone() if isinstance(value, Tensor) else value)  # a later layer may work in place

    return hook


def _first_tensor(output: Any) -> Any:
    """The output itself; of a tuple, list or mapping (as transformers give) its first tensor."""
    values = output.values() if isinstance(output, Mapping) else output if isinstance(output, tuple | list) else (output,)
    return next((value for value in values if isinstance(value, Tensor)), output)


def _shaped(value: Tensor, kind: Kind, grid: tuple[int, int] | None, where: str) -> Tensor:
    if kind == "spatial":
        return _spatial(value, grid, where)
    places = value[:, :, None] if value.ndim == 2 else value.transpose(1, 2) if value.ndim == 3 else value.flatten(2)
    return places.mean(2) if kind == "pooled" else places[..., None]  # places: (b, K, T)


def _spatial(value: Tensor, grid: tuple[int, int] | None, where: str) -> Tensor:
    if value.ndim == 4:
        return value
    if value.ndim == 3 and grid is not None:
        height, width = grid
        if value.shape[1] < height * width:
            raise DataError("too few tokens for the grid", where=where, expected=f"{height} x {width}", got=value.shape[1])
        patches = value[:, value.shape[1] - height * width :].transpose(1, 2)  # (b, K, h w)
        return patches.reshape(*patches.shape[:2], height, width)
    raise DataError(
        "a layer has no spatial extent",
        where=where,
        expected="(b, K, h, w), or tokens and their grid",
        got=tuple(value.shape),
        fix="say kind='pooled', choose another layer, or give grid=(height, width)",
    )


def _call(model: nn.Module, batch: Any) -> object:
    if isinstance(batch, Mapping):
        return model(**batch)
    return model(*batch) if isinstance(batch, tuple | list) else model(batch)
