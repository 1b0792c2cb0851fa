"""A training step as one CUDA graph: a single launch instead of thousands, each of which costs the host more time
than the small kernel it starts costs the GPU."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from daps_rl.policies import CodeMask

WARMUP = 3  # eager steps first: they make the optimiser's state and choose kernels, which a capture must not do


class GraphedUpdate:
    """A function of a batch that works on the device alone, recorded once and replayed on every later batch.

    The function may change tensors in place and draw from torch's global generator of the device: each replay draws
    anew. What it reads of the host (Python numbers) stays as it was when recorded, so what changes between steps has to
    lie in a tensor. The first three calls, and batches of another shape, run as they are.

    Args:
        update: one batch's tensors → metrics, 0-dim tensors on the device, the same names every time.
    Raises:
        RuntimeError: on the call that records, where the function asks for something on the host.
    """

    def __init__(self, update: Callable[..., dict[str, Tensor]]) -> None:
        self.update = update
        self.calls = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._batch: tuple[Tensor, ...] = ()
        self._names: list[str] = []
        self._values = torch.empty(0)  # the metrics of the last replay

    def __call__(self, *batch: Tensor) -> dict[str, Tensor]:
        self.calls += 1
        if self.calls <= WARMUP:
            return self._aside(*batch)
        if self._graph is None:
            self._graph = self._record(*batch)
        if [part.shape for part in batch] != [part.shape for part in self._batch]:
            return self.update(*batch)
        for recorded, part in zip(self._batch, batch, strict=True):
            recorded.copy_(part)
        self._graph.replay()
        return dict(zip(self._names, self._values.clone().unbind(), strict=True))

    def _aside(self, *batch: Tensor) -> dict[str, Tensor]:
        """On a stream of its own, as recording will: what autograd and the allocator tie to a stream is tied there."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            metrics = self.update(*batch)
        torch.cuda.current_stream().wait_stream(stream)
        return metrics

    def _record(self, *batch: Tensor) -> torch.cuda.CUDAGraph:
        self._batch = tuple(part.clone() for part in batch)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                metrics = self.update(*self._batch)
                self._names = list(metrics)
                self._values = torch.stack([value.detach().float() for value in metrics.values()])
        except RuntimeError as error:
            raise RuntimeError(
                "the training step could not be recorded as a CUDA graph, as something in it asks the host; pass "
                "--no-cuda-graph, or keep .item(), printing and shapes that depend on data out of policy, decoder and "
                f"agent. {error}"
            ) from error
        return graph


def keeps_to_the_device(part: nn.Module | CodeMask) -> bool:
    """Tells whether a GPU may record what a module, or a mask, does: this project's and PyTorch's, and who says so.

    What counts is said in the class's own body, or by the module itself: a subclass may do otherwise.
    """
    own = type(part).__module__.partition(".")[0] in ("daps_rl", "torch")
    keeps = vars(part).get("on_device", own or vars(type(part)).get("on_device") is True)
    mask = getattr(part, "mask", None)
    return bool(keeps) and (not isinstance(mask, CodeMask) or keeps_to_the_device(mask))
