import numpy as np
import pytest

from nwslib.snapshots import fake, validate
from nwslib.snapshots.layout import LABELS, Layout
from nwslib.space import sample


@pytest.mark.parametrize("collection", ["nws_small", "nws_fixed", "nws_main"])
def test_fake_networks_satisfy_the_schema(collection):
    design = sample(collection, 8, seed=0)
    networks = list(fake.population(design, diverged=[3]))
    for network in networks:
        validate(network)
    assert [network["model"].item() for network in networks] == list(range(8))
    assert [network["status"].item() for network in networks] == ["converged"] * 3 + ["diverged"] + ["converged"] * 4
    assert not np.isfinite(networks[3]["weights"].values[0, -1]).any()
    for name in ("dataset", "learning_rate", "seed", "shard", "split"):
        assert [network[name].item() for network in networks] == design[name].values.tolist()


def test_a_network_is_a_function_of_its_row():
    design = sample("nws_small", 3, seed=0)
    alone = next(fake.population(design.isel(model=[2])))
    assert alone.identical(list(fake.population(design))[2])


def test_layouts_follow_the_architecture():
    values = {"family": "cnn", "filter_size": 3, "depth_conv": 3, "depth_fc": 2, "width_conv": 4, "width_fc": 32}
    names = {fake.layout(values).name}
    for name, value in {"filter_size": 5, "depth_conv": 4, "depth_fc": 3, "width_conv": 5, "width_fc": 64}.items():
        names.add(fake.layout(values | {name: value}).name)
    assert len(names) == 6
    assert set(Layout.labels(fake.layout(values))) == set(LABELS)


def _means(signal, optimizer):
    networks = fake.population(sample("nws_small", 40, seed=1, optimizer=optimizer, dataset="mnist"), signal=signal)
    return np.mean([network["weights"].values[0].mean(1) for network in networks], 0)  # (s,)


def test_properties_leave_traces_that_grow_and_vanish_without_signal():
    apart = abs(_means(0.3, "adam") - _means(0.3, "momentum"))
    assert apart[-1] > 5 * apart[0]
    assert apart[-1] > 5 * abs(_means(0, "adam") - _means(0, "momentum"))[-1]


def test_the_trace_of_initialization_is_there_from_the_start():
    first = [
        next(fake.population(sample("nws_small", 1, seed=1, initialization=value)))["weights"].values[0, 0]
        for value in ("constant", "glorot_normal")
    ]
    assert not np.array_equal(*first)


def test_other_families_are_refused():
    with pytest.raises(ValueError, match="fake networks are of the family 'cnn', not 'siren'"):
        next(fake.population(sample("siren", 2, seed=0)))
