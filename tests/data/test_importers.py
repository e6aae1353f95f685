"""Importing what others prepared: the layout of TEVAD at its real size, plain folders, and everything that does not fit."""

import csv

import numpy as np
import pytest

from lego_fusion.data.dataset import Dataset
from lego_fusion.data.doctor import diagnose
from lego_fusion.data.features import FeatureLocation
from lego_fusion.data.importers import ArrayFiles, import_dataset, read_frame_counts
from lego_fusion.data.lists import ListedVideo, benchmark, label_videos, read_lists
from lego_fusion.errors import DataError, ParameterError


def sparse(path, shape):
    """A complete .npy file of zeros that takes no space on disk."""
    with path.open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(file.tell() + 4 * int(np.prod(shape)))


def shanghai_names(split, abnormal, normal):
    """Names as the published lists have them: four digits abnormal, three normal; no video in both splits."""
    shift = {"train": 0, "test": 500}[split]
    return [f"{number % 13 + 1:02d}_{number + shift:04d}" for number in range(abnormal)] + [
        f"{number % 13 + 1:02d}_{number + shift // 2:03d}" for number in range(normal)
    ]


@pytest.fixture(scope="module")
def tevad(tmp_path_factory):
    """A folder in TEVAD's layout with the list sizes of ShanghaiTech; every fifth text is shorter than its video."""
    root = tmp_path_factory.mktemp("tevad")
    names = {"train": shanghai_names("train", 63, 175), "test": shanghai_names("test", 44, 155)}
    for folder in ("i3d", "emb", "list"):
        (root / folder).mkdir()
    rows, truth = {}, []
    for split, listed in names.items():
        paths = "".join(f"/home/someone/save/SH_ten_crop_i3d_v1/{name}_i3d.npy\n" for name in listed)
        (root / "list" / f"{split}.list").write_text(paths)
        for name in listed:
            rows[name] = (1, 300)[len(rows)] if len(rows) < 2 else 1 + len(rows) * 37 % 300
            short = len(rows) % 5 == 0 and rows[name] > 3
            sparse(root / "i3d" / f"{name}_i3d.npy", (rows[name], 10, 2048))
            sparse(root / "emb" / f"{name}_emb.npy", (rows[name] - 2 * short, 768))
            if split == "test":
                truth.append(np.zeros(rows[name] * 16))
                truth[-1][5:11] = len(name) == len("01_0001")
    np.save(root / "list" / "gt.npy", np.concatenate(truth))
    return root, names, rows


def sources(root, length="error"):
    return {
        "clip": FeatureLocation(root=str(root / "i3d"), files="{video}_i3d.npy"),
        "text": FeatureLocation(root=str(root / "emb"), files="{video}_emb.npy", length=length),
    }


def labelled(root, name="shanghaitech"):
    lists = {split: root / "list" / f"{split}.list" for split in ("train", "test")}
    return label_videos(read_lists(lists), rule=benchmark(name).names)


def test_tevad_layout_at_its_real_size(tevad, tmp_path):
    root, names, rows = tevad
    report = import_dataset(
        tmp_path / "sh",
        labelled(root),
        sources(root, "repeat-last"),
        name="shanghaitech",
        ground_truth=root / "list" / "gt.npy",
        benchmark=benchmark("shanghaitech"),
    )
    counts = {split: (report.count(split), report.count(split, "abnormal")) for split in ("train", "test")}
    assert counts == {"train": (238, 63), "test": (199, 44)}
    dataset = Dataset.open(tmp_path / "sh")
    for record in dataset.videos:
        assert record.label == ("abnormal" if len(record.video) == 7 else "normal")
        assert record.frames == 16 * rows[record.video]
        assert record.video in names[record.split]
    assert report.copied == 0
    assert sum(path.stat().st_size for path in (tmp_path / "sh").rglob("*") if path.is_file()) < 100_000
    located = {video: [(one.start_frame, one.end_frame) for one in dataset.intervals(video)] for video in dataset.ground_truth}
    assert located == {name: [(5, 11)] for name in names["test"][:44]}
    short = next(
        name for name, count in rows.items() if np.load(root / "emb" / f"{name}_emb.npy", mmap_mode="r").shape[0] < count
    )
    assert dataset.features("text", short).shape == (rows[short], 768)
    first = names["train"][0]
    assert isinstance(dataset.features("clip", first), np.memmap)
    assert dataset.features("clip", first).shape == (rows[first], 10, 2048)


