"""Saved detectors: what goes in comes out, and whatever is wrong with them is one clear line."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import lego_fusion
from lego_fusion.data.manifest import Manifest
from lego_fusion.errors import CheckpointError
from lego_fusion.fusion.base import Fusion
from lego_fusion.fusion.elementwise import Concat
from lego_fusion.fusion.lego import LegoFusion
from lego_fusion.fusion.networks import MTN
from lego_fusion.fusion.paper import PaperFusion
from lego_fusion.learn.checkpoint import FORMAT, RunConfig, load_detector, read_run_config, save_detector
from lego_fusion.learn.detector import Detector

WIDTHS = {"motion": 4, "text": 3}
N = 6
FUSIONS: dict[str, Callable[[], Fusion]] = {
    "lego": lambda: LegoFusion(WIDTHS),
    "few references": lambda: LegoFusion(WIDTHS, references=5, orders=(1, 3), window=4),
    "learned operator": lambda: LegoFusion(WIDTHS, operator="learned", order=3),
    "dot": lambda: PaperFusion(WIDTHS, nodes=N, relations="dot", form="all-pairs", order={"motion": 1, "text": 3}),
    "paper": lambda: PaperFusion(WIDTHS, nodes=N, relations={"motion": "gaussian", "text": "cosine"}, centre=True),
    "concat": lambda: Concat(WIDTHS),
    "mtn": lambda: MTN(WIDTHS, join="add"),
}
every_fusion = pytest.mark.parametrize("make", FUSIONS.values(), ids=FUSIONS)


def features(bags: int = 6, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(bags, N, width, generator=generator) for name, width in WIDTHS.items()}


def made_detector(make: Callable[[], Fusion], *, hidden: int = 7) -> Detector:
    fusion = make()
    fusion.fit(features(), torch.tensor([False] * 4 + [True] * 2), torch.arange(6))
    detector = Detector(fusion, hidden=hidden, dropout=0.2, seed=3)
    with torch.no_grad():
        for parameter in detector.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(4)))
    return detector.eval()


def run_config(detector: Detector) -> RunConfig:
    manifests = {
        name: Manifest(modality=name, extractor="imported", version="1", width=width) for name, width in WIDTHS.items()
    }
    return RunConfig(
        format=FORMAT,
        lego_fusion="0.0",
        detector=detector.config(),
        nodes=N,
        manifests=manifests,
        training={"steps": 3},
        dataset={"name": "made"},
        references=[{"video": "v01", "start_frame": 0, "end_frame": 16}],
    )


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    detector = made_detector(FUSIONS["dot"])
    save_detector(tmp_path, detector, run_config(detector))
    return tmp_path


def change_config(folder: Path, change: Callable[[dict], object]) -> None:
    path = folder / "config.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def refused(folder: Path, message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as error:
        load_detector(folder)
    assert "\n" not in str(error.value)
    assert str(folder) in str(error.value)


@every_fusion
def test_a_saved_detector_gives_equal_scores(make, tmp_path):
    detector = made_detector(make)
    save_detector(tmp_path, detector, run_config(detector))
    loaded, config = load_detector(tmp_path)
    assert not loaded.training
    assert torch.equal(loaded(features(3, seed=1)).logits, detector(features(3, seed=1)).logits)
    assert loaded.config() == detector.config()
    assert config.nodes == N and list(config.manifests) == list(WIDTHS)
    assert config.references[0]["video"] == "v01"


@every_fusion
def test_every_parameter_and_statistic_is_in_the_file(make, tmp_path):
    detector = made_detector(make)
    save_detector(tmp_path, detector, run_config(detector))
    stored = load_file(tmp_path / "model.safetensors")
    assert set(stored) == set(detector.state_dict())
    assert {name for name, _ in detector.named_parameters()} <= set(stored)
    assert all(torch.equal(stored[name], tensor) for name, tensor in detector.state_dict().items())


def test_a_run_folder_holds_two_files_a_person_can_name(saved):
    assert sorted(path.name for path in saved.iterdir()) == ["config.json", "model.safetensors"]
    assert json.loads((saved / "config.json").read_text())["format"] == FORMAT


def test_saving_again_replaces_both(saved):
    other = made_detector(FUSIONS["concat"])
    save_detector(saved, other, run_config(other))
    assert torch.equal(load_detector(saved)[0](features()).logits, other(features()).logits)
    assert len(list(saved.iterdir())) == 2


def test_the_order_of_modalities_is_kept(tmp_path):
    fusion = PaperFusion(dict(reversed(WIDTHS.items())), nodes=N, form="full")
    detector = Detector(fusion)
    save_detector(tmp_path, detector, run_config(detector))
    assert load_detector(tmp_path)[0].fusion.operator.names == ("text", "motion")


@pytest.mark.parametrize("place", [100, -1])
def test_tampered_weights(saved, place):
    path = saved / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(bytes(content))
    refused(saved, "the weights do not belong to this configuration")


def test_a_truncated_file(saved):
    path = saved / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    refused(saved, "the weights do not belong to this configuration")
    change_config(saved, lambda content: content.update(weights_hash=hashlib.sha256(path.read_bytes()).hexdigest()))
    refused(saved, "the file cannot be read")


def test_an_empty_file(saved):
    path = saved / "model.safetensors"
    path.write_bytes(b"")
    change_config(saved, lambda content: content.update(weights_hash=hashlib.sha256(b"").hexdigest()))
    refused(saved, "the file cannot be read")


def test_weights_of_another_model(saved, tmp_path):
    other = made_detector(FUSIONS["dot"], hidden=9)
    save_detector(tmp_path / "other", other, run_config(other))
    weights = (tmp_path / "other" / "model.safetensors").read_bytes()
    (saved / "model.safetensors").write_bytes(weights)
    refused(saved, "the weights do not belong to this configuration")
    change_config(saved, lambda content: content.update(weights_hash=hashlib.sha256(weights).hexdigest()))
    refused(saved, r"the model cannot be rebuilt.*size mismatch.*train again")


@pytest.mark.parametrize("change", ["missing", "extra"])
def test_weights_that_lack_a_tensor_or_have_one_too_many(saved, change):
    path = saved / "model.safetensors"
    tensors = load_file(path)
    if change == "missing":
        del tensors["head.first.weight"]
    else:
        tensors["head.third.weight"] = torch.ones(2)
    save_file(tensors, path)
    change_config(saved, lambda content: content.update(weights_hash=hashlib.sha256(path.read_bytes()).hexdigest()))
    refused(saved, f"the model cannot be rebuilt.*{'first' if change == 'missing' else 'third'}.weight")


@pytest.mark.parametrize("version", [0, FORMAT + 1, "1", None])
def test_another_version(saved, version):
    change_config(saved, lambda content: content.update(format=version))
    refused(
        saved,
        rf"saved by another version.*expected format {FORMAT}, got format {version}.*"
        "train again into a new folder: lego-fusion train DATASET RUN",
    )


def test_a_run_of_the_former_default_is_refused_with_the_command_that_trains_again(saved):
    """As it was written then: other arguments of the fusion under the same name, and a calibrated head."""
    fusion = {
        "kind": "lego",
        "config": {"modalities": WIDTHS, "nodes": N, "references": 32, "rows": "sorted", "noise_gate": True},
    }
    change_config(saved, lambda content: content.update(format=1, detector={"fusion": fusion, "head": {"hidden": 32}}))
    command = "lego-fusion train DATASET RUN --fusion lego --modalities motion,text"
    refused(
        saved, rf"saved by another version.*expected format {FORMAT}, got format 1.*train again into a new folder: {command}"
    )
    change_config(saved, lambda content: content.update(detector="lego"))
    refused(saved, r"train again into a new folder: lego-fusion train DATASET RUN\.$")


def test_a_third_reading_is_saved_with_its_switch(tmp_path):
    """It is a buffer and two parameters that are learned only where it is used."""
    detector = made_detector(FUSIONS["lego"])
    for used in (True, False):
        detector.reading_head.use_own_world(used)
        save_detector(tmp_path / str(used), detector, run_config(detector))
        loaded, _ = load_detector(tmp_path / str(used))
        assert bool(loaded.reading_head.own_world) == used
        assert torch.equal(loaded(features(2, seed=3)).logits, detector(features(2, seed=3)).logits)
        assert loaded.parameter_count() == detector.parameter_count()


def test_a_list_is_no_configuration(saved):
    (saved / "config.json").write_text("[1, 2]")
    refused(saved, "saved by another version.*got format None")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(colour="red"), "the configuration is wrong at 'colour'.*Extra inputs are not permitted"),
        (lambda c: c.pop("nodes"), "the configuration is wrong at 'nodes'.*Field required"),
        (lambda c: c.update(nodes=0), "the configuration is wrong at 'nodes'"),
        (lambda c: c["manifests"]["text"].update(colour="red"), r"the configuration is wrong at 'manifests\.text\.colour'"),
        (lambda c: c["detector"].pop("fusion"), "the model cannot be rebuilt.*'fusion'"),
        (lambda c: c["detector"].pop("head"), "the model cannot be rebuilt.*'head'"),
        (lambda c: c["detector"]["head"].update(layers=3), "the model cannot be rebuilt.*layers"),
        (lambda c: c["detector"]["fusion"].update(kind="lgeo"), "the model cannot be rebuilt.*must be one of 'lego'"),
        (lambda c: c["detector"]["fusion"]["config"].update(ordre=3), "the model cannot be rebuilt.*ordre"),
        (lambda c: c["detector"]["fusion"]["config"].update(order=-3), "the model cannot be rebuilt.*'order' parameter"),
        (lambda c: c["detector"]["fusion"]["config"].update(modalities=["motion"]), "the model cannot be rebuilt"),
        (lambda c: c["detector"].update(fusion="lego"), "the model cannot be rebuilt"),
    ],
)
def test_a_configuration_that_was_edited(saved, change, message, unchecked_types):
    change_config(saved, change)
    refused(saved, message)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00", b"{'format': 1}"])
def test_a_configuration_that_is_not_json(saved, content):
    (saved / "config.json").write_bytes(content)
    refused(saved, "the configuration cannot be read")


def test_missing_files(saved, tmp_path):
    refused(tmp_path / "nowhere", r"there is no trained model here.*expected config\.json.*train one first")
    (saved / "model.safetensors").unlink()
    refused(saved, "the weights are missing")
    (saved / "config.json").unlink()
    with pytest.raises(CheckpointError, match="there is no trained model here"):
        read_run_config(saved)


def test_nothing_in_the_package_can_unpickle():
    folder = Path(lego_fusion.__file__).parent
    sources = {path: path.read_text(encoding="utf-8") for path in folder.rglob("*.py")}
    assert len(sources) > 20
    for path, text in sources.items():
        for word in ("torch.load", "torch.save", "pickle.load", "import pickle", "import joblib", "allow_pickle=True"):
            assert word not in text, f"{word} in {path.name}"
