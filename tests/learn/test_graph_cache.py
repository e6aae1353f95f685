"""Cached graphs: the same training as without, built again only when something they depend on has changed."""

import errno
import os
import shutil
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from lego_fusion.data.dataset import Dataset
from lego_fusion.errors import CheckpointError, DataError, ParameterError
from lego_fusion.fusion.base import Fusion
from lego_fusion.fusion.lego import LegoFusion
from lego_fusion.fusion.paper import PaperFusion
from lego_fusion.learn import graph_cache
from lego_fusion.learn.bags import fit_frozen, load_bags, scoring_inputs, training_inputs
from lego_fusion.learn.configuration import TrainingConfig
from lego_fusion.learn.graph_cache import cached_graphs
from lego_fusion.learn.methods import ModelShape, run_method
from lego_fusion.learn.runs import train_run
from lego_fusion.learn.splits import own_split

NAMES = ("motion", "text")
SHORT = TrainingConfig(steps=4)


WIDTHS = {"motion": 3, "text": 5}


def made_fusion(**options) -> Fusion:
    return LegoFusion(WIDTHS, **options)


def paper_fusion(**options) -> Fusion:
    return PaperFusion(WIDTHS, nodes=8, **options)


def learned_fusion(**options) -> Fusion:
    return LegoFusion(WIDTHS, operator="learned", **options)


@pytest.fixture
def folder(planted: Dataset, tmp_path: Path) -> Dataset:
    """A copy of the planted dataset that may be changed."""
    return Dataset.open(shutil.copytree(planted.root, tmp_path / "dataset"))


def graphs_of(dataset: Dataset, **options):
    split = own_split(dataset)
    fusion = options.pop("fusion", None) or made_fusion()
    return cached_graphs(dataset, fusion, split.train, split.test, nodes=8, **options)


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (made_fusion, {}),
        (made_fusion, {"references": 20}),
        (learned_fusion, {}),
        (paper_fusion, {}),
        (paper_fusion, {"nearest": 3}),
    ],
)
def test_graphs_are_those_made_without_a_cache(folder: Dataset, make: Callable[..., Fusion], options: dict) -> None:
    split = own_split(folder)
    bags = load_bags(folder, NAMES, (*split.train, *split.test), nodes=8)
    fusion = make(**options)
    fit_frozen(fusion, bags.named(split.train))
    expected = training_inputs(fusion, bags.named(split.train)), scoring_inputs(fusion, bags.named(split.test))
    first, fitted = graphs_of(folder, fusion=make(**options)), make(**options)
    again = graphs_of(folder, fusion=fitted)
    assert (first.built, again.built) == (True, False)
    for graphs in (first, again):
        assert graphs.training.videos == split.train
        for name in NAMES:
            assert torch.equal(graphs.training.inputs[name], expected[0].inputs[name])
            torch.testing.assert_close(graphs.others.inputs[name], expected[1].inputs[name])  # made one video at a time
        assert torch.equal(graphs.training.labels, expected[0].labels)
    # what is not in the cache meets the same references
    for name, graph in scoring_inputs(fitted, bags.named(split.test)).inputs.items():
        torch.testing.assert_close(graph, expected[1].inputs[name], rtol=0, atol=0)


def test_float16_takes_half_the_room_and_is_near(folder: Dataset) -> None:
    full, half = graphs_of(folder), graphs_of(folder, dtype="float16")
    assert full.path.stat().st_size > half.path.stat().st_size
    assert full.path.name != half.path.name
    for name in NAMES:
        assert half.training.inputs[name].dtype == torch.float32
        torch.testing.assert_close(half.training.inputs[name], full.training.inputs[name], atol=1e-3, rtol=1e-3)
    assert torch.equal(graphs_of(folder, dtype="float16").training.inputs["text"], half.training.inputs["text"])


@pytest.mark.parametrize(
    ("make", "learned", "frozen"),
    [
        (paper_fusion, {"order": 5, "form": "joint", "seed": 7, "rows": "sorted"}, {"centre": True}),
        (learned_fusion, {"order": 3, "form": "full", "seed": 7}, {"kept": 2}),
        (made_fusion, {"seed": 7}, {"bandwidth_exponent": 0.0}),
    ],
)
def test_what_is_learned_shares_one_file_and_other_relations_do_not(
    folder: Dataset, make: Callable[..., Fusion], learned: dict, frozen: dict
) -> None:
    first = graphs_of(folder, fusion=make())
    fusion = make(**learned)
    started = {name: x.detach().clone() for name, x in fusion.named_parameters()}
    same = graphs_of(folder, fusion=fusion)
    assert same.path == first.path
    assert not same.built
    assert all(torch.equal(x, started[name]) for name, x in fusion.named_parameters()), "of another start"
    other = graphs_of(folder, fusion=make(**frozen))
    assert other.built
    assert other.path != first.path


@pytest.mark.parametrize(("make", "crops"), [(paper_fusion, 3), (learned_fusion, 3), (made_fusion, 1)])
def test_crops_and_several_threads(
    write_planted: Callable[..., Dataset], tmp_path: Path, make: Callable[..., Fusion], crops: int
) -> None:
    """Readings of known normals are one bag a video, the mean over its crops."""
    dataset = write_planted(tmp_path / "crops", crops=3)
    one = graphs_of(dataset, fusion=make(), threads=1, cache=tmp_path / "a")
    two = graphs_of(dataset, fusion=make(), threads=2, cache=tmp_path / "b")
    assert one.training.crops == one.others.crops == crops
    assert len(one.training.inputs["text"]) == crops * len(one.training.videos)
    assert all(torch.equal(one.training.inputs[name], two.training.inputs[name]) for name in NAMES)