def test_shorter_text_is_never_patched_silently(tevad, tmp_path):
    root, _, _ = tevad
    with pytest.raises(DataError, match=r"modality 'text', video '.*'.*none for the last 2.*repeat-last"):
        import_dataset(tmp_path / "sh", labelled(root), sources(root), name="sh")
    assert not (tmp_path / "sh").exists()


def test_the_names_of_another_benchmark_are_refused(tevad):
    with pytest.raises(DataError, match="right benchmark"):
        labelled(tevad[0], "ucf-crime")


@pytest.fixture
def small(tmp_path):
    """Four videos: abnormal and normal, train and test, 2 to 5 snippets, two crops."""
    root = tmp_path / "in"
    videos = [
        ListedVideo("Test002", "train", "abnormal"),
        ListedVideo("Train007", "train", "normal"),
        ListedVideo("Test001", "test", "abnormal"),
        ListedVideo("Train001", "test", "normal"),
    ]
    for folder in ("i3d", "emb"):
        (root / folder).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for rows, video in enumerate(videos, start=2):
        np.save(root / "i3d" / f"{video.video}_i3d.npy", rng.normal(size=(rows, 2, 6)).astype(np.float32))
        np.save(root / "emb" / f"{video.video}_emb.npy", rng.normal(size=(rows, 3)))
    truth = np.zeros((4 + 5) * 16)
    truth[60:70] = [1] * 4 + [0] * 6
    np.save(root / "gt.npy", truth)
    return root, videos


def run(small, tmp_path, videos=None, features=None, **more):
    root, listed = small
    more = {"name": "small", "ground_truth": root / "gt.npy", "fps": 10.0} | more
    return import_dataset(tmp_path / "out", videos or listed, features or sources(root), **more)


def test_real_frames_replace_the_padding(small, tmp_path):
    (tmp_path / "frames.csv").write_text("video,frames,fps\nTest001,62,24\nTrain001,80,24\n")
    report = run(small, tmp_path, frame_counts=read_frame_counts(tmp_path / "frames.csv"))
    dataset = report.dataset
    assert dataset.records["Test001"].frames == 62 and dataset.records["Test001"].fps == 24.0
    assert dataset.frame_labels("Test001").nonzero()[0].tolist() == [60, 61]
    assert dataset.records["Test002"].fps == 10.0
    assert report.warnings == ()
    assert not [finding for finding in diagnose(dataset.root) if finding.severity == "error"]


def test_ground_truth_of_training_videos_is_kept(small, tmp_path):
    """A re-split can then test them; those without any are no fault."""
    root, videos = small
    more = ListedVideo("Test009", "train", "abnormal", source="tape")
    np.save(root / "i3d" / "Test009_i3d.npy", np.zeros((2, 2, 6), np.float32))
    np.save(root / "emb" / "Test009_emb.npy", np.zeros((2, 3)))
    (root / "truth.csv").write_text("video,start_frame,end_frame\nTest001,5,9\nTest002,3,7\n")
    masks = root / "masks"
    masks.mkdir()
    for video, rows in (("Test001", 4), ("Test002", 2)):
        np.save(masks / f"{video}.npy", np.arange(rows * 16) == 4)
    for truth, intervals in (
        (root / "truth.csv", {"Test001": (5, 9), "Test002": (3, 7)}),
        (masks, {"Test001": (4, 5), "Test002": (4, 5)}),
    ):
        dataset = run(small, tmp_path, [*videos, more], ground_truth=truth).dataset
        found = {video: (one.start_frame, one.end_frame) for video, (one,) in dataset.ground_truth.items()}
        assert found == intervals
        assert dataset.records["Test009"].source == "tape"


def test_ground_truth_of_a_normal_training_video_is_refused(small, tmp_path):
    root, _ = small
    (root / "truth.csv").write_text("video,start_frame,end_frame\nTest001,5,9\nTrain007,3,7\n")
    with pytest.raises(DataError, match=r"the video is normal and has abnormal frames \(video 'Train007'\)"):
        run(small, tmp_path, ground_truth=root / "truth.csv")


def test_an_assumed_frame_rate_is_said(small, tmp_path):
    assert "25 assumed" in run(small, tmp_path, fps=None).warnings[0]


def test_manifests_say_how_rows_were_made(small, tmp_path):
    dataset = run(small, tmp_path, natures={"clip": "magnitude"}).dataset
    clip, text = dataset.modalities["clip"], dataset.modalities["text"]
    assert (clip.crops, clip.width, clip.nature, clip.extractor) == (2, 6, "magnitude", "imported")
    assert (text.crops, text.width, text.nature) == (1, 3, "direction")
    assert text.settings == {"length": "error", "stride": None, "timed": False}


