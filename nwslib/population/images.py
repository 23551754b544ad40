"""Image sets as uint8 tensors on a device, by name.

===========  ================  =======================  ============================================================
name         train + test      kind                     source and licence
===========  ================  =======================  ============================================================
mnist        55,000 + 10,000   scans, grey              LeCun, Cortes, Burges; no formal licence, usually passed on
                                                        under CC BY-SA 3.0
fashion      55,000 + 10,000   photographs, grey        Xiao, Rasul, Vollgraf (Zalando), arXiv:1708.07747; MIT
kmnist       60,000 + 10,000   scans, grey              "KMNIST Dataset" (created by CODH), adapted from "Kuzushiji
                                                        Dataset" (NIJL and others), doi:10.20676/00000341;
                                                        CC BY-SA 4.0
cifar10      50,000 + 10,000   photographs              Krizhevsky, technical report, Toronto, 2009; none stated
svhn         73,257 + 26,032   photographs              Netzer et al., NIPS workshop 2011; non-commercial use
stl10        5,000 + 8,000     photographs              Coates, Lee, Ng, AISTATS 2011; none stated (from ImageNet)
digits       1,437 + 360       scans, grey              Alpaydin, Kaynak (UCI), with scikit-learn; CC BY 4.0
glyphs       2,000 + 500       procedural               drawn here with the DejaVu, STIX and Computer Modern faces
                                                        that come with matplotlib
patches      2,000 + 500       photographs              crops of scikit-learn's china.jpg (danielbuechele) and
                                                        flower.jpg (vultilion), both Flickr; CC BY 2.0
textures     2,000 + 500       procedural               made here, BSD-3-Clause as the rest
===========  ================  =======================  ============================================================

The first six are *published* and read through torchvision; the last four are *embedded*: they need no download. Of
mnist and fashion the first 5,000 of 60,000 training images are left out, as in TensorFlow 1 and so in the study.
What is there only in part is used only under a name that says so: ``cifar10[batches 1-2]`` (those training batches,
all test images) and ``kmnist[test]``, ``mnist[test]``, ``fashion[test]`` (of the 10,000 test images the first 8,000
to train with, the last 2,000 to test with).
"""

import hashlib
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import xarray as xr

from nwslib.population import _embedded
from nwslib.population.device import resolve_device
from nwslib.space import EMBEDDED_SETS, PUBLISHED_SETS, base_set, image_sets, nearest

SIZES = (14, 16, 28, 32)
_ALL_BATCHES = (1, 2, 3, 4, 5)
_TEST_ONLY = ("mnist", "fashion", "kmnist")
_CHUNK = 4096  # images resized at a time: keeps the float32 copy below 170 MB


@dataclass(frozen=True)
class ImageSet:
    """One image set, as networks see it.

    Attributes
    ----------
    name
        As asked for, ``"cifar10[batches 1-2]"``.
    train_images, test_images
        uint8, shape (b, y, x, c) with three channels.
    train_labels, test_labels
        int64, shape (b,), from 0 to 9.
    classes
        What each label means.
    grey
        Whether all three channels are equal, so that hue and saturation do nothing.
    kind
        What it is, in a word: ``"scans"``, ``"photographs"`` or ``"procedural"``.
    version
        First 16 hexadecimal digits of the SHA-256 of the four arrays and their shapes.
    """

    name: str
    train_images: torch.Tensor
    train_labels: torch.Tensor
    test_images: torch.Tensor
    test_labels: torch.Tensor
    classes: tuple[str, ...]
    grey: bool
    kind: str
    version: str

    @property
    def channels(self) -> int:
        """How many channels differ: 1 of grey images, else 3."""
        return 1 if self.grey else 3


class Counts(NamedTuple):
    """How many images a set holds, and how many of the first training images are left out."""

    train: int
    test: int
    left_out: int = 0


#: What the complete sets hold: a local copy that holds anything else is not that set.
COUNTS: dict[str, Counts] = {
    "mnist": Counts(60_000, 10_000, left_out=5_000),
    "fashion": Counts(60_000, 10_000, left_out=5_000),
    "kmnist": Counts(60_000, 10_000),
    "cifar10": Counts(50_000, 10_000),
    "svhn": Counts(73_257, 26_032),
    "stl10": Counts(5_000, 8_000),
    "digits": Counts(1_437, 360),
    **dict.fromkeys(("glyphs", "patches", "textures"), Counts(_embedded.TRAIN, _embedded.TEST)),
}


