import copy
import json
import os
import pickle

import h5py
import netCDF4
import numpy as np
import pytest
import xarray as xr
from xarray.core.indexing import LazilyIndexedArray

from nwslib.snapshots import fake, files, layout_of, lazy
from nwslib.snapshots.lazy import Labels, Reader, Rows, header_of
from nwslib.snapshots.schema import COORDINATES, VARIABLES
from nwslib.space import sample

NETWORKS = list(fake.population(sample("nws_small", 6, seed=0)))
LAYOUT = layout_of(NETWORKS[0])
WEIGHTS = np.concatenate([network["weights"].values for network in NETWORKS])
LONGEST = max(network.sizes["evaluation"] for network in NETWORKS)
CURVES = np.full((len(NETWORKS), LONGEST), np.nan, "float32")
for _row, _network in zip(CURVES, NETWORKS, strict=True):
    _row[: _network.sizes["evaluation"]] = _network["curve_test_accuracy"].values[0]


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Six networks in three files, not in the order of the files."""
    folder = tmp_path_factory.mktemp("files")
    for name, members in {"a": [0, 3], "b": [1, 2, 5], "c": [4]}.items():
        longest = max(NETWORKS[member].sizes["evaluation"] for member in members)
        padded = [
            NETWORKS[member].pad(evaluation=(0, longest - NETWORKS[member].sizes["evaluation"])) for member in members
        ]
        files.save(xr.concat(padded, "model", data_vars="minimal"), folder / f"{name}.nc")
    return [
        (str(folder / f"{name}.nc"), row) for name, row in [("a", 0), ("b", 0), ("b", 1), ("a", 1), ("c", 0), ("b", 2)]
    ]


def _lazy(places, name="weights", reader=None):
    shape = WEIGHTS.shape if name == "weights" else CURVES.shape
    rows = Rows(reader or Reader(), name, places, shape)
    return xr.DataArray(xr.Variable(VARIABLES[name].dims, LazilyIndexedArray(rows)))


KEYS = {
    "everything": {},
    "one network": {"model": 3},
    "one weight": {"model": -1, "snapshot": -1, "weight": 7},
    "a run": {"snapshot": -1, "weight": slice(100, 600)},
    "backwards": {"model": slice(None, None, -1), "weight": slice(50, 10, -7)},
    "lists": {"model": [5, 0, 0, 3], "snapshot": [1, 0], "weight": [9, 3, 1675]},
    "a mask": {"model": np.array([True, False, True, False, False, True])},
    "whole number between lists": {"model": [1, 2], "snapshot": 4, "weight": [8, 8]},
    "nothing": {"model": [], "weight": slice(3, 3)},
    "runs at random": {
        "model": xr.DataArray([4, 1, 4], dims="run"),
        "snapshot": 19,
        "weight": xr.DataArray([[0, 1], [50, 51], [1, 2]], dims=("run", "place")),
    },
}


@pytest.mark.parametrize("key", KEYS.values(), ids=KEYS)
def test_lazy_equals_eager(places, key):
    eager = xr.DataArray(WEIGHTS, dims=("model", "snapshot", "weight"))
    found = _lazy(places).isel(key)
    np.testing.assert_array_equal(found.values, eager.isel(key).values, strict=True)
    np.testing.assert_array_equal(
        _lazy(places)[1:, ::3].isel(model=[3, 0], weight=5), eager[1:, ::3].isel(model=[3, 0], weight=5)
    )


@pytest.mark.parametrize("key", [{}, {"model": 4}, {"evaluation": -1}, {"model": [2, 1], "evaluation": [30, 2]}])
def test_shorter_curves_are_padded_with_nan(places, key):
    eager = xr.DataArray(CURVES, dims=("model", "evaluation"))
    np.testing.assert_array_equal(
        _lazy(places, "curve_test_accuracy").isel(key).values, eager.isel(key).values, strict=True
    )


def test_values_may_be_changed_without_changing_the_file(places):
    for key in ({"model": 0}, {"model": [0, 1]}):
        values = _lazy(places).isel(key).values
        values += 1
    np.testing.assert_array_equal(_lazy(places).values, WEIGHTS)


def test_only_files_that_are_asked_for_are_read(places, monkeypatch):
    asked, whole, reader = [], Reader.whole, Reader()
    monkeypatch.setattr(Reader, "whole", lambda self, *place: asked.append(place) or whole(self, *place))
    _lazy(places, reader=reader).isel(model=[2, 4]).isel(weight=slice(0, 10)).load()
    assert set(asked) == {(path, "weights") for path, _ in (places[2], places[4])}


def test_a_compressed_file_gives_the_same(places, tmp_path):
    packed = []
    for path, row in places:
        with xr.open_dataset(path, engine="netcdf4") as file:
            copied = str(tmp_path / os.path.basename(path))
            encoding = {
                name: {"zlib": True, "chunksizes": (1, 1, LAYOUT.size), "contiguous": False} for name in ["weights"]
            }
            file.drop_encoding().to_netcdf(copied, engine="netcdf4", encoding=encoding)
        packed.append((copied, row))
    with h5py.File(packed[0][0]) as file:
        assert file["weights"].compression == "gzip"
    np.testing.assert_array_equal(_lazy(packed).isel(snapshot=[3, 1], weight=slice(5, 99)), WEIGHTS[:, [3, 1], 5:99])
    assert header_of(packed[0][0]) == {}  # chunks lie anywhere


def test_a_file_whose_header_is_known_is_not_parsed(places, monkeypatch):
    headers = json.loads(json.dumps({path: header_of(path) for path, _ in places}))
    monkeypatch.setattr(h5py, "File", None)
    for name, values in {"weights": WEIGHTS, "curve_test_accuracy": CURVES}.items():
        array = _lazy(places, name, Reader(headers))
        np.testing.assert_array_equal(array.values, values, strict=True)
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(array)).values, values, strict=True)


def test_a_file_with_another_header_is_parsed(places, tmp_path):
    headers, replaced = {}, []
    for path, row in places:
        replaced.append((str(tmp_path / os.path.basename(path)), row))
        headers[replaced[-1][0]] = header_of(path)
        with xr.open_dataset(path, engine="netcdf4") as file:
            files.save(file.load().assign_attrs(device="another " * 1000), tmp_path / os.path.basename(path))
    assert header_of(replaced[0][0])["variables"] != headers[replaced[0][0]]["variables"]
    np.testing.assert_array_equal(_lazy(replaced, reader=Reader(headers)).values, WEIGHTS)


def test_a_header_that_is_wrong_reads_nothing_beyond_the_file(places):
    headers = {path: header_of(path) for path, _ in places}
    for header in headers.values():
        header["variables"]["weights"][1][0] += 1
    with pytest.raises(ValueError, match=r"[abc].nc is truncated, or not a file of networks"):
        _lazy(places, reader=Reader(headers)).load()


def test_few_files_are_open_at_a_time(places, monkeypatch):
    monkeypatch.setattr(lazy, "_MAPS", 1)
    before = len(os.listdir("/proc/self/fd"))
    array = _lazy(places)
    np.testing.assert_array_equal(array.values, WEIGHTS)
    assert len(os.listdir("/proc/self/fd")) <= before + 1


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda array: pickle.loads(pickle.dumps(array))])
def test_copies_carry_no_weights(places, copied):
    array = _lazy(places)
    array[0].load()
    assert len(pickle.dumps(array)) < 20_000
    np.testing.assert_array_equal(copied(array).values, WEIGHTS)


def test_a_file_that_is_gone_or_foreign_is_named(places, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone.nc is gone: .* open it again"):
        _lazy([(str(tmp_path / "gone.nc"), 0)] * 6).load()
    (tmp_path / "text.nc").write_text("something else")
    with pytest.raises(ValueError, match=r"text.nc is truncated, or not a file of networks"):
        _lazy([(str(tmp_path / "text.nc"), 0)] * 6).load()
    with netCDF4.Dataset(tmp_path / "foreign.nc", "w") as file:
        file.createDimension("x", 3)
        file.createVariable("temperature", "f4", ("x",))
    with pytest.raises(ValueError, match=r"foreign.nc is truncated, or not a file of networks"):
        _lazy([(str(tmp_path / "foreign.nc"), 0)] * 6).load()


def test_weights_of_another_type_are_refused(places, tmp_path):
    path = tmp_path / "double.nc"
    with xr.open_dataset(places[0][0], engine="netcdf4") as file:
        changed = file.load().drop_encoding()
    changed.assign(weights=changed["weights"].astype("float64")).to_netcdf(path, engine="netcdf4")
    with pytest.raises(ValueError, match=r"double.nc: weights has type float64, but the schema says float32"):
        _lazy([(str(path), 0)] * 6).load()


@pytest.mark.parametrize("name", [name for name, variable in COORDINATES.items() if variable.dims == ("weight",)])
def test_labels_are_those_of_the_layout(name):
    array = xr.DataArray(xr.Variable(("weight",), LazilyIndexedArray(Labels(LAYOUT, name))))
    assert array.dtype == LAYOUT.label(name).dtype
    np.testing.assert_array_equal(array[100:1000:3].values, LAYOUT.label(name)[100:1000:3], strict=True)
    np.testing.assert_array_equal(array[[5, 1600]].values, LAYOUT.label(name)[[5, 1600]], strict=True)
