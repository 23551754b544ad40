"""Easy image sets in memory."""

import torch

from nwslib.population.images import ImageSet


def stripes(name: str, size: int = 16, train: int = 400, test: int = 80, grey: bool = False) -> ImageSet:
    """Make an easy image set: ten classes of bars at ten places, in noise."""
    generator = torch.Generator().manual_seed(len(name))
    halves = []
    for count in (train, test):
        labels = torch.arange(count) % 10
        images = torch.randint(0, 120, (count, size, size, 3), generator=generator, dtype=torch.uint8)
        columns = torch.arange(size)[None, :] * 10 // size == labels[:, None]
        images[columns[:, None, :, None].expand(images.shape)] = 220
        if grey:
            images = images[..., :1].expand(images.shape).contiguous()
        halves += [images, labels]
    classes = tuple(f"bar {k}" for k in range(10))
    return ImageSet(name, *halves, classes=classes, grey=grey, kind="procedural", version=f"{name}-{train}-{size}")
