import errno
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import time
import tracemalloc
from itertools import count

import numpy as np
import pytest
import xarray as xr

from nwslib import snapshots
from nwslib.snapshots import contents, fake, files, writer
from nwslib.snapshots.schema import ATTRIBUTES, COORDINATES, VARIABLES
from nwslib.space import SWITCH_COLUMNS, sample

ROWS = 3  # rows per shard in most of these tests


@pytest.fixture(autouse=True)
def _short_shards(monkeypatch):
    monkeypatch.setattr(writer, "SHARD_ROWS", ROWS)


def _design(rows, seed=0, **fixed):
    design = sample("nws_small", rows, seed, **fixed)
    return design.assign(shard=("model", np.arange(rows) // ROWS))


DESIGN = _design(8)
NETWORKS = list(fake.population(DESIGN, diverged=[4]))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A finished population of eight networks in three shards, to be left as it is."""
    path = tmp_path_factory.mktemp("written") / "population"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer, "SHARD_ROWS", ROWS)
        snapshots.write(path, NETWORKS)
    return path


@pytest.fixture
def whole(written):
    return snapshots.open_population(written)


@pytest.fixture
def folder(written, tmp_path):
    """A copy of it."""
    return shutil.copytree(written, tmp_path / "population")


def _files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def _manifest(folder):
    return json.loads((folder / "manifest.json").read_text())


def _change_manifest(folder, change):
    fields = _manifest(folder)
    change(fields)
    (folder / "manifest.json").write_text(json.dumps(fields))


def _then(networks, error):
    yield from networks
    raise error


class Finished:
    """Networks with the parameters of a training run; asking for a network is an error."""

    def __init__(self, **parameters):
        self.parameters = {"fake": True, "max_epochs": 40} | parameters

    def __iter__(self):
        raise AssertionError("a network was asked for")


# What comes back


def test_networks_come_back_as_they_were_in_design_order(tmp_path):
    order = np.random.default_rng(0).permutation(len(NETWORKS))
    assert snapshots.write(tmp_path, (NETWORKS[k] for k in order)) == len(NETWORKS)
    opened = snapshots.networks(snapshots.open_population(tmp_path))
    assert opened["model"].values.tolist() == DESIGN["model"].values.tolist()
    for position, network in enumerate(NETWORKS):
        back = opened.isel(model=[position], evaluation=slice(network.sizes["evaluation"]))
        for name in (*VARIABLES, *network.coords):
            np.testing.assert_array_equal(
                back[name].values, network[name].values, strict=VARIABLES.get(name) is not None
            )
        rest = opened["curve_test_accuracy"][position, network.sizes["evaluation"] :]
        assert np.isnan(rest).all()
    assert opened.sizes["evaluation"] == max(network.sizes["evaluation"] for network in NETWORKS)


def test_padding_text_objects_and_labels_of_a_finished_network_leave_no_trace(tmp_path, whole):
    def dressed(network):
        labels = {name: ("weight", values) for name, values in snapshots.layout_of(network).labels().items()}
        text = {"reason": network["reason"].astype(object), "optimizer": network["optimizer"].astype("<U90")}
        return network.pad(evaluation=(0, 9)).assign_coords(labels).assign_coords(text)

    snapshots.write(tmp_path, map(dressed, NETWORKS))
    opened = snapshots.open_population(tmp_path)
    assert snapshots.same(opened, whole) == []
    assert snapshots.networks(opened).sizes == snapshots.networks(whole).sizes


def test_what_was_opened_satisfies_the_schema_and_says_what_it_means(folder):
    opened = snapshots.networks(snapshots.open_population(folder))
    snapshots.validate(opened)
    assert set(opened.variables) == {*VARIABLES, *COORDINATES} - {*SWITCH_COLUMNS}
    assert set(opened.attrs) == set(ATTRIBUTES)
    layout = snapshots.layout_of(opened)
    for name, labels in layout.labels().items():
        np.testing.assert_array_equal(opened[name].values, labels)
    assert opened["batch_size"].attrs == {"long_name": "images per step", "units": "1"}


def test_a_finished_population_is_shards_and_a_manifest(folder):
    node = snapshots.layout_of(NETWORKS[0]).name
    shards = {f"{node}.00000.03.nc": 3, f"{node}.00001.03.nc": 3, f"{node}.00002.02.nc": 2}
    assert _files(folder) == [".lock", *shards, "manifest.json"]
    fields = _manifest(folder)
    assert {name: facts["rows"] for name, facts in fields["files"].items()} == shards
    assert all(facts["bytes"] == (folder / name).stat().st_size for name, facts in fields["files"].items())
    assert fields["parameters"] == {"fake": True, "max_epochs": 40}
    assert fields["implementation"] == {"weights": "fake"}
    assert fields["table"]["test_accuracy"][4] is None
    assert fields["table"]["learning_rate"] == DESIGN["learning_rate"].values.tolist()


def test_a_shard_is_a_plain_contiguous_file_with_names(folder):
    with xr.open_dataset(next(folder.glob("*.00000.03.nc")), engine="netcdf4") as shard:
        snapshots.validate(shard)
        assert {shard[name].encoding["contiguous"] for name in shard.variables} == {True}
        assert not any("_FillValue" in shard[name].encoding for name in shard.data_vars)
        assert shard["optimizer"].encoding["dtype"] == "S1"
        assert shard["layer"].values[0] == "conv1"
        assert shard["weights"].attrs["long_name"]


def test_shards_have_64_rows_where_nobody_says_otherwise(tmp_path, monkeypatch):
    monkeypatch.undo()
    assert snapshots.write(tmp_path, fake.population(sample("nws_small", 66, 0))) == 66
    assert [re.sub("^cnn-.{8}", "", path.name) for path in sorted(tmp_path.glob("*.nc"))] == [
        ".00000.64.nc",
        ".00001.02.nc",
    ]
    snapshots.write(tmp_path, fake.population(snapshots.remaining(sample("nws_small", 68, 0), tmp_path)))
    assert [path.name[-6:] for path in sorted(tmp_path.glob("*.nc"))] == [".64.nc", ".04.nc"]


def test_every_architecture_has_a_node(tmp_path):
    design = sample("nws_main", 6, seed=0, filter_size=[3, 5], depth_conv=3, depth_fc=2, width_conv=4, width_fc=64)
    networks = list(fake.population(design))
    snapshots.write(tmp_path, networks)
    tree = snapshots.open_population(tmp_path)
    assert set(tree.children) == {snapshots.layout_of(network).name for network in networks}
    for size in (3, 5):
        rows = design["model"].values[design["filter_size"].values == size]
        node = snapshots.layout_of(networks[rows[0]]).name
        assert tree[node]["model"].values.tolist() == rows.tolist()
        np.testing.assert_array_equal(tree[node]["weights"][0, 7].values, networks[rows[0]]["weights"][0, 7].values)
    with pytest.raises(ValueError, match=r"has 2 architectures, choose one of its nodes: cnn-.*, cnn-"):
        snapshots.networks(tree)


def test_the_table_tells_everything_without_opening_a_shard(folder, monkeypatch):
    opened = snapshots.networks(snapshots.open_population(folder)).load()
    for shard in folder.glob("*.nc"):
        shard.write_bytes(bytes(shard.stat().st_size))
    found = snapshots.table(folder)
    for name in set(opened.coords) - {"snapshot", *opened["weight"].coords}:
        if opened[name].dims == ("model",):
            np.testing.assert_array_equal(found[name].values, opened[name].values)
    for name in ("train_accuracy", "valid_accuracy", "test_accuracy"):
        np.testing.assert_array_equal(found[name].values, opened[name].values[:, -1])
    assert set(found["node"].values) == {snapshots.layout_of(opened).name}


# Laziness


def test_opening_reads_no_shard_and_selecting_reads_only_what_is_asked_for(folder, tmp_path):
    wide = tmp_path / "wide"
    snapshots.write(
        wide, fake.population(_design(4, filter_size=3, width_conv=4).assign(width_fc=("model", [320] * 4)))
    )
    tracemalloc.start()
    opened = snapshots.networks(snapshots.open_population(wide))
    values = opened["weights"].isel(snapshot=-1, weight=slice(0, 100)).values
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert values.shape == (4, 100)
    assert opened["weights"].nbytes > 18e6
    assert peak < 2e6


def test_merging_holds_one_network_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "SHARD_ROWS", 8)
    design = _design(8).assign(width_fc=("model", [320] * 8), shard=("model", [0] * 8))
    with pytest.raises(RuntimeError):
        snapshots.write(tmp_path, _then(fake.population(design.isel(model=slice(7))), RuntimeError()))
    last = list(fake.population(design.isel(model=[7])))
    tracemalloc.start()
    snapshots.write(tmp_path, last)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [path.name[-6:] for path in tmp_path.glob("*.nc")] == [".08.nc"]
    assert peak < 4 * last[0]["weights"].nbytes  # one network, and the labels


def test_an_open_population_says_when_its_files_were_merged(tmp_path):
    with pytest.raises(RuntimeError):
        snapshots.write(tmp_path, _then(NETWORKS[:2], RuntimeError()))
    opened = snapshots.networks(snapshots.open_population(tmp_path))
    snapshots.write(tmp_path, NETWORKS[2:3])
    with pytest.raises(FileNotFoundError, match="networks were written since the population was opened, open it again"):
        opened["weights"].load()


# What remains


def test_remaining_shrinks_as_networks_are_written(tmp_path):
    path = tmp_path / "population"
    assert snapshots.remaining(DESIGN, path)["model"].values.tolist() == list(range(8))
    snapshots.write(path, [])
    assert snapshots.remaining(DESIGN, path).sizes["model"] == 8
    with pytest.raises(KeyboardInterrupt):
        snapshots.write(path, _then([NETWORKS[k] for k in (6, 1, 4)], KeyboardInterrupt()))
    rest = snapshots.remaining(DESIGN, path)
    assert rest["model"].values.tolist() == [0, 2, 3, 5, 7]
    assert rest["shard"].values.tolist() == [0, 0, 1, 1, 2]
    snapshots.write(path, NETWORKS)
    assert snapshots.remaining(DESIGN, path).sizes["model"] == 0


def test_networks_are_known_by_their_properties_not_by_their_row(folder):
    turned = DESIGN.isel(model=[5, 2]).assign_coords(model=[0, 1])
    assert snapshots.remaining(turned, folder).sizes["model"] == 0


def test_a_network_is_written_once(folder):
    before = {name: (folder / name).stat().st_mtime_ns for name in _files(folder) if name.endswith(".nc")}
    assert snapshots.write(folder, NETWORKS) == 0
    assert {name: (folder / name).stat().st_mtime_ns for name in before} == before


def test_another_design_in_the_same_folder_is_refused(folder):
    other = _design(2, seed=9)
    with pytest.raises(ValueError, match=r"holds another design: its row 0 is another network.*population-2"):
        snapshots.remaining(other, folder)
    with pytest.raises(ValueError, match=r"holds another network as row 0. Choose another folder"):
        snapshots.write(folder, fake.population(other))


# Parameters


def test_other_parameters_are_refused_before_a_network_is_asked_for(folder, tmp_path):
    with pytest.raises(ValueError, match=r"were trained with max_epochs = 40, these with 100. Choose .*population-2"):
        snapshots.write(folder, Finished(max_epochs=100))
    with pytest.raises(ValueError, match=r"with images.digits = None, these with '2'"):
        snapshots.write(folder, Finished(images={"digits": "2"}))
    with pytest.raises(AssertionError, match="a network was asked for"):
        snapshots.write(folder, Finished())
    with pytest.raises(AssertionError, match="a network was asked for"):
        snapshots.write(tmp_path / "new", Finished(max_epochs=100))


@pytest.mark.parametrize(
    ("attribute", "value", "message"),
    [
        ("parameters", '{"fake": true, "max_epochs": 41}', "trained with max_epochs = 40, these with 41"),
        ("protocol_version", "2", "trained with protocol_version = 'fake', these with '2'"),
        ("schema_version", "9.0", "schema version 9.0, but this library reads"),
    ],
)
def test_a_network_that_was_trained_otherwise_is_refused(tmp_path, attribute, value, message):
    other = NETWORKS[1].assign_attrs({attribute: value})
    with pytest.raises(ValueError, match=message):
        snapshots.write(tmp_path, [NETWORKS[0], other])
    assert snapshots.table(tmp_path)["model"].values.tolist() == [0]


def test_devices_and_implementations_are_listed(tmp_path):
    other = NETWORKS[1].assign_attrs(device="gpu", implementation='{"weights": "faster", "norm": "plain"}')
    snapshots.write(tmp_path, [NETWORKS[0], other, NETWORKS[2]])
    attributes = snapshots.networks(snapshots.open_population(tmp_path)).attrs
    assert attributes["device"] == "none; gpu"
    assert json.loads(attributes["implementation"]) == {"weights": ["fake", "faster"], "norm": "plain"}
    assert _manifest(tmp_path)["implementation"] == json.loads(attributes["implementation"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda network: network.drop_vars("epoch"), "finished network: variable 'epoch' is missing"),
        (lambda network: network.assign(extra=("model", [1])), "'extra' is not in the schema"),
        (
            lambda network: xr.concat([network] * 2, "model").assign_coords(id=("model", ["a", "b"]), model=[0, 1]),
            "one by one",
        ),
        (lambda network: network.drop_attrs(), "not a population"),
    ],
)
def test_a_network_that_breaks_the_schema_is_refused(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        snapshots.write(tmp_path, [change(NETWORKS[0])])


# Interruptions


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), KeyboardInterrupt()])
def test_an_interrupted_run_loses_nothing(tmp_path, whole, error):
    with pytest.raises(type(error)):
        snapshots.write(tmp_path, _then(NETWORKS[:5], error))
    assert len(list((tmp_path / "parts").iterdir())) == 2
    assert snapshots.networks(snapshots.open_population(tmp_path)).sizes["model"] == 5
    assert snapshots.write(tmp_path, fake.population(snapshots.remaining(DESIGN, tmp_path))) == 3
    assert snapshots.same(snapshots.open_population(tmp_path), whole) == []


def test_a_reader_sees_every_finished_network_while_others_are_written(tmp_path):
    def watched():
        for number, network in enumerate(NETWORKS):
            if number:
                opened = snapshots.networks(snapshots.open_population(tmp_path))
                assert opened["model"].values.tolist() == list(range(number))
                np.testing.assert_array_equal(opened["weights"][-1], NETWORKS[number - 1]["weights"][0])
            yield network

    assert snapshots.write(tmp_path, watched(), seconds=0) == len(NETWORKS)


def test_a_reader_is_not_misled_by_a_merge(tmp_path, monkeypatch):
    with pytest.raises(RuntimeError):
        snapshots.write(tmp_path, _then(NETWORKS[:2], RuntimeError()))

    def parsed(folder, text):
        monkeypatch.undo()
        monkeypatch.setattr(writer, "SHARD_ROWS", ROWS)
        found = contents._parse(folder, text)
        snapshots.write(tmp_path, NETWORKS[2:3])  # between reading the manifest and looking for the parts
        return found

    monkeypatch.setattr(contents, "_parse", parsed)
    assert snapshots.table(tmp_path)["model"].values.tolist() == [0, 1, 2]
    assert len(list(tmp_path.glob("*.nc"))) == 1


class Killed(BaseException):
    """Nothing that the store may catch."""


def _write_until_killed(folder, networks, call):
    """Write; the process dies at a call of the operating system: neither that call nor a later one is carried out."""
    calls = count()

    def guarded(original):
        def carried_out(*arguments):
            if next(calls) >= call:
                raise Killed
            return original(*arguments)

        return carried_out

    with pytest.MonkeyPatch.context() as patch:
        for name in ("replace", "fsync", "remove"):
            patch.setattr(os, name, guarded(getattr(os, name)))
        try:
            snapshots.write(folder, networks, seconds=0)
        except Killed:
            return True
    return False


def test_a_kill_at_any_step_loses_no_finished_network(tmp_path, whole):
    begun = tmp_path / "begun"
    snapshots.write(begun, NETWORKS[:4])  # a full shard, and one that is to grow
    for call in count():
        path = tmp_path / str(call)
        shutil.copytree(begun, path)
        handed_over = []
        networks = (handed_over.append(network) or network for network in NETWORKS[4:7])
        killed = _write_until_killed(path, networks, call)
        _write_until_killed(path, networks, 2)  # while it recovers from the first
        found = snapshots.networks(snapshots.open_population(path))
        assert found["model"].values.tolist()[: 3 + len(handed_over)] == list(range(3 + len(handed_over)))
        snapshots.write(path, fake.population(snapshots.remaining(DESIGN, path), diverged=[4]))
        assert snapshots.same(snapshots.open_population(path), whole) == []
        assert [name for name in _files(path) if "/" in name or name.endswith("tmp")] == []
        if not killed:
            break
    assert call > 20


_WRITER = """
import sys, numpy as np
from nwslib import snapshots
from nwslib.snapshots import contents, fake, files, writer
from nwslib.space import sample
writer.SHARD_ROWS = 3
design = sample("nws_small", 30, 0).assign(shard=("model", np.arange(30) // 3))
def told():
    for network in list(fake.population(snapshots.remaining(design, sys.argv[1]))):
        print("next", flush=True)
        yield network
snapshots.write(sys.argv[1], told(), seconds=0)
"""


def test_a_killed_process_loses_at_most_the_network_in_hand(tmp_path):
    random = np.random.default_rng()
    for networks in random.integers(2, 9, size=3):
        with subprocess.Popen([sys.executable, "-c", _WRITER, tmp_path / "killed"], stdout=subprocess.PIPE) as process:
            for _ in range(networks):
                assert process.stdout.readline() == b"next\n"
            time.sleep(random.uniform(0, 0.02))  # anywhere in the writing of this network, or of the next
            process.kill()
    design = _design(30)
    assert 0 < snapshots.remaining(design, tmp_path / "killed").sizes["model"] < 30
    snapshots.write(tmp_path / "killed", fake.population(snapshots.remaining(design, tmp_path / "killed")))
    snapshots.write(tmp_path / "whole", fake.population(design))
    killed, whole = (snapshots.open_population(tmp_path / name) for name in ("killed", "whole"))
    assert snapshots.same(killed, whole) == []
    snapshots.verify(tmp_path / "killed")


def test_two_writers_are_told_apart(tmp_path):
    def intruding():
        yield NETWORKS[0]
        snapshots.write(tmp_path, NETWORKS[1:])

    with pytest.raises(BlockingIOError, match=r"another process is writing to .*: wait until it ends"):
        snapshots.write(tmp_path, intruding())
    assert snapshots.write(tmp_path, NETWORKS) == len(NETWORKS) - 1


# Folders that can't be written to


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"cannot write to .*file/population: Not a directory. Choose a folder"):
        snapshots.write(tmp_path / "file" / "population", Finished())


@pytest.mark.parametrize("code", [errno.EROFS, errno.ENOSPC])
def test_a_read_only_or_full_folder_is_refused_before_a_network_is_asked_for(tmp_path, monkeypatch, code):
    def fail(descriptor):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match=f"cannot write to .*{os.strerror(code)}"):
        snapshots.write(tmp_path, Finished())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_refused(folder):
    folder.chmod(0o500)
    with pytest.raises(PermissionError, match="cannot write to"):
        snapshots.write(folder, Finished())


def test_a_disk_that_fills_up_keeps_what_was_finished(tmp_path, whole):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))  # room for a network, not for a shard
    try:
        with pytest.raises(OSError, match=r"could not write .*03.nc .*MiB are free there. Every network .* is kept"):
            snapshots.write(tmp_path, NETWORKS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert snapshots.table(tmp_path)["model"].values.tolist() == [0, 1, 2]
    assert not [name for name in _files(tmp_path) if name.endswith(".tmp")]
    snapshots.write(tmp_path, NETWORKS)
    assert snapshots.same(snapshots.open_population(tmp_path), whole) == []


# Folders that hold something else


def test_a_folder_that_is_not_there_is_named_with_the_nearest_that_is(tmp_path):
    (tmp_path / "quick").mkdir()
    with pytest.raises(FileNotFoundError, match=f"no such folder. The nearest that exists is {tmp_path / 'quick'}$"):
        snapshots.open_population(tmp_path / "quik")
    with pytest.raises(FileNotFoundError, match=f"no such folder. The nearest that exists is {tmp_path}$"):
        snapshots.table(tmp_path / "a" / "b")


@pytest.mark.parametrize("read", [snapshots.open_population, snapshots.table, snapshots.verify])
def test_an_empty_folder_is_no_population(tmp_path, read):
    with pytest.raises(FileNotFoundError, match=r"no population in .*: it holds no finished network yet"):
        read(tmp_path)


def _shard(folder):
    return next(folder.glob("*.00001.03.nc"))


def test_a_truncated_shard_is_named(folder):
    with _shard(folder).open("r+b") as file:
        file.truncate(1000)
    for work in (snapshots.open_population, snapshots.verify, lambda path: snapshots.write(path, Finished())):
        with pytest.raises(ValueError, match=r"00001.03.nc is truncated or was changed: it has 1000 bytes"):
            work(folder)


def test_a_missing_shard_is_named(folder):
    _shard(folder).unlink()
    with pytest.raises(FileNotFoundError, match=r"00001.03.nc is missing, but manifest.json lists it"):
        snapshots.open_population(folder)


def test_a_foreign_file_in_place_of_a_shard_is_named(folder):
    _shard(folder).write_bytes(bytes(_shard(folder).stat().st_size))
    with pytest.raises(ValueError, match=r"00001.03.nc was changed: its SHA-256"):
        snapshots.verify(folder)
    opened = snapshots.networks(snapshots.open_population(folder))
    assert np.isfinite(opened["weights"][0].values).all()
    with pytest.raises(ValueError, match=r"00001.03.nc is truncated, or not a file of networks"):
        opened["weights"].load()


def test_a_changed_byte_is_found(folder):
    content = bytearray(_shard(folder).read_bytes())
    content[-1000] ^= 1
    _shard(folder).write_bytes(content)
    with pytest.raises(ValueError, match=r"00001.03.nc was changed: its SHA-256"):
        snapshots.verify(folder)


def test_verify_names_shard_and_network(folder):
    path = _shard(folder)
    with xr.open_dataset(path, engine="netcdf4") as file:
        shard = file.load()
    shard["weights"][2, 3, 4] = np.inf
    shard.to_netcdf(path, engine="netcdf4")
    facts = {"bytes": path.stat().st_size, "sha256": files.facts_of(path)["sha256"]}
    _change_manifest(folder, lambda fields: fields["files"][path.name].update(facts))
    with pytest.raises(
        ValueError, match=r"00001.03.nc: network 5 did not diverge, but has weights that are not finite"
    ):
        snapshots.verify(folder)


def test_verify_compares_the_table_with_the_shards(folder):
    snapshots.verify(folder)
    _change_manifest(folder, lambda fields: fields["table"]["optimizer"].__setitem__(4, "adagrad"))
    with pytest.raises(ValueError, match=r"00001.03.nc: optimizer is not what manifest.json says"):
        snapshots.verify(folder)


def test_verify_compares_headers_with_the_shards(folder):
    def swap(fields):
        known = fields["files"][_shard(folder).name]["header"]["variables"]
        known["train_loss"], known["valid_accuracy"] = known["valid_accuracy"], known["train_loss"]

    _change_manifest(folder, swap)
    with pytest.raises(ValueError, match=r"00001.03.nc: its variables do not lie where manifest.json says"):
        snapshots.verify(folder)


def test_a_population_that_tells_no_headers_is_the_same(folder, whole):
    assert snapshots.same(snapshots.open_population(folder), whole) == []
    _change_manifest(folder, lambda fields: [facts.pop("header") for facts in fields["files"].values()])
    assert snapshots.same(snapshots.open_population(folder), whole) == []
    snapshots.verify(folder)


@pytest.mark.parametrize(("size", "foreign"), [(0, b""), (5000, b""), (0, b"something else")])
def test_a_broken_part_is_named(tmp_path, size, foreign):
    with pytest.raises(RuntimeError):
        snapshots.write(tmp_path, _then(NETWORKS[:2], RuntimeError()))
    part = next((tmp_path / "parts").glob("*00000001.nc"))
    part.write_bytes(part.read_bytes()[:size] + foreign)
    for read in (snapshots.open_population, lambda path: snapshots.remaining(DESIGN, path)):
        with pytest.raises(ValueError, match=r"00000001.nc is truncated.*Remove it to train the network again"):
            read(tmp_path)


def test_a_part_of_another_population_is_refused(tmp_path, folder):
    other = NETWORKS[0].assign_attrs(parameters='{"fake": false}').assign_coords(model=[8])
    with pytest.raises(RuntimeError):
        snapshots.write(tmp_path / "other", _then([other], RuntimeError()))
    shutil.copy(next((tmp_path / "other" / "parts").iterdir()), folder / "parts")
    with pytest.raises(ValueError, match="were trained with fake = True, these with False"):
        snapshots.open_population(folder)
    (tmp_path / "other" / "parts" / "copy.nc").write_bytes(b"")
    with pytest.raises(ValueError, match=r"copy.nc is not named like a finished network"):
        snapshots.table(tmp_path / "other")


def test_a_part_of_another_design_is_not_thrown_away(tmp_path, folder):
    with pytest.raises(RuntimeError):
        snapshots.write(tmp_path / "other", _then(fake.population(_design(1, seed=7)), RuntimeError()))
    shutil.copy(next((tmp_path / "other" / "parts").iterdir()), folder / "parts")
    with pytest.raises(
        ValueError, match=r"00000000.nc is not in manifest.json, and holds networks that are nowhere else"
    ):
        snapshots.write(folder, [])


def test_a_shard_that_nobody_lists_is_not_thrown_away(tmp_path, folder):
    snapshots.write(tmp_path / "other", fake.population(_design(1, seed=7)))
    stray = next((tmp_path / "other").glob("*.nc"))
    shutil.copy(stray, folder / stray.name.replace(".00000.", ".00009."))
    with pytest.raises(
        ValueError, match=r"00009.01.nc is not in manifest.json, and holds networks that are nowhere else"
    ):
        snapshots.write(folder, [])


def test_a_lost_manifest_is_not_replaced(folder):
    (folder / "manifest.json").unlink()
    for work in (snapshots.open_population, lambda path: snapshots.write(path, NETWORKS)):
        with pytest.raises(FileNotFoundError, match=r"manifest.json is missing, but the folder holds networks"):
            work(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda fields: fields.update(schema_version="2.0"), "schema version 2.0, but this library reads"),
        (lambda fields: fields.pop("table"), "not the manifest of a population"),
        (lambda fields: fields["table"]["id"].pop(), "columns of the table differ in length"),
        (
            lambda fields: fields["files"].update({"../x.nc": {"sha256": "", "bytes": 1, "rows": 1, "node": ""}}),
            "not named like",
        ),
        (lambda fields: fields["table"].update(file=["../../x.nc"] * 8), "don't tell the same number of networks"),
        (lambda fields: fields["nodes"].clear(), "names an architecture that is not among the nodes"),
        (
            lambda fields: fields["nodes"].update(dict.fromkeys(fields["nodes"], "x")),
            "not the manifest of a population",
        ),
    ],
)
def test_a_foreign_manifest_is_refused(folder, change, message):
    _change_manifest(folder, change)
    with pytest.raises(ValueError, match=message):
        snapshots.open_population(folder)


@pytest.mark.parametrize("text", [b"{", b"[]", b"\xff\xfe", b"7"])
def test_a_manifest_that_is_no_json_is_refused(folder, text):
    (folder / "manifest.json").write_bytes(text)
    with pytest.raises(ValueError, match=r"manifest.json is truncated, or not the manifest"):
        snapshots.table(folder)


# The same


def _as_tree(networks, folder):
    snapshots.write(folder, networks)
    return snapshots.open_population(folder)


def test_time_and_device_make_no_difference(tmp_path, whole):
    def slower(network):
        return network.assign_coords(seconds=network["seconds"] * 2).assign_attrs(device="gpu", created_at="2030")

    assert snapshots.same(_as_tree(map(slower, NETWORKS), tmp_path), whole) == []


@pytest.mark.parametrize(
    ("name", "message"), [("weights", "weights differs in network 2"), ("epoch", "epoch differs in network 2")]
)
def test_one_bit_makes_a_difference(tmp_path, whole, name, message):
    changed = NETWORKS[2].copy(deep=True)
    changed[name].values.view("uint8").reshape(-1)[40] ^= 1
    differences = snapshots.same(_as_tree([*NETWORKS[:2], changed, *NETWORKS[3:]], tmp_path), whole)
    assert differences == [f"{snapshots.layout_of(changed).name}: {message}"]


def test_coordinates_attributes_and_rows_make_a_difference(tmp_path, whole):
    node = snapshots.layout_of(NETWORKS[0]).name
    stopped = [*NETWORKS[:7], NETWORKS[7].assign_coords(status=("model", ["stopped"]))]
    assert snapshots.same(_as_tree(stopped, tmp_path / "a"), whole) == [f"{node}: status differs"]
    newer = [network.assign_attrs(library_version="9") for network in NETWORKS]
    assert snapshots.same(_as_tree(newer, tmp_path / "b"), whole) == [f"{node}: attribute library_version differs"]
    fewer = _as_tree(NETWORKS[:7], tmp_path / "c")
    assert snapshots.same(fewer, whole) == [f"{node}: the networks are not the same rows of a design"]
    other = _as_tree(fake.population(sample("nws_fixed", 1, 0)), tmp_path / "d")
    assert len(snapshots.same(other, whole)) == 2


def test_reading_populations_needs_no_torch(folder):
    code = (
        "import sys; from nwslib import snapshots; from nwslib.snapshots import fake; "
        "snapshots.networks(snapshots.open_population(sys.argv[1])).load(); "
        "print([name for name in ('torch', 'numba', 'netCDF4') if name in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code, folder], text=True) == "['netCDF4']\n"


# Networks that are not from a design


def _foreign(number, snapshots_kept=1, further="dropout"):
    network = fake.network(DESIGN.isel(model=[number])).isel(snapshot=slice(snapshots_kept))
    network = network.drop_vars(["batch_size", "decay", "width_fc"])
    meaning = {"type": "float64", "units": "1", "meaning": "share of units that are dropped"}
    return network.assign_coords({further: ("model", [0.1 * number])}).assign_attrs(
        properties=json.dumps({further: meaning}), source="somebody's zoo", not_measured='["train_loss"]'
    )


def test_properties_that_others_have_come_back_with_their_meaning(tmp_path):
    snapshots.write(tmp_path, [_foreign(number) for number in range(4)])
    node = snapshots.networks(snapshots.open_population(tmp_path))
    snapshots.validate(node)
    assert node.sizes["snapshot"] == 1
    np.testing.assert_allclose(node["dropout"], [0, 0.1, 0.2, 0.3])
    assert node["dropout"].attrs == {"long_name": "share of units that are dropped", "units": "1"}
    assert "batch_size" not in node.variables
    assert node.attrs["source"] == "somebody's zoo"
    assert set(snapshots.table(tmp_path).coords) >= {"dropout", "optimizer"}
    snapshots.verify(tmp_path)
    with pytest.raises(ValueError, match="have no property 'batch_size', so they were not trained from a design"):
        snapshots.remaining(DESIGN, tmp_path)


def test_architectures_may_have_other_properties_and_the_table_has_all(tmp_path):
    other = next(fake.population(sample("nws_fixed", 9, seed=3).isel(model=[8])))
    snapshots.write(tmp_path, [_foreign(0), other])
    table = snapshots.table(tmp_path)
    assert table["dropout"].values.tolist()[0] == 0
    assert np.isnan(table["dropout"].values[1])
    assert table["batch_size"].values.tolist() == [-1, other["batch_size"].item()]
    nodes = {node.sizes["snapshot"]: node for node in snapshots.open_population(tmp_path).children.values()}
    assert "dropout" in nodes[1].coords
    assert "dropout" not in nodes[20].coords
    assert "batch_size" in nodes[20].coords


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda: _foreign(1, 2), "have snapshots 1, this one has 2. Choose another folder"),
        (lambda: _foreign(1, 1, "momentum"), r"have properties .*'dropout'\), this one has .*'momentum'\)"),
        (lambda: fake.network(DESIGN.isel(model=[1])).isel(snapshot=slice(1)), "have properties"),
        (lambda: _foreign(1).assign_attrs(not_measured="[]"), "have another attribute 'not_measured'"),
    ],
)
def test_networks_of_one_architecture_are_alike(tmp_path, other, message):
    with pytest.raises(ValueError, match=message):
        snapshots.write(tmp_path, [_foreign(0), other()])
    assert snapshots.table(tmp_path)["model"].values.tolist() == [0]


def test_a_part_that_was_removed_is_trained_again(tmp_path):
    with pytest.raises(RuntimeError):
        snapshots.write(tmp_path, _then(NETWORKS[:2], RuntimeError()), seconds=0)
    next((tmp_path / "parts").glob("*.00000001.nc")).unlink()
    assert snapshots.table(tmp_path)["model"].values.tolist() == [0]
    assert 1 in snapshots.remaining(DESIGN, tmp_path)["model"].values
    assert snapshots.write(tmp_path, NETWORKS) == 7
    snapshots.verify(tmp_path)


def test_a_folder_of_schema_1_0_is_read_and_continued(tmp_path, whole):
    snapshots.write(tmp_path, NETWORKS[:6])
    path = tmp_path / "manifest.json"
    fields = json.loads(path.read_text())
    fields["schema_version"] = "1.0"
    for own in fields["nodes"].values():
        del own["shape"]
    path.write_text(json.dumps(fields))
    assert snapshots.networks(snapshots.open_population(tmp_path)).sizes["model"] == 6
    assert snapshots.write(tmp_path, NETWORKS) == 2
    found = snapshots.same(snapshots.open_population(tmp_path), whole)
    assert found == [f"{next(iter(whole.children))}: attribute schema_version differs"]
