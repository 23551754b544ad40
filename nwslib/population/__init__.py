"""Many networks trained as one tensor program."""

from nwslib.population import draws, images, networks
from nwslib.population.train import Training, train

__all__ = ["Training", "draws", "images", "networks", "train"]
