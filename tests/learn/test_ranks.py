"""Several processes that train one detector, or share jobs: the same numbers as one."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lego_fusion.data.dataset import Dataset
from lego_fusion.errors import ParameterError
from lego_fusion.learn.processes import SINGLE_PROCESS, Ranks, process_group

CASES = """
import json, sys
from pathlib import Path
import torch
from lego_fusion.learn.bags import Bags, fit_frozen
from lego_fusion.learn.detector import Detector
from lego_fusion.learn.processes import SINGLE_PROCESS, process_group
from lego_fusion.learn.train import fit
from lego_fusion.learn.configuration import TrainingConfig
from lego_fusion.data.dataset import Dataset
from lego_fusion.study.table import compare
from lego_fusion.study.plan import make_plan
from lego_fusion.learn.processes import run_jobs
from lego_fusion.learn.runs import train_run
from lego_fusion.study.experiment import run_sweep
from lego_fusion.study.plan import make_sweep_plan
from lego_fusion.errors import DataError, LegoFusionError
from lego_fusion.fusion.elementwise import Concat
from lego_fusion.fusion.lego import LegoFusion
from lego_fusion.fusion.paper import PaperFusion
from lego_fusion.fusion.networks import MTN

generator = torch.Generator().manual_seed(0)
labels = torch.arange(11) % 3 == 2
inputs = {name: torch.randn(22, 8, 4, generator=generator) + 3 for name in ("motion", "text")}
for x in inputs.values():
    x[labels.repeat_interleave(2), -2:] *= -1
bags = Bags(tuple(f"v{i}" for i in range(11)), labels, 2, inputs)
widths = {"motion": 4, "text": 4}
options = {"steps": 5, "learning_rate": 1e-2, "seed": 3}
terms = {"degree_variance": 2.0, "degree_threshold": 0.0, "degree_k": 3, "smoothness": 0.1, "sparsity": 0.1}
cases = {
    "prior": (LegoFusion(widths), {"prior_departure": 2.0, "iterations": 20}),
    "all terms": (
        PaperFusion(widths, nodes=8),
        terms | {"batch_size": 5, "operator_sparsity": 0.1, "operator_order_decay": 0.1, "modality_dropout": 0.5},
    ),
    "fewer videos than processes": (PaperFusion(widths, nodes=8), {"batch_size": 2}),
    "features": (Concat(widths), {"batch_size": 7}),
    "chance": (MTN(widths), {"batch_size": 6}),
    "validation": (LegoFusion(widths), {"selection": "validation", "check_every": 1}),
}

def half(number):
    return number / 2

def fragile(number):
    if number == 3:
        raise DataError("job 3 is wrong")
    return number

def run(ranks):
    found = {}
    for name, (fusion, given) in cases.items():
        fit_frozen(fusion, bags)
        detector = Detector(fusion, hidden=8, seed=3)
        held_out = bags if "selection" in given else None
        state = fit(detector, bags, TrainingConfig(**options, **given), validation=held_out, ranks=ranks)
        weights = torch.cat([parameter.detach().flatten() for parameter in detector.parameters()])
        found[name] = {"weights": weights.tolist(), "loss": [row["loss"] for row in state.history]}
    return found

torch.set_num_threads(1)
out = Path(sys.argv[1])
with process_group() as ranks:
    found = run(ranks)
    seen = {"found": found, "collected": ranks.collect(ranks.rank * 10), "share": list(ranks.share("abcde"))}
    seen["jobs"] = sorted(map(list, run_jobs(half, range(5), 1, where="test", ranks=ranks)))
    try:
        list(run_jobs(fragile, range(5), 1, where="test", ranks=ranks))
    except LegoFusionError as error:
        seen["job failed"] = str(error)
    folder = out.parent / f"together{ranks.size}"
    data = Dataset.open(sys.argv[2])
    training = TrainingConfig(steps=5, learning_rate=1e-2)
    train_run(data, folder / "run", training=training, cache=folder / "graphs", ranks=ranks)
    grid = {"fusion.kept": (2, 3), "k": (1, 3)}
    swept = make_sweep_plan(data, grid, seeds=1, training=training, validation=0.4, nodes=8, hidden=6)
    results, _ = run_sweep(swept, data, folder / "sweep", mode="alone", workers=1, ranks=ranks)
    seen["sweep"] = [[one.loss, one.validation_loss, one.validation_auc] for one in results.values()]
    plan = make_plan([data], fusions=["lego", "concat"], seeds=2, training=training)
    compared = compare(plan, [data], folder / "compare", workers=1, ranks=ranks)
    seen["compare"] = [[row.method, row.micro, row.low] for row in compared.rows]
    seen["told"] = ranks.first_alone(lambda: f"from {ranks.rank}")
    def fails():
        raise DataError("the disk is full")
    try:
        ranks.first_alone(fails)
    except LegoFusionError as error:
        seen["error"] = [type(error).__name__, str(error)]
