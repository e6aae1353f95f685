"""The scorer of a running stream against the offline scores, which are its oracle."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from lego_fusion.alarm.live import SegmentMaker, StreamScorer, stream_extractors
from lego_fusion.data.dataset import Dataset
from lego_fusion.data.manifest import Manifest
from lego_fusion.data.video import Frame
from lego_fusion.errors import DataError, ManifestError, ParameterError
from lego_fusion.extract.audio import Audio
from lego_fusion.extract.base import Snippet, iterate_snippets
from lego_fusion.extract.motion import Motion
from lego_fusion.fusion.base import Fusion
from lego_fusion.fusion.lego import LegoFusion
from lego_fusion.fusion.paper import PaperFusion
from lego_fusion.fusion.relation import mean_over_units
from lego_fusion.learn.bags import Bags, bag_of_segments, fit_frozen, fixed_segments
from lego_fusion.learn.checkpoint import RunConfig, read_run_config
from lego_fusion.learn.configuration import TrainingConfig
from lego_fusion.learn.detector import Detector
from lego_fusion.learn.methods import LEARNED, make_default_fusion
from lego_fusion.learn.runs import train_run
from lego_fusion.learn.train import predict_logits

WINDOW = 4
MANIFESTS = {
    "motion": Manifest(modality="motion", extractor="motion", version="1", width=3, nature="magnitude"),
    "text": Manifest(modality="text", extractor="text", version="1", width=4),
}
CELLS = Manifest(modality="cells", extractor="cells", version="1", width=2, unit_kind="cell", units=6, grid=(2, 3))


def config(manifests: dict[str, Manifest], snippets: int = 1, nodes: int = WINDOW) -> RunConfig:
    empty: dict[str, object] = {"detector": {}, "training": {}, "dataset": {}}
    return RunConfig(format=1, lego_fusion="0", nodes=nodes, segment_snippets=snippets, manifests=manifests, **empty)


def features(length: int, *, videos: int = 1, seed: int = 0, cells: bool = False) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    values = {name: torch.randn(videos, length, one.width, generator=random) for name, one in MANIFESTS.items()}
    if cells:
        drawn = torch.randn(videos, length, 6, 2, generator=random)
        values["cells"] = torch.cat([drawn, torch.ones(videos, length, 6, 1)], dim=-1)
    return values


def streamed(
    detector: Detector, manifests: dict[str, Manifest], values: dict[str, torch.Tensor], window: int = WINDOW
) -> list[float]:
    scorer = StreamScorer(detector, config(manifests, nodes=window))
    length = next(iter(values.values())).shape[1]
    return [scorer.push({name: x[:, t : t + 1] for name, x in values.items()}) for t in range(length)]


def fitted(fusion: Fusion, *, cells: bool = False, own: bool = False, flat: bool = False) -> Detector:
    """A detector with weights that let every reading count; ``flat`` fits it on the means of finer units."""
    values = features(6, videos=5, seed=9, cells=cells)
    if flat:
        values = {name: mean_over_units(x) if x.ndim == 4 else x for name, x in values.items()}
    fusion.fit(values, torch.arange(5) % 3 == 2, torch.arange(5))
    detector = Detector(fusion, seed=3).eval()
    if detector.reading_head is not None:
        random = torch.Generator().manual_seed(1)
        for parameter in detector.reading_head.parameters():
            parameter.data.copy_(torch.randn(parameter.shape, generator=random) / 2)
        detector.reading_head.use_own_world(own)
    return detector


PAPER = {
    "cosine": {},
    "unit-range": {"unit_range": True},
    "gaussian": {"relations": "gaussian"},
    "dot": {"relations": "dot"},
    "nearest": {"nearest": 2},
    "matrix": {"expansion": "matrix"},
    "sorted": {"rows": "sorted"},
    "statistics": {"rows": "statistics"},
    "propagate": {"rows": "propagate"},
    "own": {"own_features": True},
}
KNOWN = {
    "default": {"window": WINDOW},
    "no-time": {"window": WINDOW, "time_context": 0.0},
    "one-segment": {"window": 1},
    "wide-window": {"window": 15},
    "few-known": {"window": WINDOW, "references": 3},
    "learned": {"window": WINDOW, "operator": "learned"},
    "not-causal": {"window": None},
}


def agree(detector: Detector, values: dict[str, torch.Tensor], window: int = WINDOW, **manifests: Manifest) -> None:
    """Streamed and recorded logits are the same."""
    offline = predict_logits(detector, bag_of_segments("v", values, window=window))[0]
    online = streamed(detector, {**MANIFESTS, **manifests}, values, window)
    assert online == pytest.approx(offline.tolist(), rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("name", PAPER)
def test_a_stream_equals_the_recorded_video_for_every_reading_of_the_graph(name: str) -> None:
    agree(fitted(PaperFusion({"motion": 3, "text": 4}, nodes=WINDOW, **PAPER[name])), features(11))


@pytest.mark.parametrize("length", [1, 2, 40])
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("name", KNOWN)
def test_a_stream_equals_the_recorded_video_against_known_normals(name: str, own: bool, length: int) -> None:
    detector = fitted(LegoFusion({"motion": 3, "text": 4}, **KNOWN[name]), own=own)
    agree(detector, features(length), KNOWN[name]["window"] or WINDOW)


@pytest.mark.parametrize("own", [False, True])
def test_a_stream_equals_a_video_that_is_padded_among_others(own: bool) -> None:
    detector = fitted(LegoFusion({"motion": 3, "text": 4}, window=WINDOW), own=own)
    values = features(12, videos=2)
    mask = torch.arange(12) < torch.tensor([12, 7])[:, None]
    bags = Bags(("a", "b"), torch.zeros(2, dtype=torch.bool), 1, values, mask, WINDOW)
    offline = predict_logits(detector, bags)[1, :7]
    alone = {name: x[1:, :7] for name, x in values.items()}
    assert streamed(detector, MANIFESTS, alone) == pytest.approx(offline.tolist(), rel=1e-5, abs=1e-5)


def test_copies_and_pauses_of_a_stream_are_those_of_the_recording() -> None:
    """Snippets in a row with equal features are one to the graph inside the video."""
    detector = fitted(LegoFusion({"motion": 3, "text": 4}, window=6), own=True)
    agree(detector, {name: x[:, [0, 1, 1, 1, 2, 3, 3, 4, 5, 5, 6, 7]] for name, x in features(8).items()}, 6)


@pytest.mark.parametrize(("own", "window", "before"), [(False, 32, 8), (True, 32, 31), (True, 4, 8)])
def test_what_a_stream_needs_of_the_past(own: bool, window: int, before: int) -> None:
    """Four deviations of the time context; the window where a score depends on the graph inside the video."""
    detector = fitted(LegoFusion({"motion": 3, "text": 4}, window=window), own=own)
    scorer, values = StreamScorer(detector, config(MANIFESTS, nodes=window)), features(60)
    assert scorer.before == before
    whole = [scorer.push({name: x[:, t : t + 1] for name, x in values.items()}) for t in range(60)]
    scorer.clear()
    late = [scorer.push({name: x[:, t : t + 1] for name, x in values.items()}) for t in range(59 - before, 60)]
    assert late[-1] == pytest.approx(whole[-1], rel=1e-6, abs=1e-6)
    scorer.clear()
    later = [scorer.push({name: x[:, t : t + 1] for name, x in values.items()}) for t in range(60 - before, 60)]
    assert abs(later[-1] - whole[-1]) > 1e-6


def test_no_segment_is_read_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    detector = fitted(LegoFusion({"motion": 3, "text": 4}, window=WINDOW), own=True)
    scorer, values, rows = StreamScorer(detector, config(MANIFESTS)), features(20), []
    known = detector.fusion.known_normals("motion")
    read = known.surprise
    monkeypatch.setattr(known, "surprise", lambda x: (rows.append(x.shape[:-1].numel()), read(x))[1])
    for t in range(20):
        scorer.push({name: x[:, t : t + 1] for name, x in values.items()})
    assert rows == [1] * 20


@pytest.mark.parametrize("method", LEARNED)
def test_a_stream_equals_the_recorded_video_for_every_method(method: str) -> None:
    agree(fitted(make_default_fusion(method, MANIFESTS, nodes=WINDOW, seed=2, window=WINDOW)), features(9, seed=4))


@pytest.mark.parametrize("own", [False, True])
def test_finer_units_stream_as_they_are_recorded(own: bool) -> None:
    widths = {"motion": 3, "cells": 2}
    detector = fitted(LegoFusion(widths, window=WINDOW, units={"cells": 2}), cells=True, own=own)
    agree(detector, features(9, cells=True), cells=CELLS)


@pytest.mark.parametrize("units", [{}, {"cells": 2}])
def test_finer_units_inside_the_window_stream_as_they_are_recorded(units: dict[str, int]) -> None:
    detector = fitted(PaperFusion({"motion": 3, "cells": 2}, nodes=WINDOW, units=units), cells=True, flat=not units)
    values = features(7, cells=True)
    if not units:
        values["cells"] = mean_over_units(values["cells"])
    agree(detector, values, cells=CELLS)


def test_a_segment_at_the_centre_is_like_itself() -> None:
    detector = fitted(PaperFusion({"motion": 3}, nodes=WINDOW, centre=True))
    centre = detector.fusion.relation["motion"].centre
    agree(detector, {"motion": torch.stack([torch.ones(3), centre, centre, torch.ones(3)])[None]})


@pytest.mark.parametrize("method", ["lego", "lego-paper", "concat"])
def test_a_new_take_is_a_new_video(method: str) -> None:
    detector = fitted(make_default_fusion(method, MANIFESTS, nodes=WINDOW, window=WINDOW))
    scorer, values = StreamScorer(detector, config(MANIFESTS)), features(5)
    first = [scorer.push({name: x[:, t : t + 1] for name, x in values.items()}) for t in range(5)]
    scorer.clear()
    assert [scorer.push({name: x[:, t : t + 1] for name, x in values.items()}) for t in range(5)] == first


@pytest.mark.parametrize("method", ["lego", "lego-paper", "concat"])
def test_what_is_kept_does_not_grow(method: str) -> None:
    detector = fitted(make_default_fusion(method, MANIFESTS, nodes=WINDOW, window=WINDOW), own=True)
    scorer, values = StreamScorer(detector, config(MANIFESTS)), features(80)

    def push(begin: int, end: int) -> int:
        for t in range(begin, end):
            scorer.push({name: x[:, t : t + 1] for name, x in values.items()})
        kept: list[object] = list(vars(scorer._stream).values())
        tensors = [x for one in kept for x in (one.values() if isinstance(one, dict) else [one]) if isinstance(x, torch.Tensor)]
        return sum(x.untyped_storage().nbytes() for x in tensors)

    assert 0 < push(0, 40) == push(40, 80)


def test_a_score_that_is_not_finite_is_refused() -> None:
    detector = fitted(PaperFusion({"motion": 3}, nodes=WINDOW, relations="dot"))
    with pytest.raises(DataError, match="not finite"):
        StreamScorer(detector, config(MANIFESTS)).push({"motion": torch.full((1, 1, 3), float("inf"))})


def snippets_of(count: int, *, frames: int = 4, stride: int = 4, fps: float = 10.0) -> list[Snippet]:
    pictures = [Frame(i, i / fps, np.zeros((2, 2, 3), np.uint8)) for i in range(count)]
    return list(iterate_snippets(pictures, frames, stride))


def made(snippets: list[Snippet], size: int, *, stride: int = 4) -> tuple[list, np.ndarray]:
    rows = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    maker = SegmentMaker({"motion": MANIFESTS["motion"]}, size, stride=stride, rate=10.0)
    segments = [one for snippet in snippets for one in maker.push(snippet, {"motion": rows[snippet.index]})]
    return segments + maker.finish(), rows


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize(("frames", "stride"), [(4, 4), (4, 2), (2, 4)])
def test_segments_are_those_of_the_recorded_video(size: int, frames: int, stride: int) -> None:
    snippets = snippets_of(30, frames=frames, stride=stride)
    segments, rows = made(snippets, size, stride=stride)
    offline = fixed_segments(rows[: len(snippets)], MANIFESTS["motion"], size)[0]
    streamed_features = torch.cat([one.features["motion"][0] for one in segments])
    torch.testing.assert_close(streamed_features, offline, rtol=0, atol=0)
    assert [one.number for one in segments] == list(range(len(offline)))
    starts = [one.start_seconds for one in segments]
    assert starts == pytest.approx([number * size * stride / 10 for number in range(len(offline))])
    if frames >= stride:
        assert [one.end_seconds for one in segments[:-1]] == pytest.approx(starts[1:])


def test_a_dropped_snippet_leaves_its_segment_the_others() -> None:
    snippets = snippets_of(32)
    kept = [one for one in snippets if one.index not in (1, 4, 5)]
    segments, rows = made(kept, 2)
    assert [one.number for one in segments] == [0, 1, 3]
    np.testing.assert_allclose(segments[0].features["motion"][0, 0], rows[0])
    np.testing.assert_allclose(segments[1].features["motion"][0, 0], rows[2:4].mean(0), rtol=1e-6)


def test_segments_take_time_also_where_frames_have_none() -> None:
    still = [Snippet(i, tuple(Frame(4 * i + j, 1.0, np.zeros((2, 2, 3), np.uint8)) for j in range(4)), None) for i in range(4)]
    segments, _ = made(still, 1)
    edges = [(one.start_seconds, one.end_seconds) for one in segments]
    assert all(start < end for start, end in edges)
    assert all(before[1] <= after[0] for before, after in pairwise(edges))


def motion_config(**changes: object) -> RunConfig:
    return config({"motion": Motion().manifest("motion")}).model_copy(update=changes)


def test_a_model_of_equal_spans_is_refused() -> None:
    with pytest.raises(ParameterError, match=r"cuts a whole video into equal spans.*--segment-snippets"):
        stream_extractors(motion_config(segment_snippets=None))


def test_a_model_that_needs_captions_is_refused_by_name(planted: Dataset, tmp_path: Path) -> None:
    pytest.importorskip("sentence_transformers", reason="pip install 'lego-fusion[text]'")
    from lego_fusion.extract.text import Words

    manifests = {"motion": Motion().manifest("motion"), "told": Words().manifest("told")}
    with pytest.raises(ParameterError, match="needs captions for modality 'told', which a stream does not bring"):
        stream_extractors(config(manifests))


def test_a_model_that_needs_sound_is_refused_by_name() -> None:
    with pytest.raises(ParameterError, match="needs the sound for modality 'noise'"):
        stream_extractors(config({"noise": Audio().manifest("noise")}))


def test_a_model_of_imported_or_cropped_features_is_refused(planted: Dataset, tmp_path: Path) -> None:
    train_run(planted, tmp_path / "run", modalities=["motion"], training=TrainingConfig(steps=0), segment_snippets=1)
    with pytest.raises((ParameterError, ManifestError, DataError)):
        stream_extractors(read_run_config(tmp_path / "run"))  # its manifest is of a version that nobody can make again
    cropped = Motion().manifest("motion").model_copy(update={"crops": 10})
    with pytest.raises(ParameterError, match="10 crops"):
        stream_extractors(config({"motion": cropped}))


def test_fitting_needs_no_other_statistics() -> None:
    """A detector fitted on ragged bags is the one fitted on their rows."""
    values = features(6, videos=5, seed=9)
    bags = bag_of_segments("v", {name: x[:1] for name, x in values.items()}, window=WINDOW)
    one, other = (make_default_fusion("concat", MANIFESTS, nodes=WINDOW, seed=2) for _ in range(2))
    fit_frozen(one, bags)
    other.fit(bags.inputs, bags.labels, torch.zeros(1, dtype=torch.long))
    for left, right in zip(one.state_dict().values(), other.state_dict().values(), strict=True):
        torch.testing.assert_close(left, right)
