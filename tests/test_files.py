import json
import subprocess
import sys

import h5py
import netCDF4
import numpy as np
import pytest
import xarray as xr

from nwslib import snapshots
from nwslib.snapshots import fake, files
from nwslib.snapshots.layout import LABELS
from nwslib.snapshots.schema import CONVENTIONS, OPTIONAL_VARIABLES, VARIABLES
from nwslib.space import sample

DESIGN = sample("nws_main", 12, seed=0, filter_size=[3, 5], depth_conv=3, depth_fc=2, width_conv=4, width_fc=64)


def _with_updates(network):
    updates = network["weights"].values * np.float32(0.01)
    return network.assign(updates=(network["weights"].dims, updates))


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source")
    snapshots.write(folder, map(_with_updates, fake.population(DESIGN, diverged=[4])))
    return folder


@pytest.fixture(scope="module")
def archive(source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("archive") / "new"
    assert snapshots.convert(source, folder) == 12
    return folder


# Forms


def test_an_archive_is_the_same_population_and_back(source, archive, tmp_path):
    whole = snapshots.open_population(source)
    assert snapshots.same(snapshots.open_population(archive), whole) == []
    snapshots.verify(archive)
    assert snapshots.convert(archive, tmp_path, form="working") == 12
    assert snapshots.same(snapshots.open_population(tmp_path), whole) == []
    shards = [sorted(path.name for path in folder.glob("*.nc")) for folder in (source, tmp_path)]
    assert shards[0] == shards[1]
    assert snapshots.remaining(DESIGN, archive).sizes["model"] == 0


def test_an_archive_is_in_compressed_chunks_with_checksums(archive):
    for path in archive.glob("*.nc"):
        with h5py.File(path) as file:
            for name in {**VARIABLES, **OPTIONAL_VARIABLES}:
                assert file[name].chunks, name
                assert file[name].compression == "gzip"
                assert file[name].shuffle
                assert file[name].fletcher32
            assert file["weights"].chunks[:2] == (1, 20)
            assert {file[name].compression for name in LABELS} == {"gzip"}


def test_a_flipped_byte_in_an_archive_is_noticed_when_it_is_read(archive, tmp_path):
    snapshots.convert(archive, tmp_path)
    path = next(tmp_path.glob("*.nc"))
    with h5py.File(path) as file:
        place = file["weights"].id.get_chunk_info(3)
    content = bytearray(path.read_bytes())
    content[place.byte_offset + place.size // 2] ^= 1
    path.write_bytes(content)
    damaged = snapshots.open_population(tmp_path)[path.name.split(".")[0]]
    with pytest.raises(ValueError, match=f"{path.name} is truncated, or not a file of networks"):
        damaged["weights"].load()


def test_trained_weights_take_at_most_88_percent_in_an_archive(tmp_path):
    # A walk whose steps get shorter, in which some units never move: what a training looks like.
    random = np.random.default_rng(0)
    steps = random.standard_normal((20, 30_000)) * 0.01 * np.linspace(1, 0.05, 20)[:, None]
    steps[:, ::10] = 0
    weights = (random.standard_normal(30_000) * 0.1 + steps.cumsum(axis=0)).astype("float32")
    values = xr.Dataset({"weights": (("model", "snapshot", "weight"), weights[None])})
    sizes = {form: files.save(values, tmp_path / f"{form}.nc", form)["bytes"] for form in files.FORMS}
    assert sizes["archive"] < 0.88 * weights.nbytes < sizes["working"]


def test_fewer_bits_take_less_room_and_are_said(source, archive, tmp_path):
    sizes = {None: sum(path.stat().st_size for path in archive.glob("*.nc"))}
    exact = snapshots.open_population(source)
    for keep_bits in (10, 5, 2):
        folder = tmp_path / str(keep_bits)
        snapshots.convert(source, folder, keep_bits=keep_bits)
        rounded = snapshots.open_population(folder)
        sizes[keep_bits] = sum(path.stat().st_size for path in folder.glob("*.nc"))
        for name, node in rounded.children.items():
            assert node.attrs["keep_bits"] == str(keep_bits)
            for variable in ("weights", "updates"):
                found, expected = node[variable].values, exact[name][variable].values
                np.testing.assert_allclose(found, expected, rtol=2.0 ** -(keep_bits + 1), equal_nan=True)
                assert not np.array_equal(found, expected, equal_nan=True)
            for variable in set(VARIABLES) - {"weights"}:
                np.testing.assert_array_equal(node[variable], exact[name][variable])
    assert list(sizes.values()) == sorted(sizes.values(), reverse=True)
    snapshots.verify(tmp_path / "2")
    with netCDF4.Dataset(next((tmp_path / "2").glob("*.nc"))) as file:
        assert file["weights"]._QuantizeBitRoundNumberOfSignificantBits == 2


def test_what_was_rounded_is_not_mixed_with_what_was_not(source, tmp_path):
    snapshots.convert(source, tmp_path, keep_bits=5)
    more = sample("nws_main", 13, seed=0, filter_size=[3, 5], depth_conv=3, depth_fc=2, width_conv=4, width_fc=64)
    with pytest.raises(ValueError, match="have another attribute 'keep_bits'"):
        snapshots.write(tmp_path, map(_with_updates, fake.population(snapshots.remaining(more, tmp_path))))


def test_what_was_rounded_off_does_not_come_back(source, tmp_path):
    snapshots.convert(source, tmp_path / "five", keep_bits=5)
    with pytest.raises(ValueError, match="were rounded to 5 bits already, so 7 can't be kept"):
        snapshots.convert(tmp_path / "five", tmp_path / "seven", keep_bits=7)
    snapshots.convert(tmp_path / "five", tmp_path / "working", form="working")
    assert all(
        node.attrs["keep_bits"] == "5" for node in snapshots.open_population(tmp_path / "working").children.values()
    )


def test_rounding_to_nearest_with_ties_to_even():
    values = np.array([1.0, 1.125, 1.375, -1.125, 0.0, np.nan, -np.inf, 1e-45], "float32")
    rounded = files.bit_round(values, 2)
    np.testing.assert_array_equal(rounded[:7], np.array([1.0, 1.0, 1.5, -1.0, 0.0, np.nan, -np.inf], "float32"))
    random = np.random.default_rng(0).standard_normal(100_000).astype("float32")
    for keep in range(1, 23):
        step = 2.0 ** (np.floor(np.log2(np.abs(random.astype("float64")))) - keep)
        np.testing.assert_array_equal(files.bit_round(random, keep), np.round(random / step) * step)
    np.testing.assert_array_equal(files.bit_round(random, 23), random)


# Converting


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"form": "archiv"}, "unknown form 'archiv'. Did you mean 'archive'"),
        ({"keep_bits": 0}, "keep_bits is a whole number from 1 to 23, or None for all, not 0"),
        ({"keep_bits": 24}, "keep_bits is a whole number from 1 to 23, or None for all, not 24"),
        ({"keep_bits": 2.5}, "keep_bits is a whole number"),
        ({"keep_bits": 7, "form": "working"}, "keep_bits makes compressed files smaller: it needs the form 'archive'"),
    ],
)
def test_a_form_that_is_not_known_is_refused_before_anything_is_made(source, tmp_path, given, message):
    with pytest.raises(ValueError, match=message):
        snapshots.convert(source, tmp_path / "new", **given)
    assert not (tmp_path / "new").exists()


