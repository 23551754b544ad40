import colorsys
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from warp import warp

from nwslib.population import augment, draws

NEUTRAL = {"zoom": 1.0, "contrast": 1.0, "saturation": 1.0}


def neutral(m, b, **changes):
    """A draw that changes nothing, but for what is asked for."""
    values = {field.name: torch.full((m, b), NEUTRAL.get(field.name, 0.0)) for field in fields(draws.Augmentation)}
    values["noise_start"] = torch.zeros(m, b, dtype=torch.int64)
    return replace(draws.Augmentation(**values), **{name: torch.full((m, b), value) for name, value in changes.items()})


@pytest.fixture(scope="module")
def noise():
    return draws.noise_bank()


@pytest.fixture
def batch():
    return torch.rand(2, 3, 16, 16, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


COLOURFUL = torch.tensor([True, True])


def test_a_neutral_draw_changes_nothing(batch, noise):
    assert torch.allclose(augment.augment(batch, neutral(2, 3), COLOURFUL, noise), batch, atol=1e-6)


def test_a_shift_moves_by_pixels_of_a_32_pixel_image_and_brings_in_zeros(batch, noise):
    moved = augment.augment(batch, neutral(2, 3, shift_x=2.0), COLOURFUL, noise)
    assert torch.allclose(moved[:, :, :, 1:], batch[:, :, :, :-1], atol=1e-6)
    assert moved[:, :, :, 0].abs().max() < 1e-6


@pytest.mark.parametrize(
    "change",
    [{"rotation": 0.2}, {"zoom": 1.09}, {"shear_x": 0.05, "shear_y": -0.04}, {"rotation": -0.1, "shift_y": 3.0}],
)
def test_geometry_agrees_with_a_warp_written_pixel_by_pixel(batch, change):
    draw = neutral(2, 3, **change)
    ours = augment.geometry(batch.flatten(0, 1), draw)
    theirs = np.stack([warp(image, **change) for image in batch.flatten(0, 1).numpy()])
    assert np.abs(ours.numpy() - theirs).max() < 1e-5


@pytest.mark.parametrize(("hue", "saturation"), [(0.08, 1.0), (-0.05, 0.4), (0.0, 1.5)])
def test_colours_turn_as_colorsys_says(batch, hue, saturation):
    ours = augment.turn_colours(batch, torch.full((2, 3), hue), torch.full((2, 3), saturation))
    for image, turned in zip(batch.reshape(-1, 3).tolist()[:200], ours.reshape(-1, 3)[:200], strict=True):
        h, s, v = colorsys.rgb_to_hsv(*image)
        expected = colorsys.hsv_to_rgb((h + hue) % 1, min(1, s * saturation), v)
        assert turned.tolist() == pytest.approx(expected, abs=1e-6)


def test_hue_and_saturation_do_nothing_to_grey_images(batch, noise):
    grey = batch[..., :1].expand(batch.shape)
    turned = augment.augment(grey, neutral(2, 3, hue=0.05, saturation=0.5), COLOURFUL, noise)
    assert torch.allclose(turned, grey, atol=1e-6)


def test_contrast_keeps_each_channel_s_mean_and_brightness_adds(batch, noise):
    ours = augment.augment(batch, neutral(2, 3, contrast=0.5, brightness=0.1), COLOURFUL, noise)
    assert torch.allclose(ours.mean(dim=(2, 3)), batch.mean(dim=(2, 3)) + 0.1, atol=1e-6)
    assert torch.allclose(ours.std(dim=(2, 3)), batch.std(dim=(2, 3)) / 2, atol=1e-6)


def test_noise_has_the_drawn_spread_and_its_own_start(batch, noise):
    start = torch.arange(6).view(2, 3) * 5000
    draw = replace(neutral(2, 3, noise=0.03), noise_start=start)
    added = augment.augment(batch, draw, COLOURFUL, noise) - batch
    assert added.std(dim=(2, 3, 4)) == pytest.approx(torch.full((2, 3), 0.03, dtype=torch.float64), rel=0.1)
    assert (torch.corrcoef(added.flatten(2).flatten(0, 1)) - torch.eye(6)).abs().max() < 0.2


def test_each_image_follows_its_own_draw(batch, noise):
    draw = draws.augmentation(torch.tensor([1, 2]), 0, 0, 3)
    together = augment.augment(batch, draw, COLOURFUL, noise)
    part = replace(draw, **{field.name: getattr(draw, field.name)[1:, 2:] for field in fields(draw)})
    assert torch.equal(together[1:, 2:], augment.augment(batch[1:, 2:], part, COLOURFUL[1:], noise))


def test_only_colourful_networks_turn_their_colours_and_after_the_contrast(batch, noise):
    draw = replace(neutral(2, 3, contrast=1.4), saturation=torch.tensor([[0.4] * 3, [0.7] * 3]))
    contrasted = augment.augment(batch, draw, torch.tensor([False, False]), noise)
    turned = augment.turn_colours(contrasted, draw.hue, draw.saturation)
    ours = augment.augment(batch, draw, torch.tensor([False, True]), noise)
    assert torch.allclose(ours[0], contrasted[0], atol=1e-6)
    assert torch.allclose(ours[1], turned[1], atol=1e-6)