def change_features(dataset: Dataset) -> None:
    path = dataset.feature_file("text", own_split(dataset).train[0])
    np.save(path, np.load(path) + 1)
    os.utime(path, ns=(1, 1))


def change_label(dataset: Dataset) -> None:
    table = dataset.root / "videos.csv"
    table.write_text(table.read_text().replace("train_abnormal_0,abnormal", "train_abnormal_0,normal"))
    intervals = dataset.root / "intervals.csv"
    lines = [line for line in intervals.read_text().splitlines() if not line.startswith("train_abnormal_0")]
    intervals.write_text("\n".join(lines) + "\n")


def change_manifest(dataset: Dataset) -> None:
    config = dataset.root / "dataset.yaml"
    config.write_text(config.read_text().replace("version: '1'", "version: '2'"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (change_features, "the feature files have changed since"),
        (change_label, "training videos: .*train_abnormal_0"),
        (change_manifest, "manifests.motion: "),
    ],
)
def test_a_changed_dataset_is_refused_by_name_or_built_again(folder: Dataset, change: Callable, said: str) -> None:
    before = graphs_of(folder)
    change(folder)
    changed = Dataset.open(folder.root)
    with pytest.raises(CheckpointError, match=said):
        graphs_of(changed, cache=before.path)
    after = graphs_of(changed)
    assert after.built
    assert not graphs_of(changed).built


def test_what_changes_no_graph_builds_nothing_again(folder: Dataset) -> None:
    graphs_of(folder)
    intervals = folder.root / "intervals.csv"
    intervals.write_text("\n".join(intervals.read_text().splitlines()[:-1]) + "\n")
    assert not graphs_of(Dataset.open(folder.root)).built


def test_a_cache_of_other_settings_is_refused_with_the_difference(folder: Dataset) -> None:
    path = graphs_of(folder).path
    with pytest.raises(CheckpointError, match=r"relations\.kept: 3 there, 2 here"):
        graphs_of(folder, fusion=made_fusion(kept=2), cache=path)
    with pytest.raises(CheckpointError, match="dtype: float32 there, float16 here"):
        graphs_of(folder, dtype="float16", cache=path)
    with pytest.raises(CheckpointError, match="cannot be read"):
        graphs_of(folder, cache=path.with_name("nothing.safetensors"))


def test_a_damaged_file_is_built_again(folder: Dataset) -> None:
    path = graphs_of(folder).path
    path.write_bytes(path.read_bytes()[:100])
    assert graphs_of(folder).built
    assert not graphs_of(folder).built


def test_a_full_disk_leaves_nothing_behind(folder: Dataset, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    whole = graph_cache.written_whole

    class Full:
        def __init__(self, file):
            self.file = file

        def write(self, content):
            self.file.write(content[: len(content) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")

    @contextmanager
    def full_disk(path):
        with whole(path) as file:
            yield Full(file)

    monkeypatch.setattr(graph_cache, "written_whole", full_disk)
    with pytest.raises(DataError, match=r"cannot be stored: No space left on device .*--cache off"):
        graphs_of(folder, cache=tmp_path / "full")
    assert list((tmp_path / "full").iterdir()) == []


def test_a_type_too_small_for_the_relations_is_refused(folder: Dataset) -> None:
    for name in own_split(folder).test:
        path = folder.feature_file("motion", name)
        np.save(path, np.load(path) * np.float32(1e5))
    with pytest.raises(DataError, match=r"relations leave the range of the type .*'motion'.*float32"):
        graphs_of(folder, fusion=paper_fusion(relations="dot"), dtype="float16")


@pytest.mark.usefixtures("unchecked_types")
def test_an_unknown_type_is_refused(folder: Dataset) -> None:
    with pytest.raises(ParameterError, match="unknown type of stored graphs: expected float32, float16"):
        graphs_of(folder, dtype="int8")


def test_no_training_video_and_one_node(folder: Dataset) -> None:
    with pytest.raises(DataError, match="there is no training video to relate"):
        cached_graphs(folder, made_fusion(), ())
    one = cached_graphs(folder, made_fusion(), own_split(folder).train, nodes=1)
    assert one.training.inputs["text"].shape[1:] == (1, 2 * 2 + 5) and one.others is None


def test_a_missing_feature_file_is_named(folder: Dataset) -> None:
    folder.feature_file("text", own_split(folder).train[1]).unlink()
    with pytest.raises(DataError, match=r"there is no feature file .*'text'"):
        graphs_of(folder)


@pytest.mark.parametrize("method", ["lego", "lego-paper", "concat"])
def test_training_and_scores_are_the_same_with_and_without(folder: Dataset, method: str, tmp_path: Path) -> None:
    split = own_split(folder)
    bags = load_bags(folder, NAMES, (*split.train, *split.test), nodes=8)
    runs = [
        run_method(folder, bags, split, NAMES, method, SHORT, ModelShape(nodes=8), cache=cache)
        for cache in (None, tmp_path / "graphs", tmp_path / "graphs")
    ]
    for run in runs[1:]:
        assert all(torch.equal(run.node_scores[video], runs[0].node_scores[video]) for video in split.test)
    assert (tmp_path / "graphs").exists() == (method != "concat")
    weights = []
    for place, cache in (("plain", "off"), ("cached", "auto"), ("again", "auto")):
        train_run(folder, tmp_path / place, method=method, training=SHORT, nodes=8, cache=cache, validation=0.3)
        weights.append((tmp_path / place / "model.safetensors").read_bytes())
    assert weights[0] == weights[1] == weights[2]


def test_modality_dropout_reads_features(folder: Dataset, tmp_path: Path) -> None:
    train_run(folder, tmp_path / "run", training=TrainingConfig(steps=1, modality_dropout=0.5), nodes=8, cache="auto")
    assert not (folder.root / "graphs").exists()
