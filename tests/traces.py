"""A population of random weights with one trace in it, whose strength is known."""

import numpy as np
import xarray as xr

from nwslib import space
from nwslib.snapshots import fake


def traced() -> xr.Dataset:
    """Give 120 networks whose optimiser spreads all weights in training, and changes nothing at the start."""
    made = list(fake.population(space.sample("nws_small", 120, seed=0), signal=0.0, diverged=[0, 9]))
    made = [network.drop_dims("evaluation") for network in made]
    one = xr.concat(made, "model", data_vars="all", coords="different", compat="equals", join="exact")
    spread = one["optimizer"].copy(data=np.unique(one["optimizer"], return_inverse=True)[1])
    one["weights"] *= 4.0 ** (spread * (one["snapshot"] - 1) / 19)
    return one
