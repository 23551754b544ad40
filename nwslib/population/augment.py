"""Augmentation of a whole batch, every image with its own draw: geometry, then colour, then noise."""

import torch
import torch.nn.functional as F
from torch import Tensor

from nwslib.population.draws import Augmentation


def augment(images: Tensor, draw: Augmentation, colourful: Tensor, bank: Tensor) -> Tensor:
    """Augment a batch.

    Parameters
    ----------
    images
        Shape (m, b, y, x, c) in [0, 1].
    draw
        One draw per image, fields of shape (m, b).
    colourful
        Shape (m,), bool: False where a network's images are grey, on which hue and saturation do nothing.
    bank
        From `nwslib.population.draws.noise_bank`.

    Returns
    -------
    torch.Tensor
        Shape (m, b, y, x, c), not yet clipped to [0, 1].

    Notes
    -----
    Order and ranges: Eilertsen et al., ECAI 2020, and its released code.
    """
    return augment_some(images, draw, colourful.nonzero()[:, 0], bank)


def augment_some(images: Tensor, draw: Augmentation, coloured: Tensor, bank: Tensor) -> Tensor:
    """Augment as `augment` does, with the places of the networks whose images have colours, int64, in `coloured`.

    All shapes are known beforehand, so that nothing waits for the device.
    """
    images = geometry(images.flatten(0, 1), draw).view(images.shape)
    expand = (..., None, None, None)
    images = images + draw.brightness[expand]
    mean = images.mean(dim=(2, 3), keepdim=True)
    images = (images - mean) * draw.contrast[expand] + mean
    if len(coloured):
        turned = turn_colours(images.index_select(0, coloured), draw.hue[coloured], draw.saturation[coloured])
        images.index_copy_(0, coloured, turned)
    return images + draw.noise[expand].to(images.dtype) * _noise(draw.noise_start, images.shape[2:], bank)


def geometry(images: Tensor, draw: Augmentation) -> Tensor:
    """Zoom, shear, turn and shift each image about its centre; zeros come in from outside.

    Parameters
    ----------
    images
        Shape (b, y, x, c).
    draw
        Fields of b elements in all; shifts are in pixels of a 32x32 image and scale with the size.

    Returns
    -------
    torch.Tensor
        Shape (b, y, x, c).
    """
    size = images.shape[1]
    rotation, shear_x, shear_y, zoom, shift_x, shift_y = (
        field.flatten().double()
        for field in (draw.rotation, draw.shear_x, draw.shear_y, draw.zoom, draw.shift_x, draw.shift_y)
    )
    cos, sin, shear_x, shear_y = rotation.cos(), rotation.sin(), shear_x.tan(), shear_y.tan()
    # Output position -> input position: rotation times shear over zoom, in units of half the image.
    xx, xy = (cos - sin * shear_y) / zoom, (cos * shear_x - sin) / zoom
    yx, yy = (sin + cos * shear_y) / zoom, (sin * shear_x + cos) / zoom
    shift_x, shift_y = shift_x / 16, shift_y / 16
    centre = (torch.arange(size, device=images.device, dtype=torch.float64) * 2 + 1 - size) / size
    column, row = centre[None, None, :], centre[None, :, None]
    wide = (slice(None), None, None)
    x = xx[wide] * column + xy[wide] * row - shift_x[wide]
    y = yx[wide] * column + yy[wide] * row - shift_y[wide]
    grid = torch.stack((x, y), dim=-1).to(images.dtype)
    moved = F.grid_sample(images.permute(0, 3, 1, 2), grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return moved.permute(0, 2, 3, 1)


def turn_colours(images: Tensor, hue: Tensor, saturation: Tensor) -> Tensor:
    """Turn the hue and scale the saturation of each image, in hue-saturation-value space.

    Parameters
    ----------
    images
        Shape (m, b, y, x, 3).
    hue, saturation
        Shape (m, b): turns added, factor.

    Returns
    -------
    torch.Tensor
        Shape (m, b, y, x, 3).
    """
    red, green, blue = images.unbind(-1)
    value, low = images.amax(-1), images.amin(-1)
    chroma = value - low
    safe = torch.where(chroma > 0, chroma, torch.ones_like(chroma))
    sixths = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    sixths = sixths + 6 * hue[..., None, None].to(images.dtype)
    # Saturation is chroma over value; it is cut off at 1, where chroma reaches the value.
    chroma = torch.minimum(chroma * saturation[..., None, None], value.clamp(min=0))
    shades = []
    for offset in (5, 3, 1):
        place = sixths + offset
        place = place - 6 * torch.floor(place / 6)
        shades.append(value - chroma * torch.minimum(place, 4 - place).clamp(0, 1))
    return torch.stack(shades, dim=-1)


def _noise(start: Tensor, shape: torch.Size, bank: Tensor) -> Tensor:
    # Rows of overlapping windows are copied whole: ten times faster than an index per pixel.
    return bank.unfold(0, shape.numel(), 1)[start].unflatten(-1, tuple(shape))
