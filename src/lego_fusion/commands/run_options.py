"""What a run needs beside a video file: networks that are named, captions and ground truth that lie near it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..learn.checkpoint import RunConfig

_CAPTION_EXTRACTORS = ("text", "words")


def reads_captions(config: RunConfig) -> bool:
    """Whether a run needs captions."""
    from ..extract.base import SidecarExtractor
    from ..extract.registry import extractor_class

    kinds = [extractor_class(one.extractor, modality=name) for name, one in config.manifests.items()]
    return any(issubclass(kind, SidecarExtractor) for kind in kinds)


def given_networks(config: RunConfig, onnx: Path | None, text_model: Path | None) -> dict[str, Path]:
    """The network of each modality that needs one from this machine."""
    from ..errors import ParameterError

    networks: dict[str, Path] = {}
    for option, extractors, path in (("--onnx", ("onnx",), onnx), ("--text-model", _CAPTION_EXTRACTORS, text_model)):
        using = [name for name, manifest in config.manifests.items() if manifest.extractor in extractors]
        if path is not None and not using:
            got = ", ".join(f"{name} by {manifest.extractor}" for name, manifest in config.manifests.items())
            raise ParameterError(f"{option} is given, but the model uses no such network", got=got, fix="leave it out")
        if path is None and using and option == "--onnx":
            file = config.manifests[using[0]].settings.get("file")
            fix = "give it with --onnx"
            raise ParameterError(f"the model needs the network of '{using[0]}'", expected=f"the file {file}", fix=fix)
        networks |= {name: path for name in using if path is not None}
    return networks


def truth_beside(video: Path) -> Path | None:
    """The ``intervals.csv`` beside a video or its folder, if it names the video."""
    from ..data.tables import read_intervals

    for parent in (video.parent, video.parent.parent):
        path = parent / "intervals.csv"
        if path.is_file() and {video.stem, video.name} & set(read_intervals(path)):
            return path
    return None
