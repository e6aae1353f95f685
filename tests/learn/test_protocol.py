"""Splits, runs and frame scores: how a number comes about, and what must have no part in it."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from lego_fusion.data.dataset import Dataset, write_dataset
from lego_fusion.data.features import write_features
from lego_fusion.data.tables import DatasetConfig, Interval, VideoRecord
from lego_fusion.errors import DataError, ParameterError
from lego_fusion.fusion.elementwise import Concat
from lego_fusion.fusion.lego import LegoFusion
from lego_fusion.fusion.paper import PaperFusion
from lego_fusion.fusion.registry import FUSIONS, make_plain_fusion
from lego_fusion.learn.bags import Bags, load_bags
from lego_fusion.learn.configuration import TrainingConfig
from lego_fusion.learn.methods import (
    LEARNED,
    UNLEARNED,
    ModelShape,
    draws_at_random,
    frame_scores,
    make_default_fusion,
    run_method,
    scored_videos,
)
from lego_fusion.learn.splits import Split, divided_sources, division_warnings, hold_out, own_split, resplits
from lego_fusion.measure.detection import abnormal_auc, micro_auc

N = 8
MODALITIES = ("motion", "text")
THOROUGHLY = ("lego", "lego-paper", "concat", "gated")  # of the learned methods: with and without relations, and weights
WHOLE_UNLEARNED = [method for method in UNLEARNED if method != "nearest-cells"]  # the planted set has no finer units
QUICK = TrainingConfig(steps=12, learning_rate=1e-2, check_every=5)


@pytest.fixture(scope="module")
def bags(planted: Dataset) -> Bags:
    return load_bags(planted, MODALITIES, [record.video for record in planted.videos], nodes=N)


def run(planted: Dataset, bags: Bags, method: str = "lego", config: TrainingConfig = QUICK, **options):
    split = options.pop("split", None) or own_split(planted)
    return run_method(
        planted, bags, split, options.pop("modalities", MODALITIES), method, config, ModelShape(nodes=N), **options
    )


def poisoned(bags: Bags, videos: tuple[str, ...]) -> Bags:
    there = torch.tensor([video in videos for video in bags.videos])
    assert there.sum() == len(videos)
    return Bags(
        bags.videos,
        bags.labels,
        1,
        {name: x.masked_fill(there[:, None, None], float("nan")) for name, x in bags.inputs.items()},
    )


def same_weights(first, second) -> bool:
    a, b = first.detector.state_dict(), second.detector.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def same_scores(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[video], second[video]) for video in first)


def labels_of(dataset: Dataset, videos: tuple[str, ...]) -> Counter:
    return Counter(dataset.records[video].label for video in videos)


def folder_of(root, splits: dict[str, tuple[int, int]]) -> Dataset:
    """A dataset of names only: normal and abnormal numbers of videos in each split."""
    records = [
        VideoRecord(f"{split or 'none'}_{label}_{number}", label, 16, 10.0, split)
        for split, counts in splits.items()
        for label, count in zip(("normal", "abnormal"), counts, strict=True)
        for number in range(count)
    ]
    return write_dataset(root, DatasetConfig(name="names"), records)


def in_sources(dataset: Dataset, root: Path, size: int) -> Dataset:
    """The same tables, every ``size`` videos of a name's kind from one recording."""
    records = [
        replace(one, source=f"{one.video.rpartition('_')[0]} {int(one.video.rpartition('_')[2]) // size}")
        for one in dataset.videos
    ]
    truth = [interval for found in dataset.ground_truth.values() for interval in found]
    return write_dataset(root, dataset.config, records, truth)


def sources_in(dataset: Dataset, videos: tuple[str, ...]) -> set[str]:
    return {dataset.records[video].source for video in videos}


def test_no_resplit_and_no_hold_out_divides_a_source(write_planted, tmp_path):
    dataset = in_sources(write_planted(tmp_path / "a", train=(6, 6), test=(6, 6)), tmp_path / "b", 3)
    splits = resplits(dataset, 5)
    assert resplits(dataset, 2) == splits[:2], "more splits do not change the first ones"
    assert len({frozenset(split.train) for split in splits}) == 5
    for split in splits:
        assert not sources_in(dataset, split.train) & sources_in(dataset, split.test)
        assert Counter(dataset.records[video].label for video in split.train) == {"normal": 6, "abnormal": 6}
        assert sorted(split.train + split.test) == sorted(one.video for one in dataset.videos)
        assert divided_sources(dataset, split) == {}
        held = hold_out(dataset, split, 0.4, seed=1)
        assert not sources_in(dataset, held.train) & sources_in(dataset, held.validation)
        assert Counter(dataset.records[video].label for video in held.validation) == {"normal": 3, "abnormal": 3}


