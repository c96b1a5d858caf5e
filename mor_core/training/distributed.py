"""One model trained by several processes: each takes its rows of the batch, and all take the same step.

The gradients of a step are averaged by an explicit all-reduce after the last backward pass, not by
DistributedDataParallel. That hooks into the model's forward method, which the loop does not call (it takes the hidden
states and fuses the head with the loss), and it would have to be told about shared layers, which one forward pass
applies several times, and about micro-batches, of which only the last may communicate. The price is that communication
does not overlap with the backward pass: 4 bytes a parameter, once a step.

Every rank then has the same gradients, router statistics and losses bit for bit, takes the same step and diverges at
the same step, so the state is shared once, at the start.
"""

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

BUCKET_ENTRIES = 2**24
"""Gradients that are sent together: 64 MB in fp32, long enough for the link and short enough for the memory."""


class PeerLost(Exception):
    """Another rank is gone or does not answer. Nothing is wrong with the work: a new group can go on with it."""


@dataclass(frozen=True, kw_only=True)
class World:
    """The processes that take a step together, seen from one of them."""

    rank: int = 0
    """0 is the one that reads and writes files."""
    size: int = 1
    """How many there are."""

    def rows(self, batch: np.ndarray) -> np.ndarray:
        """This rank's rows of a global batch: the same number for each, in order."""
        share = len(batch) // self.size
        return batch[self.rank * share : (self.rank + 1) * share]

    def mean(self, values: Tensor) -> Tensor:
        """The mean over ranks, the same bits on each. Raises PeerLost."""
        if self.size == 1:
            return values
        values = values.clone()
        with _peers_expected():
            dist.all_reduce(values)
        return values / self.size

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace each gradient by its mean over ranks. Raises PeerLost.

        Which parameters have one depends on the model and not on the batch, so that the ranks agree.
        """
        if self.size == 1:
            return
        for bucket in _buckets([parameter.grad for parameter in parameters if parameter.grad is not None]):
            means = self.mean(torch.cat([gradient.flatten() for gradient in bucket]))
            for gradient, mean in zip(bucket, means.split([gradient.numel() for gradient in bucket]), strict=True):
                gradient.copy_(mean.view_as(gradient))

    def share_state(self, model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> int:
        """Give every rank the weights, buffers, AdamW's moments and the step of rank 0. Raises PeerLost."""
        if self.size == 1:
            return step
        device = next(model.parameters()).device
        steps = torch.tensor(step, device=device)
        tensors = [steps, *model.state_dict().values()]
        with _peers_expected():
            for tensor in tensors:
                dist.broadcast(tensor, src=0)
            if int(steps):
                for parameter in model.parameters():
                    for tensor in _moments(optimizer, parameter):
                        dist.broadcast(tensor, src=0)
        return int(steps)


def current_world() -> World:
    """The process group that this process is in; a world of one where there is none."""
    if not dist.is_available() or not dist.is_initialized():
        return World()
    return World(rank=dist.get_rank(), size=dist.get_world_size())


def leave_world() -> None:
    """Leave the process group, if there is one. Ranks that wait for this one raise PeerLost as soon as its sockets are
    closed: now, or when the process ends where torch keeps the group (it does once an optimiser was made)."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


@contextlib.contextmanager
def _peers_expected() -> Iterator[None]:
    """Turns what the backends raise when a rank is gone, or this one has left, into PeerLost."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        raise PeerLost(str(error).strip().partition("\n")[0]) from error


def _buckets(gradients: list[Tensor]) -> Iterator[list[Tensor]]:
    bucket: list[Tensor] = []
    entries = 0
    for gradient in gradients:
        if bucket and entries + gradient.numel() > BUCKET_ENTRIES:
            yield bucket
            bucket, entries = [], 0
        bucket.append(gradient)
        entries += gradient.numel()
    if bucket:
        yield bucket


def _moments(optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> list[Tensor]:
    """AdamW's state of a parameter, in a fixed order; made where there is none yet."""
    state = optimizer.state[parameter]
    if not state:
        state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
        state["exp_avg"] = torch.zeros_like(parameter)
        state["exp_avg_sq"] = torch.zeros_like(parameter)
    return [state[key] for key in ("step", "exp_avg", "exp_avg_sq")]
