"""``bench``: it finds the benchmarks of the checkout, hands on its options and its exit code, and says where there are none."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from typer.testing import CliRunner

from lego_fusion.cli import app
from lego_fusion.commands import bench as verb

CHECKOUT = Path(__file__).parents[2] / "benchmarks"
SCRIPT = "import json, sys\njson.dump(sys.argv[1:], open({out!r}, 'w'))\nsys.exit({code})\n"


@pytest.fixture
def measuring(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module that all benchmarks share."""
    monkeypatch.syspath_prepend(CHECKOUT)
    spec = importlib.util.spec_from_file_location("measuring", CHECKOUT / "measuring.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_options_and_exit_code_are_handed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verb, "BENCHMARKS", tmp_path)
    for code in (0, 1):
        (tmp_path / "bench.py").write_text(SCRIPT.format(out=str(tmp_path / "given"), code=code))
        found = CliRunner().invoke(app, ["bench", "--quick", "--strict", "--only", "sweep, streaming"])
        assert found.exit_code == code
        assert json.loads((tmp_path / "given").read_text()) == ["--quick", "--strict", "--only", "sweep", "streaming"]


def test_the_checkout_has_what_the_verb_runs() -> None:
    assert verb.BENCHMARKS == CHECKOUT
    assert (CHECKOUT / "bench.py").is_file()


def test_an_installed_package_says_where_the_benchmarks_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verb, "BENCHMARKS", tmp_path / "benchmarks")
    found = CliRunner().invoke(app, ["bench"])
    assert found.exit_code == 2
    assert found.stderr.startswith("error: the benchmarks are not part of the installed package")


@pytest.mark.parametrize(
    ("row", "target", "met"),
    [
        ({"target": 3.0, "measured": 3.5, "unit": "times faster"}, ">= 3", True),
        ({"target": 3.0, "measured": 2.5, "unit": "times faster"}, ">= 3", False),
        ({"target": 1e-12, "measured": 1e-16, "unit": "at most"}, "<= 1e-12", True),
        ({"target": 20.0, "measured": "not measured", "unit": "times faster"}, ">= 20", None),
        ({"target": None, "measured": 30.0, "unit": "ms"}, None, None),
        ({"target": "<= 3", "measured": 5.4, "unit": "times slower", "met": False}, "<= 3", False),
    ],
)
def test_every_kind_of_row_says_whether_it_is_met(measuring: ModuleType, row: dict[str, Any], target: str, met: bool) -> None:
    made = measuring.normalised({"name": "x", **row})
    assert made["target"] == target
    assert made.get("met") is met
    assert made["measured"] is None or isinstance(made["measured"], float)


def test_misses_stop_nothing_unless_strict(
    measuring: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "measuring", measuring)
    spec = importlib.util.spec_from_file_location("bench_of_checkout", CHECKOUT / "bench.py")
    assert spec is not None and spec.loader is not None
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    monkeypatch.setattr(measuring, "RESULTS", tmp_path)
    rows = {
        "sweep": [{"name": "slow", "target": ">= 3", "measured": 2.0, "unit": "times faster", "met": False, "roofline": 0.5}],
        "streaming": [{"name": "CUDA", "target": ">= 0.4", "measured": None, "unit": "share"}],
    }
    monkeypatch.setattr(bench, "in_own_process", lambda name, *, quick: {"benchmark": name, "rows": rows[name]})
    for flags, code in (([], 0), (["--strict"], 1)):
        monkeypatch.setattr(sys, "argv", ["bench.py", "--only", "sweep", "streaming", *flags])
        assert bench.main() == code
        told = capsys.readouterr().out
        assert "MISSED" in told and "not measured" in told and "50 %" in told
        assert "0 targets met, 1 missed: slow" in told
    stored = json.loads((tmp_path / "sweep.json").read_text())
    assert stored["rows"] == rows["sweep"] and stored["machine"]["cores"] >= 1
    assert not (tmp_path / "streaming.json").exists()