def test_sources_of_one_video_change_no_draw(planted, tmp_path):
    alone = in_sources(planted, tmp_path, 1)
    assert resplits(alone, 4, seed=3) == resplits(planted, 4, seed=3)
    assert hold_out(alone, own_split(alone), 0.3, seed=2) == hold_out(planted, own_split(planted), 0.3, seed=2)


def test_mixed_sources_come_near_the_numbers_of_the_own_split(write_planted, tmp_path):
    """Recordings with normal and abnormal parts: 12 of each label train, in sources of 1 to 6 videos."""
    dataset = write_planted(tmp_path / "a", train=(12, 12), test=(12, 12))
    sizes = [1, 2, 3, 4, 5, 6] * 4
    places = [number for number, size in enumerate(sizes) for _ in range(size)]
    mixed = np.random.default_rng(0).permutation(len(dataset.videos))
    records = [replace(one, source=f"tape {places[mixed[number]]}") for number, one in enumerate(dataset.videos)]
    truth = [interval for found in dataset.ground_truth.values() for interval in found]
    dataset = write_dataset(tmp_path / "b", dataset.config, records, truth)
    for split in resplits(dataset, 8):
        counts = Counter(dataset.records[video].label for video in split.train)
        assert abs(counts["normal"] - 12) <= 1
        assert abs(counts["abnormal"] - 12) <= 1
        assert divided_sources(dataset, split) == {}


def test_a_split_that_divides_a_source_is_said(planted, tmp_path):
    records = [
        replace(one, source="tape" if one.video in ("train_normal_0", "test_abnormal_1") else "") for one in planted.videos
    ]
    dataset = write_dataset(tmp_path, planted.config, records, [i for found in planted.ground_truth.values() for i in found])
    assert divided_sources(dataset, own_split(dataset)) == {"tape": ("train_normal_0", "test_abnormal_1")}
    (line,) = division_warnings(dataset, own_split(dataset))
    assert "split 'own' divides 1 of the sources" in line
    assert "'tape' (train_normal_0, test_abnormal_1)" in line
    assert division_warnings(planted, own_split(planted)) == []


def test_sources_that_cannot_be_divided_are_refused(write_planted, tmp_path):
    dataset = write_planted(tmp_path / "a", train=(3, 3), test=(3, 3))
    one_tape = [replace(one, source="tape" if one.label == "abnormal" else "") for one in dataset.videos]
    truth = [interval for found in dataset.ground_truth.values() for interval in found]
    whole = write_dataset(tmp_path / "b", dataset.config, one_tape, truth)
    with pytest.raises(DataError, match=r"the sources cannot be divided.*1 sources with abnormal videos"):
        resplits(whole, 1)
    with pytest.raises(DataError, match="the sources cannot be divided"):
        hold_out(whole, own_split(whole), 0.3)
    halves = [
        replace(one, source=f"{one.label} {int(one.video[-1]) % 2 if one.split == 'train' else 0}") for one in dataset.videos
    ]
    few = write_dataset(tmp_path / "c", dataset.config, halves, truth)
    with pytest.raises(DataError, match="do not divide in so many ways: expected 9 splits"):
        resplits(few, 9)


def test_the_own_split_is_the_column_of_the_table(tmp_path):
    dataset = folder_of(tmp_path, {"train": (2, 1), "test": (1, 1), "validation": (1, 0), "": (1, 1)})
    split = own_split(dataset)
    assert split.train == ("train_normal_0", "train_normal_1", "train_abnormal_0")
    assert split.test == ("test_normal_0", "test_abnormal_0")
    assert split.validation == ("validation_normal_0",)


def test_a_dataset_without_training_videos(tmp_path):
    with pytest.raises(DataError, match=r"no video is marked for training \(videos\.csv\)"):
        own_split(folder_of(tmp_path, {"test": (2, 2)}))


def test_resplits_train_on_as_many_of_each_label_and_test_on_the_rest(planted):
    own = own_split(planted)
    everyone = {*own.train, *own.test}
    for split in resplits(planted, 6):
        assert labels_of(planted, split.train) == labels_of(planted, own.train)
        assert len(set(split.train)) == len(split.train) and len(set(split.test)) == len(split.test)
        assert set(split.train).isdisjoint(split.test) and set(split.train) | set(split.test) == everyone
        assert split.validation == ()


