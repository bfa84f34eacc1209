"""Training in several processes that `python -m paddle.distributed.launch` has started."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterable, Iterator
from typing import Any

import paddle
import paddle.distributed as dist
from paddle import Tensor
from paddle.autograd import PyLayer
from paddle.nn import Layer

from core.network.layers import replace
from core.training.peers import Peer, own_log, watch_others


def initialize() -> tuple[int, int]:
    """Join the other processes if there are any; return rank and world size.

    From then on this process says which of the others died, and of what, and ends then too: it
    would wait for ever in the next exchange.
    """
    several = int(os.environ.get("PADDLE_TRAINERS_NUM", "1")) > 1
    if several and not dist.is_initialized():
        dist.init_parallel_env()
        rank = dist.get_rank()
        mine = Peer(rank, os.getpid(), socket.gethostname(), own_log())
        watch_others(gather(mine), rank)
    return dist.get_rank(), dist.get_world_size()


def gather(value: Any) -> list[Any]:
    """Return the values of all processes, in order of rank."""
    if dist.get_world_size() == 1:
        return [value]
    values: list[Any] = []
    dist.all_gather_object(values, value)
    return values


def barrier() -> None:
    """Wait until every process is here."""
    if dist.get_world_size() > 1:
        dist.barrier()


def average_gradients(parameters: Iterable[Tensor]) -> None:
    """Replace gradients of any shape by their mean over processes, one exchange per data type.

    Done once per optimizer step, after the last backward. Unlike `paddle.DataParallel` this leaves
    no hooks on the parameters, so a strategy may replace any of them, and it covers what the
    strategies train themselves. A parameter without gradient in one process counts as zero there,
    one without gradient in all of them keeps none.
    """
    if dist.get_world_size() == 1:
        return
    trained = list(parameters)
    used = paddle.to_tensor([parameter.grad is not None for parameter in trained], "int32")
    dist.all_reduce(used, dist.ReduceOp.MAX)
    trained = [parameter for parameter, any_use in zip(trained, used.tolist()) if any_use]
    for dtype in {parameter.dtype for parameter in trained}:
        group = [parameter for parameter in trained if parameter.dtype == dtype]
        for parameter in group:
            if parameter.grad is None:
                parameter.grad = paddle.zeros_like(parameter)
        flat = paddle.concat([parameter.grad.flatten() for parameter in group])
        dist.all_reduce(flat)
        flat = flat / dist.get_world_size()
        for parameter, part in zip(group, flat.split([parameter.size for parameter in group])):
            parameter.grad.set_value(part.reshape(parameter.shape))


def broadcast_from_first(tensors: Iterable[Tensor]) -> None:
    """Give every process the values of process 0, in tensors of any shape."""
    if dist.get_world_size() > 1:
        for tensor in tensors:
            dist.broadcast(tensor, 0)


class _AllReduceSum(PyLayer):
    """Sum over processes whose gradient is summed over processes too."""

    @staticmethod
    def forward(_context: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(_context: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        dist.all_reduce(total)
        return total


class SyncBatchNorm(Layer):
    """Batch normalisation over the samples of all processes, on any device.

    Shares the tensors of the layer it stands for; Paddle's own synchronised kernel exists for GPUs
    only. Statistics move as in `paddle.nn.BatchNorm2D` (biased variance).
    """

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias
        self._mean, self._variance = layer._mean, layer._variance
        self._momentum, self._epsilon = layer._momentum, layer._epsilon
        self._activation = getattr(layer, "_act", None)
        self.training = layer.training

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x [N, C, ...]."""
        shape = [1, -1] + [1] * (x.ndim - 2)
        axes = [0, *range(2, x.ndim)]
        if self.training:
            mean, variance = self._global_statistics(x, axes, shape)
            with paddle.no_grad():
                keep = self._momentum
                self._mean.set_value(self._mean * keep + mean.detach() * (1 - keep))
                self._variance.set_value(self._variance * keep + variance.detach() * (1 - keep))
        else:
            mean, variance = self._mean, self._variance
        scale = self.weight / paddle.sqrt(variance + self._epsilon)
        shift = self.bias - mean * scale
        y = x * scale.reshape(shape) + shift.reshape(shape)
        return getattr(paddle.nn.functional, self._activation)(y) if self._activation else y

    def _global_statistics(
        self, x: Tensor, axes: list[int], shape: list[int]
    ) -> tuple[Tensor, Tensor]:
        local = paddle.concat([x.sum(axes), paddle.full([1], x.size / x.shape[1], x.dtype)])
        total = _AllReduceSum.apply(local)
        count = total[-1].detach()
        mean = total[:-1] / count
        variance = _AllReduceSum.apply(((x - mean.reshape(shape)) ** 2).sum(axes)) / count
        return mean, variance


@contextlib.contextmanager
def synchronized_batch_norm(model: Layer) -> Iterator[None]:
    """Let the model normalise over all processes while the context is open."""
    kinds = (paddle.nn.BatchNorm1D, paddle.nn.BatchNorm2D, paddle.nn.BatchNorm3D)
    originals = {
        path: layer
        for path, layer in model.named_sublayers()
        if isinstance(layer, (*kinds, paddle.nn.BatchNorm)) and not layer._use_global_stats
    }
    for path, layer in originals.items():
        replace(model, path, SyncBatchNorm(layer))
    try:
        yield
    finally:
        for path, layer in originals.items():
            layer.training = model.training
            replace(model, path, layer)
