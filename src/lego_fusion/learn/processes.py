"""Several processes: jobs that do not depend on each other, and ranks that do one task together.

A process is one of ``size``, which ``torchrun`` or Lightning Fabric has started, on one machine or on many that see the same
folders. Alone is the usual case, in which nothing here does anything.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn

from ..engines import run_in_processes
from ..errors import LegoFusionError, ParameterError, StoppedByFirstError, check_int
from .detector import Detector, DetectorOutput

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """Which of several processes that work together one is.

    Args:
        rank: Its number, from 0.
        size: How many there are.
        local_rank: Its number on its machine, which is that of its GPU.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and speaks."""
        return self.rank == 0

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """Every size-th item, from the rank-th on."""
        return items[self.rank :: self.size]

    def part(self, count: int) -> range:
        """The places of this process in a row of ``count``: neighbours, and as many as others have, or one more or less."""
        return range(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def wait(self) -> None:
        """Go on when every process is here."""
        if self.size > 1:
            distributed.barrier()

    def collect(self, value: T) -> list[T]:
        """The values of all processes, by rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        distributed.all_gather_object(values, value)
        return values

    def first_alone(self, work: Callable[[], T]) -> T:
        """What ``work`` gives in the first process, in every process; what it raises is raised in all."""
        if self.size == 1:
            return work()
        outcome: list[Any] = [None, None]
        if self.first:
            try:
                outcome[0] = work()
            except (LegoFusionError, OSError) as error:
                outcome[1] = error
        sent = [outcome[0], None if outcome[1] is None else str(outcome[1])]
        distributed.broadcast_object_list(sent, src=0)
        if outcome[1] is not None:
            raise outcome[1]
        if sent[1] is not None:
            raise StoppedByFirstError(sent[1])
        return sent[0]  # type: ignore[no-any-return]

    def first_before_others(self, work: Callable[[], T]) -> T:
        """What ``work`` gives here; the first process is through with it when the others begin, which find what it stored."""
        if not self.first:
            self.wait()
            return work()
        try:
            return work()
        finally:
            self.wait()

    def joined(self, own: Tensor, count: int) -> Tensor:
        """The rows of all processes, ``count`` in all, by rank; gradients flow to this one's own rows.

        Args:
            own: Rows of this process, ``part(count)`` of them.
            count: Rows of all.
        """
        if self.size == 1:
            return own
        most = -(-count // self.size)
        padded = own.detach().new_zeros(most, *own.shape[1:])
        padded[: len(own)] = own.detach()
        pieces = [torch.empty_like(padded) for _ in range(self.size)]
        distributed.all_gather(pieces, padded)
        sizes = [len(Ranks(rank, self.size).part(count)) for rank in range(self.size)]
        rows = [own if rank == self.rank else pieces[rank][: sizes[rank]] for rank in range(self.size)]
        return torch.cat(rows)

    def add_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Replace the gradients of the parameters by their sum over all processes."""
        if self.size == 1:
            return
        known = [parameter for parameter in parameters if parameter.requires_grad]
        flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in known])
        distributed.all_reduce(flat)
        for parameter, gradient in zip(known, flat.split([p.numel() for p in known]), strict=True):
            parameter.grad = gradient.view_as(parameter).clone()


SINGLE_PROCESS = Ranks()


def current_ranks() -> Ranks:
    """Which process of ``torch.distributed`` this one is; alone where there is no process group."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return SINGLE_PROCESS
    return Ranks(distributed.get_rank(), distributed.get_world_size(), int(os.environ.get("LOCAL_RANK", "0")))


@contextmanager
def process_group(devices: int = 1, *, accelerator: str = "cpu") -> Iterator[Ranks]:
    """Work together with the processes that ``torchrun`` started, or with ``devices`` that are started here.

    Args:
        devices: Processes on this machine; the command is run again for each but the first. Under ``torchrun`` it is not asked.
        accelerator: ``"cpu"`` (gloo), ``"cuda"`` (nccl, one GPU each) or ``"auto"``.

    Raises:
        ParameterError: If there are fewer GPUs than devices.
    """
    check_int(devices, "devices", "process_group", low=1, high=4096)
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if max(devices, started) == 1 or current_ranks().size > 1:
        yield current_ranks()
        return
    if accelerator == "auto":
        accelerator = "cuda" if torch.cuda.is_available() else "cpu"
    from lightning_fabric import Fabric
    from lightning_fabric.strategies.ddp import DDPStrategy

    here = int(os.environ.get("LOCAL_WORLD_SIZE", str(started if started > 1 else devices)))
    if accelerator == "cuda" and torch.cuda.device_count() < here:
        got = f"{torch.cuda.device_count()} GPUs"
        raise ParameterError("there are not enough GPUs", expected=f"one for each of {here} processes", got=got)
    backend = "nccl" if accelerator == "cuda" else "gloo"
    strategy = DDPStrategy(process_group_backend=backend)
    for logger in ("lightning_fabric", "lightning.fabric"):
        logging.getLogger(logger).setLevel(logging.WARNING)  # not which ranks have been found
    fabric = Fabric(accelerator=accelerator, devices=here, num_nodes=max(1, started // here), strategy=strategy)
    fabric.launch()
    try:
        yield current_ranks()
    finally:
        if distributed.is_initialized():
            distributed.destroy_process_group()


class SharedForward:
    """Call it like the detector, in every process, with the same bags.

    Outputs are those of the whole batch, so that what compares bags (the two labels, a mean over all) is computed from all
    of them in every process; the gradient flows to the bags of this process alone. Summed over the processes
    (``Ranks.add_gradients``), gradients are those of one process. Where the bags of a batch depend on each other or on chance
    (batch normalisation, dropout), or are fewer than the processes, each process does the whole batch for its part of the
    gradient.

    Args:
        model: The detector as set up by Lightning Fabric.
        detector: The same, for its layers.
        ranks: Who shares the work.
    """

    def __init__(self, model: Callable[..., DetectorOutput], detector: Detector, ranks: Ranks) -> None:
        self.model, self.ranks = model, ranks
        self.divisible = not any(_needs_whole_batch(module) for module in detector.modules())

    def __call__(self, inputs: Mapping[str, Tensor], mask: Tensor | None = None, **options: Any) -> DetectorOutput:
        """Outputs of all bags."""
        count = len(next(iter(inputs.values())))
        if not self.divisible or count < self.ranks.size:
            output = self.model(inputs, mask, **options)
            for tensor in output:
                if tensor is not None and tensor.requires_grad:
                    tensor.register_hook(lambda gradient: gradient / self.ranks.size)
            return output
        part = self.ranks.part(count)
        own = {name: tensor[part.start : part.stop] for name, tensor in inputs.items()}
        output = self.model(own, None if mask is None else mask[part.start : part.stop], **options)
        graph = None if output.graph is None else self.ranks.joined(output.graph, count)
        return DetectorOutput(self.ranks.joined(output.logits, count), graph)


def _needs_whole_batch(module: nn.Module) -> bool:
    if isinstance(module, nn.modules.dropout._DropoutNd):
        return module.p > 0
    return isinstance(module, nn.modules.batchnorm._NormBase) and not isinstance(module, nn.modules.instancenorm._InstanceNorm)


Job = TypeVar("Job")
Done = TypeVar("Done")


def run_jobs(
    work: Callable[[Job], Done], jobs: Sequence[Job], workers: int, *, where: str, ranks: Ranks = SINGLE_PROCESS
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
    if min(workers, len(jobs)) <= 1:
        return _here(work, jobs)
    return run_in_processes(_called, work, jobs, workers, where=where, start=_one_thread)


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


def _called(work: Callable[[Job], Done], job: Job) -> Done:
    return work(job)


def _one_thread() -> None:
    torch.set_num_threads(1)