def test_resplits_are_decided_by_seed_and_place(planted):
    six = resplits(planted, 6, seed=1)
    assert resplits(planted, 6, seed=1) == six
    assert resplits(planted, 2, seed=1) == six[:2], "more splits do not change the first ones"
    assert resplits(planted, 6, seed=2) != six
    assert len({split.train for split in six}) > 1
    assert len({split.name for split in (*six, *resplits(planted, 6, seed=2))}) == 12
    with pytest.raises(ParameterError, match="'count' parameter of resplits"):
        resplits(planted, 0)


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.9])
def test_holding_out_takes_some_of_each_label_and_never_all(planted, share):
    own = own_split(planted)
    split = hold_out(planted, own, share, seed=3)
    assert split == hold_out(planted, own, share, seed=3)
    assert split.test == own.test and split.name == own.name
    assert sorted((*split.train, *split.validation)) == sorted(own.train)
    for label, count in labels_of(planted, own.train).items():
        held = labels_of(planted, split.validation)[label]
        assert 1 <= held <= count - 1 and abs(held - share * count) <= 1


def test_holding_out_of_two_videos_leaves_one(tmp_path):
    dataset = folder_of(tmp_path, {"train": (2, 2), "test": (1, 1)})
    for share in (0.1, 0.9):
        split = hold_out(dataset, own_split(dataset), share)
        assert labels_of(dataset, split.train) == labels_of(dataset, split.validation) == {"normal": 1, "abnormal": 1}


def test_errors_of_holding_out(tmp_path):
    dataset = folder_of(tmp_path, {"train": (4, 1), "test": (1, 1)})
    with pytest.raises(
        DataError, match="too few training videos to hold some out: expected at least 2 of each label, got 1 abnor"
    ):
        hold_out(dataset, own_split(dataset), 0.2)
    with pytest.raises(ParameterError, match="'share' parameter of hold_out"):
        hold_out(dataset, own_split(dataset), 1.0)


