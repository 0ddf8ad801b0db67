"""Whether a run's steps are taken as a CUDA graph: train.graph."""

from collections.abc import Callable
from functools import partial

import torch

from sfl.config.schema import Config
from sfl.errors import UserError
from sfl.learning.cuda_graph import Function, Graphed
from sfl.learning.world import World
from sfl.progress import say
from sfl.training.memory import is_out_of_memory


def why_no_graph(config: Config, device: torch.device, world: World) -> str:
    """Why this run's steps can't be a graph, in a few words; "" if they can."""
    if device.type != "cuda":
        return f"only on a CUDA device, not on {device.type}"
    if world.size > 1:
        return "not with torchrun"
    return "not with train.compile" if config.train.compile else ""


def check_graph(config: Config, device: torch.device, world: World) -> None:
    """Raises UserError (exit 2) where a graph is asked for and can't be."""
    why = why_no_graph(config, device, world)
    if config.train.graph == "on" and why:
        raise UserError(f"train.graph: on: {why}", "use auto or off")


def graphed_steps(
    config: Config, device: torch.device, world: World
) -> Callable[[Function], Function] | None:
    """What makes a graph of a learner's step; None where each operation is launched by itself."""
    if config.train.graph == "off" or why_no_graph(config, device, world):
        return None
    refused = _tell if config.train.graph == "auto" else _refuse
    return partial(Graphed, refused=refused)


def _tell(error: RuntimeError) -> None:
    say(f"no CUDA graph of a step, which makes it slower: {_line(error)}")


def _refuse(error: RuntimeError) -> None:
    if is_out_of_memory(error):
        raise error
    raise UserError(f"train.graph: on: {_line(error)}", "use auto or off") from error


def _line(error: RuntimeError) -> str:
    return str(error).partition("\n")[0]
