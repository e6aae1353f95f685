"""Several processes that do one task together: who does what, and who waits for whom.

A process is one of ``size``, which ``torchrun`` or Lightning Fabric has started, on one machine or on many that see the same
folders. Alone is the usual case, in which nothing here does anything.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

from ..errors import LegoFusionError, ParameterError, StoppedByFirstError, check_int

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


ALONE = Ranks()


def current_ranks() -> Ranks:
    """Which process of ``torch.distributed`` this one is; alone where there is no process group."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return ALONE
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
