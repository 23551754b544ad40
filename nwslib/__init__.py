"""Train populations of small networks, keep labelled snapshots of their weights, and read them.

One letter names one axis everywhere in array code:

======  =============================================================
letter  axis
======  =============================================================
m       network of the population (``model`` in labelled data)
s       snapshot, from 1 (initialisation) to 20 (end of training)
w       weight, position in the weight vector of one network
b       image in a batch
c y x   channel, row and column of an image or of a feature map
o i     output and input channel (or unit) of a kernel
ky kx   row and column inside a convolution kernel
======  =============================================================

Labelled data (xarray, NetCDF) calls the first three ``model``, ``snapshot`` and ``weight``.
Values are names, never codes: ``optimizer == "adam"``.
"""

import os
from pathlib import Path

__version__ = "0.1.0"


def home() -> Path:
    """Give the folder that relative paths start from.

    Returns
    -------
    pathlib.Path
        The environment variable ``NWS_HOME``; else the root of the repository around the current folder; else that of
        the checkout which this library is imported from; else the current folder.
    """
    if os.environ.get("NWS_HOME"):
        return Path(os.environ["NWS_HOME"]).resolve()
    here = Path.cwd().resolve()
    candidates = (here, *here.parents, Path(__file__).resolve().parents[1])
    roots = [folder for folder in candidates if (folder / "_toc.yml").is_file() and (folder / "params").is_dir()]
    return roots[0] if roots else here


def resolve(path: str | Path) -> Path:
    """Resolve a path against `home`, so that a notebook means the same file wherever it is started.

    Parameters
    ----------
    path
        Absolute (kept), or relative to `home`; one that begins with ``_run`` starts from the environment variable
        ``NWS_RUN`` where that is set.

    Returns
    -------
    pathlib.Path
        Absolute.

    Examples
    --------
    >>> resolve("_run/quick").is_absolute()
    True
    """
    path = Path(path).expanduser()
    if os.environ.get("NWS_RUN") and path.parts[:1] == ("_run",):
        return Path(os.environ["NWS_RUN"]).resolve().joinpath(*path.parts[1:])
    return home() / path
