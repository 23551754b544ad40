import json
import shutil
from functools import partial

import numpy as np
import pandas as pd
import pytest

from benchmarks import formats, snapshots
from nwslib.snapshots import fake
from nwslib.space import sample

WAYS = [*formats.FORMATS, "zarr", "zarr_whole"]


@pytest.fixture(scope="module")
def trained():
    shapes = {"filter_size": [3, 5], "depth_conv": 3, "depth_fc": 2, "width_conv": 4, "width_fc": 64}
    return formats.gather(list(fake.population(sample("nws_main", 9, seed=0, **shapes))))


@pytest.fixture(scope="module", params=WAYS)
def way(request):
    if request.param.startswith("zarr"):
        pytest.importorskip("zarr", reason="zarr is not installed: pip install 'nwslib[benchmark]'")
        return formats.zarr_format(1 if request.param == "zarr" else None)
    return formats.FORMATS[request.param]


@pytest.fixture(scope="module")
def folder(way, trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("population")
    way.write(folder, trained)
    return folder


def expected(trained):
    groups = {}
    for node, vectors in zip(trained.table["node"], trained.vectors, strict=True):
        groups.setdefault(node, []).append(vectors)
    return {node: np.stack(vectors) for node, vectors in groups.items()}


def test_every_way_gives_the_networks_that_were_written(way, folder, trained):
    opened = way.open(folder)
    assert len(expected(trained)) == 2
    for node, weights in expected(trained).items():
        for place, network in enumerate(weights):
            found = opened.network(node, place)
            assert found.dtype == np.float32
            assert found.flags.writeable
            np.testing.assert_array_equal(found, network)
        for snapshot in (0, 7, 19):
            np.testing.assert_array_equal(opened.snapshot(node, snapshot), weights[:, snapshot])


def test_every_way_cuts_the_runs_that_were_asked_for(way, folder, trained):
    opened, random, length = way.open(folder), np.random.default_rng(0), 300
    for node, weights in expected(trained).items():
        m, s, w = weights.shape
        where = [random.integers(0, size, 40) for size in (m, s, w - length + 1)]
        where[2][:2] = 0, w - length
        wanted = np.stack([weights[m, s, w : w + length] for m, s, w in zip(*where, strict=True)])
        np.testing.assert_array_equal(opened.runs(node, *where, length), wanted)


def test_every_way_has_the_table_in_memory(way, folder, trained):
    opened, names = way.open(folder).table, ["id", "dataset", "learning_rate", "optimizer", "seed", "reason"]
    if isinstance(opened, dict):
        opened = pd.concat([node[names].reset_coords()[names].to_dataframe() for node in opened.values()])
    found = opened.set_index("id").loc[trained.table["id"], names[1:]]
    for name in names[1:]:
        assert found[name].tolist() == trained.table[name].tolist()


def test_every_way_misses_a_file_and_the_end_of_a_file(way, folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")
    files = sorted(
        path
        for path in (tmp_path / "copy").rglob("*")
        if path.suffix in (".nc", ".npy", ".pt", ".bin", ".raw") or path.name == "0"
    )
    content = files[-1].read_bytes()
    files[-1].write_bytes(content[:-1])
    with pytest.raises(ValueError, match="bytes"):
        way.open(tmp_path / "copy")
    files[-1].unlink()
    with pytest.raises(FileNotFoundError):
        way.open(tmp_path / "copy")


def test_networks_of_the_benchmark_move_and_some_units_rest():
    networks = snapshots.population(8)
    assert {network.sizes["weight"] for network in networks} <= {
        snapshots.cnn.layout(*shape).size for shape in snapshots.ARCHITECTURES
    }
    assert min(network.sizes["weight"] for network in networks) > snapshots.LENGTH
    for network in networks:
        snapshots.snapshots.validate(network)
        weights = network["weights"].values[0]
        kernel = snapshots.snapshots.layout_of(network).split(weights)["dense1.kernel"]
        moved = (kernel[0] != kernel[-1]).any(axis=(1, 2, 3))
        assert 0.7 < moved.mean() < 1
        steps = np.abs(np.diff(kernel, axis=0)).mean(axis=(1, 2, 3, 4))
        assert (steps[:-1] > 0).all()
        assert steps[0] > 2 * steps[-1]


def test_the_last_line_is_one_json_object(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(snapshots, "SECONDS", 0.01)
    snapshots.run(networks=6, repeats=1, only=list(snapshots.ROWS), folder=tmp_path)
    lines = capsys.readouterr().out.splitlines()
    found = json.loads(lines[-1])
    assert found["runs_per_s"] > 0
    for row in snapshots.ROWS:
        ratios = [value for name, value in found.items() if name.startswith(f"{row}_vs_")]
        assert len(ratios) == len(snapshots._ways()) - 1
        assert found["worst_vs_fastest"] <= min(ratios)
    assert found["worst_row"] in snapshots.ROWS
    assert not any(tmp_path.iterdir())


def test_shards_are_opened_and_archives_made(tmp_path):
    assert snapshots._open_1000(tmp_path / "shards", 1, shards=30) > 0
    assert len([*(tmp_path / "shards").glob("*.nc")]) == 30
    found = snapshots._archive(tmp_path / "archives", {"nws_small": 2}, max_epochs=3)
    assert found["archive_ratio"] > found["archive_ratio_11_bits"] > found["archive_ratio_7_bits"] > 0


def test_no_room_is_known_before_anything_is_written(tmp_path, monkeypatch):
    little = partial(shutil._ntuple_diskusage, 10**9, 10**9)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: little(10**6))
    with pytest.raises(OSError, match=r"GB are needed .* choose --folder"):
        snapshots.run(networks=1000, repeats=1, only=["write"], folder=tmp_path)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    "options", [["--networks", "0"], ["--repeats", "x"], ["--only", "wrte"], ["--folder", "no/such"]]
)
def test_bad_values_are_refused(options, monkeypatch, capsys):
    from benchmarks.__main__ import main

    monkeypatch.setattr("sys.argv", ["benchmarks", "snapshots", *options])
    with pytest.raises(SystemExit):
        main()
    assert options[0] in capsys.readouterr().err
