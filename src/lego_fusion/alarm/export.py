"""A saved detector as one graph for other runtimes: relations, references, statistics and operator inside."""

from __future__ import annotations

import json
import logging
import shutil
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import __version__
from ..errors import MissingExtraError, ParameterError
from ..learn.checkpoint import RunConfig, load_detector
from ..learn.detector import Detector
from ..scorer import FORMAT, METADATA
from ..writing import written_whole
from .calibration import read_calibration


class _FeaturesToScores(nn.Module):
    """Features in the order of the fusion -> logits, scores and, where there is one, the fused graph.

    What is read of the graph inside the video is left out where no score depends on it.
    """

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector, self.names = detector.eval(), list(detector.fusion.modalities)
        self.inside = detector.own_world is not False

    def forward(self, *features: Tensor) -> tuple[Tensor, ...]:
        given = dict(zip(self.names, features, strict=True))
        inputs = self.detector.fusion.transform(given, inside=self.inside)
        output = self.detector(inputs, cached=True)
        results = (output.logits, output.logits.sigmoid())
        return results if output.graph is None else (*results, output.graph)


def export_run(folder: str | Path, out: str | Path, *, torch_too: bool = False) -> dict[str, Path]:
    """Write a saved detector as ``model.onnx`` with what a user must know inside, and ``scorer.py`` beside it.

    The batch is of any size; so is the number of nodes, unless the fusion relates nodes to each other.

    Args:
        folder: Run folder; its calibration goes along.
        out: Folder to write into; made if it is not there.
        torch_too: Also write ``model.pt2`` for ``torch.export.load``.

    Returns:
        The files by kind: onnx, scorer, torch.

    Raises:
        ParameterError: If the fusion cannot be exported; it says which and why.
        MissingExtraError: If onnx or onnxscript is not installed.
        CheckpointError: If the folder holds no run.
    """
    detector, config = load_detector(Path(folder))
    _require_exportable(detector, config)
    program, example = _program(detector, config)
    out = Path(out)
    files = {"onnx": out / "model.onnx", "scorer": out / "scorer.py"}
    model = _onnx_bytes(program, example, list(detector.fusion.modalities), about_run(folder, detector, config))
    with written_whole(files["onnx"]) as file:
        file.write(model)
    with written_whole(files["scorer"]) as file, (Path(__file__).parent.parent / "scorer.py").open("rb") as source:
        shutil.copyfileobj(source, file)
    if torch_too:
        files["torch"] = out / "model.pt2"
        with written_whole(files["torch"]) as file:
            torch.export.save(program, file)
    return files


def about_run(folder: str | Path, detector: Detector, config: RunConfig) -> dict[str, Any]:
    """What the exported model says of itself, as JSON values."""
    calibration = read_calibration(folder)
    cameras = {} if calibration is None else calibration.cameras
    return {
        "format": FORMAT,
        "lego_fusion": __version__,
        "fusion": detector.fusion.kind,
        "widths": dict(detector.fusion.modalities),
        "nodes": config.nodes,
        "fixed_nodes": not detector.fusion.any_nodes,
        "segment_snippets": config.segment_snippets,
        "smoothing": config.smoothing,
        "manifests": {name: manifest.model_dump(mode="json") for name, manifest in config.manifests.items()},
        "thresholds": {camera: one.rule.threshold for camera, one in cameras.items()},
        "promise": None if calibration is None else calibration.promise(),
        "weights_hash": config.weights_hash,
    }


def _require_exportable(detector: Detector, config: RunConfig) -> None:
    fine = ", ".join(detector.fusion.units)
    if fine:
        fix = "train without it, or use 'score', which reads finer units"
        raise ParameterError(f"finer units cannot be exported yet ('{fine}')", fix=fix)
    if config.segment_snippets is not None and not detector.fusion.one_pass:
        raise ParameterError(
            "windows of segments that are related to each other cannot be exported yet",
            got=f"fusion '{detector.fusion.kind}' with segments of {config.segment_snippets} snippets",
            fix="train method lego, or use 'watch', which needs torch",
        )


def _program(detector: Detector, config: RunConfig) -> tuple[Any, tuple[Tensor, ...]]:
    """The exported program and the inputs it was traced with; those are of odd sizes, so that no size is taken for fixed."""
    nodes = 7 if detector.fusion.any_nodes else config.nodes
    example = tuple(torch.randn(3, nodes, width) for width in detector.fusion.modalities.values())
    sizes: dict[int, Any] = {0: torch.export.Dim("batch")}
    if detector.fusion.any_nodes:
        sizes[1] = torch.export.Dim("nodes")
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.export(
                _FeaturesToScores(detector), example, dynamic_shapes=(tuple(sizes for _ in example),), strict=False
            )
    except Exception as error:  # whatever torch.export meets in a fusion that it cannot trace
        raise ParameterError(
            f"the fusion '{detector.fusion.kind}' cannot be exported", got=str(error).splitlines()[0], fix="use 'score'"
        ) from error
    return program, example


def _onnx_bytes(program: Any, example: tuple[Tensor, ...], names: list[str], about: dict[str, Any]) -> bytes:
    try:
        import onnx
        import onnxscript  # noqa: F401 - torch.onnx needs it
    except ImportError as error:
        raise MissingExtraError(str(error.name), "onnx") from error
    outputs = ["logit", "score", "graph"][: len(program.graph_signature.user_outputs)]
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exported = torch.onnx.export(program, example, input_names=names, output_names=outputs, dynamo=True, verbose=False)
    finally:
        logger.setLevel(level)
    if exported is None:
        raise ParameterError("torch.onnx gave no model", fix="report this with the settings of the run")
    model = exported.model_proto
    onnx.helper.set_model_props(model, {METADATA: json.dumps(about)})
    onnx.checker.check_model(model)
    written: bytes = model.SerializeToString()
    return written
