import json
import os

import numpy as np
import pytest

from nwslib import snapshots
from nwslib.snapshots import fake, lazy
from nwslib.space import sample

NETWORKS = list(fake.population(sample("nws_small", 70, seed=0)))
WEIGHTS = np.concatenate([network["weights"].values for network in NETWORKS])


@pytest.fixture(scope="module", params=["working", "archive", "memory"])
def node(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    snapshots.write(folder / "working", NETWORKS)
    if request.param == "archive":
        snapshots.convert(folder / "working", folder / "archive")
    opened = snapshots.networks(snapshots.open_population(folder / request.param.replace("memory", "working")))
    return opened.load() if request.param == "memory" else opened


def _places(count, length, shape=WEIGHTS.shape, seed=0):
    random = np.random.default_rng(seed)
    return [random.integers(0, size, count) for size in (*shape[:2], shape[2] - length + 1)]


def _plain(weights, model, snapshot, start, length):
    return np.stack([weights[m, s, w : w + length] for m, s, w in zip(model, snapshot, start, strict=True)])


@pytest.mark.parametrize("length", [1, 100, WEIGHTS.shape[2]])
def test_runs_are_those_of_the_weights_in_the_order_asked_for(node, length):
    places = _places(200, length)
    found = snapshots.take_runs(node, *places, length)
    np.testing.assert_array_equal(found, _plain(WEIGHTS, *places, length), strict=True)


def test_runs_of_some_networks_snapshots_and_weights(node):
    some = {"model": [5, 66, 2, 2], "snapshot": slice(None, None, -3), "weight": slice(100, 900)}
    weights = WEIGHTS[[5, 66, 2, 2]][:, ::-3, 100:900]
    places = _places(50, 20, weights.shape)
    found = snapshots.take_runs(node.isel(some), *places, 20)
    np.testing.assert_array_equal(found, _plain(weights, *places, 20))
    last = node.isel(weight=slice(-500, None))
    places = _places(50, 20, last["weights"].shape)
    np.testing.assert_array_equal(snapshots.take_runs(last, *places, 20), _plain(WEIGHTS[..., -500:], *places, 20))
    thin = node.isel(weight=slice(None, None, 2))
    places = _places(50, 20, thin["weights"].shape)
    np.testing.assert_array_equal(snapshots.take_runs(thin, *places, 20), _plain(WEIGHTS[..., ::2], *places, 20))


def test_no_run_is_no_run(node):
    assert snapshots.take_runs(node, *np.zeros((3, 0), int), 7).shape == (0, 7)


@pytest.mark.parametrize(
    ("place", "length"), [((70, 0, 0), 5), ((0, 20, 0), 5), ((0, 0, 1672), 5), ((-1, 0, 0), 5), ((0, 0, 0), 0)]
)
def test_a_run_that_leaves_its_network_is_refused(node, place, length):
    with pytest.raises(IndexError, match=f"no run of {length} weights lies at"):
        snapshots.take_runs(node, *([number] for number in place), length)


def test_places_are_whole_numbers(node):
    with pytest.raises(ValueError, match="positions are whole numbers in one dimension, not float64 in 1"):
        snapshots.take_runs(node, [0.5], [0], [0], 5)
    with pytest.raises(ValueError, match="all input arrays must have the same shape"):
        snapshots.take_runs(node, [0], [0, 1], [0], 5)
    with pytest.raises(ValueError, match="take_runs needs 'updates' with the dimensions model, snapshot, weight"):
        snapshots.take_runs(node, [0], [0], [0], 5, variable="updates")
    with pytest.raises(ValueError, match="take_runs needs 'weights'"):
        snapshots.take_runs(node.isel(model=0), [0], [0], [0], 5)


def test_runs_from_files_of_both_forms(tmp_path):
    snapshots.write(tmp_path / "working", NETWORKS)
    snapshots.convert(tmp_path / "working", tmp_path / "mixed")
    for shard in (tmp_path / "working").glob("*.64.nc"):  # the other stays an archive
        os.replace(shard, tmp_path / "mixed" / shard.name)
    manifest = tmp_path / "mixed/manifest.json"
    facts = json.loads((tmp_path / "working/manifest.json").read_text())["files"]
    fields = json.loads(manifest.read_text())
    fields["files"] |= {name: fact for name, fact in facts.items() if ".64." in name}
    manifest.write_text(json.dumps(fields))
    node = snapshots.networks(snapshots.open_population(tmp_path / "mixed"))
    places = _places(100, 40)
    np.testing.assert_array_equal(snapshots.take_runs(node, *places, 40), _plain(WEIGHTS, *places, 40))


def test_only_the_runs_are_read(tmp_path, monkeypatch):
    snapshots.write(tmp_path, NETWORKS)
    node = snapshots.networks(snapshots.open_population(tmp_path))
    monkeypatch.setattr(lazy.Rows, "_read", None)  # by which xarray reads
    places = _places(30, 40)
    np.testing.assert_array_equal(snapshots.take_runs(node, *places, 40), _plain(WEIGHTS, *places, 40))
