"""The words of the study and of image sets, and the nearest of them to what somebody wrote.

The study's space is that of Eilertsen et al., "Classifying the classifier", ECAI 2020 (arXiv:2002.05688).
"""

import difflib
import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

PUBLISHED_SETS = ("mnist", "cifar10", "svhn", "stl10", "fashion", "kmnist")
EMBEDDED_SETS = ("digits", "glyphs", "patches", "textures")
STUDY_SETS = ("mnist", "cifar10", "svhn", "stl10", "fashion")
GREY_SETS = ("mnist", "fashion", "kmnist", "digits")

#: The values of each property, in the order of the study's table. ``learning_rate`` is a range.
VOCABULARY: Mapping[str, tuple] = MappingProxyType(
    {
        "dataset": STUDY_SETS,
        "learning_rate": (0.0002, 0.005),
        "batch_size": (32, 64, 128, 256),
        "augmentation": ("off", "on"),
        "optimizer": ("adam", "rmsprop", "momentum"),
        "activation": ("relu", "elu", "sigmoid", "tanh"),
        "initialization": ("constant", "normal", "glorot_uniform", "glorot_normal"),
        "filter_size": (3, 5, 7),
        "depth_conv": (3, 4, 5),
        "depth_fc": (2, 3, 4),
        "width_conv": (4, 8, 12),
        "width_fc": (64, 128, 192),
    }
)
PROPERTIES = tuple(VOCABULARY)

#: What fixes the shapes of a network's tensors in the study's family; `nwslib.space.FAMILIES` says it of the others.
ARCHITECTURE = ("family", "image_size", "filter_size", "depth_conv", "depth_fc", "width_conv", "width_fc")

#: What a design of the study says besides the properties, and what it says where nothing else is asked for.
CONSTANTS: Mapping[str, Any] = MappingProxyType({"family": "cnn", "image_size": 32, "decay": 0.96})

#: What may change in mid-training, and the columns that say when, and to what: only designs from `switch` have them.
SWITCHABLE = ("dataset", "learning_rate", "augmentation", "optimizer")
SWITCH_COLUMNS = ("switch_epoch", *(f"{name}_after" for name in SWITCHABLE))

SHARD_ROWS = 64


def nearest(value: object, known: Iterable[object]) -> str:
    """Say which known value lies nearest to an unknown one, for the end of an error message.

    Parameters
    ----------
    value
        What was asked for.
    known
        What there is.

    Returns
    -------
    str
        ``"Did you mean 'adam'?"`` or, where nothing is close, ``"Known: 'adam', 'rmsprop'."``.

    Examples
    --------
    >>> nearest("adm", ["adam", "rmsprop"])
    "Did you mean 'adam'?"
    """
    names = {str(name): name for name in known}
    if not names:
        return "There is none."
    if isinstance(value, int | float) and not isinstance(value, bool):
        numbers = [name for name in names.values() if isinstance(name, int | float)]
        if numbers:
            return f"The nearest is {min(numbers, key=lambda number: abs(number - value))!r}."
    close = difflib.get_close_matches(str(value), names, n=1)
    if close:
        return f"Did you mean {names[close[0]]!r}?"
    return f"Known: {', '.join(map(repr, names.values()))}."


def base_set(dataset: str) -> str:
    """Strip the bracket from the name of a partial image set.

    Examples
    --------
    >>> base_set("cifar10[batches 1-2]")
    'cifar10'
    """
    return re.sub(r"\[[^\[\]]+\]$", "", dataset)


def channels(dataset: str) -> int:
    """Give how many channels of an image set differ: 1 where its images are grey, else 3.

    Examples
    --------
    >>> channels("mnist[test]"), channels("svhn")
    (1, 3)
    """
    return 1 if base_set(dataset) in GREY_SETS else 3
