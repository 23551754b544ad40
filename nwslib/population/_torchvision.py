"""torchvision's data sets, also beside a torch that was built without CUDA.

The wheels of the package registry are CUDA builds: beside a CPU torch their compiled operators cannot be loaded, and
the import fails because two operators have no schema, although no data set needs them. Declaring the schemas is
enough; calling the operators still raises torchvision's own error.
"""

import importlib
from types import ModuleType

import torch

_MISSING = "operator torchvision::nms does not exist"
_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_declared: list[torch.library.Library] = []  # a schema lives as long as its library object


def import_datasets() -> ModuleType:
    """Import ``torchvision.datasets``, declaring the missing operators on exactly the error that they cause.

    Raises
    ------
    RuntimeError
        If torchvision fails at import for any other reason: its own error, unchanged.
    """
    try:
        return importlib.import_module("torchvision.datasets")
    except RuntimeError as error:
        if str(error) != _MISSING or _declared:
            raise
    library = torch.library.Library("torchvision", "FRAGMENT")
    for schema in _SCHEMAS:
        library.define(schema)
    _declared.append(library)
    return importlib.import_module("torchvision.datasets")


datasets = import_datasets()