(out / f"{ranks.rank}.json").write_text(json.dumps(seen))
seen["left"] = torch.distributed.is_initialized()
(out / f"{ranks.rank}.json").write_text(json.dumps(seen))
"""

# sums in another order end L-BFGS at another point of its flat minimum; what is scored is compared without tolerance
WHERE_LBFGS_STOPS = 1e-3


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def seen(planted: Dataset, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict]]:
    """What one process and two (as ``torchrun`` starts them) came to."""
    found = {}
    for size in (1, 2):
        folder = tmp_path_factory.mktemp(f"of_{size}")
        port, started = str(free_port()), []
        for rank in range(size):
            names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "GROUP_RANK": 0}
            torchrun = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "none"}
            environment = os.environ | {name: str(value) for name, value in names.items()} | torchrun
            command = [sys.executable, "-c", CASES, str(folder), str(planted.root)]
            started.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT))
        for process in started:
            output, _ = process.communicate(timeout=120)
            assert process.returncode == 0, output.decode()
        found[str(size)] = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(size)]
    return found


@pytest.mark.parametrize("case", ["prior", "all terms", "fewer videos than processes", "features", "chance", "validation"])
def test_two_processes_train_what_one_trains(seen: dict[str, list[dict]], case: str) -> None:
    (alone,), pair = seen["1"], seen["2"]
    for one in pair:
        for what in ("weights", "loss"):
            torch.testing.assert_close(
                torch.tensor(one["found"][case][what]), torch.tensor(alone["found"][case][what]), rtol=1e-4, atol=2e-5
            )
    assert pair[0]["found"][case] == pair[1]["found"][case]


def test_the_first_process_speaks_for_all(seen: dict[str, list[dict]]) -> None:
    first, second = seen["2"]
    assert first["told"] == second["told"] == "from 0"
    assert first["error"] == ["DataError", "the disk is full"]
    assert second["error"] == ["StoppedByFirstError", "the disk is full"]
    assert first["collected"] == second["collected"] == [0, 10]
    assert (first["share"], second["share"]) == (["a", "c", "e"], ["b", "d"])
    assert not first["left"] and not second["left"]


def test_jobs_are_shared_and_every_process_knows_what_came_of_all(seen: dict[str, list[dict]]) -> None:
    for one in (*seen["1"], *seen["2"]):
        assert one["jobs"] == [[0, 0.0], [1, 0.5], [2, 1.0], [3, 1.5], [4, 2.0]]
        assert one["job failed"] == "job 3 is wrong"


def test_sweep_and_comparison_are_the_same_by_two_processes(seen: dict[str, list[dict]]) -> None:
    (alone,), pair = seen["1"], seen["2"]
    assert len(alone["sweep"]) == 4 and len(alone["compare"]) > 2
    for one in pair:
        assert one["sweep"] == alone["sweep"]
        assert one["compare"] == alone["compare"]


def test_a_run_folder_of_two_processes(seen: dict[str, list[dict]], tmp_path_factory: pytest.TempPathFactory) -> None:
    from safetensors.torch import load_file

    one, two = (tmp_path_factory.getbasetemp() / f"together{size}" / "run" for size in (1, 2))
    assert sorted(path.name for path in one.iterdir()) == sorted(path.name for path in two.iterdir())
    assert (one / "request.json").read_bytes() == (two / "request.json").read_bytes()
    expected = load_file(one / "model.safetensors")
    for name, tensor in load_file(two / "model.safetensors").items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-4, atol=WHERE_LBFGS_STOPS)


@pytest.mark.parametrize(("count", "size"), [(0, 2), (1, 3), (7, 2), (12, 5)])
def test_parts_cover_everything_once(count: int, size: int) -> None:
    parts = [Ranks(rank, size).part(count) for rank in range(size)]
    assert [place for part in parts for place in part] == list(range(count))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert max(map(len, parts)) <= -(-count // size)


def test_alone_nothing_is_shared() -> None:
    rows = torch.ones(3, 2)
    with process_group() as ranks:
        assert ranks == SINGLE_PROCESS and ranks.first
        assert ranks.joined(rows, 3) is rows
        assert ranks.collect("x") == ["x"]
        assert ranks.first_alone(lambda: 5) == 5


def test_more_gpus_than_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with (
        pytest.raises(ParameterError, match=r"not enough GPUs.*one for each of 2 processes"),
        process_group(2, accelerator="cuda"),
    ):
        pass


def test_no_devices() -> None:
    with pytest.raises(ParameterError, match="devices"), process_group(0):
        pass


def test_the_command_starts_its_own_processes(
    planted: Dataset, seen: dict[str, list[dict]], tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    from safetensors.torch import load_file

    (tmp_path / "settings.yaml").write_text("steps: 5\nlearning_rate: 0.01\n")
    command = [sys.executable, "-m", "lego_fusion", "train", str(planted.root), str(tmp_path / "run")]
    options = ["--config", str(tmp_path / "settings.yaml"), "--devices", "2", "--json"]
    environment = {name: value for name, value in os.environ.items() if name not in ("RANK", "LOCAL_RANK", "WORLD_SIZE")}
    ended = subprocess.run([*command, *options], env=environment, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["method"] == "lego"  # one document: the other process says nothing
    one = load_file(tmp_path_factory.getbasetemp() / "together1" / "run" / "model.safetensors")
    for name, tensor in load_file(tmp_path / "run" / "model.safetensors").items():
        torch.testing.assert_close(tensor, one[name], rtol=1e-4, atol=WHERE_LBFGS_STOPS)
    again = subprocess.run(
        [*command, "--steps", "6", "--devices", "2"], env=environment, capture_output=True, text=True, timeout=120
    )
    assert again.returncode == 2
    assert next(line for line in again.stderr.splitlines() if "error" in line).startswith("error: the folder holds another run")
    assert "Traceback" not in again.stderr and again.stderr.count("error: ") == 1
