"""Mixup and CutMix: how images and targets are mixed, and what is drawn."""

import numpy as np
import torch

from sfl.data.mixing import Mix, draw_cutmix, draw_mixup


def numbered(count: int) -> torch.Tensor:
    """Image i is filled with i."""
    return torch.arange(count).float()[:, None, None, None].expand(-1, 3, 4, 6).contiguous()


def test_mixup_is_the_weighted_mean_of_an_image_and_the_one_before_it() -> None:
    images, targets = Mix(0.75).apply(numbered(3), torch.tensor([2, 0, 2]), 4)
    assert images[:, 0, 0, 0].tolist() == [0.5, 0.75, 1.75]
    assert targets.tolist() == [[0, 0, 1, 0], [0.75, 0, 0.25, 0], [0.25, 0, 0.75, 0]]
    assert targets.dtype == torch.float32


def test_cutmix_puts_a_box_of_the_one_before_into_an_image() -> None:
    mix = Mix(0.75, (slice(1, 3), slice(3, 6)))
    images, targets = mix.apply(numbered(3), torch.tensor([0, 1, 2]), 3)
    for i in range(3):
        expected = numbered(3)[i]
        expected[:, 1:3, 3:6] = (i - 1) % 3
        assert torch.equal(images[i], expected)
    assert targets[1].tolist() == [0.25, 0.75, 0]


def test_targets_of_a_batch_that_is_not_mixed_are_the_labels() -> None:
    images, targets = Mix().apply(numbered(2), torch.tensor([1, 0]), 2)
    assert torch.equal(images, numbered(2)) and targets.tolist() == [[0, 1], [1, 0]]


def test_one_image_or_none_is_mixed_with_itself() -> None:
    for count in (0, 1):
        images, targets = Mix(0.3).apply(numbered(count), torch.zeros(count).long(), 2)
        assert torch.equal(images, numbered(count)) and targets.shape == (count, 2)


def test_mixup_draws_from_a_beta_distribution() -> None:
    shares = torch.tensor([mix.share for mix in draw_mixup(4000, 0.5, 1)])
    assert abs(shares.mean() - 0.5) < 0.03
    assert abs(shares.var() - 0.125) < 0.01  # of Beta(a, a): 1 / (4 (2a + 1))
    assert draw_mixup(5, 0.5, 1) == draw_mixup(5, 0.5, 1) != draw_mixup(5, 0.5, 2)


def test_the_share_that_cutmix_keeps_is_what_the_box_leaves() -> None:
    found = draw_cutmix(2000, 1.0, 0.75, (8, 12), 3)
    mixes = [mix for mix in found if mix is not None]
    assert abs(len(mixes) / 2000 - 0.75) < 0.03
    for mix in mixes:
        assert mix.box is not None
        inside = torch.zeros(8, 12)
        inside[mix.box] = 1
        assert abs(1 - inside.mean() - mix.share) < 1e-6
    assert len({str(mix.box) for mix in mixes}) > 300
    always = draw_cutmix(2000, 1.0, 1.0, (8, 12), 3)
    assert all(a == b for a, b in zip(found, always, strict=True) if a)  # the same boxes


def test_boxes_of_cutmix_are_drawn_as_its_authors_do() -> None:
    """How often each pixel is the partner's, against their rand_bbox, drawn by NumPy."""
    count, (height, width) = 20_000, (8, 12)
    ours, theirs = np.zeros((height, width)), np.zeros((height, width))
    draw = np.random.default_rng(0)
    for mix in draw_cutmix(count, 1.0, 1.0, (height, width), 3):
        assert mix is not None and mix.box is not None
        ours[mix.box] += 1 / count
        cut = np.sqrt(1 - draw.beta(1.0, 1.0))
        sides = []
        for length in (height, width):
            half, centre = int(length * cut) // 2, draw.integers(length)
            sides.append(slice(*np.clip([centre - half, centre + half], 0, length)))
        theirs[tuple(sides)] += 1 / count
    assert np.abs(ours - theirs).max() < 0.02 and theirs.min() < theirs.max() - 0.2
