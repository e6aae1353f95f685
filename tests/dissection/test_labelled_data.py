"""The folder that ``dissect`` reads: what is written is what is read, and what is missing is named."""

import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lego_fusion.dissection.labelled_data import DissectionFolder
from lego_fusion.errors import DataError

NAMES = ("a", "b", "c")


def write(root: Path, *, masks: bool = False, size: int = 6) -> np.ndarray:
    """Two modalities of three pictures, and labels 0, 3 and 9, of which 9 has no name."""
    random = np.random.default_rng(0)
    labels = random.choice([0, 3, 9], size=(3, size, size))
    for folder in ("rgb", "depth", "labels"):
        (root / folder).mkdir(parents=True)
    for place, name in enumerate(NAMES):
        np.save(root / "rgb" / f"{name}.npy", random.integers(0, 256, (size, size, 3), dtype=np.uint8))
        np.save(root / "depth" / f"{name}.npy", random.random((size, size)))
        if masks:
            arrays = {"floor": labels[place] == 0, "wall": labels[place] != 9}
            np.savez(root / "labels" / f"{name}.npz", **{key: value for key, value in arrays.items() if place or key == "wall"})
        else:
            np.save(root / "labels" / f"{name}.npy", labels[place])
    if not masks:
        (root / "labels.csv").write_text("value,name\n0,floor\n3,wall\n")
    return labels


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    labels = write(tmp_path)
    folder = DissectionFolder.open(tmp_path)
    assert (folder.names, folder.modalities, folder.concepts, len(folder)) == (NAMES, ("depth", "rgb"), ("floor", "wall"), 3)
    batches = list(folder.batches(2))
    assert [len(masks) for _, masks in batches] == [2, 1]
    pictures, masks = batches[0]
    np.testing.assert_array_equal(masks[:, 0], labels[:2] == 0)
    np.testing.assert_array_equal(masks[:, 1], labels[:2] == 3)
    stored = np.load(tmp_path / "rgb" / "b.npy")
    np.testing.assert_allclose(pictures["rgb"][1], stored.transpose(2, 0, 1) / 255, rtol=1e-6)
    np.testing.assert_allclose(pictures["depth"][0, 0], np.load(tmp_path / "depth" / "a.npy"), rtol=1e-6)
    assert pictures["rgb"].dtype == pictures["depth"].dtype == np.float32


def test_masks_name_their_concepts_and_an_absent_one_is_nowhere(tmp_path: Path) -> None:
    labels = write(tmp_path, masks=True)
    folder = DissectionFolder.open(tmp_path)
    assert folder.concepts == ("floor", "wall")
    assert not folder.masks("a")[0].any()
    np.testing.assert_array_equal(folder.masks("b"), [labels[1] == 0, labels[1] != 9])


def test_pictures_may_be_png(tmp_path: Path) -> None:
    cv2 = pytest.importorskip("cv2", reason="needs opencv: pip install 'lego-fusion[video]'")
    write(tmp_path)
    picture, depth = np.load(tmp_path / "rgb" / "a.npy"), np.arange(36, dtype=np.uint16).reshape(6, 6) * 1000
    cv2.imwrite(str(tmp_path / "rgb" / "a.png"), picture[..., ::-1])
    cv2.imwrite(str(tmp_path / "depth" / "a.png"), depth)
    cv2.imwrite(str(tmp_path / "labels" / "a.png"), np.full((6, 6), 3, np.uint8))
    for folder in ("rgb", "depth", "labels"):
        (tmp_path / folder / "a.npy").unlink()
    folder = DissectionFolder.open(tmp_path)
    np.testing.assert_allclose(folder.picture("rgb", "a"), picture.transpose(2, 0, 1) / 255, rtol=1e-6)
    np.testing.assert_allclose(folder.picture("depth", "a"), depth[None] / 65535, rtol=1e-6)
    assert folder.masks("a")[1].all()
    (tmp_path / "rgb" / "a.png").write_bytes(zlib.compress(b"nothing"))
    with pytest.raises(DataError, match=r"not a picture that can be read .*a\.png"):
        folder.picture("rgb", "a")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda root: (root / "depth" / "b.npy").unlink(), r"there is no 'b' \(.*depth\)"),
        (lambda root: (root / "labels" / "b.npy").unlink(), r"there is no 'b' \(.*labels\)"),
        (lambda root: [path.unlink() for path in (root / "labels").iterdir()], r"there are no files \(.*labels\)"),
        (lambda root: (root / "depth").rename(root / ".depth"), "nothing to compare.*got rgb"),
        (lambda root: (root / "labels.csv").unlink(), "labels.csv"),
        (lambda root: (root / "labels.csv").write_text("value,name\n"), "no label has a name"),
        (lambda root: (root / "labels.csv").write_text("value,name\nx,y\n"), "not a label value .*line 2.*got x"),
        (lambda root: (root / "labels.csv").write_text("value,name\n0,y\n0,z\n"), "not unique .*line 3"),
        (lambda root: (root / "rgb" / "a.png").write_bytes(b""), "a name comes twice"),
        (lambda root: np.savez(root / "labels" / "a.npz", floor=np.ones((6, 6), bool)), "a name comes twice"),
        (lambda root: np.save(root / "depth" / "b.npy", np.zeros((3, 3))), r"the size differs \(.*b\): .*\(1, 6, 6\)"),
        (lambda root: np.save(root / "depth" / "a.npy", np.zeros(3)), r"not a picture \(.*a\): .*got \(3,\)"),
        (lambda root: np.save(root / "labels" / "a.npy", np.zeros((6, 6))), "not a map of labels.*float64"),
        (lambda root: np.save(root / "rgb" / "a.npy", np.array([{}])), r"not a \.npy file: .*\(.*a\.npy\)"),
        (lambda root: (root / "rgb" / "a.npy").write_bytes(b"no"), r"not a \.npy file"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, change: Callable[[Path], object], match: str) -> None:
    write(tmp_path)
    change(tmp_path)
    with pytest.raises(DataError, match=match):
        list(DissectionFolder.open(tmp_path).batches(3))


def test_bad_masks_are_named(tmp_path: Path) -> None:
    write(tmp_path, masks=True)
    np.savez(tmp_path / "labels" / "b.npz", floor=np.ones((6, 6)))
    with pytest.raises(DataError, match=r"not masks .*b\.npz.*float64"):
        DissectionFolder.open(tmp_path).masks("b")
    (tmp_path / "labels.csv").write_text("value,name\n0,floor\n")
    with pytest.raises(DataError, match=r"unknown concept .*a\.npz.*expected floor, got wall"):
        DissectionFolder.open(tmp_path).masks("a")
    (tmp_path / "labels" / "a.npz").write_bytes(b"no")
    (tmp_path / "labels.csv").unlink()
    with pytest.raises(DataError, match=r"not a \.npz file"):
        DissectionFolder.open(tmp_path)


def test_a_link_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    write(tmp_path / "data")
    np.save(tmp_path / "outside.npy", np.zeros((6, 6)))
    (tmp_path / "data" / "depth" / "a.npy").unlink()
    (tmp_path / "data" / "depth" / "a.npy").symlink_to(tmp_path / "outside.npy")
    with pytest.raises(DataError, match="a link leads out of the folder"):
        DissectionFolder.open(tmp_path / "data").picture("depth", "a")


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no such folder"):
        DissectionFolder.open(tmp_path / "nowhere")
