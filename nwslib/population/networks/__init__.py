"""Network families, one file each: layout, and the forward pass for M networks at once."""

from nwslib.population.networks import cnn
from nwslib.population.networks.cnn import to_module

__all__ = ["cnn", "to_module"]
