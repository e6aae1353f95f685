"""lego-fusion: fuse feature sets by their relations, find what is abnormal in video, and show why.

Axis letters of every shape in this package: b batch (a bag, one video or one crop of it), m modality, n node, d feature,
p and q order of a power, c crop, t snippet, k class, reference unit or top-k, f number handed on per node.

The public names below are imported when they are first used; ``import lego_fusion`` itself loads neither torch nor numpy.

Example:
    >>> import lego_fusion
    >>> lego_fusion.LegoFusion({"motion": 8, "text": 4}, references=0).out_features
    32
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "LegoFusionError": "errors",
    "Dataset": "data.dataset",
    "Manifest": "data.manifest",
    "diagnose": "data.doctor",
    "render_scenes": "data.synthetic",
    "write_dataset": "data.dataset",
    "join_views": "data.views",
    "write_features": "data.features",
    "Appearance": "extract.appearance",
    "Audio": "extract.audio",
    "Motion": "extract.motion",
    "MotionCells": "extract.motion_units",
    "MotionFrames": "extract.motion_units",
    "Words": "extract.words",
    "OnnxImage": "extract.onnx",
    "Text": "extract.text",
    "extract_dataset": "extract.run",
    "extract_video": "extract.run",
    "Concat": "fusion.elementwise",
    "LegoBlock": "fusion.block",
    "LegoFusion": "fusion.lego",
    "LegoClassifier": "estimators",
    "LegoRegressor": "estimators",
    "Detector": "detect.detector",
    "TrainingConfig": "detect.train",
    "VideoScores": "detect.runs",
    "evaluate_runs": "detect.evaluation",
    "load_detector": "detect.checkpoint",
    "make_plan": "detect.planning",
    "score_dataset": "detect.runs",
    "score_video": "detect.runs",
    "train_run": "detect.runs",
    "Result": "measure.result",
    "ScoredVideo": "measure.scored",
    "bootstrap_interval": "measure.intervals",
    "compare": "detect.comparison",
    "detection_metrics": "measure.detection",
    "micro_auc": "measure.detection",
}

__all__ = ["__version__", *sorted(_HOME)]

if TYPE_CHECKING:
    from .data.dataset import Dataset as Dataset
    from .data.dataset import write_dataset as write_dataset
    from .data.doctor import diagnose as diagnose
    from .data.features import write_features as write_features
    from .data.manifest import Manifest as Manifest
    from .data.synthetic import render_scenes as render_scenes
    from .data.views import join_views as join_views
    from .detect.checkpoint import load_detector as load_detector
    from .detect.comparison import compare as compare
    from .detect.detector import Detector as Detector
    from .detect.evaluation import evaluate_runs as evaluate_runs
    from .detect.planning import make_plan as make_plan
    from .detect.runs import VideoScores as VideoScores
    from .detect.runs import score_dataset as score_dataset
    from .detect.runs import score_video as score_video
    from .detect.runs import train_run as train_run
    from .detect.train import TrainingConfig as TrainingConfig
    from .errors import LegoFusionError as LegoFusionError
    from .estimators import LegoClassifier as LegoClassifier
    from .estimators import LegoRegressor as LegoRegressor
    from .extract.appearance import Appearance as Appearance
    from .extract.audio import Audio as Audio
    from .extract.motion import Motion as Motion
    from .extract.motion_units import MotionCells as MotionCells
    from .extract.motion_units import MotionFrames as MotionFrames
    from .extract.onnx import OnnxImage as OnnxImage
    from .extract.run import extract_dataset as extract_dataset
    from .extract.run import extract_video as extract_video
    from .extract.text import Text as Text
    from .extract.words import Words as Words
    from .fusion.block import LegoBlock as LegoBlock
    from .fusion.elementwise import Concat as Concat
    from .fusion.lego import LegoFusion as LegoFusion
    from .measure.detection import detection_metrics as detection_metrics
    from .measure.detection import micro_auc as micro_auc
    from .measure.intervals import bootstrap_interval as bootstrap_interval
    from .measure.result import Result as Result
    from .measure.scored import ScoredVideo as ScoredVideo


def __getattr__(name: str) -> Any:
    """Import a public name from its home when it is first asked for."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names, imported or not."""
    return sorted({*globals(), *__all__})
