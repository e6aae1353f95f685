"""Several domains: splits that leave one out, and numbers domain by domain."""

from dataclasses import replace

import pytest

from lego_fusion.data.dataset import Dataset, write_dataset
from lego_fusion.data.joining import join_datasets
from lego_fusion.detect.evaluation import POOLED_NOTE, evaluate_runs
from lego_fusion.detect.protocol import domain_splits, own_split
from lego_fusion.detect.runs import score_dataset, train_run
from lego_fusion.detect.train import TrainingConfig
from lego_fusion.errors import DataError, ParameterError
from lego_fusion.measure.detection import micro_auc
from lego_fusion.measure.scored import ScoredVideo


def renamed(dataset: Dataset, name: str) -> Dataset:
    config = dataset.config.model_copy(update={"name": name})
    return write_dataset(
        dataset.root, config, dataset.videos, [one for found in dataset.ground_truth.values() for one in found]
    )


@pytest.fixture(scope="module")
def joined(write_planted, tmp_path_factory) -> Dataset:
    """Two domains of 16 videos, one of two normal test videos only."""
    root = tmp_path_factory.mktemp("domains")
    parts = [write_planted(root / name) for name in ("day", "night")]
    parts.append(write_planted(root / "calm", train=(2, 1), test=(2, 0)))
    folders = [renamed(part, name).root for part, name in zip(parts, ("day", "night", "calm"), strict=True)]
    return join_datasets(folders, root / "all").dataset


def domains_of(dataset, videos):
    return {dataset.record(video).domain for video in videos}


def test_a_domain_left_out_is_tested_and_never_trained_on(joined):
    own, splits = own_split(joined), domain_splits(joined)
    assert [split.name for split in splits] == ["left-out:day", "left-out:night", "left-out:calm"]
    for split in splits:
        (domain,) = domains_of(joined, split.test)
        assert split.name.endswith(domain)
        assert domains_of(joined, split.train) == {"day", "night", "calm"} - {domain}
        assert set(split.train) < set(own.train) and set(split.test) < set(own.test)
    assert sorted(video for split in splits for video in split.test) == sorted(own.test)


def test_within_and_left_out_part_the_training_videos_and_share_the_tests(joined):
    own = own_split(joined)
    for within, left_out in zip(domain_splits(joined, "within"), domain_splits(joined), strict=True):
        assert within.test == left_out.test
        assert sorted(within.train + left_out.train) == sorted(own.train)
        assert within.name.partition(":")[2] == left_out.name.partition(":")[2]


def test_validation_videos_follow_their_domain(joined, tmp_path):
    records = [replace(one, split="validation") if one.video.endswith("train_normal_0") else one for one in joined.videos]
    truth = [one for found in joined.ground_truth.values() for one in found]
    dataset = write_dataset(tmp_path, joined.config, records, truth)
    assert domain_splits(dataset)[0].validation == ("night_train_normal_0", "calm_train_normal_0")
    assert domain_splits(dataset, "within")[0].validation == ("day_train_normal_0",)


def test_a_domain_without_test_videos_is_trained_on_only(joined, tmp_path):
    records = [one for one in joined.videos if one.domain != "calm" or one.split == "train"]
    known = {one.video for one in records}
    truth = [one for video, found in joined.ground_truth.items() if video in known for one in found]
    splits = domain_splits(write_dataset(tmp_path, joined.config, records, truth))
    assert [split.name for split in splits] == ["left-out:day", "left-out:night"]
    assert "calm" in domains_of(joined, splits[0].train)


def test_errors_of_domain_splits(planted, joined, unchecked_types):
    with pytest.raises(DataError, match=r"only one domain.*lego-fusion join"):
        domain_splits(planted)
    assert [split.name for split in domain_splits(planted, "within")] == ["within:(none)"]
    with pytest.raises(ParameterError, match="kind"):
        domain_splits(joined, "across")


def test_each_domain_is_measured_on_its_own_videos(joined, tmp_path):
    train_run(joined, tmp_path / "run", nodes=8, training=TrainingConfig(steps=5))
    found = evaluate_runs([tmp_path / "run"], joined, resamples=50)
    values = {one.domain: one.value for one in found.results if one.metric == "micro_auc"}
    assert set(values) == {"", "day", "night"}  # calm has one class only
    scored = [
        ScoredVideo.from_frames(one.video, one.scores, one.truth)
        for one in score_dataset(tmp_path / "run", joined, own_split(joined).test)
    ]
    assert values[""] == pytest.approx(micro_auc(scored))
    for domain in ("day", "night"):
        part = [one for one in scored if one.video.startswith(domain)]
        assert values[domain] == pytest.approx(micro_auc(part))
    assert POOLED_NOTE in found.notes
    assert any(note.startswith("domain 'calm': micro_auc has no value") for note in found.notes)


def test_one_domain_is_measured_as_before(planted, tmp_path):
    train_run(planted, tmp_path / "run", nodes=8, training=TrainingConfig(steps=5))
    found = evaluate_runs([tmp_path / "run"], planted, resamples=50)
    assert {one.domain for one in found.results} == {""}
    assert POOLED_NOTE not in found.notes
