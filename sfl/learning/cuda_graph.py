"""A function of tensors as one CUDA graph: recorded once, then launched as a whole.

A training step of eager PyTorch is hundreds of launches, which take the host longer than the GPU.
Knows no model and no config.
"""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

# Calls before the recording, for what happens once: kernels are loaded, an optimizer's state and
# cuBLAS's memory are allocated.
WARM_UP = 3

Outputs = tuple[Tensor, ...]
Function = Callable[..., Outputs]


class Replay(Protocol):
    """What was recorded, to be run again on the numbers that its tensors hold now."""

    def replay(self) -> object: ...


def record(body: Callable[[], object]) -> Replay:
    """Records what `body` launches on the current device; nothing is computed."""
    graph, here = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
    try:
        # A stream of its own: PyTorch's would be of the first device that one was recorded on.
        with torch.cuda.graph(graph, stream=torch.cuda.Stream()):
            body()
    except RuntimeError:
        _end_recording()
        raise
    finally:
        torch.cuda.set_stream(here)  # where a recording fails, torch.cuda.graph leaves its own
    return graph


class Graphed:
    """Calls a function of tensors: the first few times as it is, then as one launch.

    The function must compute on the device alone, and all that it reads and changes beside its
    arguments must be tensors that stay where they are. Then its numbers are the same as without a
    graph, also those of dropout: a replay reads the seed of the device's generator.

    Arguments of other shapes than those of the first call are computed as they are. The outputs of
    a replay are the same tensors each time.

    refused: is given the error if the function can't be recorded; unless it raises one, the
        function is called as it is from then on.
    recorder: stands in for `record` in tests.
    """

    def __init__(
        self,
        function: Function,
        refused: Callable[[RuntimeError], object],
        recorder: Callable[[Callable[[], object]], Replay] = record,
    ) -> None:
        self._function, self._refused, self._recorder = function, refused, recorder
        self._inputs: Outputs = ()
        self._outputs: Outputs = ()
        self._recorded: Replay | None = None
        self._aside: torch.cuda.Stream | None = None
        self._calls, self._given_up = 0, False

    def __call__(self, *tensors: Tensor) -> Outputs:
        if self._calls and self._recorded is None and tensors[0].numel() > self._inputs[0].numel():
            self._inputs, self._calls = (), 0  # the first batch of a resumed run was a small one
        if self._given_up or (self._calls and not self._fit(tensors)):
            return self._function(*tensors)
        self._calls += 1
        if self._calls <= WARM_UP:
            return self._warm_up(tensors)
        for mine, given in zip(self._inputs, tensors, strict=True):
            mine.copy_(given)
        if self._recorded is None and not self._record():
            return self._function(*tensors)
        assert self._recorded is not None
        self._recorded.replay()
        return self._outputs

    def _fit(self, tensors: tuple[Tensor, ...]) -> bool:
        return [(t.shape, t.dtype) for t in tensors] == [(t.shape, t.dtype) for t in self._inputs]

    def _warm_up(self, tensors: tuple[Tensor, ...]) -> Outputs:
        """On a stream of its own, as PyTorch's documentation of CUDA graphs has it."""
        self._inputs = self._inputs or tuple(torch.empty_like(each) for each in tensors)
        if not tensors[0].is_cuda:
            return self._function(*tensors)
        here = torch.cuda.current_stream()
        aside = self._aside = self._aside or torch.cuda.Stream()
        aside.wait_stream(here)
        with torch.cuda.stream(aside):
            outputs = self._function(*tensors)
        here.wait_stream(aside)
        return outputs

    def _record(self) -> bool:
        """Whether it can be recorded."""
        try:
            self._recorded = self._recorder(self._body)
        except RuntimeError as error:  # what isn't allowed in a graph; too little memory
            self._given_up = True
            cause = error  # which the error at the recording's end hides
            while isinstance(cause.__context__, RuntimeError):
                cause = cause.__context__
            self._refused(cause)
        return not self._given_up

    def _body(self) -> None:
        self._outputs = self._function(*self._inputs)


def _end_recording() -> None:
    """After one that failed: an older PyTorch's generator believes that it is still going on."""
    generator = torch.cuda.default_generators[torch.cuda.current_device()]
    fresh = torch.Generator(generator.device).manual_seed(generator.initial_seed())
    generator.graphsafe_set_state(fresh)
