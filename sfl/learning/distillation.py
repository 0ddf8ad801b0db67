"""Distillation: a trained network's answers are learnt beside the labels (Hinton et al. 2015)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Teacher:
    """A trained model, and how much of the loss its answers are.

    temperature T: by which both networks' logits are divided. share s: the loss is  (1 − s) · own
    + s · T² · KL(teacher ‖ student), the mean over images, with the softmax of both at T. T² keeps
    the size of the gradients the same for all T.

    The model must be on its device, and take images as the student does; it is never changed.
    """

    def __init__(self, model: nn.Module, temperature: float = 4.0, share: float = 0.9) -> None:
        self.model = model.eval().requires_grad_(False)
        self.temperature, self.share = temperature, share

    @torch.no_grad()
    def answers(self, images: Tensor) -> Tensor:
        """Its logits (B, classes) for images (B, C, H, W)."""
        logits: Tensor = self.model(images)
        return logits.float()

    def mixed(self, loss: Tensor, logits: Tensor, answers: Tensor) -> Tensor:
        """The loss () to be learnt from, of the loss of labels () and both networks' logits."""
        own, taught = (F.log_softmax(t / self.temperature, dim=1) for t in (logits, answers))
        divergence = F.kl_div(own, taught, reduction="batchmean", log_target=True)
        return torch.lerp(loss, self.temperature**2 * divergence, self.share)
