"""Jobs that do not depend on each other, in this process or in several, one thread each."""

from __future__ import annotations

import functools
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import active_children, get_context, parent_process
from multiprocessing.process import BaseProcess
from typing import TypeVar

import torch

from ..errors import LegoFusionError, check_int
from .ranks import ALONE, Ranks

Job = TypeVar("Job")
Done = TypeVar("Done")


def run_jobs(
    work: Callable[[Job], Done], jobs: Sequence[Job], workers: int, *, where: str, ranks: Ranks = ALONE
) -> Iterator[tuple[Job, Done]]:
    """Give each job and what came of it, as it is done; with one worker, in order and in this process.

    Args:
        work: A function of a module, so that another process finds it.
        jobs: What it is called with.
        workers: Processes; they start Python anew, so a script needs ``if __name__ == "__main__"``.
        where: What runs, for the message.
        ranks: Processes that all make this call with the same jobs: each does every size-th of them and then gives those of
            the others too.

    Raises:
        LegoFusionError: If a process dies.
    """
    if ranks.size > 1:
        return _shared(work, jobs, workers, where, ranks)
    return _here(work, jobs) if min(workers, len(jobs)) <= 1 else _in_processes(work, jobs, workers, where)


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Let torch use so many threads for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(check_int(count, "threads", "torch_threads", low=1))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _shared(
    work: Callable[[Job], Done], jobs: Sequence[Job], workers: int, where: str, ranks: Ranks
) -> Iterator[tuple[Job, Done]]:
    ranks.wait()  # until all know what there is to do: what one finishes now is missing from no list
    own: dict[int, Done] = {}
    failure: LegoFusionError | OSError | None = None
    try:
        share = ranks.share(list(enumerate(jobs)))
        for (number, job), done in run_jobs(functools.partial(_numbered, work), share, workers, where=where):
            own[number] = done
            yield job, done
    except (LegoFusionError, OSError) as error:  # told to the others, which would wait for ever
        failure = error
    found = ranks.collect((own, None if failure is None else str(failure)))
    if failure is not None:
        raise failure
    for told in (message for _, message in found if message is not None):
        raise LegoFusionError(told)
    for results, _ in (one for rank, one in enumerate(found) if rank != ranks.rank):
        for number, done in results.items():
            yield jobs[number], done


def _numbered(work: Callable[[Job], Done], job: tuple[int, Job]) -> Done:
    return work(job[1])


def _here(work: Callable[[Job], Done], jobs: Sequence[Job]) -> Iterator[tuple[Job, Done]]:
    with torch_threads(1):  # as in a worker: the sums of several threads differ in their last digits
        for job in jobs:
            yield job, work(job)


def _in_processes(work: Callable[[Job], Done], jobs: Sequence[Job], workers: int, where: str) -> Iterator[tuple[Job, Done]]:
    others = set(active_children())
    pool = ProcessPoolExecutor(min(workers, len(jobs)), mp_context=get_context("spawn"), initializer=_start_worker)
    try:
        futures = {pool.submit(work, job): job for job in jobs}
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


def _start_worker() -> None:
    """One thread; ends with Ctrl-C, and with the process that started it, even where that is killed."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    parent = parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)
