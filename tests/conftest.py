"""What several tests share: small image sets in memory."""

import pytest
from bars import stripes

from nwslib.population.images import ImageSet


@pytest.fixture(scope="session")
def bars() -> dict[str, ImageSet]:
    """Give two image sets of different size and colour, under the names of embedded ones."""
    return {"digits": stripes("digits", train=350, grey=True), "textures": stripes("textures")}