def test_names_of_files_and_folders_do_not_make_other_features(small, tmp_path):
    root, videos = small
    before = run(small, tmp_path).dataset.modalities["clip"].hash
    for video in videos:
        (root / "i3d" / f"{video.video}_i3d.npy").rename(root / "i3d" / f"{video.video}.npy")
    features = {"clip": FeatureLocation(root=str(root / "i3d")), "text": sources(root)["text"]}
    assert run(small, tmp_path, features=features).dataset.modalities["clip"].hash == before
    assert run(small, tmp_path, features=features).dataset.features("text", "Test001").shape == (4, 3)


@pytest.mark.parametrize(
    "break_it, message",
    [
        (lambda root: (root / "i3d" / "Train007_i3d.npy").unlink(), "no feature file.*'clip', video 'Train007'"),
        (lambda root: np.save(root / "i3d" / "Train007_i3d.npy", np.zeros((3, 5, 6))), "crops differ.*'Train007'.*2.*got 5"),
        (lambda root: np.save(root / "i3d" / "Train007_i3d.npy", np.zeros((3, 2, 7))), "width differ.*'Train007'.*6.*got 7"),
        (lambda root: np.save(root / "i3d" / "Train007_i3d.npy", np.zeros(3)), "not a feature set.*'Train007'"),
        (lambda root: np.save(root / "i3d" / "Train007_i3d.npy", np.zeros((3, 2, 6), int)), "floating-point.*int64"),
        (lambda root: np.save(root / "emb" / "Train007_emb.npy", np.zeros((9, 3))), "longer.*'Train007'.*6 too many"),
        (lambda root: (root / "emb" / "Test001_emb.npy").write_bytes(b"\x93NUMPY"), "truncated.*'Test001'"),
        (lambda root: np.save(root / "gt.npy", np.load(root / "gt.npy")[:-1]), "first video that is off is 'Train001'"),
        (lambda root: np.save(root / "gt.npy", np.zeros(144)), "no abnormal frame.*'Test001'"),
        (lambda root: np.save(root / "gt.npy", np.ones(144)), "normal and has abnormal frames.*'Train001'"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_written(small, tmp_path, break_it, message):
    break_it(small[0])
    with pytest.raises(DataError, match=message):
        run(small, tmp_path)
    assert not (tmp_path / "out").exists()


def test_a_partial_import_leaves_out_and_says_so(small, tmp_path):
    (small[0] / "emb" / "Train007_emb.npy").unlink()
    np.save(small[0] / "gt.npy", np.zeros(144))
    report = run(small, tmp_path, allow_partial=True, benchmark=benchmark("ped2"))
    assert [record.video for record in report.dataset.videos] == ["Test002", "Test001", "Train001"]
    said = " | ".join(report.warnings)
    for part in ("split 'train'", "split 'test'", "'Train007'", "'Test001'"):
        assert part in said


def test_sizes_of_the_benchmark_are_asked_for(small, tmp_path):
    with pytest.raises(
        DataError, match=r"another size.*UCSD Ped2, split 'train'.*10 videos, 6 of them abnormal.*got 2 videos, 1"
    ):
        run(small, tmp_path, benchmark=benchmark("ped2"))


def test_ground_truth_after_the_end_is_refused_or_cut(small, tmp_path):
    (tmp_path / "i.csv").write_text("video,start_frame,end_frame\nTest001,50,90\n")
    with pytest.raises(DataError, match=r"after the end.*'Test001'.*64 frames, give or take 15.*got 90"):
        run(small, tmp_path, ground_truth=tmp_path / "i.csv")
    dataset = run(small, tmp_path, ground_truth=tmp_path / "i.csv", allow_partial=True).dataset
    assert int(dataset.frame_labels("Test001").sum()) == 14


@pytest.mark.parametrize(
    "more, error, message",
    [
        ({"frame_counts": {"Test001": (66, None)}}, DataError, "frames does not fit.*'Test001'.*49 to 64.*got 66"),
        ({"truth_split": "odd"}, DataError, "no video in split 'odd'"),
        ({"fps": -1.0}, ParameterError, "fps"),
        ({"stride": 0}, ParameterError, "stride"),
    ],
)
def test_wrong_settings(small, tmp_path, more, error, message):
    with pytest.raises(error, match=message):
        run(small, tmp_path, **more)


@pytest.mark.parametrize("line, message", [("v1,x", "not a whole number.*line 2"), ("v1,0", "below 1.*line 2")])
def test_wrong_frame_tables(tmp_path, line, message):
    (tmp_path / "f.csv").write_text(f"video,frames\n{line}\n")
    with pytest.raises(DataError, match=message):
        read_frame_counts(tmp_path / "f.csv")


def test_a_dataset_that_was_extracted_is_not_replaced(small, tmp_path):
    dataset = run(small, tmp_path).dataset
    run(small, tmp_path)
    text = (dataset.root / "dataset.yaml").read_text()
    (dataset.root / "dataset.yaml").write_text(text.replace("extractor: imported", "extractor: motion", 1))
    with pytest.raises(DataError, match=r"was not imported.*another folder"):
        run(small, tmp_path)


def test_npz_files_are_written_over(small, tmp_path):
    root, videos = small
    for video in videos:
        np.savez(tmp_path / f"{video.video}.npz", rows=np.load(root / "emb" / f"{video.video}_emb.npy"), other=np.zeros(1))
    features = {"text": ArrayFiles(tmp_path, "rows")}
    report = run(small, tmp_path, features=features)
    assert report.copied == 4
    for video in videos:
        expected = np.load(root / "emb" / f"{video.video}_emb.npy").astype(np.float32)
        assert np.array_equal(report.dataset.features("text", video.video), expected)
    with pytest.raises(DataError, match=r"which array.*rows, other"):
        run(small, tmp_path, features={"text": ArrayFiles(tmp_path)})
    (tmp_path / "Test002.npz").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"not a \.npz file"):
        run(small, tmp_path, features=features)


def test_hdf5_files_are_written_over(small, tmp_path):
    h5py = pytest.importorskip("h5py", reason="pip install 'lego-fusion[formats]'")
    root, videos = small
    with h5py.File(tmp_path / "f.h5", "w") as file:
        for video in videos:
            file[f"emb/{video.video}"] = np.load(root / "emb" / f"{video.video}_emb.npy")
    report = run(small, tmp_path, features={"text": ArrayFiles(tmp_path / "f.h5", "emb/{video}")})
    expected = np.load(root / "emb" / "Train001_emb.npy").astype(np.float32)
    assert np.array_equal(report.dataset.features("text", "Train001"), expected)
    with pytest.raises(DataError, match=r"no such array.*'Test002' in"):
        run(small, tmp_path, features={"text": ArrayFiles(tmp_path / "f.h5")})
    (tmp_path / "g.h5").write_bytes(b"no")
    with pytest.raises(DataError, match="not an HDF5 file"):
        run(small, tmp_path, features={"text": ArrayFiles(tmp_path / "g.h5")})


def test_ped2_as_tevad_lists_it(shared_data, tmp_path):
    """Official labels, padded as that family pads them, give the sums known of that array; the real frames give theirs."""
    frames = {}
    with (shared_data / "ped2" / "labels.csv").open() as file:
        for row in csv.DictReader(file):
            clip = f"{row['split'].capitalize()}{int(row['clip']):03d}"
            frames.setdefault(clip, []).append(int(row["label"]))
    names = {
        "train": [
            "Test002",
            "Test006",
            "Test009",
            "Test010",
            "Test011",
            "Test012",
            "Train007",
            "Train008",
            "Train014",
            "Train015",
        ]
    }
    names["test"] = sorted(set(frames) - set(names["train"]))
    for split, listed in names.items():
        (tmp_path / f"{split}.list").write_text(
            "".join(f"/save/UCSDped2/ped2_ten_crop_i3d/{name}_i3d.npy\n" for name in listed)
        )
    padded = {name: np.pad(labels, (0, -len(labels) % 16), mode="edge") for name, labels in frames.items()}
    for name, labels in padded.items():
        sparse(tmp_path / f"{name}_i3d.npy", (len(labels) // 16, 10, 2048))
    np.save(tmp_path / "gt.npy", np.concatenate([padded[name] for name in names["test"]]))
    videos = label_videos(read_lists({split: tmp_path / f"{split}.list" for split in names}), rule=benchmark("ped2").names)
    features = {"clip": FeatureLocation(root=str(tmp_path), files="{video}_i3d.npy")}
    common = {"name": "ped2", "ground_truth": tmp_path / "gt.npy", "benchmark": benchmark("ped2")}
    counted = {name: (len(labels), 10.0) for name, labels in frames.items()}
    for counts, total, positive in ((None, 3200, 908), (counted, 3000, 860)):
        dataset = import_dataset(tmp_path / "out", videos, features, frame_counts=counts, **common).dataset
        labels = np.concatenate([dataset.frame_labels(record.video) for record in dataset.select(split="test")])
        assert (len(labels), int(labels.sum())) == (total, positive)
