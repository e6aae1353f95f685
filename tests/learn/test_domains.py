"""Several domains: splits that leave one out, and numbers domain by domain."""

from dataclasses import replace

import pytest

from lego_fusion.data.dataset import Dataset, write_dataset
from lego_fusion.data.joining import join_datasets
from lego_fusion.errors import DataError, ParameterError
from lego_fusion.learn.configuration import TrainingConfig
from lego_fusion.learn.evaluation import POOLED_NOTE, evaluate_runs
from lego_fusion.learn.runs import train_run
from lego_fusion.learn.scoring import score_dataset
from lego_fusion.learn.splits import domain_splits, own_split, rotate_domains
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
    return {dataset.records[video].domain for video in videos}


def test_a_domain_left_out_is_tested_and_never_trained_on(joined):
    own, splits = own_split(joined), domain_splits(joined)
    assert [split.name for split in splits] == ["left-out:day", "left-out:night", "left-out:calm"]
    for split in splits:
        (domain,) = domains_of(joined, split.test)
        assert split.name.endswith(domain)
        assert domains_of(joined, split.train) == {"day", "night", "calm"} - {domain}
        assert set(split.train) < set(own.train) and set(split.test) < set(own.test)
    assert sorted(video for split in splits for video in split.test) == sorted(own.test)


def test_a_rotation_tests_every_video_and_trains_on_all_others(joined):
    everyone = {record.video for record in joined.videos}
    splits = rotate_domains(joined)
    assert [split.name for split in splits] == ["left-out:day", "left-out:night", "left-out:calm"]
    for split in splits:
        (domain,) = domains_of(joined, split.test)
        assert split.name.endswith(domain)
        assert set(split.test) == {record.video for record in joined.videos if record.domain == domain}
        assert set(split.train) == everyone - set(split.test)


def changed(joined, root, **fields):
    records = [replace(one, **{field: value(one) for field, value in fields.items()}) for one in joined.videos]
    return write_dataset(root, joined.config, records, [one for found in joined.ground_truth.values() for one in found])


def test_what_a_domain_is_marked_as_does_not_matter_to_a_rotation(joined, tmp_path):
    marks = {"day": "train", "night": "test", "calm": "test"}
    marked = changed(joined, tmp_path, split=lambda one: marks[one.domain])
    assert rotate_domains(marked) == rotate_domains(joined)
    free = changed(joined, tmp_path, split=lambda one: "")
    assert rotate_domains(free) == rotate_domains(joined)
    some = changed(joined, tmp_path, split=lambda one: one.split if one.domain != "day" else "")
    assert [split.name for split in rotate_domains(some)] == ["left-out:night", "left-out:calm"]


def test_a_rotation_trains_on_no_source_that_it_tests(joined, tmp_path):
    tape = ("day_train_normal_0", "night_test_abnormal_0", "night_test_abnormal_1")
    day, night, _ = rotate_domains(changed(joined, tmp_path, source=lambda one: "tape" if one.video in tape else ""))
    assert set(rotate_domains(joined)[0].train) - set(day.train) == set(tape[1:])
    assert set(rotate_domains(joined)[1].train) - set(night.train) == set(tape[:1])


def test_a_rotation_keeps_validation_and_needs_labels(joined, tmp_path):
    held = changed(joined, tmp_path / "held", split=lambda one: "validation" if one.video.endswith("normal_0") else one.split)
    day = rotate_domains(held)[0]
    assert set(day.validation) == {one.video for one in held.videos if one.domain != "day" and one.split == "validation"}
    assert "day_train_normal_0" in day.test
    empty = changed(joined, tmp_path / "empty", label=lambda one: "" if one.domain != "day" else one.label)
    assert "left-out:day" not in [split.name for split in rotate_domains(empty)]  # nobody else is labelled


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
    with pytest.raises(DataError, match=r"only one domain.*lego-fusion join"):
        rotate_domains(planted)


def test_each_domain_is_measured_on_its_own_videos(joined, tmp_path):
    train_run(joined, tmp_path / "run", nodes=8, training=TrainingConfig(steps=5))
    found = evaluate_runs([tmp_path / "run"], joined)
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
    found = evaluate_runs([tmp_path / "run"], planted)
    assert {one.domain for one in found.results} == {""}
    assert POOLED_NOTE not in found.notes
