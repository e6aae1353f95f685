"""Jobs on a local Ray cluster of two workers: the same files as without, and a worker that is killed is replaced."""

import hashlib
import sys
from pathlib import Path
from typing import Any

import pytest

from lego_fusion.engines import run_on_ray
from lego_fusion.errors import DataError, LegoFusionError, MissingExtraError, ParameterError
from lego_fusion.scenes.render import render_scenes

JOBS = """
import os, signal
from pathlib import Path
from lego_fusion.errors import DataError
from lego_fusion.extract.motion import Motion

def work(shared, job):
    kind, number = job
    if kind == "refused":
        raise DataError("no such thing", where=number)
    if kind == "gone":
        raise FileNotFoundError(2, "No such file or directory", "v.mp4")
    marker = Path(shared["folder"]) / f"{kind}-{number}"
    if kind == "killed always" or (kind == "killed once" and not marker.exists()):
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return shared["factor"] * number

class Fatal(Motion):
    '''Motion whose process is killed at its first frame, once.'''
    def __init__(self, marker):
        super().__init__(preset="fast")
        self.marker = marker

    def snippet(self, frames, before):
        if not Path(self.marker).exists():
            Path(self.marker).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().snippet(frames, before)
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A module that workers can import, and a local cluster of two for all tests here."""
    ray = pytest.importorskip("ray", reason="pip install 'lego-fusion[ray]'")
    pytest.importorskip("av", reason="pip install 'lego-fusion[video]'")
    folder = tmp_path_factory.mktemp("jobs")
    (folder / "ray_test_jobs.py").write_text(JOBS)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.setenv("PYTHONPATH", ":".join([str(folder), *filter(None, sys.path)]))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.delenv("RAY_ADDRESS", raising=False)
        ray.init(address="local", num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
        try:
            import ray_test_jobs  # type: ignore[import-not-found]

            yield ray_test_jobs
        finally:
            ray.shutdown()


def test_every_job_comes_back_and_lost_workers_are_replaced(made: Any, tmp_path: Path) -> None:
    jobs = [("plain", 1), ("killed once", 2), ("refused", 3), ("plain", 4), ("gone", 5), ("killed always", 6)]
    shared = {"factor": 10, "folder": str(tmp_path)}
    found = dict(run_on_ray(made.work, shared, jobs, 2))
    assert sorted(found) == sorted(jobs)
    assert [found[job] for job in (jobs[0], jobs[1], jobs[3])] == [10, 20, 40]
    assert isinstance(found[jobs[2]], DataError) and str(found[jobs[2]]) == "no such thing (3)"
    assert isinstance(found[jobs[4]], FileNotFoundError) and found[jobs[4]].filename == "v.mp4"
    assert isinstance(found[jobs[5]], LegoFusionError)
    assert "the worker of this job was lost: got WorkerCrashedError, 4 times" in str(found[jobs[5]])


def files_in(folder: Path) -> dict[str, str]:
    """Hash of every file; rows of tables and features alike."""
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def test_extraction_on_ray_writes_the_same_files_although_a_worker_is_killed(made: Any, tmp_path: Path) -> None:
    from lego_fusion.extract.motion import Motion
    from lego_fusion.extract.run import extract_dataset

    scenes = render_scenes(tmp_path / "scenes", videos=3, frames=(20, 24), size=(64, 96), seed=3)
    (scenes.folder / "videos" / "empty.mp4").write_bytes(b"")
    steps: list[tuple[int, int]] = []
    plain = extract_dataset(scenes.folder, tmp_path / "plain", extractors={"motion": Motion(preset="fast")})
    spread = extract_dataset(
        scenes.folder,
        tmp_path / "spread",
        extractors={"motion": made.Fatal(str(tmp_path / "killed"))},
        workers=2,
        engine="ray",
        on_progress=lambda step: steps.append((step.done, step.total)),
    )
    assert (tmp_path / "killed").exists()
    assert files_in(tmp_path / "spread") == files_in(tmp_path / "plain")
    assert spread.failures == plain.failures and len(plain.failures) == 1
    assert steps == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_nothing_to_do_starts_no_cluster() -> None:
    assert list(run_on_ray(print, None, [], 2)) == []


def test_an_unknown_engine_is_refused(tmp_path: Path) -> None:
    from lego_fusion.extract.run import extract_dataset

    with pytest.raises(ParameterError, match=r"'engine'.*'processes', 'ray'\. Got 'dask'"):
        extract_dataset(tmp_path, tmp_path / "out", extractors={}, engine="dask")


def test_without_ray_one_line_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"'ray'.*pip install 'lego-fusion\[ray\]'"):
        list(run_on_ray(print, None, [1], 2))
