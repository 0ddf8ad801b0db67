"""What learns: a model, its loss, its backward rules and error route, its optimizer, as one object.

Knows no config, no images and no files. Its state is tensors by name.
"""

import contextlib
import weakref
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import partial

import torch
from torch import Tensor, nn

from sfl.learning.average import Average
from sfl.learning.cuda_graph import Function
from sfl.learning.distillation import Teacher
from sfl.learning.divergence import Guard
from sfl.learning.local_losses import Loss
from sfl.learning.optimizers import keep_rate_on_device, set_rate
from sfl.learning.routes import Chain, Route
from sfl.learning.sleep import Sleep
from sfl.learning.world import ALONE, World
from sfl.nn.feedback.attach import Feedback


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """Products in bfloat16, weights and sums in float32; nothing with another precision."""
    if precision != "bfloat16":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


class Learner:
    """A model that is trained step by step.

    optimizer: of the model's parameters and of those of `feedback` and `route`.
    loss: from logits (B, classes) float32 and labels to their mean loss, (). Labels are (B,) int64,
        or (B, classes) float32 as probabilities.
    precision: "float32", "tf32" or "bfloat16", in which products are computed. Of the first two
        the device knows which one it is (sfl.training.device.prepare).
    clip_norm: gradients are scaled down to this global norm; None leaves them as they are.
    feedback: the model's backward rules. route: by which way errors reach its layers. sleep: what
        its local layers do now and then. average: of the model's weights, which is then what is
        tested. teacher: whose answers it learns, too.
    world: the workers that train it together. sync_batchnorm: whether their batch normalisation
        sees the images of all workers.
    graphed: makes one CUDA graph of a step, see sfl.learning.cuda_graph; for one worker. What it
        recorded stays: clip_norm, weight decay, or model.eval(), set later, change nothing.

    Raises ValueError for an optimizer that isn't fused or lacks parameters of `feedback` or
    `route`; for Adam with weight decay where it moves feedback weights, and for clip_norm with
    losses of layers.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        loss: Loss,
        *,
        precision: str = "float32",
        clip_norm: float | None = None,
        feedback: Feedback | None = None,
        route: Route | None = None,
        sleep: Sleep | None = None,
        average: Average | None = None,
        teacher: Teacher | None = None,
        world: World = ALONE,
        sync_batchnorm: bool = False,
        graphed: Callable[[Function], Function] | None = None,
    ) -> None:
        self.model, self.optimizer, self.loss = model, optimizer, loss
        self.precision, self.clip_norm, self.world = precision, clip_norm, world
        self.feedback, self.route, self.sleep = feedback or Feedback({}), route or Chain(), sleep
        self.average, self.teacher = average, teacher
        self.guard = Guard(optimizer)
        # Without a reference to itself, so that it is freed, graph and all, when it is done with.
        body = partial(Learner._learn_from, weakref.proxy(self))
        self._new_graphed = partial(graphed, body) if graphed else None
        self._graphed = self._new_graphed() if self._new_graphed else None
        # On CUDA devices always: the same bits with and without a graph.
        if graphed is not None or self.weights[0].is_cuda:
            keep_rate_on_device(optimizer)
        moved = set(map(id, self.weights))
        for owner, more in (("feedback", self.feedback), ("route", self.route)):
            if not moved.issuperset(map(id, more.parameters())):
                raise ValueError(
                    f"the optimizer lacks {owner}.parameters(): "
                    f"build_optimizer(model, {owner}.parameters(), …)"
                )
        decay = any(group.get("weight_decay") for group in optimizer.param_groups)
        if self.feedback.parameters() and type(optimizer) is torch.optim.Adam and decay:
            raise ValueError("Adam's decay would differ between weights and those of feedback")
        if self.route.heads() and clip_norm is not None:
            raise ValueError("clip_norm: one norm over all gradients is not for losses of layers")
        self._parallel = world.parallel(model, sync_batchnorm=sync_batchnorm)

    def step(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        lr: float,
        step: int = 0,
        count: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """One step on images (B, C, H, W) and labels, see `loss`: its loss () and hits (), the
        number of images whose likeliest class was predicted.

        Both stay on the device: a step never waits for it. lr: the learning rate. step: its number
        in the whole run, from 0. count: the images of the whole batch, of which each worker gives
        its own part, perhaps none.
        """
        set_rate(self.optimizer, lr)
        self.feedback.before_step(step)
        if self.world.size == 1:
            loss, hits = (self._graphed or self._learn_from)(images, labels)
        else:
            share = len(labels) / (count or len(labels))
            loss, hits = self._learn_from(images, labels, share)
        if self.sleep is not None:
            self.sleep.after_step(self.optimizer, step, self.feedback)
            if self.average is not None:  # of weights that have slept
                self.average.after_step()
        self.feedback.after_step(step)
        return loss, hits

    def _learn_from(
        self, images: Tensor, labels: Tensor, share: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        """Forward pass, backward pass and the optimizer's step: its loss and correct predictions.

        All that is the same in each step, so that it can be a CUDA graph: no number that changes
        from step to step is read on the host, and no tensor is replaced. What happens in some steps
        only, or draws on the CPU, stands before and after it in `step`.
        """
        self.optimizer.zero_grad()  # first, so that old gradients don't lie beside activations
        if not share:  # DistributedDataParallel needs a backward pass of every worker: one of zeros
            images, labels = (t.new_zeros(1, *t.shape[1:]) for t in (images, labels))
        loss, logits = self.forward(images, labels)
        hits = (logits.argmax(dim=1) == (labels if labels.dim() == 1 else labels.argmax(1))).sum()
        if self.world.size == 1:
            self.route.backward(loss, logits, labels)
            loss = loss.detach()
        else:  # gradients are averaged over the workers, each of which counts as its share
            self.route.backward(loss * (share * self.world.size), logits, labels)
            loss, hits = self.world.sum(torch.stack([loss.detach() * share, hits * bool(share)]))
        if self.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.weights, self.clip_norm)
        self.guard.note(loss)
        self.feedback.take_gradients()  # last, so that no gradient is counted twice
        if self.guard.allows_step():
            with autocast(images.device, self.precision):  # for Muon's products
                self.optimizer.step()
        if self.average is not None and self.sleep is None:
            self.average.after_step()
        return loss, hits

    def tested(self) -> AbstractContextManager[object]:
        """Inside, the model is what is tested and saved as the best: the average, if there is one.
        It is not to be trained then.
        """
        return contextlib.nullcontext() if self.average is None else self.average.applied()

    @property
    def weights(self) -> list[Tensor]:
        """All that the optimizer moves."""
        return [weight for group in self.optimizer.param_groups for weight in group["params"]]

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The loss that is trained on, () float32, and the logits (B, classes)."""
        with autocast(images.device, self.precision):
            logits = self._parallel(images)
        loss = self.loss(logits.float(), labels)
        if self.teacher is not None:
            with autocast(images.device, self.precision):
                answers = self.teacher.answers(images)
            loss = self.teacher.mixed(loss, logits.float(), answers)
        return loss, logits

    def state(self) -> dict[str, Tensor]:
        """The model's tensors as `model.<name>`, the optimizer's as `optimizer.<place>.<name>`;
        those of rules as `feedback.<layer>.<name>`, of the route as `route.<name>`, the average as
        `average.<name>`.
        """
        owners = {"feedback": self.feedback.state(), "route": self.route.state()}
        owners |= {"average": {} if self.average is None else self.average.state()}
        owners |= {"model": self.model.state_dict()}
        tensors = {f"{owner}.{name}": t for owner, ts in owners.items() for name, t in ts.items()}
        for place, moments in self.optimizer.state_dict()["state"].items():
            for name, moment in moments.items():
                if isinstance(moment, Tensor):
                    tensors[f"optimizer.{place}.{name}"] = moment
        return tensors

    @torch.no_grad()
    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Puts back what `state` gave for the same model and optimizer."""
        for name, own in self.state().items():
            if not name.startswith("optimizer."):
                own.copy_(tensors[name])
        weights = self.weights
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            owner, _, rest = name.partition(".")
            if owner == "optimizer":
                place, _, moment = rest.partition(".")
                weight = weights[int(place)]
                # A fused step goes through a weight and its moments as they lie in memory, which
                # may be in torch.channels_last; a file knows no such order.
                if tensor.shape == weight.shape:
                    tensor = torch.empty_like(weight, dtype=tensor.dtype).copy_(tensor)
                moments.setdefault(int(place), {})[moment] = tensor
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        if self._new_graphed:
            self._graphed = self._new_graphed()  # what was recorded moves the old moments
