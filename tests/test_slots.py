import numpy as np
import pytest
import torch

from nwslib import space
from nwslib.population.networks import cnn
from nwslib.population.slots import Slots, bank, member, rows


def crowd_of(bars, networks=6, dtype=torch.float32, **fixed):
    """Slots with networks of many kinds, at the start of their first epoch."""
    design = space.sample("nws_small", networks, seed=4, dataset=sorted(bars), batch_size=32, **fixed)
    images = bank(bars, torch.device("cpu"))
    crowd = Slots(cnn.layout(16, 3, 3, 2, 4, 32), 32, images, dtype)
    crowd.arrange([member(row, images) for row in rows(design)])
    for place in range(networks):
        crowd.start_epoch(place)
    return crowd


def test_vectors_are_float32_copies_of_the_places_asked_for(bars):
    crowd = crowd_of(bars, dtype=torch.float64)
    vectors = crowd.vectors([4, 1])
    assert vectors.dtype == np.float32
    assert np.array_equal(vectors, crowd.weights[[4, 1]].float().numpy())
    before = vectors.copy()
    crowd.step()
    assert np.array_equal(vectors, before)
    assert not np.array_equal(crowd.vectors([4, 1]), before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_network_goes_on_from_a_loaded_state_as_from_its_own(bars, dtype):
    one, other = crowd_of(bars, dtype=dtype), crowd_of(bars, dtype=dtype)
    other.step()
    one.step()
    kept = [one.state(place) for place in range(6)]
    assert all(state.dtype == np.float64 for state in kept[0])
    one.weights.zero_(), one.a.fill_(7), one.v.fill_(7)
    for place, state in enumerate(kept):
        one.load(place, *state)
    one.step()
    other.step()
    for place in range(6):
        assert all(map(np.array_equal, one.state(place), other.state(place)))
        assert not np.array_equal(one.state(place)[0], kept[place][0])
