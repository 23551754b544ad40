"""Many networks trained as one tensor program."""

from nwslib.population import draws, images, networks, speed
from nwslib.population.device import describe, resolve_device
from nwslib.population.train import OPTIONS, Training, train

__all__ = ["OPTIONS", "Training", "describe", "draws", "images", "networks", "resolve_device", "speed", "train"]
