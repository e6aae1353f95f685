"""Videos as bags: what is in them, by whom they are found, and what does not change their scores."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from lego_fusion.data.dataset import Dataset, write_dataset
from lego_fusion.data.features import write_features
from lego_fusion.data.manifest import Manifest
from lego_fusion.data.segments import to_segments
from lego_fusion.data.tables import DatasetConfig, VideoRecord, write_videos
from lego_fusion.errors import DataError, ParameterError
from lego_fusion.fusion.elementwise import Concat
from lego_fusion.fusion.lego import LegoFusion
from lego_fusion.fusion.paper import PaperFusion
from lego_fusion.learn.bags import (
    Bags,
    fit_frozen,
    is_cached,
    load_bags,
    mean_over_crops,
    scoring_inputs,
    training_inputs,
    without_graphs,
)
from lego_fusion.learn.detector import Detector
from lego_fusion.learn.train import predict

WIDTHS = {"motion": 3, "text": 2}
FUSIONS = {
    "lego": lambda: LegoFusion(WIDTHS),
    "few references": lambda: LegoFusion(WIDTHS, references=4, time_context=0.0),
    "learned operator": lambda: LegoFusion(WIDTHS, operator="learned"),
    "causal": lambda: LegoFusion(WIDTHS, window=3),
    "lego-paper": lambda: PaperFusion(WIDTHS, nodes=5),
    "propagate": lambda: PaperFusion(WIDTHS, nodes=5, rows="propagate"),
    "own features": lambda: PaperFusion(WIDTHS, nodes=5, own_features=True),
    "concat": lambda: Concat(WIDTHS),
}
every_fusion = pytest.mark.parametrize("make", FUSIONS.values(), ids=FUSIONS)


def made_bags(videos: int = 6, crops: int = 1, nodes: int = 5, seed: int = 0) -> Bags:
    generator = torch.Generator().manual_seed(seed)
    inputs = {name: torch.randn(videos * crops, nodes, width, generator=generator) for name, width in WIDTHS.items()}
    return Bags(tuple(f"v{i}" for i in range(videos)), torch.arange(videos) % 3 == 2, crops, inputs)


def test_labels_and_video_ids_of_crops():
    bags = made_bags(videos=3, crops=2)
    assert bags.labels.tolist() == [False, False, True]
    assert bags.bag_labels.tolist() == [False, False, False, False, True, True]
    assert bags.video_ids.tolist() == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("crops", [1, 3])
def test_selection_keeps_crops_together(crops):
    bags = made_bags(crops=crops)
    chosen = bags.select([4, 0])
    assert chosen.videos == ("v4", "v0")
    assert chosen.labels.tolist() == [bool(bags.labels[4]), bool(bags.labels[0])]
    for name, tensor in bags.inputs.items():
        expected = torch.cat([tensor[4 * crops : 5 * crops], tensor[:crops]])
        assert torch.equal(chosen.inputs[name], expected)


def test_selection_by_name_takes_the_order_given():
    bags = made_bags()
    assert bags.named(["v5", "v1"]).videos == ("v5", "v1")
    assert torch.equal(bags.named(["v5", "v1"]).inputs["text"], bags.inputs["text"][[5, 1]])
    assert bags.named(()).labels.shape == (0,)
    with pytest.raises(DataError, match=r"a video is not among the bags \(v9\): got 6 other videos"):
        bags.named(["v1", "v9"])


def test_selection_of_modalities():
    bags = made_bags()
    assert list(bags.with_modalities(["text", "motion"]).inputs) == ["text", "motion"]
    assert list(bags.with_modalities(["text"]).inputs) == ["text"]
    with pytest.raises(DataError, match="modality 'audio' is missing: expected text, audio, got motion, text"):
        bags.with_modalities(["text", "audio"])


def test_a_dataset_folder_becomes_bags(planted: Dataset):
    videos = [record.video for record in planted.select(split="test")][::-1]
    seen: list[str] = []
    bags = load_bags(planted, ["text", "motion"], videos, nodes=7, on_video=seen.append)
    assert bags.videos == tuple(videos) == tuple(seen)
    assert bags.crops == 1
    assert list(bags.inputs) == ["text", "motion"]
    assert [bool(label) for label in bags.labels] == ["abnormal" in video for video in videos]
    for place, video in enumerate(videos):
        stored = np.load(planted.root / "features" / "motion" / f"{video}.npy")
        borders = [int(len(stored) * i / 7) for i in range(8)]
        for node in range(7):
            span = stored[borders[node] : max(borders[node + 1], borders[node] + 1)]
            np.testing.assert_allclose(bags.inputs["motion"][place, node], span.mean(0), rtol=1e-5)


def test_a_modality_without_crops_meets_every_crop_of_the_others(write_planted, tmp_path):
    dataset = write_planted(tmp_path, crops=3)
    videos = [record.video for record in dataset.videos][:2]
    bags = load_bags(dataset, ["motion", "text"], videos, nodes=4)
    assert bags.crops == 3
    assert bags.inputs["motion"].shape == (6, 4, 3) and bags.inputs["text"].shape == (6, 4, 5)
    for place, video in enumerate(videos):
        motion, text = (to_segments(dataset.features(name, video), 4) for name in ("motion", "text"))
        for crop in range(3):
            np.testing.assert_array_equal(bags.inputs["motion"][3 * place + crop], motion)
            np.testing.assert_array_equal(bags.inputs["text"][3 * place + crop], text[:, crop])


def crops_dataset(root, *crops: int) -> Dataset:
    names = ("video", "sound")[: len(crops)]
    modalities = {
        name: Manifest(modality=name, extractor="imported", version="1", width=2, crops=count)
        for name, count in zip(names, crops, strict=True)
    }
    records = [VideoRecord("v01", "normal", 40, 10.0)]
    dataset = write_dataset(root, DatasetConfig(name="crops", modalities=modalities), records)
    for name, count in zip(names, crops, strict=True):
        write_features(root, name, "v01", np.ones((3, count, 2)))
    return dataset


def test_different_numbers_of_crops_are_an_error(tmp_path):
    dataset = crops_dataset(tmp_path, 5, 10)
    with pytest.raises(DataError, match="modalities have different numbers of crops: got 5, 10"):
        load_bags(dataset, ["video", "sound"], ["v01"])


def test_a_missing_modality_is_named(planted):
    with pytest.raises(DataError, match=r"modality 'audio' is missing \(dataset 'planted'\): expected audio, got motion, text"):
        load_bags(planted, ["motion", "audio"], ["test_normal_0"])


def test_nothing_to_load(planted):
    for modalities, videos in ((["motion"], []), ([], ["test_normal_0"])):
        with pytest.raises(DataError, match=r"there is nothing to load \(dataset 'planted'\): expected videos and modalities"):
            load_bags(planted, modalities, videos)


def test_a_video_that_is_not_there(planted):
    with pytest.raises(DataError, match="has no video 'v99'"):
        load_bags(planted, ["motion"], ["v99"])


def test_modalities_of_different_length_are_an_error_and_never_patched(write_planted, tmp_path):
    dataset = write_planted(tmp_path, train=(2, 2), test=(1, 1))
    rows = dataset.rows("test_normal_0")
    write_features(dataset.root, "text", "test_normal_0", np.ones((rows - 1, 5)))
    with pytest.raises(DataError, match=r"feature rows does not fit the video \(modality 'text', video 'test_normal_0'\)"):
        load_bags(dataset, ["motion", "text"], ["test_normal_0"])


def test_nan_in_features_is_named(write_planted, tmp_path):
    dataset = write_planted(tmp_path, train=(2, 2), test=(1, 1))
    path = dataset.root / "features" / "motion" / "test_normal_0.npy"
    values = np.load(path)
    values[2, 1] = np.nan
    np.save(path, values)
    with pytest.raises(DataError, match=r"NaN or infinity \(modality 'motion', video 'test_normal_0', row 2\)"):
        load_bags(dataset, ["motion"], ["test_normal_0"])


def test_crops_are_averaged_per_video():
    logits = torch.tensor([[1.0, 2.0], [3.0, 6.0], [0.0, 0.0], [10.0, 20.0]])
    assert mean_over_crops(logits, 2).tolist() == [[2.0, 4.0], [5.0, 10.0]]
    assert torch.equal(mean_over_crops(logits, 1), logits)


@every_fusion
@pytest.mark.parametrize("crops", [1, 3])
def test_inputs_are_those_of_the_frozen_stage_where_there_is_one(make, crops):
    fusion, bags = make(), made_bags(crops=crops)
    fit_frozen(fusion, bags)
    expected = {
        training_inputs: fusion.transform(bags.inputs, video_ids=bags.video_ids, crops=crops),
        scoring_inputs: fusion.transform(bags.inputs, crops=crops),
    }
    for prepare, wanted in expected.items():
        found = prepare(fusion, bags)
        assert found.videos == bags.videos and torch.equal(found.labels, bags.labels)
        assert list(found.inputs) == list(fusion.modalities)
        assert found.crops == (1 if fusion.pools_crops else crops)
        assert len(next(iter(found.inputs.values()))) == 6 * found.crops
        if is_cached(fusion):
            assert all(torch.equal(found.inputs[name], wanted[name]) for name in WIDTHS)
        else:
            assert all(torch.equal(found.inputs[name], bags.inputs[name]) for name in WIDTHS)


@pytest.mark.parametrize("crops", [3, 10])
def test_the_readings_of_a_video_are_the_mean_over_its_crops(crops):
    """Each crop is read alone against what all of them led to, and padding of streams is one mask a video."""
    fusion, bags = LegoFusion(WIDTHS, window=3), made_bags(crops=crops)
    mask = torch.arange(5).expand(6 * crops, 5) < 4
    bags = replace(bags, mask=mask, window=3)
    fit_frozen(fusion, bags)
    found = scoring_inputs(fusion, bags)
    assert found.mask.shape == (6, 5) and found.bag_labels.shape == (6,)
    for name in WIDTHS:
        alone = torch.stack(
            [fusion.transform({m: x[c::crops] for m, x in bags.inputs.items()}, mask[::crops])[name] for c in range(crops)]
        )
        torch.testing.assert_close(found.inputs[name], alone.mean(0), rtol=1e-4, atol=1e-5)


def test_a_modality_set_to_zero_is_a_typical_normal_segment():
    """What is left out adds nothing to any logit, whatever the weights, and the others add what they did."""
    fusion, train = LegoFusion(WIDTHS), made_bags()
    fit_frozen(fusion, train)
    detector, test = Detector(fusion).eval(), made_bags(videos=4, seed=1)
    with torch.no_grad():
        for parameter in detector.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)))
    inputs = scoring_inputs(fusion, test)
    left = without_graphs(fusion, inputs, ["text"])
    assert not left.inputs["text"].any() and torch.equal(left.inputs["motion"], inputs.inputs["motion"])
    parts = [detector.reading_head.parts(fusion(one.inputs).nodes) for one in (inputs, left)]
    for field in ("degree", "inside"):
        whole, without = (getattr(one, field) for one in parts)
        assert (
            torch.equal(whole[:, :, 0], without[:, :, 0])
            and not without[:, :, 1].any()
            and (field == "inside" or whole[:, :, 1].any())
        )
    assert torch.equal(parts[0].departure[..., :3], parts[1].departure[..., :3]) and not parts[1].departure[..., 3:].any()
    with pytest.raises(DataError, match="modality 'audio' is missing"):
        without_graphs(fusion, inputs, ["audio"])
    with pytest.raises(ParameterError, match="'drop-term' needs a fusion with graphs"):
        without_graphs(Concat(WIDTHS), test, ["text"])


def test_frozen_inputs_are_not_made_twice():
    fusion, bags = LegoFusion(WIDTHS), made_bags()
    fit_frozen(fusion, bags)
    frozen = replace(scoring_inputs(fusion, bags), related=True)
    for prepare in (training_inputs, scoring_inputs):
        assert all(torch.equal(prepare(fusion, frozen).inputs[name], frozen.inputs[name]) for name in WIDTHS)
    with pytest.raises(ParameterError, match="the fusion 'concat' reads features, and these bags hold graphs"):
        scoring_inputs(Concat(WIDTHS), frozen)


@every_fusion
@pytest.mark.parametrize("crops", [1, 2])
def test_a_video_is_scored_alike_whatever_is_scored_with_it(make, crops):
    fusion, train = make(), made_bags(crops=crops)
    fit_frozen(fusion, train)
    detector, test = Detector(fusion), made_bags(videos=4, crops=crops, seed=1)
    together = predict(detector, test)
    for place in range(4):
        torch.testing.assert_close(predict(detector, test.select([place]))[0], together[place])
    torch.testing.assert_close(predict(detector, test.select([3, 1, 0, 2])), together[[3, 1, 0, 2]])
    torch.testing.assert_close(predict(detector, test.select([2, 2, 2])), together[[2, 2, 2]])


@every_fusion
def test_the_name_of_a_video_and_its_label_do_not_touch_its_score(make):
    fusion = make()
    fit_frozen(fusion, made_bags())
    detector, test = Detector(fusion), made_bags(videos=4, seed=1)
    relabelled = Bags(("a", "b", "c", "d"), ~test.labels, 1, test.inputs)
    assert torch.equal(predict(detector, relabelled), predict(detector, test))


@every_fusion
def test_crops_are_scored_alone_and_averaged(make):
    fusion = make()
    fit_frozen(fusion, made_bags(crops=2))
    detector, test = Detector(fusion), made_bags(videos=3, crops=2, seed=1)

    def logits(crop: int) -> Tensor:
        single = Bags(test.videos, test.labels, 1, {name: x[crop::2] for name, x in test.inputs.items()})
        return predict(detector, single).logit()

    torch.testing.assert_close(predict(detector, test).logit(), (logits(0) + logits(1)) / 2, rtol=1e-4, atol=1e-5)


def test_crops_of_one_video_never_serve_it_as_references():
    """Crop 1 of each video is crop 0 once more: were crops taken for videos, each would meet its own copy."""
    single = made_bags(videos=6)
    twice = Bags(single.videos, single.labels, 2, {name: x.repeat_interleave(2, dim=0) for name, x in single.inputs.items()})
    fusion = LegoFusion(WIDTHS, kept=1)
    fit_frozen(fusion, twice)
    normal = ~twice.bag_labels
    crossed = fusion.readings(twice.inputs, video_ids=twice.video_ids).degree[normal]
    met = fusion.readings(twice.inputs).degree[normal]
    assert met.max() < 1e-3 < 0.03 < crossed.min(), "without cross-fitting every segment meets itself"


def test_an_unlabelled_video_counts_as_normal(write_planted, tmp_path):
    dataset = write_planted(tmp_path / "some")
    chosen = [record.video for record in dataset.select(split="test")]
    write_videos(dataset.root / "videos.csv", [replace(r, label="") if r.video in chosen else r for r in dataset.videos])
    assert not load_bags(Dataset.open(dataset.root), ["motion"], chosen, nodes=4).labels.any()


@every_fusion
def test_what_is_shown_in_training_is_seen_against_what_is_known(make):
    fusion, bags = make(), made_bags()
    other = replace(bags, inputs={name: values + 0.5 for name, values in bags.inputs.items()})
    fit_frozen(fusion, bags)
    found = training_inputs(fusion, bags, shown=other)
    expected = fusion.transform(other.inputs, video_ids=bags.video_ids) if is_cached(fusion) else other.inputs
    own = training_inputs(fusion, bags)
    for name in WIDTHS:
        assert torch.equal(found.inputs[name], expected[name])
    assert any(not torch.equal(found.inputs[name], own.inputs[name]) for name in WIDTHS)
