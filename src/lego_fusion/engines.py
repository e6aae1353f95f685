"""Jobs that do not depend on each other, on processes of this machine or on the workers of a Ray cluster."""

from __future__ import annotations

import os
import secrets
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import active_children, get_context, parent_process
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

from .errors import LegoFusionError, MissingExtraError

ENGINES = ("processes", "ray")
RETRIES = 3  # of a job whose worker was lost

_POOL = "pool"
_shared: dict[str, Any] = {}  # belongs to a worker process: what its jobs share is sent to it once

Shared = TypeVar("Shared")
Job = TypeVar("Job")
Done = TypeVar("Done")


class WorkerLostError(LegoFusionError):
    """The worker of a job was lost, again and again."""


def run_in_processes(
    work: Callable[[Shared, Job], Done],
    shared: Shared,
    jobs: Sequence[Job],
    workers: int,
    *,
    where: object,
    start: Callable[[], object],
) -> Iterator[tuple[Job, Done]]:
    """Give each job and what came of it, as it is done, in any order.

    Args:
        work: A function of a module, so that another process finds it; called with ``shared`` and a job.
        shared: What all jobs need; each worker process gets it once.
        jobs: What there is to do, at least one job.
        workers: Processes; they start Python anew, so a script needs ``if __name__ == "__main__"``.
        where: What runs, for the message.
        start: Called once in each worker.

    Raises:
        LegoFusionError: If a process dies.
    """
    others = set(active_children())
    given = (start, shared)
    pool = ProcessPoolExecutor(min(workers, len(jobs)), get_context("spawn"), initializer=_start_worker, initargs=given)
    try:
        futures = {pool.submit(_work_in_process, work, job): job for job in jobs}
        for future in as_completed(futures):
            try:
                yield futures[future], future.result()
            except BrokenProcessPool as error:
                raise LegoFusionError(
                    "a worker process died",
                    where=where,
                    fix="give the same command again with fewer workers (it goes on where it was); in a script, call this "
                    "under if __name__ == '__main__'",
                ) from error
    except KeyboardInterrupt:  # a stop waits for no job; what was half written is removed by the next call
        for worker in set(active_children()) - others:
            worker.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker(start: Callable[[], object], shared: object) -> None:
    """A worker ends with Ctrl-C, and with the process that started it, even where that is killed."""
    _shared[_POOL] = shared
    start()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    parent = parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)


def _work_in_process(work: Callable[[Any, Job], Done], job: Job) -> Done:
    return work(_shared[_POOL], job)


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
                yield job, WorkerLostError("the worker of this job was lost", got=got, fix=fix)
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


def _outcome(work: Callable[[Shared, Job], Done], key: str, box: list[Any], job: Job) -> Done | LegoFusionError | OSError:
    import ray

    if key not in _shared:
        _shared.clear()
        _shared[key] = ray.get(box[0])
    try:
        return work(_shared[key], job)
    except (LegoFusionError, OSError) as error:
        return error
