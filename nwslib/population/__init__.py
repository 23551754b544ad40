"""Many networks trained as one tensor program."""

from nwslib.population import draws, images, networks, speed
from nwslib.population.device import resolve_device
from nwslib.population.train import Training, describe, train

__all__ = ["Training", "describe", "draws", "images", "networks", "resolve_device", "speed", "train"]
