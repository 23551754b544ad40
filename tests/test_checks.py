"""Every way to damage a population, on real files: each fault is found, alone and among others."""

import hashlib
import json
import re
import shutil
import tracemalloc
import zlib
from functools import reduce
from operator import xor

import h5py
import netCDF4
import numpy as np
import pytest
import xarray as xr

from nwslib import snapshots
from nwslib.snapshots import fake, writer
from nwslib.snapshots.checks import faults
from nwslib.snapshots.schema import VARIABLES
from nwslib.space import sample

ROWS = 3  # rows per shard


def _design(rows, seed=0):
    return sample("nws_small", rows, seed).assign(shard=("model", np.arange(rows) // ROWS))


NETWORKS = list(fake.population(_design(8), diverged=[4]))
IDS = [network["id"].item() for network in NETWORKS]


def _write(folder, networks):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer, "SHARD_ROWS", ROWS)
        snapshots.write(folder, networks)
    return folder


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return _write(tmp_path_factory.mktemp("written") / "population", NETWORKS)


@pytest.fixture
def folder(written, tmp_path):
    """A copy of eight networks in three shards, the fifth network diverged."""
    return shutil.copytree(written, tmp_path / "population")


@pytest.fixture
def unfinished(tmp_path):
    """Five networks: a shard and two parts."""

    def interrupted():
        yield from NETWORKS[:5]
        raise RuntimeError

    with pytest.raises(RuntimeError):
        _write(tmp_path / "unfinished", interrupted())
    assert len([*(tmp_path / "unfinished" / "parts").glob("*.nc")]) == 2
    return tmp_path / "unfinished"


def _shard(folder, number=1):
    [path] = folder.glob(f"*.{number:05d}.*.nc")
    return path


def _change_manifest(folder, change):
    fields = json.loads((folder / "manifest.json").read_text())
    change(fields)
    (folder / "manifest.json").write_text(json.dumps(fields))


def _sign(folder, path):
    """Have the manifest say that the file is as it should be, and nothing about its networks and variables."""
    facts = {"bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    _change_manifest(folder, lambda fields: fields["files"][path.name].update(facts, crc32={}, header={}))


def _edit(folder, change, number=1):
    """Change a shard in place, and sign it."""
    path = _shard(folder, number)
    with netCDF4.Dataset(path, "a") as file:
        file.set_auto_maskandscale(False)
        change(file)
    _sign(folder, path)


def _rewrite(folder, change, number=1):
    """Replace a shard by a changed one that xarray writes, and sign it."""
    path = _shard(folder, number)
    with xr.open_dataset(path, engine="netcdf4") as file:
        shard = file.load()
    change(shard).drop_encoding().to_netcdf(path, engine="netcdf4")
    _sign(folder, path)


def _network(number):
    """Name a network as a fault does."""
    return rf"\.0000{number // ROWS}\.0\d\.nc: network {number} \({IDS[number]}\)"


def _assert_found(folder, *messages):
    """Each message describes one of the faults, and there are no others."""
    found = list(faults(folder))
    assert len(found) == len(messages), found
    for message in messages:
        assert any(re.search(message, fault) for fault in found), (message, found)


# Sound ones


def test_a_sound_population_has_no_fault(folder, unfinished, tmp_path):
    assert list(faults(folder)) == []
    assert list(faults(unfinished)) == []
    design = sample("nws_main", 5, seed=0, filter_size=[3, 5], depth_conv=3, depth_fc=2, width_conv=4, width_fc=64)
    assert list(faults(_write(tmp_path / "several", fake.population(design)))) == []


def _with_more(network):
    """Add a further property and updates, and forget a curve."""
    network = network.copy(deep=True).assign_coords(dropout=("model", [0.5]))
    for name in ("valid_accuracy", "curve_valid_accuracy"):
        network[name][:] = np.nan
    network["updates"] = network["weights"] - network["weights"].shift(snapshot=1)
    network["updates"][:, 0] = 0
    further = {"dropout": {"type": "float64", "units": "1", "meaning": "share of units that are dropped"}}
    return network.assign_attrs(properties=json.dumps(further), not_measured='["valid_accuracy"]')


def test_what_a_population_may_have_and_lack(tmp_path):
    folder = _write(tmp_path / "population", map(_with_more, NETWORKS[:4]))
    assert list(faults(folder)) == []
    _edit(folder, _set("updates", (0, 3, 4), np.inf))
    _edit(folder, _set("valid_accuracy", (0, 5), 0.5))
    _edit(folder, _set("dropout", 0, 0.25))
    _assert_found(
        folder,
        _network(3) + r": 1 of its updates are not finite, from conv1.kernel \(weight 4\) at snapshot 4 on",
        _network(3) + ": valid_accuracy has values, but is said to be not measured",
        _network(3) + r": dropout is 0\.25, but manifest.json says 0\.5",
    )


def test_networks_that_failed_are_no_twins(tmp_path):
    def failed(network):
        network = network.copy(deep=True).isel(evaluation=[0]).assign_coords(status=("model", ["failed"]))
        network["n_exports"][:] = 0
        for name in (name for name, values in network.data_vars.items() if values.dtype == "float32"):
            network[name][:] = np.nan
        return network

    assert list(faults(_write(tmp_path / "population", map(failed, NETWORKS[:2])))) == []


def test_a_folder_that_is_no_population_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no such folder. The nearest that exists is"):
        faults(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match="it holds no finished network yet"):
        faults(tmp_path)


# Bytes


def test_a_truncated_shard_is_named_with_the_networks_that_are_lost(folder):
    with _shard(folder).open("r+b") as file:
        file.truncate(1000)
    lost = ", ".join(rf"network {number} \({IDS[number]}\)" for number in (3, 4, 5))
    _assert_found(
        folder,
        r"00001\.03\.nc is truncated or was changed: it has 1000 bytes, but manifest.json says \d+$",
        rf"00001\.03\.nc is truncated, or not a NetCDF file, and with it {lost}: ",
    )


@pytest.mark.parametrize("content", [b"", b"GIF89a" * 1000])
def test_a_file_that_is_not_netcdf_is_named(folder, content):
    _shard(folder).write_bytes(content)
    _sign(folder, _shard(folder))
    _assert_found(folder, r"00001\.03\.nc is truncated, or not a NetCDF file, and with it network 3 ")


def test_a_broken_part_is_named(unfinished):
    [part] = unfinished.glob("parts/*00000004.nc")
    part.write_bytes(part.read_bytes()[:5000])
    found = list(faults(unfinished))
    assert any(re.match(r"parts/.*\.00000004\.nc is truncated, or not a NetCDF file", fault) for fault in found)
    assert all("00000004.nc" in fault for fault in found)


def _flip(path, place, bit=0):
    content = bytearray(path.read_bytes())
    content[place] ^= 1 << bit
    path.write_bytes(content)


def _place(path, name, *index):
    """Give the place in the file of one value's last byte."""
    with h5py.File(path) as file:
        values = file[name]
        return values.id.get_offset() + (np.ravel_multi_index(index, values.shape) + 1) * values.dtype.itemsize - 1


def _sum(folder):
    """Have the manifest hold a CRC-32 of each network's weights, and one of everything else."""
    sums = {}
    for path in folder.glob("*.nc"):
        with netCDF4.Dataset(path) as file:
            found = {"weights": [], "curves": []}
            names = [name for name in VARIABLES if name != "weights"]
            for row in range(len(file["model"])):
                values = {name: np.ma.getdata(file[name][row]).tobytes() for name in VARIABLES}
                found["weights"].append(zlib.crc32(b"weights" + values["weights"]))
                found["curves"].append(reduce(xor, (zlib.crc32(name.encode() + values[name]) for name in names)))
            sums[path.name] = {"crc32": found}
    _change_manifest(folder, lambda fields: [fields["files"][name].update(more) for name, more in sums.items()])


def test_a_flipped_byte_names_the_network(folder):
    _sum(folder)
    assert list(faults(folder)) == []
    path = _shard(folder)
    _flip(path, _place(path, "weights", 2, 3, 4) - 3)  # the last bit of a mantissa
    _flip(path, _place(path, "curve_train_loss", 1, 4) - 3)
    _assert_found(
        folder,
        r"00001\.03\.nc was changed: its SHA-256",
        _network(5) + ": its weights are not those that were written",
        _network(4) + ": its accuracies, losses or epochs are not those that were written",
    )


def test_a_change_outside_the_networks_is_told_apart(folder):
    _sum(folder)
    _change_manifest(folder, lambda fields: fields["files"][_shard(folder).name].update(sha256="0" * 64))
    _assert_found(
        folder,
        r"00001\.03\.nc was changed: its SHA-256",
        r"00001\.03\.nc: every network is as it was written, so where it was changed can't be told: restore",
    )


def _forget_sums(folder):
    _change_manifest(folder, lambda fields: [facts.pop("crc32", None) for facts in fields["files"].values()])


def test_without_checksums_a_flipped_byte_is_found_though_no_value_betrays_it(folder):
    _forget_sums(folder)
    path = _shard(folder)
    _flip(path, _place(path, "weights", 2, 3, 4) - 3)
    _assert_found(
        folder, r"00001\.03\.nc was changed: its SHA-256", r"00001\.03\.nc: no value is impossible, so where it was"
    )


def test_without_checksums_a_flipped_byte_is_placed_where_a_weight_leaps(folder):
    _forget_sums(folder)
    path = _shard(folder)
    _flip(path, _place(path, "weights", 2, 3, 4), bit=6)
    _assert_found(
        folder,
        r"00001\.03\.nc was changed: its SHA-256",
        _network(5) + r": weights are impossible, .* in conv1.kernel \(weight 4\) at snapshot 4: changed there\?",
    )


@pytest.mark.parametrize(
    ("name", "index", "message"),
    [
        ("test_accuracy", (2, 6), _network(5) + r": test_accuracy is a share between 0 and 1, not"),
        ("learning_rate", (2,), _network(5) + r": learning_rate is .*, but manifest.json says 0\.\d+"),
        ("model", (2,), r"network \d+ .* is not listed for this file"),
        ("row", (7,), r"the labels 'row' are not those of the layout: weight 7 is labelled \d+, not 2"),
    ],
)
def test_a_flipped_byte_elsewhere_is_placed(folder, name, index, message):
    path = _shard(folder)
    _flip(path, _place(path, name, *index), bit=6)
    found = list(faults(folder))
    assert "was changed: its SHA-256" in found[0]
    assert any(re.search(message, fault) for fault in found), found


def test_no_flipped_byte_stops_the_check(folder):
    path = _shard(folder)
    content = path.read_bytes()
    for place in np.random.default_rng(0).integers(0, len(content) // 8, 40).tolist():
        _flip(path, place, bit=place % 8)
        found = list(faults(folder))
        assert "was changed: its SHA-256" in found[0]
        assert len(found) > 1
        path.write_bytes(content)


def test_a_flipped_byte_of_an_archive_names_network_and_variable(folder, tmp_path):
    archive = tmp_path / "archive"
    snapshots.convert(folder, archive)
    assert list(faults(archive)) == []
    path = _shard(archive)
    with h5py.File(path) as file:
        chunk = file["weights"].id.get_chunk_info_by_coord((2, 0, 0))
    _flip(path, chunk.byte_offset + chunk.size // 2)
    _assert_found(archive, r"00001\.03\.nc was changed: its SHA-256", _network(5) + r": weights can't be read: ")


# Files


def test_a_missing_shard_is_named_with_its_networks(folder):
    _shard(folder).unlink()
    _assert_found(folder, r"00001\.03\.nc is missing, and with it network 3 .*: manifest.json lists it")


def test_files_that_the_manifest_does_not_list_are_named(folder, tmp_path):
    other = _write(tmp_path / "other", fake.population(_design(1, seed=7).assign_coords(model=[30])))
    name = _shard(other, 0).name
    shutil.copy(other / name, folder / name.replace(".00000.", ".00009."))
    shutil.copy(other / name, folder / "stray.nc")
    _assert_found(
        folder,
        r"00009\.01\.nc is not listed in manifest.json",
        r"00009\.01\.nc: network 30 .* has shard 0, but the file is named after 9",
        r"stray.nc is not named like a shard or a part, and not listed",
        r"stray.nc: network 30 .* has the same row as .*00009\.01\.nc: network 30",
        r"stray.nc: network 30 .* has the same id as .*00009\.01\.nc: network 30",
        r"stray.nc: network 30 .* has the same weights .* as .*00009\.01\.nc: network 30",
    )


def test_what_a_writer_or_a_publisher_leaves_beside_the_shards_is_no_fault(folder):
    (folder / ".shard.nc.tmp").write_bytes(b"half")
    (folder / "README.md").write_text("What is in here?")
    assert list(faults(folder)) == []


def test_a_network_in_two_files_is_named(folder, unfinished):
    (folder / "parts").mkdir(exist_ok=True)
    [part] = unfinished.glob("parts/*00000004.nc")
    shutil.copy(part, folder / "parts")
    _assert_found(
        folder,
        rf"parts/.*network 4 \({IDS[4]}\) has the same row as .*00001\.03\.nc: network 4",
        rf"parts/.*network 4 \({IDS[4]}\) has the same id as .*00001\.03\.nc: network 4",
    )


# What is in a file


def _set(name, place, value):
    def change(file):
        file[name][place] = value

    return change


def _text(name, row, value):
    def change(file):
        letters = file[name]
        letters.set_auto_chartostring(False)
        letters[row] = np.frombuffer(value.encode().ljust(letters.shape[1], b"\0"), "S1")

    return change


def _exports(file):
    file["n_exports"][1] -= 1


@pytest.mark.parametrize(
    ("change", "messages"),
    [
        (
            _set("weights", (2, 3, 4), np.inf),
            [_network(5) + r": 1 of its weights are not finite, from conv1.kernel \(weight 4\) at snapshot 4 on"],
        ),
        (_set("weights", (0, 19), np.nan), [_network(3) + r": 1676 of its weights are not finite"]),
        (
            _set("valid_accuracy", (2, 7), np.nan),
            [_network(5) + ": valid_accuracy is not finite at snapshot 8, though"],
        ),
        (
            _set("test_accuracy", (2, 7), 1.5),
            [_network(5) + r": test_accuracy is a share between 0 and 1, not 1\.5"],
        ),
        (_set("curve_train_accuracy", (0, 3), -1), [_network(3) + ": curve_train_accuracy is a share .*, not -1"]),
        (_set("epoch", (2, 5), 0), [_network(5) + r": epoch falls from \d+ to 0 at snapshot 6"]),
        (
            _text("status", 2, "converger"),
            [
                _network(5) + ": status is 'converger', but manifest.json says 'converged'",
                _network(5) + " has status 'converger'. Did you mean 'converged'?",
            ],
        ),
        (
            _text("split", 0, "tests"[:5]),
            [
                _network(3) + ": split is 'tests', but manifest.json says 'test'",
                _network(3) + " has split 'tests'. Did you mean 'test'?",
            ],
        ),
        (_text("layer", 5, "conv2"), [r"labels 'layer' are not those .*: weight 5 is labelled 'conv2', not 'conv1'"]),
        (
            _set("seed", 2, 7),
            [_network(5) + r": seed is 7, but manifest.json says \d+"],
        ),
        (
            lambda file: file.setncattr("schema_version", "2.0"),
            [r"00001\.03\.nc: schema version 2.0, but this library reads"],
        ),
        (
            lambda file: file.setncattr("protocol_version", "9"),
            [r"00001\.03\.nc: protocol_version is '9', but 'fake' elsewhere: networks of two populations"],
        ),
        (lambda file: file.setncattr("implementation", "{"), [r"attribute 'implementation' is unreadable: "]),
        (lambda file: file.delncattr("device"), [r"00001\.03\.nc: attribute 'device' is missing"]),
        (
            lambda file: file.renameVariable("epoch", "epochs"),
            ["'epoch' is missing. Did you mean 'epochs'", "'epochs'"],
        ),
    ],
)
def test_a_fault_in_a_shard_is_named(folder, change, messages):
    _edit(folder, change)
    _assert_found(folder, *messages)


def test_a_network_that_diverged_may_hold_nan_and_no_other_may(folder):
    _edit(folder, _text("status", 1, "converged"))
    _assert_found(
        folder,
        _network(4) + ": status is 'converged', but manifest.json says 'diverged'",
        _network(4) + r": 16760 of its weights are not finite, from conv1.kernel \(weight 0\) at snapshot 11 on",
        _network(4) + ": valid_accuracy is not finite at snapshot 11",
        _network(4) + ": test_accuracy is not finite at snapshot 11",
        *[_network(4) + f": curve_{name}_accuracy ends at evaluation" for name in ("train", "valid", "test")],
    )


@pytest.mark.parametrize(
    ("change", "messages"),
    [
        (lambda shard: shard.isel(weight=slice(-1)), [r"vectors of 1675 weights, but the layout cnn-.{8} has 1676"]),
        (
            lambda shard: shard.isel(snapshot=slice(1, None)),
            [r"snapshots are numbered 1, 2, 3, ..., not 2, 3", r"19 snapshots, but manifest.json says 20"],
        ),
        (
            lambda shard: shard.isel(model=[0, 1]),
            [r"it holds 2 networks, but is named after 3", rf"network 5 \({IDS[5]}\) is not in it, but manifest"],
        ),
        (
            lambda shard: shard.isel(model=[1, 0, 2]),
            [_network(3) + " stands after network 4: networks are stored in design order"],
        ),
        (
            lambda shard: shard.isel(evaluation=slice(1, None)),
            [
                r"curves of \d+ evaluations, but the longest run has \d+ exports",
                r"network \d .*: \d+ exports, but curve_valid_accuracy has room for \d+ evaluations",
            ],
        ),
        (lambda shard: shard.drop_vars(["weights", "seed"]), ["'weights' is missing", "'seed' is missing", "seed is"]),
        (lambda shard: shard.assign(epoch=shard["epoch"].astype("int32")), ["epoch has type int32"]),
        (lambda shard: shard.assign(extra=1), ["variable 'extra' is not in the schema"]),
        (lambda shard: shard.transpose("weight", "snapshot", ...), [r"weights has dimensions \('weight', 'snapshot'"]),
    ],
)
def test_a_wrong_shape_is_named(folder, change, messages):
    _rewrite(folder, change)
    found = list(faults(folder))
    for message in messages:
        assert any(re.search(message, fault) for fault in found), (message, found)
    assert all("00001.03.nc" in fault for fault in found)


def test_curves_end_with_the_exports(folder):
    _edit(folder, _exports)
    exports = NETWORKS[4]["n_exports"].item()
    _edit(folder, _set("n_exports", 0, 99))
    found = list(faults(folder))
    three = NETWORKS[3]["n_exports"].item()
    for message in (
        _network(4) + f": n_exports is {exports - 1}, but manifest.json says {exports}",
        _network(3) + f": n_exports is 99, but manifest.json says {three}",
        _network(3) + r": 99 exports, but curve_test_accuracy has room for \d+ evaluations",
        r"curves of \d+ evaluations, but the longest run has 99 exports",
    ):
        assert any(re.search(message, fault) for fault in found), (message, found)


def test_a_curve_that_goes_on_or_ends_early_is_named(folder):
    shorter = min((3, 5), key=lambda number: NETWORKS[number]["n_exports"].item())
    exports = NETWORKS[shorter]["n_exports"].item()
    _edit(folder, _set("curve_test_accuracy", (shorter - 3, exports), 0.5))
    _edit(folder, _set("curve_valid_accuracy", (shorter - 3, exports - 1), np.nan))
    _assert_found(
        folder,
        _network(shorter) + f": curve_test_accuracy goes on to evaluation {exports + 1}, but it has {exports} exports",
        _network(shorter) + f": curve_valid_accuracy ends at evaluation {exports - 1}, but it has {exports} exports",
    )


# Duplicates


def test_networks_that_share_row_or_id_or_weights_are_named(folder):
    _edit(folder, _set("model", 1, 3))
    _edit(folder, _text("id", 2, IDS[0]))
    weights = NETWORKS[6]["weights"].values[0]
    _edit(folder, _set("weights", 1, weights), number=2)
    found = list(faults(folder))
    for message in (
        rf"00001\.03\.nc: network 3 \({IDS[4]}\) has the same row as .*00001\.03\.nc: network 3 \({IDS[3]}\)",
        rf"00001\.03\.nc: network 5 \({IDS[0]}\) has the same id as .*00000\.03\.nc: network 0 \({IDS[0]}\)",
        _network(7) + r" has the same weights at its last snapshot, bit for bit, as .*" + _network(6),
    ):
        assert any(re.search(message, fault) for fault in found), (message, found)


# The manifest


@pytest.mark.parametrize("text", [b"{", b"\xff\xfe", b""])
def test_a_manifest_that_is_no_json_is_one_fault(folder, text):
    (folder / "manifest.json").write_bytes(text)
    _assert_found(folder, "manifest.json is truncated, or not JSON: ")


def test_a_truncated_or_missing_manifest_hides_no_other_fault(folder):
    _edit(folder, _set("weights", (2, 3, 4), np.inf))
    path = folder / "manifest.json"
    path.write_text(path.read_text()[:-100])
    _assert_found(folder, "manifest.json is truncated", _network(5) + ": 1 of its weights are not finite")
    path.unlink()
    _assert_found(folder, "manifest.json is missing, but the folder", _network(5) + ": 1 of its weights are not finite")


@pytest.mark.parametrize(
    ("change", "messages"),
    [
        (lambda fields: fields.update(schema_version="2.0"), ["schema version 2.0, but this library reads"]),
        (lambda fields: fields.pop("schema_version"), ["not the manifest of a population: it has no schema version"]),
        (lambda fields: fields.pop("table"), ["'table' is missing"]),
        (lambda fields: fields.update(nodes=7), ["'nodes' is missing, or not what it should be"]),
        (
            lambda fields: [own.pop("device") for own in fields["nodes"].values()],
            ["cnn-.{8} has no attribute 'device'"],
        ),
        (lambda fields: fields["table"]["id"].pop(), ["column 'id' of the table has 7 entries, the others have 8"]),
        (lambda fields: fields["table"].pop("status"), ["the table has no column 'status'"]),
        (
            lambda fields: fields["files"].update({"../x.nc": {"sha256": "", "bytes": 1, "rows": 1, "node": ""}}),
            ["it lists '../x.nc', which is not named like a shard or part of this folder"],
        ),
        (
            lambda fields: fields["table"]["file"].__setitem__(5, "/etc/x.nc"),
            [
                rf"the table says that network 5 \({IDS[5]}\) lies in '/etc/x.nc', which is not among the files",
                r"00001\.03\.nc is to hold 3 networks, but the table has 2",
                _network(5) + " is not listed for this file",
            ],
        ),
        (
            lambda fields: fields["table"]["optimizer"].__setitem__(4, "adagrad"),
            [_network(4) + r": optimizer is '\w+', but manifest.json says 'adagrad'"],
        ),
        (
            lambda fields: fields["table"]["test_accuracy"].__setitem__(3, 0.25),
            [_network(3) + r": test_accuracy is 0\.\d+, but manifest.json says 0.25"],
        ),
    ],
)
def test_a_fault_of_the_manifest_is_named(folder, change, messages):
    _change_manifest(folder, change)
    found = list(faults(folder))
    for message in messages:
        assert any(re.search(message, fault) for fault in found), (message, found)


@pytest.mark.parametrize(
    "change",
    [
        lambda header: header["variables"]["weights"].__setitem__(0, header["variables"]["epoch"][0]),
        lambda header: header["variables"]["weights"][1].__setitem__(1, 10),
        lambda header: header["variables"].pop("weights"),
        lambda header: header.update(crc32=header["crc32"] ^ 1),
    ],
)
def test_a_manifest_that_misplaces_a_variable_is_told(folder, change):
    name = _shard(folder).name
    _change_manifest(folder, lambda fields: change(fields["files"][name]["header"]))
    _assert_found(folder, r"00001\.03\.nc: its variables do not lie where manifest.json says")


def test_nothing_outside_the_folder_is_opened(folder, tmp_path):
    shutil.move(_shard(folder), tmp_path / "x.nc")
    _change_manifest(folder, lambda fields: fields["files"].update({"../x.nc": fields["files"].popitem()[1]}))
    assert not any(fault.startswith("../x.nc") for fault in faults(folder))


# All of it


def test_one_fault_hides_no_other(folder):
    with _shard(folder, 0).open("r+b") as file:
        file.truncate(1000)
    _edit(folder, _set("weights", (2, 3, 4), np.inf))
    _edit(folder, _set("epoch", (2, 5), 0))
    _edit(folder, _set("test_accuracy", (0, 1), 2))
    _shard(folder, 2).unlink()
    _assert_found(
        folder,
        r"00000\.03\.nc is truncated or was changed",
        r"00000\.03\.nc is truncated, or not a NetCDF file",
        _network(3) + ": test_accuracy is a share",
        _network(5) + ": 1 of its weights are not finite",
        _network(5) + ": epoch falls",
        r"00002\.02\.nc is missing",
    )


def test_one_network_is_in_memory_at_a_time(tmp_path):
    def peak(rows):
        design = sample("nws_small", rows, seed=0, filter_size=3).assign(width_fc=("model", [320] * rows))
        snapshots.write(tmp_path / f"{rows}", fake.population(design))
        tracemalloc.start()
        assert list(faults(tmp_path / f"{rows}")) == []
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    assert peak(2) > 4e6  # a network
    assert peak(6) < 1.2 * peak(2)