@dataclass(frozen=True)
class _Card:
    """What is known of a set before it is read: its classes, its character, and its files under the data root."""

    classes: tuple[str, ...]
    kind: str
    grey: bool = False
    train_files: tuple[str, ...] = ()
    test_files: tuple[str, ...] = ()


def _idx_card(folder: str, classes: Iterable[str], kind: str) -> _Card:
    train, test = (
        tuple(f"{folder}/raw/{split}-{content}-ubyte" for content in ("images-idx3", "labels-idx1"))
        for split in ("train", "t10k")
    )
    return _Card(tuple(classes), kind, grey=True, train_files=train, test_files=test)


_CLOTHES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
_CIFAR = "cifar-10-batches-py"
_CARDS: dict[str, _Card] = {
    "mnist": _idx_card("MNIST", "0123456789", "scans"),
    "fashion": _idx_card("FashionMNIST", _CLOTHES, "photographs"),
    "kmnist": _idx_card("KMNIST", ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"), "scans"),
    "cifar10": _Card(
        ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
        "photographs",
        train_files=tuple(f"{_CIFAR}/data_batch_{batch}" for batch in range(1, 6)),
        test_files=(f"{_CIFAR}/test_batch", f"{_CIFAR}/batches.meta"),
    ),
    "svhn": _Card(tuple("0123456789"), "photographs", train_files=("train_32x32.mat",), test_files=("test_32x32.mat",)),
    "stl10": _Card(
        ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"),
        "photographs",
        train_files=("stl10_binary/train_X.bin", "stl10_binary/train_y.bin"),
        test_files=("stl10_binary/test_X.bin", "stl10_binary/test_y.bin"),
    ),
    "digits": _Card(tuple("0123456789"), "scans", grey=True),
    "glyphs": _Card(tuple(_embedded.LETTERS), "procedural"),
    "patches": _Card(tuple(_embedded.REGIONS), "photographs"),
    "textures": _Card(tuple(_embedded.TEXTURES), "procedural"),
}
_EMBEDDED: dict[str, Callable[[], _embedded.Arrays]] = {
    "digits": _embedded.digits,
    "glyphs": _embedded.glyphs,
    "patches": _embedded.patches,
    "textures": _embedded.textures,
}


def load(
    name: str,
    *,
    size: int = 32,
    root: str | Path | None = None,
    download: bool = False,
    device: str | torch.device = "cpu",
    train_limit: int | None = None,
    test_limit: int | None = None,
) -> ImageSet:
    """Give one image set as uint8 tensors on a device.

    Parameters
    ----------
    name
        A published or embedded set, or a part of one: ``"cifar10[batches 1-2]"``, ``"kmnist[test]"``.
    size
        Side of the images: 32 as in the study, or 16, the mean of 2x2 pixels; 28, at which mnist, fashion and kmnist
        are what was published, or 14, the mean of 2x2 pixels.
    root
        Folder of the published sets, laid out as torchvision does; by default what the environment says in
        ``NWS_DATA``, else ``data``. A relative path starts at ``NWS_HOME``, else at the current folder.
    download
        Whether a published set that is not there may be fetched.
    device
        Where the tensors are to be: ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``.
    train_limit, test_limit
        Use only the first so many images.

    Returns
    -------
    ImageSet
        The set, its `version` a hash of exactly the pixels and labels that are given.

    Raises
    ------
    ValueError
        If the name, its part, the size or the device is unknown, a limit is not between 1 and the number of images, or
        the files are not those of the complete set.
    FileNotFoundError
        If a published set, or some of its files, is not there and `download` is false.
    OSError
        If the download fails.

    Notes
    -----
    Protocol of Eilertsen et al., ECAI 2020, arXiv:2002.05688: grey images get three equal channels; everything becomes
    32x32, bilinearly as in TensorFlow 1, and stl10 by 3x3 means; here it is rounded to whole numbers as well.

    Examples
    --------
    >>> digits = load("digits", size=16, train_limit=100)
    >>> digits.train_images.shape, digits.test_images.shape
    (torch.Size([100, 16, 16, 3]), torch.Size([360, 16, 16, 3]))
    """
    part, target, folder = _check_request(name, size, root, download, device, train_limit, test_limit)
    embedded = part.base in EMBEDDED_SETS
    arrays = _EMBEDDED[part.base]() if embedded else _read_published(part, folder, download)
    train, train_labels, test, test_labels = (
        torch.from_numpy(array[:limit])
        for array, limit in zip(arrays, 2 * [train_limit] + 2 * [test_limit], strict=True)
    )
    tensors = (protocol_images(train, size), train_labels, protocol_images(test, size), test_labels)
    card = _CARDS[part.base]
    return ImageSet(
        part.name, *(tensor.to(target) for tensor in tensors), card.classes, card.grey, card.kind, _version(tensors)
    )


def load_all(
    names: Iterable[str],
    *,
    size: int = 32,
    root: str | Path | None = None,
    download: bool = False,
    device: str | torch.device = "cpu",
    train_limit: int | None = None,
    test_limit: int | None = None,
) -> dict[str, ImageSet]:
    """Give several image sets, each distinct name once, in sorted order.

    Parameters
    ----------
    names
        As `load` takes them, for instance the column ``dataset`` of a design.
    size, root, download, device, train_limit, test_limit
        As in `load`, for every set.

    Returns
    -------
    dict of str to ImageSet
        By name.

    Raises
    ------
    ValueError, FileNotFoundError, OSError
        As `load`; what can be known beforehand is raised before the first set is read.

    Examples
    --------
    >>> list(load_all(["textures", "digits", "digits"], size=16))
    ['digits', 'textures']
    """
    wanted = sorted({str(name) for name in names})
    for name in wanted:
        _check_request(name, size, root, download, device, train_limit, test_limit)
    options = {"size": size, "root": root, "download": download, "device": device}
    return {name: load(name, **options, train_limit=train_limit, test_limit=test_limit) for name in wanted}


def for_design(
    design: xr.Dataset, *, train_images: int = 0, test_images: int = 0, **options: Any
) -> dict[str, ImageSet]:
    """Give the image sets that a design names, also for after a switch, at its image size.

    Parameters
    ----------
    design
        From `nwslib.space.sample` or by hand, of one image size.
    train_images, test_images
        The first so many of each set; 0 for all.
    **options
        ``root``, ``download`` and ``device`` of `load`.

    Returns
    -------
    dict of str to ImageSet
        By name.

    Raises
    ------
    ValueError, FileNotFoundError, OSError
        As `load`; also if the design has several image sizes.

    Examples
    --------
    >>> from nwslib import space
    >>> list(for_design(space.sample("nws_small", 3, seed=0, dataset="digits")))
    ['digits']
    """
    sizes = sorted(set(design["image_size"].values.tolist()))
    if len(sizes) != 1:
        raise ValueError(f"the networks of one training share one image size, but the design has {sizes}")
    limits = {"train_limit": train_images or None, "test_limit": test_images or None}
    return load_all(image_sets(design), size=sizes[0], **limits, **options)


def protocol_images(images: torch.Tensor, size: int) -> torch.Tensor:
    """Bring images of any side to 32x32x3 as the protocol says, or to another of `SIZES`.

    Parameters
    ----------
    images
        uint8, shape (b, y, x, c) with one channel or three.
    size
        32; 16 for the mean of 2x2 pixels of the 32x32 image; 28 for images of that side as they are, of another side
        resized from 32x32; 14 for the mean of 2x2 pixels of the 28x28 image.

    Returns
    -------
    torch.Tensor
        uint8, shape (b, size, size, 3); halves are rounded up.

    Examples
    --------
    >>> protocol_images(torch.full((1, 28, 28, 1), 7, dtype=torch.uint8), 16).shape
    torch.Size([1, 16, 16, 3])
    """
    side = 32 if 32 % size == 0 else 28
    done = torch.empty((len(images), size, size, images.shape[-1]), dtype=torch.uint8)
    for start in range(0, len(images), _CHUNK):
        part = images[start : start + _CHUNK]
        if part.shape[1] != side:
            part = _resized(_sized_32(part), side)
        done[start : start + _CHUNK] = _block_mean(part, side // size)
    return done.expand(-1, -1, -1, 3).contiguous()


def _sized_32(images: torch.Tensor) -> torch.Tensor:
    """Bring images to 32x32: by the mean of pixels where the side divides by it, else bilinearly."""
    if images.shape[1] % 32:
        return _resized(images, 32)
    return _block_mean(images, images.shape[1] // 32)


def _resized(images: torch.Tensor, side: int) -> torch.Tensor:
    """Resize in whole numbers, unless the images have that side."""
    if images.shape[1] == side:
        return images
    return torch.floor(resize_bilinear(images, side) + 0.5).to(torch.uint8)


def resize_bilinear(images: torch.Tensor, size: int) -> torch.Tensor:
    """Resize as TensorFlow 1 does by default: output pixel n reads at n * in / out, without a half-pixel offset.

    Parameters
    ----------
    images
        Shape (b, y, x, c), any number type.
    size
        New side.

    Returns
    -------
    torch.Tensor
        float32, shape (b, size, size, c). Beyond the last pixel the last pixel is repeated.

    Examples
    --------
    >>> row = torch.tensor([0, 6, 9]).reshape(1, 1, 3, 1)
    >>> resize_bilinear(row, 4)[0, 0, :, 0].tolist()
    [0.0, 4.5, 7.5, 9.0]
    """
    images = images.to(torch.float32)
    for axis in (1, 2):
        side = images.shape[axis]
        place = torch.arange(size, dtype=torch.float64) * side / size
        lower = place.floor().to(torch.int64)
        share = (place - lower).to(torch.float32).reshape([-1 if n == axis else 1 for n in range(4)])
        first = images.index_select(axis, lower)
        second = images.index_select(axis, (lower + 1).clamp(max=side - 1))
        images = first + (second - first) * share
    return images


def _block_mean(images: torch.Tensor, factor: int) -> torch.Tensor:
    """Give the mean of every factor x factor pixels, in whole numbers, halves rounded up."""
    if factor == 1:
        return images
    blocks = images.to(torch.int32).unflatten(2, (-1, factor)).unflatten(1, (-1, factor))  # (b, y, ky, x, kx, c)
    return ((blocks.sum((2, 4)) + factor * factor // 2) // (factor * factor)).to(torch.uint8)


def _version(tensors: Iterable[torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(str(tuple(tensor.shape)).encode())
        digest.update(tensor.numpy())
    return digest.hexdigest()[:16]


@dataclass(frozen=True)
class _Part:
    """What a name asks for: a set, and of it some training batches, or the test images alone."""

    name: str
    base: str
    batches: tuple[int, ...] = _ALL_BATCHES
    test_only: bool = False

    @property
    def files(self) -> tuple[str, ...]:
        """Files that must be there, under the data root."""
        card = _CARDS[self.base]
        if self.test_only:
            return card.test_files
        train = [card.train_files[batch - 1] for batch in self.batches] if self.base == "cifar10" else card.train_files
        return (*train, *card.test_files)

    @property
    def counts(self) -> tuple[int, int]:
        """Number of training and of test images."""
        train, test, left_out = COUNTS[self.base]
        if self.test_only:
            return test * 4 // 5, test - test * 4 // 5
        return train * len(self.batches) // len(_ALL_BATCHES) - left_out, test


def _cifar_part(batches: tuple[int, ...]) -> _Part:
    """Name some training batches in the one way they can be named: ``1-2,4``."""
    if batches == _ALL_BATCHES:
        return _Part("cifar10", "cifar10")
    runs: list[list[int]] = []
    for batch in batches:
        if runs and runs[-1][-1] == batch - 1:
            runs[-1].append(batch)
        else:
            runs.append([batch])
    text = ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
    return _Part(f"cifar10[batches {text}]", "cifar10", batches)


def _parts(base: str) -> dict[str, _Part]:
    """Give every name that a set may be asked for by."""
    if base == "cifar10":
        choices = [batches for many in (5, 1, 2, 3, 4) for batches in combinations(_ALL_BATCHES, many)]
        parts = [_cifar_part(batches) for batches in choices]
    else:
        parts = [_Part(base, base)]
        if base in _TEST_ONLY:
            parts.append(_Part(f"{base}[test]", base, test_only=True))
    return {part.name: part for part in parts}


def _check_request(
    name: str,
    size: int,
    root: str | Path | None,
    download: bool,
    device: str | torch.device,
    train_limit: int | None,
    test_limit: int | None,
) -> tuple[_Part, torch.device, Path]:
    """Refuse what cannot be given, before anything is read."""
    known = PUBLISHED_SETS + EMBEDDED_SETS
    base = base_set(name)
    if base not in known:
        raise ValueError(f"unknown image set {name!r}. {nearest(base, known)}")
    parts = _parts(base)
    if name not in parts:
        raise ValueError(f"{base} has no part {name!r}. {nearest(name, parts)}")
    if size not in SIZES:
        raise ValueError(f"size must be 14, 16, 28 or 32, not {size!r}. {nearest(size, SIZES)}")
    part = parts[name]
    for split, limit, count in zip(("train", "test"), (train_limit, test_limit), part.counts, strict=True):
        if limit is not None and limit not in range(1, count + 1):
            raise ValueError(f"{split}_limit must be from 1 to the {count} {split} images of {name}, not {limit}")
    target = resolve_device(device)
    folder = Path(os.environ.get("NWS_HOME", ".")) / Path(root or os.environ.get("NWS_DATA", "data")).expanduser()
    if base in PUBLISHED_SETS and not download:
        _check_files(part, folder)
    return part, target, folder


def _check_files(part: _Part, root: Path) -> None:
    """Name the files that are missing, and the part of the set that could be had without them."""
    missing = [file for file in part.files if not (root / file).is_file()]
    if not missing:
        return
    advice = "load it with download=True, or give as root (or in NWS_DATA) the folder that holds it"
    if not root.is_dir():
        raise FileNotFoundError(f"{part.name}: the data root {str(root)!r} does not exist; {advice}")
    within = [other for other in _parts(part.base).values() if all((root / file).is_file() for file in other.files)]
    if within:
        largest = max(within, key=lambda other: len(other.files))
        advice = f"load it with download=True, or ask for the part that is there, {largest.name!r}"
    raise FileNotFoundError(f"{part.name}: {', '.join(missing)} missing under {str(root)!r}; {advice}")


def _read_published(part: _Part, root: Path, download: bool) -> _embedded.Arrays:
    """Read a published set as (b, y, x, c) arrays and labels, and check that it is the published one."""
    absent = not all((root / file).is_file() for file in part.files)
    try:
        train = None if part.test_only else _read_split(part, "train", root, download)
        test = _read_split(part, "test", root, download)
    except (RuntimeError, ValueError, TypeError, AssertionError, OSError) as error:
        if absent or (download and isinstance(error, OSError)):
            raise OSError(f"{part.name}: the download to {str(root)!r} failed: {error}") from error
        if isinstance(error, OSError):
            raise
        raise ValueError(
            f"{part.name}: its files under {str(root)!r} are damaged (truncated, altered or in another format); "
            "delete them and load with download=True"
        ) from error
    _check_split(part.name, "test", test, COUNTS[part.base].test)
    if part.test_only:
        cut = part.counts[0]
        return test[0][:cut], test[1][:cut], test[0][cut:], test[1][cut:]
    left_out = COUNTS[part.base].left_out
    _check_split(part.name, "training", train, part.counts[0] + left_out)
    return train[0][left_out:], train[1][left_out:], *test


def _check_split(name: str, split: str, arrays: tuple[np.ndarray, np.ndarray], count: int) -> None:
    images, labels = arrays
    if len(images) != len(labels):
        raise ValueError(f"{name}: {len(images)} {split} images but {len(labels)} labels; the files are damaged")
    if len(images) != count:
        raise ValueError(f"{name}: {len(images)} {split} images, but the published set has {count}")
    if labels.min() < 0 or labels.max() > 9:
        raise ValueError(f"{name}: {split} labels from {labels.min()} to {labels.max()}, but there are 10 classes")


def _read_split(part: _Part, split: str, root: Path, download: bool) -> tuple[np.ndarray, np.ndarray]:
    """Read one split through torchvision, its list of files narrowed to those that are asked for."""
    from nwslib.population._torchvision import datasets

    match part.base:
        case "cifar10":
            batches = [datasets.CIFAR10.train_list[batch - 1] for batch in part.batches]
            reader = type("CIFAR10", (datasets.CIFAR10,), {"train_list": batches})
            found = reader(root, train=split == "train", download=download)
            return found.data, np.array(found.targets, dtype="int64")
        case "svhn":
            found = datasets.SVHN(root, split=split, download=download)
            return found.data.transpose(0, 2, 3, 1), found.labels.astype("int64")
        case "stl10":  # without narrowing torchvision wants the 2.7 GB of unlabelled images too
            reader = type("STL10", (datasets.STL10,), {"train_list": datasets.STL10.train_list[:2]})
            found = reader(root, split=split, download=download)
            return found.data.transpose(0, 2, 3, 1), found.labels.astype("int64")
        case base:
            original = {"mnist": datasets.MNIST, "fashion": datasets.FashionMNIST, "kmnist": datasets.KMNIST}[base]
            narrowed = {
                "resources": original.resources[2 if part.test_only else 0 :],
                "_check_legacy_exist": lambda self: False,  # else old copies in processed/ win over the published files
            }
            reader = type(original.__name__, (original,), narrowed)  # the name gives the folder
            found = reader(root, train=split == "train", download=download)
            return found.data.numpy()[..., None], found.targets.numpy().astype("int64")