def test_a_population_is_not_converted_into_itself_nor_into_another(source, tmp_path):
    with pytest.raises(ValueError, match="source and target are one folder"):
        snapshots.convert(source, source / ".." / source.name)
    with pytest.raises(FileNotFoundError, match="no population in"):
        snapshots.convert(tmp_path / "none", tmp_path / "new")
    snapshots.write(tmp_path / "other", fake.population(sample("nws_main", 1, seed=5, filter_size=3, width_conv=4)))
    with pytest.raises(ValueError, match="holds another network as row 0"):
        snapshots.convert(source, tmp_path / "other")


def test_what_was_added_to_the_source_is_added_to_the_target(source, tmp_path):
    grown = tmp_path / "grown"
    snapshots.write(grown, map(_with_updates, fake.population(DESIGN.isel(model=slice(7)), diverged=[4])))
    assert snapshots.convert(grown, tmp_path / "target") == 7
    snapshots.write(grown, map(_with_updates, fake.population(DESIGN)))
    assert snapshots.convert(grown, tmp_path / "target") == 5
    assert snapshots.convert(grown, tmp_path / "target") == 0
    target = snapshots.open_population(tmp_path / "target")
    assert snapshots.same(target, snapshots.open_population(source)) == []
    assert len(list((tmp_path / "target").glob("*.nc"))) == len(target.children)
    snapshots.verify(tmp_path / "target")


# Killed before the first manifest, which lists nothing, or before the second, when there are whole shards.
@pytest.mark.parametrize("before", [1, 2])
def test_a_conversion_that_was_killed_goes_on(source, tmp_path, before):
    code = (
        "import os, sys; from nwslib import snapshots; from nwslib.snapshots import files; write = files.write_text\n"
        "left = int(sys.argv[3])\n"
        "def last(path, text):\n"
        "    global left\n"
        "    left -= 1\n"
        "    left or os._exit(9)\n"
        "    write(path, text)\n"
        "files.write_text = last; snapshots.convert(*sys.argv[1:3])"
    )
    folder = tmp_path / str(before)
    done = subprocess.run([sys.executable, "-c", code, source, folder, str(before)], check=False)
    assert done.returncode == 9
    copied = sum(int(path.name.split(".")[2]) for path in folder.glob("*.nc"))
    assert (copied > 0) == (before > 1)
    assert snapshots.convert(source, folder) == 12 - copied
    assert snapshots.same(snapshots.open_population(folder), snapshots.open_population(source)) == []
    snapshots.verify(folder)


# What other software sees


def test_a_file_names_conventions_units_and_the_coordinates_of_each_variable(source, archive):
    for folder in (source, archive):
        with netCDF4.Dataset(next(folder.glob("*.nc"))) as file:
            assert file.Conventions == CONVENTIONS
            for name in {**VARIABLES, **OPTIONAL_VARIABLES}:
                assert file[name].units == "1"
                assert file[name].long_name
                named = set(file[name].coordinates.split())
                assert {"optimizer", "learning_rate", "status"} <= named
                assert ("layer" in named) == ("weight" in file[name].dimensions)
                assert named <= set(file.variables)
            assert file["seconds"].units == "s"


def test_xarray_alone_reads_both_forms(source, archive):
    for folder in (source, archive):
        for path in folder.glob("*.nc"):
            with xr.open_dataset(path, engine="netcdf4") as found:
                snapshots.validate(found)
                assert json.loads(found.attrs["layout"])["family"] == "cnn"
