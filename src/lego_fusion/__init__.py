"""lego-fusion: fuse feature sets by their relations, find what is abnormal in video, and show why.

Axis letters of every shape in this package: b batch (a bag, one video or one crop of it), m modality, n node, d feature,
p and q order of a power, c crop, t snippet, k class, reference unit or top-k, f number handed on per node.

The public names below are imported when they are first used; ``import lego_fusion`` itself loads neither torch nor numpy.

Example:
    >>> import lego_fusion
    >>> lego_fusion.PaperFusion({"motion": 8, "text": 4}, nodes=32).out_features
    32
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

_HOME = {
    "LegoFusionError": "errors",
    "Dataset": "data.dataset",
    "Manifest": "data.manifest",
    "diagnose": "data.doctor",
    "render_scenes": "scenes.render",
    "write_dataset": "data.dataset",
    "join_views": "data.views",
    "write_features": "data.features",
    "Appearance": "extract.appearance",
    "Audio": "extract.audio",
    "Motion": "extract.motion",
    "MotionCells": "extract.motion",
    "MotionFrames": "extract.motion",
    "Words": "extract.text",
    "OnnxImage": "extract.onnx",
    "Text": "extract.text",
    "extract_dataset": "extract.run",
    "extract_video": "extract.run",
    "Concat": "fusion.elementwise",
    "LegoBlock": "fusion.block",
    "LegoFusion": "fusion.lego",
    "PaperFusion": "fusion.paper",
    "LegoClassifier": "estimators",
    "LegoRegressor": "estimators",
    "Detector": "learn.detector",
    "TrainingConfig": "learn.train",
    "VideoScores": "learn.runs",
    "evaluate_runs": "learn.evaluation",
    "load_detector": "learn.checkpoint",
    "make_plan": "study.planning",
    "score_dataset": "learn.runs",
    "score_video": "learn.video_scoring",
    "train_run": "learn.runs",
    "Result": "measure.result",
    "ScoredVideo": "measure.scored",
    "bootstrap_interval": "measure.intervals",
    "compare": "study.comparison",
    "detection_metrics": "measure.detection",
    "micro_auc": "measure.detection",
    "Explainer": "why.explainer",
    "explain_video": "why.explanation",
    "explain_operator": "why.explanation",
    "operator_history": "why.explanation",
    "run_contributions": "why.contributions",
    "save_dissection": "report.dissection_files",
    "save_cards": "report.cards",
    "load_pictures": "report.pictures",
    "run_report": "report.run_report",
    "video_report": "report.run_report",
    "report_pictures": "report.run_report",
    "save_report": "report.run_report",
    "operator_terms": "explain.terms",
    "model_contributions": "explain.contributions",
    "emap": "explain.additive",
    "partial_information": "explain.information",
    "cka": "explain.similarity",
    "similarity_matrix": "explain.similarity",
    "dissect": "dissection.dissect",
    "split_dimensions": "explain.dimensions",
}

__all__ = ["__version__", *sorted(_HOME)]

if TYPE_CHECKING:
    from .data.dataset import Dataset as Dataset
    from .data.dataset import write_dataset as write_dataset
    from .data.doctor import diagnose as diagnose
    from .data.features import write_features as write_features
    from .data.manifest import Manifest as Manifest
    from .data.views import join_views as join_views
    from .dissection.dissect import dissect as dissect
    from .errors import LegoFusionError as LegoFusionError
    from .estimators import LegoClassifier as LegoClassifier
    from .estimators import LegoRegressor as LegoRegressor
    from .explain.additive import emap as emap
    from .explain.contributions import model_contributions as model_contributions
    from .explain.dimensions import split_dimensions as split_dimensions
    from .explain.information import partial_information as partial_information
    from .explain.similarity import cka as cka
    from .explain.similarity import similarity_matrix as similarity_matrix
    from .explain.terms import operator_terms as operator_terms
    from .extract.appearance import Appearance as Appearance
    from .extract.audio import Audio as Audio
    from .extract.motion import Motion as Motion
    from .extract.motion import MotionCells as MotionCells
    from .extract.motion import MotionFrames as MotionFrames
    from .extract.onnx import OnnxImage as OnnxImage
    from .extract.run import extract_dataset as extract_dataset
    from .extract.run import extract_video as extract_video
    from .extract.text import Text as Text
    from .extract.text import Words as Words
    from .fusion.block import LegoBlock as LegoBlock
    from .fusion.elementwise import Concat as Concat
    from .fusion.lego import LegoFusion as LegoFusion
    from .fusion.paper import PaperFusion as PaperFusion
    from .learn.checkpoint import load_detector as load_detector
    from .learn.detector import Detector as Detector
    from .learn.evaluation import evaluate_runs as evaluate_runs
    from .learn.runs import VideoScores as VideoScores
    from .learn.runs import score_dataset as score_dataset
    from .learn.runs import train_run as train_run
    from .learn.train import TrainingConfig as TrainingConfig
    from .learn.video_scoring import score_video as score_video
    from .measure.detection import detection_metrics as detection_metrics
    from .measure.detection import micro_auc as micro_auc
    from .measure.intervals import bootstrap_interval as bootstrap_interval
    from .measure.result import Result as Result
    from .measure.scored import ScoredVideo as ScoredVideo
    from .report.cards import save_cards as save_cards
    from .report.dissection_files import save_dissection as save_dissection
    from .report.pictures import load_pictures as load_pictures
    from .report.run_report import report_pictures as report_pictures
    from .report.run_report import run_report as run_report
    from .report.run_report import save_report as save_report
    from .report.run_report import video_report as video_report
    from .scenes.render import render_scenes as render_scenes
    from .study.comparison import compare as compare
    from .study.planning import make_plan as make_plan
    from .why.contributions import run_contributions as run_contributions
    from .why.explainer import Explainer as Explainer
    from .why.explanation import explain_operator as explain_operator
    from .why.explanation import explain_video as explain_video
    from .why.explanation import operator_history as operator_history


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
