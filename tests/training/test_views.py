"""Views of images against pixels moved by hand, and the mean of probabilities over views."""

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from sfl.training.views import View, Viewed, averaged_views, moved

BLACK = torch.tensor([-1.0, -2.0])
IMAGES = torch.rand(3, 2, 5, 6, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "view", [View(2, -3), View(-1, 0), View(0, 4), View(1, 2, True), View(0, 0)]
)
@pytest.mark.parametrize("fill", ["black", "reflect"])
def test_a_view_is_a_padded_image_cut_out(view: View, fill: str) -> None:
    mode = {"black": "constant", "reflect": "reflect"}[fill]
    padded = F.pad(IMAGES - BLACK[:, None, None], [4] * 4, mode=mode) + BLACK[:, None, None]
    top, left = 4 - view.down, 4 - view.right
    expected = padded[:, :, top : top + 5, left : left + 6]
    expected = expected.flip(3) if view.mirrored else expected
    found = moved(IMAGES, view, fill, BLACK)  # type: ignore[arg-type]
    torch.testing.assert_close(found, expected)


def test_which_views_are_averaged() -> None:
    assert averaged_views(2) == [View(0, 0, False), View(0, 0, True)]
    for count, moves in ((18, {-2, 0, 2}), (50, {-4, -2, 0, 2, 4})):
        views = averaged_views(count)
        assert len(set(views)) == count
        assert {view.down for view in views} == {view.right for view in views} == moves
    with pytest.raises(ValueError, match="7: expected 2, 18 or 50"):
        averaged_views(7)


def test_probabilities_are_averaged_not_logits() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(60, 4)).eval()
    views = averaged_views(18)
    answers = [model(moved(IMAGES, view, "black", BLACK)).softmax(1) for view in views]
    viewed = Viewed(model, views, "black", BLACK)
    assert not viewed.training  # as the model was
    torch.testing.assert_close(viewed(IMAGES).softmax(1), torch.stack(answers).mean(0))
    alone = Viewed(model, [View(0, 0)], "black", BLACK)
    assert torch.equal(alone(IMAGES), model(IMAGES))  # bit for bit: the plain accuracy


@pytest.mark.parametrize("fill", ["black", "reflect"])
def test_a_gpu_is_neither_waited_for_nor_mixed_with_the_cpu(fill: str) -> None:
    with FakeTensorMode():  # see test_gpu_path.py
        images, black = torch.empty(3, 2, 5, 6, device="cuda"), torch.empty(2, device="cuda")
        model = nn.Sequential(nn.Flatten(), nn.Linear(60, 4, device="cuda"))
        answers = Viewed(model, averaged_views(50), fill, black)(images)  # type: ignore[arg-type]
    assert answers.device.type == "cuda" and answers.shape == (3, 4)
