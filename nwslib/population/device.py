"""Which device computes."""

import platform

import torch

from nwslib.space import nearest


def resolve_device(device: str | torch.device) -> torch.device:
    """Find the device that a name means.

    Parameters
    ----------
    device
        ``"auto"`` (the first CUDA device where there is one, else the CPU), ``"cpu"``, ``"cuda"``, ``"cuda:1"``,
        ``"mps"``, or a device that torch already knows.

    Returns
    -------
    torch.device
        A device of this machine.

    Raises
    ------
    ValueError
        If the name is unknown, or this machine has no such device.

    Examples
    --------
    >>> resolve_device("cpu")
    device(type='cpu')
    """
    available = _available()
    if str(device) == "auto":
        return torch.device("cuda" if "cuda" in available else "cpu")
    if str(device) not in available:
        raise ValueError(f"device {str(device)!r} is not available here. {nearest(device, ['auto', *available])}")
    return torch.device(device)


def describe(device: torch.device) -> str:
    """Say in words what a device is.

    Examples
    --------
    >>> describe(torch.device("cpu")).startswith("CPU")
    True
    """
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "cpu":
        return f"CPU ({platform.machine()}, {torch.get_num_threads()} threads)"
    return device.type


def _available() -> list[str]:
    cuda = [f"cuda:{number}" for number in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    mps = ["mps"] if torch.backends.mps.is_available() else []
    return ["cpu", *(["cuda"] if cuda else []), *cuda, *mps]