def timed_dataset(root, frames: int, stride: int, snippet_frames: int) -> Dataset:
    records = [VideoRecord("v01", "abnormal", frames, 10.0, "test"), VideoRecord("v02", "normal", frames, 10.0, "test")]
    config = DatasetConfig(name="timed", stride=stride, snippet_frames=snippet_frames)
    return write_dataset(root, config, records, [Interval("v01", 0, max(1, frames // 2))])


@pytest.mark.parametrize("frames", [1, 7, 8, 9, 16, 17, 61, 200])
@pytest.mark.parametrize(("stride", "snippet_frames"), [(8, 8), (16, 16), (4, 8), (8, 4)])
def test_every_frame_gets_one_score_the_last_partial_snippet_too(frames, stride, snippet_frames, tmp_path):
    dataset = timed_dataset(tmp_path, frames, stride, snippet_frames)
    node_scores = torch.linspace(0, 1, N, dtype=torch.float64)
    scores = frame_scores(dataset, "v01", node_scores)
    assert scores.shape == (frames,) and torch.isfinite(scores).all()
    rows = dataset.rows("v01")
    per_row: list[list[float]] = [[] for _ in range(rows)]
    for node in range(N):
        first = int(rows * node / N)
        for row in range(first, max(int(rows * (node + 1) / N), first + 1)):
            per_row[row].append(node_scores[node].item())
    expected = []
    for frame in range(frames):
        showing = [row for row in range(rows) if row * stride <= frame < row * stride + max(stride, snippet_frames)]
        means = [sum(per_row[row]) / len(per_row[row]) for row in showing]
        expected.append(sum(means) / len(means))
    np.testing.assert_allclose(scores.numpy(), expected, rtol=1e-12)
    scored = scored_videos(dataset, {"v01": node_scores, "v02": node_scores})
    assert [video.frames for video in scored] == [frames, frames]
    assert sum(video.weights[video.labels].sum() for video in scored) == max(1, frames // 2)


def test_an_abnormal_video_without_an_abnormal_frame_is_an_error(tmp_path):
    records = [VideoRecord("v01", "abnormal", 32, 10.0, "test")]
    dataset = write_dataset(tmp_path, DatasetConfig(name="bad"), records)
    with pytest.raises(DataError, match=r"no ground truth in time \(video 'v01'"):
        scored_videos(dataset, {"v01": torch.zeros(N)})


@pytest.mark.parametrize("method", [*LEARNED, *WHOLE_UNLEARNED])
@pytest.mark.parametrize("modalities", [("motion",), ("motion", "text"), ("text", "motion")])
def test_every_method_scores_every_test_video(planted, bags, method, modalities):
    result = run(planted, bags, method, modalities=modalities)
    assert tuple(result.node_scores) == own_split(planted).test
    for scores in result.node_scores.values():
        assert scores.shape == (N,) and scores.dtype == torch.float64 and torch.isfinite(scores).all()
    if method in LEARNED:
        assert result.parameters == sum(p.numel() for p in result.detector.parameters() if p.requires_grad) > 0
        assert list(result.detector.fusion.modalities) == list(modalities)
    else:
        assert result.detector is None and result.parameters == 0
    assert result.watched == {} and result.train_seconds >= 0 and result.score_seconds > 0


@pytest.mark.parametrize("method", ["lego", "nearest-neighbours", "flow-energy"])
def test_planted_anomalies_are_found(planted, bags, method):
    scored = scored_videos(planted, run(planted, bags, method).node_scores)
    assert micro_auc(scored) > 0.95 and abnormal_auc(scored) > 0.9


def test_concatenation_finds_them_once_trained(planted, bags):
    config = TrainingConfig(steps=150, learning_rate=1e-2)
    scored = scored_videos(planted, run(planted, bags, "concat", config).node_scores)
    assert micro_auc(scored) > 0.95


@pytest.mark.parametrize("method", THOROUGHLY)
@pytest.mark.parametrize("selection", ["last-step", "validation"])
def test_test_videos_have_no_part_in_the_weights(planted, bags, method, selection):
    split = hold_out(planted, own_split(planted), 0.3)
    config = QUICK.model_copy(update={"selection": selection})
    clean = run(planted, bags, method, config, split=split)
    without = run(planted, poisoned(bags, split.test), method, config, split=split)
    assert same_weights(clean, without)
    others = Split("other", split.train, split.test[:1], split.validation)
    assert same_weights(clean, run(planted, bags, method, config, split=others))


@pytest.mark.parametrize("method", [*THOROUGHLY, *WHOLE_UNLEARNED])
def test_a_test_video_is_scored_alike_alone(planted, bags, method):
    split = own_split(planted)
    together = run(planted, bags, method).node_scores
    for video in split.test[:2]:
        alone = run(planted, bags, method, split=Split("one", split.train, (video,))).node_scores[video]
        torch.testing.assert_close(alone, together[video], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("method", THOROUGHLY)
def test_watching_shows_start_and_end_and_changes_nothing(planted, bags, method):
    watched = run(planted, bags, method, watch_test=True)
    looks = list(watched.watched)
    assert looks == [0, 5, 10, 12] if method != "lego" else looks[:2] == [0, 10]
    assert same_weights(watched, run(planted, bags, method))
    untrained = run(planted, bags, method, TrainingConfig(steps=0))
    assert same_scores(watched.watched[0], untrained.node_scores)
    assert same_scores(watched.watched[looks[-1]], watched.node_scores), "what is reported is the last step, never the best"


def test_the_last_step_is_reported_though_an_earlier_one_is_better_on_test(planted, bags):
    """Trained on turned labels, the scores of the test videos get better by chance and then worse again."""
    turned = Bags(bags.videos, ~bags.labels, 1, bags.inputs)
    config = TrainingConfig(steps=60, learning_rate=3e-3, check_every=10)
    result = run(planted, turned, "concat", config, watch_test=True)
    by_step = {step: micro_auc(scored_videos(planted, scores)) for step, scores in result.watched.items()}
    reported = micro_auc(scored_videos(planted, result.node_scores))
    assert reported == by_step[60] < max(by_step.values())


def test_watching_an_untrained_model(planted, bags):
    result = run(planted, bags, "lego", TrainingConfig(steps=0), watch_test=True)
    assert list(result.watched) == [0]
    assert same_scores(result.watched[0], result.node_scores)


@pytest.mark.parametrize("method", THOROUGHLY)
def test_seeds_decide_a_run(planted, bags, method):
    first, again = run(planted, bags, method), run(planted, bags, method)
    other = run(planted, bags, method, QUICK.model_copy(update={"seed": 1}))
    assert same_weights(first, again) and same_scores(first.node_scores, again.node_scores)
    assert same_weights(first, other) == (method == "lego"), "which draws nothing at random"


def test_normal_only_never_sees_an_abnormal_video(planted, bags):
    split = own_split(planted)
    abnormal = tuple(video for video in split.train if planted.records[video].label == "abnormal")
    config = TrainingConfig(normal_only=True)
    clean = run(planted, bags, "lego", config)
    assert same_weights(clean, run(planted, poisoned(bags, abnormal), "lego", config))
    only_normal = Split("normal", tuple(video for video in split.train if video not in abnormal), split.test)
    assert same_weights(clean, run(planted, bags, "lego", config, split=only_normal))


def test_a_killed_run_goes_on(planted, bags, tmp_path):
    config = QUICK.model_copy(update={"checkpoint_every": 3})
    checkpoint = tmp_path / "checkpoint.safetensors"

    def kill(step: int, _: float) -> None:
        if step == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(planted, bags, "lego-paper", config, checkpoint=checkpoint, on_step=kill)
    steps: list[int] = []
    resumed = run(planted, bags, "lego-paper", config, checkpoint=checkpoint, on_step=lambda step, _: steps.append(step))
    assert steps == list(range(7, 13))
    assert same_weights(resumed, run(planted, bags, "lego-paper", config))


def test_default_fusions(planted):
    manifests = {name: planted.modalities[name] for name in MODALITIES}
    lego = make_default_fusion("lego", manifests, nodes=N)
    assert isinstance(lego, LegoFusion) and lego.config() == LegoFusion({"motion": 3, "text": 5}).config()
    streamed = make_default_fusion("lego", manifests, nodes=N, window=N)
    assert streamed.one_pass and not lego.one_pass
    paper = make_default_fusion("lego-paper", manifests, nodes=N)
    assert isinstance(paper, PaperFusion) and paper.config()["zero_order"] == "identity"
    assert isinstance(make_default_fusion("concat", manifests), Concat)
    for fusion in (lego, paper):
        assert fusion.modalities == {"motion": 3, "text": 5}


@pytest.mark.parametrize("kind", sorted(set(FUSIONS) - {"lego", "lego-paper"}))
def test_every_baseline_is_a_method_with_default_arguments(planted, kind):
    assert kind in LEARNED
    manifests = {name: planted.modalities[name] for name in MODALITIES}
    fusion = make_default_fusion(kind, manifests, nodes=N, seed=4)
    assert fusion.config() == make_plain_fusion(kind, {"motion": 3, "text": 5}, seed=4).config()


def test_what_draws_nothing_at_random_runs_once():
    quick = TrainingConfig()
    assert not draws_at_random("lego", quick) and not any(draws_at_random(method, quick) for method in UNLEARNED)
    assert all(draws_at_random(method, quick) for method in LEARNED if method != "lego")
    permuted = TrainingConfig(modality_dropout=0.2, modality_removal="permute")
    assert draws_at_random("lego", permuted) and not draws_at_random("nearest-neighbours", permuted)
    assert not draws_at_random("lego", TrainingConfig(modality_dropout=0.2)), "the expected loss"


def test_errors_of_a_run(planted, bags):
    with pytest.raises(
        ParameterError,
        match=r"'method' parameter of run_method must be one of 'lego', 'lego-paper', 'concat', .*'score-average', 'nea",
    ):
        run(planted, bags, "lgeo")
    with pytest.raises(DataError, match="modality 'audio' is missing"):
        run(planted, bags, modalities=("motion", "audio"))
    with pytest.raises(DataError, match=r"a video is not among the bags \(v99\)"):
        run(planted, bags, split=Split("s", own_split(planted).train, ("v99",)))
    with pytest.raises(DataError, match="flow energy needs a modality of the 'motion' extractor: got text"):
        run(planted, bags, "flow-energy", modalities=("text",))


@pytest.mark.parametrize("method", ["lego", "concat"])
def test_one_class_only_in_training(planted, bags, method):
    own = own_split(planted)
    normal = tuple(video for video in own.train if "abnormal" not in video)
    with pytest.raises(DataError, match="the training videos hold one class only"):
        run(planted, bags, method, split=Split("normal", normal, own.test))


def test_crops_are_averaged_into_one_score_per_video(write_planted, tmp_path):
    dataset = write_planted(tmp_path, crops=2)
    bags = load_bags(dataset, MODALITIES, [record.video for record in dataset.videos], nodes=N)
    for method in (*THOROUGHLY, *WHOLE_UNLEARNED):
        result = run(dataset, bags, method)
        assert tuple(result.node_scores) == own_split(dataset).test
        assert len(scored_videos(dataset, result.node_scores)) == 6


def test_a_run_reads_features_once(write_planted, tmp_path):
    """Bags hold everything: the feature files may go once they are loaded."""
    dataset = write_planted(tmp_path)
    bags = load_bags(dataset, MODALITIES, [record.video for record in dataset.videos], nodes=N)
    before = run(dataset, bags).node_scores
    for record in dataset.videos:
        write_features(dataset.root, "motion", record.video, np.zeros((dataset.rows(record.video), 3)))
    assert same_scores(run(dataset, bags).node_scores, before)
