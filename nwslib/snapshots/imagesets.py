"""Where the image sets come from that networks are trained on, and under which terms: for data cards."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from nwslib.space import base_set

_NONE_STATED = "none stated by its authors"


@dataclass(frozen=True)
class ImageSource:
    """What a data card says of an image set: what it shows, where it comes from, and its licence."""

    content: str
    source: str
    licence: str


#: By name; each set has ten classes. As `nwslib.population.images` tells it, which reads them.
SOURCES: Mapping[str, ImageSource] = MappingProxyType(
    {
        "mnist": ImageSource(
            "scans of handwritten digits",
            "LeCun, Cortes, Burges, from NIST's Special Databases 1 and 3",
            f"{_NONE_STATED}; the documentation of TensorFlow says CC BY-SA 3.0",
        ),
        "fashion": ImageSource(
            "photographs of clothes", "Xiao, Rasul, Vollgraf (Zalando), Fashion-MNIST, arXiv:1708.07747", "MIT"
        ),
        "kmnist": ImageSource(
            "scans of cursive Japanese characters",
            '"KMNIST Dataset" (created by CODH), adapted from "Kuzushiji Dataset" (created by NIJL and others), '
            "doi:10.20676/00000341",
            "CC BY-SA 4.0",
        ),
        "cifar10": ImageSource(
            "photographs of animals and vehicles",
            "Krizhevsky, technical report, University of Toronto, 2009",
            _NONE_STATED,
        ),
        "svhn": ImageSource(
            "photographs of house numbers",
            "Netzer et al., NIPS workshop, 2011, http://ufldl.stanford.edu/housenumbers",
            f"{_NONE_STATED}; non-commercial use only",
        ),
        "stl10": ImageSource(
            "photographs of animals and vehicles, from ImageNet", "Coates, Lee, Ng, AISTATS, 2011", _NONE_STATED
        ),
        "digits": ImageSource(
            "scans of handwritten digits",
            "Alpaydin, Kaynak, UCI Machine Learning Repository, 1998; the part that comes with scikit-learn",
            "CC BY 4.0",
        ),
        "glyphs": ImageSource(
            "drawings of letters",
            "nwslib, with the DejaVu, STIX and Computer Modern faces that come with matplotlib",
            "BSD-3-Clause; the faces: Bitstream Vera, STIX and BaKoMa licences",
        ),
        "patches": ImageSource(
            "crops of two photographs",
            "scikit-learn's china.jpg (danielbuechele) and flower.jpg (vultilion), both from Flickr",
            "CC BY 2.0",
        ),
        "textures": ImageSource("procedural patterns", "nwslib", "BSD-3-Clause"),
    }
)

#: The accuracy of a guess among as many equally frequent classes as each of these sets has.
CHANCE = 0.1


def source_of(dataset: str) -> ImageSource | None:
    """Give the source of an image set, or of a part of one; None if it is not known here.

    Examples
    --------
    >>> source_of("cifar10[batches 1-2]").licence
    'none stated by its authors'
    """
    return SOURCES.get(base_set(dataset))
