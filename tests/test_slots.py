import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from nwslib import space
from nwslib.population import draws, optimizers
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


class NothingWaits(TorchDispatchMode):
    """Refuses what makes a host wait for its device, or what it would have to send there."""

    REFUSED = ("_local_scalar_dense", "item", "nonzero", "masked_select", "unique", "lift_fresh", "bincount")

    def __torch_dispatch__(self, operator, types, arguments=(), options=None):
        name = operator._schema.name.removeprefix("aten::")
        masks = name.startswith("index") and any(
            index is not None and index.dtype == torch.bool
            for index in (arguments[1] if isinstance(arguments[1], list) else [])
        )
        if name in self.REFUSED or masks:
            raise RuntimeError(f"{name} waits for the device")
        return operator(*arguments, **(options or {}))


@pytest.mark.parametrize("augmentation", ["on", "off"])
def test_a_step_waits_for_nothing(bars, augmentation):
    crowd = crowd_of(bars, augmentation=augmentation)
    before = crowd.weights.clone()
    with NothingWaits():
        crowd._program()
    assert not torch.equal(crowd.weights, before)


def test_the_guard_sees_what_waits(bars):
    values = torch.ones(3)
    wait = [
        lambda: bool(values.any()),
        lambda: values.nonzero(),
        lambda: values[values > 0],
        lambda: torch.tensor([1.0]),
        lambda: draws.balanced_count(torch.arange(3)),
    ]
    for one in wait:
        with NothingWaits(), pytest.raises(RuntimeError, match="waits for the device"):
            one()


def test_counters_on_the_device_are_those_of_the_members(bars):
    crowd = crowd_of(bars, decay=0.5, optimizer=["adam", "momentum"])
    for _ in range(25):
        for place, one in enumerate(crowd.members):
            if one.step == 0:
                crowd.start_epoch(place)
        epochs, steps, rates = crowd._counters()
        for place, one in enumerate(crowd.members):
            assert (int(epochs[place]), int(steps[place])) == (one.epoch, one.step)
            rate = one.row["learning_rate"] * 0.5**one.epoch
            right = optimizers.step_rates(np.array([rate]), np.array([one.row["optimizer"]]), np.array([one.steps + 1]))
            assert rates[place].item() == pytest.approx(right.item(), rel=1e-12)
        crowd.step()
    assert min(one.epoch for one in crowd.members) == 2


def test_networks_keep_their_counters_when_others_come_and_go(bars):
    one, other = crowd_of(bars, decay=0.5), crowd_of(bars, decay=0.5)
    for crowd in (one, other):
        for _ in range(13):
            for place, each in enumerate(crowd.members):
                if each.step == 0:
                    crowd.start_epoch(place)
            crowd.step()
    other.arrange(other.members[4:])
    for crowd in (one, other):
        crowd.step()
    number = [each.row["model"] for each in one.members]
    for place, each in enumerate(other.members):
        assert all(map(np.array_equal, other.state(place), one.state(number.index(each.row["model"]))))


def test_a_change_of_networks_leaves_tensors_in_place_where_it_can(bars):
    crowd = crowd_of(bars, activation="tanh", augmentation="on")
    names = ("weights", "a", "v", "orders", "epochs", "steps", "rates", "powers", "rules", "decays", "seeds", "lengths")
    before = {name: getattr(crowd, name).data_ptr() for name in names}
    crowd.recorded = lambda: None
    crowd.arrange(crowd.members[::-1])
    assert {name: getattr(crowd, name).data_ptr() for name in names} == before
    assert crowd.recorded is not None
    crowd.arrange(crowd.members[:2])
    assert crowd.recorded is None
