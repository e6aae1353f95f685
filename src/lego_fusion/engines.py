"""Jobs on the workers of a Ray cluster; beside local processes, the second way to go through many videos."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from .errors import LegoFusionError, MissingExtraError

ENGINES = ("processes", "ray")
RETRIES = 3  # of a job whose worker was lost

Shared = TypeVar("Shared")
Job = TypeVar("Job")
Done = TypeVar("Done")


def run_on_ray(
    work: Callable[[Shared, Job], Done], shared: Shared, jobs: Sequence[Job], workers: int
) -> Iterator[tuple[Job, Done | LegoFusionError | OSError]]:
    """Give each job and what came of it, as it is done, in any order.

    Works on the cluster that is connected already, on that of ``RAY_ADDRESS``, or on a local one that is started for this and
    ended after it. A job whose worker is lost is done again, up to ``RETRIES`` times. Machines of a cluster need this package
    and must see the files that jobs name.

    Args:
        work: A function of a module; called with ``shared`` and a job.
        shared: What all jobs need; each worker process gets it once.
        jobs: What there is to do.
        workers: Processes of a local cluster; a cluster that is there uses all its processors.

    Yields:
        The job with its result, or with the error that it raised, or with an error that says that its worker was lost.

    Raises:
        MissingExtraError: If Ray is not installed.
        LegoFusionError: If no cluster answers.
    """
    if not jobs:
        return
    ray = _ray()
    ours = not ray.is_initialized()
    if ours:
        _connect(ray, min(workers, len(jobs)))
    try:
        call = ray.remote(num_cpus=1, max_retries=RETRIES)(_outcome)
        box, key = [ray.put(shared)], secrets.token_hex(8)
        pending = {call.remote(work, key, box, job): job for job in jobs}
        while pending:
            (done,), _ = ray.wait(list(pending), num_returns=1)
            job = pending.pop(done)
            try:
                yield job, ray.get(done)
            except ray.exceptions.RayTaskError:
                raise  # a fault of ours, with where it happened
            except ray.exceptions.RayError as error:
                got = f"{type(error).__name__}, {RETRIES + 1} times"
                fix = "give the same command again with fewer workers; it goes on where it was"
                yield job, LegoFusionError("the worker of this job was lost", got=got, fix=fix)
        del box
    finally:
        if ours:
            ray.shutdown()


def _ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anyone
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError as error:
        raise MissingExtraError("ray", "ray") from error
    return ray


def _connect(ray: Any, workers: int) -> None:
    address = os.environ.get("RAY_ADDRESS")
    local: dict[str, Any] = {} if address else {"address": "local", "num_cpus": workers, "include_dashboard": False}
    try:
        ray.init(logging_level="ERROR", log_to_driver=False, **local)
    except (ConnectionError, OSError, RuntimeError, ValueError) as error:
        fix = "correct RAY_ADDRESS, or unset it for a local cluster"
        raise LegoFusionError("no Ray cluster answers", where=address or "a local one", got=error, fix=fix) from error


# Belongs to a worker process: what its jobs share is sent to it once.
_shared: dict[str, Any] = {}


def _outcome(work: Callable[[Shared, Job], Done], key: str, box: list[Any], job: Job) -> Done | LegoFusionError | OSError:
    import ray

    if key not in _shared:
        _shared.clear()
        _shared[key] = ray.get(box[0])
    try:
        return work(_shared[key], job)
    except (LegoFusionError, OSError) as error:
        return error
