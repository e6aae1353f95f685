"""``dissect`` as a person meets it: one page, tables, and one line for every mistake."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from command_line import run

NETWORK = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.rgb = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1))
        self.depth = nn.Sequential(nn.Conv2d(1, 4, 1), nn.Conv2d(4, 4, 1))
        self.fusion = nn.Identity()

    def forward(self, rgb, depth):
        return self.fusion(self.rgb(rgb) + self.depth(depth))


def build():
    torch.manual_seed(0)
    return Net().eval()


def with_layers():
    return build(), {"rgb": "rgb.*", "depth": "depth.*"}


def training():
    return build().train()


def apart():
    return {"rgb": build(), "depth": build()}


def nothing():
    return 3


def fails():
    return {}["missing"]


def bright(outputs, labels):
    return outputs[:, 0].mean((1, 2)) - outputs[:, 0].amin((1, 2))


def wrong(outputs, labels):
    return labels.nothing


def batches():
    for start in range(2):
        yield {"rgb": torch.rand(4, 3, 6, 6), "depth": torch.rand(4, 1, 6, 6)}, torch.randint(0, 2, (4, 6, 6))
"""
QUICK = ("--resamples", 9, "--shuffles", 3, "--quantile", 0.05)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network file, a folder of scenes and weights."""
    root, random = tmp_path_factory.mktemp("dissect"), np.random.default_rng(0)
    (root / "net.py").write_text(NETWORK)
    for folder in ("rgb", "depth", "labels"):
        (root / "scenes" / folder).mkdir(parents=True)
    for place in range(12):
        labels = random.integers(0, 3, size=(6, 6))
        np.save(root / "scenes" / "labels" / f"s{place}.npy", labels)
        np.save(root / "scenes" / "rgb" / f"s{place}.npy", random.random((6, 6, 3)) + (labels == 0)[..., None])
        np.save(root / "scenes" / "depth" / f"s{place}.npy", random.random((6, 6)) + (labels == 1))
    (root / "scenes" / "labels.csv").write_text('value,name\n0,"<b>floor</b>"\n1,wall\n2,chair\n')
    return root


def call(made: Path, *options: object, model: str = "build", data: object = None, code: int = 0) -> Any:
    layers = () if "--layers" in options or model == "with_layers" else ("--layers", "rgb=rgb.*", "--layers", "depth=depth.*")
    where = made / "scenes" if data is None else data
    return run("dissect", f"{made / 'net.py'}:{model}", where, made / "out", *layers, *QUICK, *options, code=code)


def test_a_page_and_tables_are_written(made: Path) -> None:
    result = call(made, "--fused", "fusion", "--apart", f"{made / 'net.py'}:apart")
    for question in ("What is consistent", "How do representations evolve", "How do the modalities collaborate"):
        assert question in result.stdout
    page = (made / "out" / "dissection.html").read_text()
    assert page.count("<section") >= 8
    assert "<script" not in page
    assert not re.search(r'(src|href)="(?!data:|#)', page)
    assert "<b>floor</b>" not in page
    assert "&lt;b&gt;floor&lt;/b&gt;" in page
    document = json.loads((made / "out" / "dissection.json").read_text())
    assert document["levels"] == ["level 1", "level 2"]
    assert len(document["collaboration"]) == 2
    with (made / "out" / "units.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 20
    with (made / "out" / "similarity.csv").open() as file:
        rows = {(row["layer"], row["other"]): float(row["cka"]) for row in csv.DictReader(file)}
    assert rows["rgb level 1", "rgb level 1"] == pytest.approx(1)
    assert {path.suffix for path in (made / "out").iterdir()} == {".html", ".json", ".csv"}


def test_json_is_one_document_with_the_answers(made: Path) -> None:
    document = json.loads(call(made, "--json", "--no-images", model="with_layers").stdout)
    assert len(document["answers"]) == 3
    assert {row["level"] for row in document["sets"]} == {"level 1", "level 2"}
    assert Path(document["files"]["page"]).is_file()
    assert "data:image" not in Path(document["files"]["page"]).read_text()


def test_objects_are_read_over_where_there_are_any(made: Path) -> None:
    """Squares, each floor or wall: told apart by level and modality, and silenced."""
    root, random = made / "squares", np.random.default_rng(0)
    for folder in ("rgb", "depth", "labels", "regions"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for place in range(12):
        numbers = np.zeros((6, 6), dtype=np.int64)
        numbers[:2, :2], numbers[:2, 4:], numbers[4:, :2], numbers[4:, 4:] = 1, 2, 3, 4
        labels = np.where(numbers > 0, np.concatenate([[0], random.integers(1, 3, 4)])[numbers], 0)
        np.save(root / "labels" / f"s{place}.npy", labels)
        np.save(root / "regions" / f"s{place}.npy", numbers)
        np.save(root / "rgb" / f"s{place}.npy", 0.1 * random.random((6, 6, 3)) + labels[..., None])
        np.save(root / "depth" / f"s{place}.npy", 0.1 * random.random((6, 6)))
    (root / "labels.csv").write_text("value,name\n1,floor\n2,wall\n")
    result = call(made, "--fused", "fusion", "--ablate", f"{made / 'net.py'}:bright", data=root)
    assert "Read over 48 objects that came with the labels; a detector: AUROC above 0.8." in result.stdout
    assert "rgb alone detects floor, wall." in result.stdout
    assert "Copies" in result.stdout and "never trained" in result.stdout
    assert "Silencing units changes the metric most for special units of rgb" in result.stdout
    document = json.loads(call(made, "--read", "pixels", "--untrained", 0, "--json", data=root).stdout)
    assert document["read_over"] == {"what": "pixels, as asked for", "objects": 0, "mode": "normalised", "cut": 0.2}
    assert (document["untrained"], document["ablation"]) == (None, None)
    failed = call(made, "--ablate", f"{made / 'net.py'}:wrong", data=root, code=2)
    assert "--ablate fails" in failed.stderr and "AttributeError" in failed.stderr


def test_levels_have_names_and_data_may_come_from_a_function(made: Path) -> None:
    options = ("--layers", "rgb=early:rgb.0,late:rgb.1", "--layers", "depth=early:depth.0,late:depth.1")
    result = call(made, *options, "--concepts", "floor,wall", "--json", data=f"{made / 'net.py'}:batches")
    document = json.loads(result.stdout)
    assert document["levels"] == ["early", "late"]
    assert document["concepts"] == ["floor", "wall"]
    assert document["images"] == 8


def test_weights_and_checkpoints_are_safetensors(made: Path) -> None:
    import importlib.util

    from safetensors.torch import save_file

    specification = importlib.util.spec_from_file_location("net_of_test", made / "net.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    for name in ("one", "two"):
        save_file(module.Net().state_dict(), made / f"{name}.safetensors")
    found = [("--checkpoint", made / f"{name}.safetensors") for name in ("one", "two")]
    document = json.loads(call(made, "--weights", made / "two.safetensors", *found[0], *found[1], "--json").stdout)
    assert [row["name"] for row in document["checkpoints"]] == ["one", "two"]
    assert document["checkpoints"][1]["sets"] == document["sets"]


@pytest.mark.parametrize(
    ("options", "model", "match"),
    [
        (("--layers", "rgb=rgbb.0", "--layers", "depth=depth.0"), "build", r"no layer 'rgbb.0' .*'rgb.0'"),
        (("--layers", "rgb=rgb.*", "--layers", "depth=depth.0"), "build", "different numbers of levels"),
        (("--layers", "rgb=rgb.*"), "build", "nothing to compare"),
        (("--layers", "rgb"), "build", "--layers is given once for each modality: .*got rgb"),
        ((), "training", "training mode.*model.eval"),
        ((), "nothing", "MODEL returns no network .*got int"),
        ((), "fails", "MODEL fails .*KeyError: 'missing'"),
        ((), "bild", "there is no function 'bild' .*build"),
        (("--weights", "nowhere.safetensors"), "build", "not a safetensors file"),
        (("--apart", "net:apart"), "build", "--apart cannot be imported .*ModuleNotFoundError"),
        (("--kind", "other"), "build", "'kind' parameter of dissect"),
        (("--read", "other"), "build", "'read' parameter of dissect"),
        (("--read", "regions", "--kind", "pooled"), "build", "regions are parts of pictures|wrong shape"),
        (("--untrained", "-1"), "build", "'untrained' parameter of dissect"),
        (("--inputs", "other"), "build", "'inputs' parameter of dissect"),
        (("--grid", "3"), "build", "--grid: expected HEIGHTxWIDTH"),
        (("--fused", "nowhere"), "build", "no layer 'nowhere'"),
        (("--quantile", "2"), "build", "'quantile' parameter"),
    ],
)
def test_mistakes_are_one_line(made: Path, options: tuple[str, ...], model: str, match: str) -> None:
    result = call(made, *options, model=model, code=2)
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert re.search(match, lines[0]), lines[0]
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("model", "match"),
    [
        ("nowhere.py:build", "there is no such file"),
        ("net.py", "which function is MODEL"),
        ("no_such_package.module:build", "MODEL cannot be imported .*No module named"),
    ],
)
def test_a_model_that_is_not_there_is_named(made: Path, model: str, match: str) -> None:
    result = run("dissect", model, made / "scenes", made / "out", "--layers", "rgb=rgb.*", code=2)
    assert re.search(match, result.stderr)


def test_a_file_that_fails_is_named(made: Path) -> None:
    (made / "broken.py").write_text("1 / 0\n")
    result = run("dissect", f"{made / 'broken.py'}:build", made / "scenes", made / "out", code=2)
    assert "MODEL cannot be imported" in result.stderr
    assert "ZeroDivisionError" in result.stderr


def test_the_help_says_that_code_is_executed() -> None:
    assert "executed" in run("dissect", "--help").stdout
