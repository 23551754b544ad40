"""The commands on populations, as they are typed: what they print, their exit status, and what they leave."""

import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from nwslib import snapshots
from nwslib.snapshots import fake, merging, writer
from nwslib.snapshots.__main__ import main
from nwslib.snapshots.merging import merge
from nwslib.snapshots.summary import summary
from nwslib.space import sample, switch

ROWS = 3  # rows per shard


@pytest.fixture(autouse=True)
def _short_shards(monkeypatch):
    monkeypatch.setattr(writer, "SHARD_ROWS", ROWS)
    monkeypatch.setattr(merging, "SHARD_ROWS", ROWS)


def _design(rows, seed=0):
    return sample("nws_small", rows, seed).assign(shard=("model", np.arange(rows) // ROWS))


NETWORKS = list(fake.population(_design(8), diverged=[4]))


@pytest.fixture
def folder(tmp_path):
    """Eight networks in three shards."""
    snapshots.write(tmp_path / "population", NETWORKS)
    return tmp_path / "population"


@pytest.fixture
def other(tmp_path):
    """Five networks of another seed."""
    snapshots.write(tmp_path / "other", fake.population(_design(5, seed=1)))
    return tmp_path / "other"


def _unfinished(folder, networks):
    def interrupted():
        yield from networks
        raise RuntimeError

    with pytest.raises(RuntimeError):
        snapshots.write(folder, interrupted())
    return folder


def _content(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def _weights(folder):
    """Give the weights of each network, by id."""
    nodes = snapshots.open_population(folder).children.values()
    return {
        str(name): values.values
        for node in nodes
        for name, values in zip(node["id"].values, node["weights"], strict=True)
    }


def _run(*arguments):
    command = [sys.executable, "-m", "nwslib.snapshots", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


# The command line


def test_the_commands_work_from_a_shell(folder, tmp_path):
    sound = _run("validate", folder)
    assert (sound.returncode, sound.stderr) == (0, "")
    assert re.fullmatch(r".*population is sound: 4 files, 8 networks, [\d.]+ MB, \d+\.\d s\n", sound.stdout)
    missing = _run("info", tmp_path / "populatio")
    assert missing.returncode == 2
    assert missing.stdout == ""
    assert missing.stderr == (
        f"error: no population in {tmp_path / 'populatio'}: no such folder. The nearest that exists is {folder}\n"
    )
    assert "example" in _run("merge", "--help").stdout


def test_reading_only_the_head_of_the_output_is_no_error(folder):
    command = f"set -o pipefail; {sys.executable} -m nwslib.snapshots info {folder} | head -n 0"
    ended = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.parametrize("command", ["info", "validate"])
def test_a_folder_that_is_no_population_is_an_error(tmp_path, capsys, command):
    assert main([command, str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"error: no population in {tmp_path}: it holds no finished network yet\n"


# info


def test_info_tells_what_is_there(folder, capsys):
    assert main(["info", str(folder), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["networks"] == 8
    assert found["status"] == {"converged": 7, "diverged": 1}
    assert found["split"] == {"train": 6, "test": 2}
    node = snapshots.layout_of(NETWORKS[0]).name
    tensors = len(snapshots.layout_of(NETWORKS[0]).tensors)
    assert found["architectures"] == {node: {"networks": 8, "weights": 1676, "tensors": tensors, "snapshots": 20}}
    assert sum(found["properties"]["optimizer"]["values"].values()) == 8
    rates = [network["learning_rate"].item() for network in NETWORKS]
    assert found["properties"]["learning_rate"] == {"least": min(rates), "most": max(rates)}
    assert sum(one["networks"] for one in found["test_accuracy"].values()) == 7
    held = sum(len(content) for name, content in _content(folder).items() if name != ".lock")
    assert found["files"] == {"shards": 3, "parts": 0, "bytes": held}
    assert found["form"] == "working"
    assert found["parameters"] == {"fake": True, "max_epochs": 40}


def test_accuracies_are_those_on_the_images_that_training_ended_on(tmp_path):
    design = switch(sample("nws_small", 6, seed=0, dataset="digits"), 5, dataset=["glyphs"] * 2 + ["digits"] * 4)
    snapshots.write(tmp_path, fake.population(design))
    assert {name: one["networks"] for name, one in summary(tmp_path)["test_accuracy"].items()} == {
        "digits": 4,
        "glyphs": 2,
    }


def test_info_fits_on_a_screen(tmp_path, capsys):
    design = sample("nws_main", 12, seed=0)
    snapshots.write(tmp_path, fake.population(design))
    assert main(["info", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) < 50
    assert max(map(len, lines)) <= 100
    architectures = len(snapshots.open_population(tmp_path).children)
    assert f"  and {architectures - 6} more" in lines


def test_info_counts_what_is_not_merged_yet(tmp_path, capsys):
    assert main(["info", str(_unfinished(tmp_path, NETWORKS[:5]))]) == 0
    assert "1 shard, 2 networks in parts, not merged yet" in capsys.readouterr().out


# validate


def test_validate_prints_every_fault(folder, capsys):
    assert main(["validate", str(folder)]) == 0
    assert re.search(r"is sound: 4 files, 8 networks, [\d.]+ MB, \d+\.\d s\n$", capsys.readouterr().out)
    shards = sorted(folder.glob("*.nc"))
    shards[0].write_bytes(shards[0].read_bytes()[:-1])
    shards[2].unlink()
    assert main(["validate", str(folder)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert any("00000.03.nc is truncated or was changed" in line for line in lines)
    assert any("00002.02.nc is missing" in line for line in lines)
    assert lines[-1] == f"{folder} has {len(lines) - 1} faults"


# merge


def test_parts_of_one_design_become_the_population_that_one_machine_writes(folder, tmp_path):
    _unfinished(tmp_path / "a", [NETWORKS[k] for k in (7, 1, 4, 2)])
    snapshots.write(tmp_path / "b", [NETWORKS[k] for k in (0, 1, 3, 5, 6)])
    before = [_content(tmp_path / name) for name in "ab"]
    assert merge(tmp_path / "both", [tmp_path / "a", tmp_path / "b"]) == 8
    opened = [snapshots.open_population(path) for path in (tmp_path / "both", folder)]
    assert snapshots.same(*opened) == []
    assert [path.name for path in sorted((tmp_path / "both").glob("*.nc"))] == [
        path.name for path in sorted(folder.glob("*.nc"))
    ]
    assert [_content(tmp_path / name) for name in "ab"] == before
    snapshots.verify(tmp_path / "both")


def test_two_designs_are_merged_only_with_new_numbers(folder, other, tmp_path, capsys):
    target = tmp_path / "both"
    assert main(["merge", str(target), str(folder), str(other)]) == 2
    message = capsys.readouterr().err
    assert re.match(
        r"error: row 0 is network \w{16} in .*population, but network \w{16} in .*other. With --ren", message
    )
    assert not target.exists()
    assert main(["merge", str(target), str(folder), str(other), "--renumber"]) == 0
    assert capsys.readouterr().out == f"{target}: 13 networks written, 13 in all\n"
    table = snapshots.table(target)
    assert table["model"].values.tolist() == list(range(13))
    assert table["shard"].values.tolist() == [number // ROWS for number in range(13)]
    assert table["id"].values.tolist() == [*snapshots.table(folder)["id"].values, *snapshots.table(other)["id"].values]
    expected = _weights(folder) | _weights(other)
    for name, weights in _weights(target).items():
        np.testing.assert_array_equal(weights, expected[name])
    assert main(["validate", str(target)]) == 0


def test_rows_apart_from_each_other_keep_their_numbers_and_get_full_shards(folder, tmp_path):
    design = _design(5, seed=1).assign_coords(model=[20, 21, 22, 23, 24])
    snapshots.write(tmp_path / "later", fake.population(design))
    merge(tmp_path / "both", [folder, tmp_path / "later"])
    table = snapshots.table(tmp_path / "both")
    assert table["model"].values.tolist() == [*range(8), *range(20, 25)]
    assert table["shard"].values.tolist() == [number // ROWS for number in range(13)]


def test_every_architecture_has_its_own_shards(tmp_path):
    kinds = {"depth_conv": 3, "depth_fc": 2, "width_conv": 4, "width_fc": 64}
    for seed in (0, 1):
        design = sample("nws_main", 6, seed=seed, filter_size=[3, 5], **kinds)
        snapshots.write(tmp_path / str(seed), fake.population(design))
    merge(tmp_path / "both", [tmp_path / "0", tmp_path / "1"], renumber=True)
    table = snapshots.table(tmp_path / "both")
    for node in set(table["node"].values):
        shards = table["shard"].values[table["node"].values == node]
        assert shards.tolist() == [number // ROWS for number in range(len(shards))]


@pytest.mark.parametrize("renumber", [False, True])
def test_a_merge_that_was_interrupted_goes_on(folder, other, tmp_path, monkeypatch, renumber):
    sources = [folder, other] if renumber else [_unfinished(tmp_path / "a", NETWORKS[:4]), folder]
    merge(tmp_path / "whole", sources, renumber=renumber)
    networks = merging._networks

    def interrupted(entries):
        yield from networks(entries[:4])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(merging, "_networks", interrupted)
        with pytest.raises(KeyboardInterrupt):
            merge(tmp_path / "both", sources, renumber=renumber)
    assert snapshots.table(tmp_path / "both").sizes["model"] == 4
    total = 13 if renumber else 8
    assert merge(tmp_path / "both", sources, renumber=renumber) == total - 4
    assert merge(tmp_path / "both", sources, renumber=renumber) == 0
    opened = [snapshots.open_population(tmp_path / name) for name in ("whole", "both")]
    assert snapshots.same(*opened) == []


@pytest.mark.parametrize("written", [[2], [0, 12], [5, 6, 7, 8], range(1, 13)])
def test_whatever_an_interruption_left_the_rest_gets_the_same_numbers(folder, other, tmp_path, monkeypatch, written):
    merge(tmp_path / "whole", [folder, other], renumber=True)
    networks = merging._networks
    with monkeypatch.context() as patch:
        patch.setattr(merging, "_networks", lambda entries: networks([entries[place] for place in written]))
        merge(tmp_path / "both", [folder, other], renumber=True)
    assert merge(tmp_path / "both", [folder, other], renumber=True) == 13 - len(written)
    opened = [snapshots.open_population(tmp_path / name) for name in ("whole", "both")]
    assert snapshots.same(*opened) == []


_KILLED = """
import os, signal, sys
from nwslib.snapshots import merging, writer

merging.SHARD_ROWS = writer.SHARD_ROWS = 3
networks = merging._networks

def killed(entries):
    for place, network in enumerate(networks(entries)):
        if place == int(sys.argv[1]):
            os.kill(os.getpid(), signal.SIGKILL)
        yield network

merging._networks = killed
merging.merge(sys.argv[2], sys.argv[3:], renumber=True)
"""


@pytest.mark.parametrize("place", [1, 8])
def test_a_merge_that_was_killed_goes_on(folder, other, tmp_path, place):
    before = [_content(path) for path in (folder, other)]
    merge(tmp_path / "whole", [folder, other], renumber=True)
    ended = subprocess.run([sys.executable, "-c", _KILLED, str(place), tmp_path / "both", folder, other])
    assert ended.returncode == -signal.SIGKILL
    merge(tmp_path / "both", [folder, other], renumber=True)
    opened = [snapshots.open_population(tmp_path / name) for name in ("whole", "both")]
    assert snapshots.same(*opened) == []
    assert main(["validate", str(tmp_path / "both")]) == 0
    assert [_content(path) for path in (folder, other)] == before


def test_more_populations_come_behind_those_that_are_there(folder, other, tmp_path):
    merge(tmp_path / "both", [folder])
    assert merge(tmp_path / "both", [other], renumber=True) == 5
    merge(tmp_path / "whole", [folder, other], renumber=True)
    opened = [snapshots.open_population(tmp_path / name) for name in ("whole", "both")]
    assert snapshots.same(*opened) == []
    assert merge(tmp_path / "both", [other, folder], renumber=True) == 0


def test_a_network_that_failed_in_one_place_is_taken_from_another(folder, tmp_path):
    failed = NETWORKS[2].assign_coords(status=("model", ["failed"]))
    snapshots.write(tmp_path / "failed", [failed])
    merge(tmp_path / "both", [tmp_path / "failed", folder])
    assert snapshots.table(tmp_path / "both")["status"].values[2] == "converged"


def test_populations_that_were_trained_otherwise_are_refused_before_anything_is_written(folder, tmp_path, capsys):
    longer = [network.assign_attrs(parameters='{"fake": true, "max_epochs": 41}') for network in NETWORKS[:1]]
    snapshots.write(tmp_path / "longer", longer)
    assert main(["merge", str(tmp_path / "both"), str(folder), str(tmp_path / "longer")]) == 2
    assert re.search("longer can't be merged: .* trained with max_epochs = 40 and 41\n$", capsys.readouterr().err)
    newer = [network.assign_attrs(protocol_version="2") for network in NETWORKS[:1]]
    snapshots.write(tmp_path / "newer", newer)
    with pytest.raises(ValueError, match="trained with protocol_version = 'fake' and '2'"):
        merge(tmp_path / "both", [folder, tmp_path / "newer"])
    with pytest.raises(ValueError, match="can't be the target and a source"):
        merge(folder, [folder])
    with pytest.raises(ValueError, match="name at least one population"):
        merge(folder, [])
    with pytest.raises(FileNotFoundError, match=f"The nearest that exists is {folder}"):
        merge(tmp_path / "both", [tmp_path / "populaton"])
    assert not (tmp_path / "both").exists()


# convert


def test_convert_writes_an_archive_and_back_bit_for_bit(folder, tmp_path, capsys):
    archive, back = tmp_path / "archive", tmp_path / "back"
    assert main(["convert", str(folder), str(archive)]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert re.search(r"archive: 8 networks copied; [\d.]+ MB became [\d.]+ MB, 0\.\d\d of it$", first)
    assert "archive is sound: 4 files, 8 networks" in second
    assert main(["convert", str(archive), str(back), "--form", "working", "--no-validate"]) == 0
    assert "sound" not in capsys.readouterr().out
    assert snapshots.same(*map(snapshots.open_population, (folder, back))) == []
    for path, form in ((archive, "archive"), (back, "working")):
        main(["info", str(path), "--json"])
        assert json.loads(capsys.readouterr().out)["form"] == form


def test_convert_rounds_on_request(folder, tmp_path, capsys):
    assert main(["convert", str(folder), str(tmp_path / "archive"), "--keep-bits", "7"]) == 0
    capsys.readouterr()
    main(["info", str(tmp_path / "archive")])
    assert "archive, 7 bits of each mantissa kept" in capsys.readouterr().out
    assert main(["convert", str(folder), str(tmp_path / "b"), "--form", "working", "--keep-bits", "7"]) == 2
    assert re.match("error: keep_bits makes compressed files smaller", capsys.readouterr().err)


def test_a_copy_with_faults_is_told(folder, tmp_path, capsys):
    shutil.copytree(folder, tmp_path / "broken")
    [part] = (tmp_path / "broken").glob("*.00002.*.nc")
    part.unlink()
    assert main(["convert", str(tmp_path / "broken"), str(tmp_path / "archive")]) == 2
    assert "00002.02.nc is missing, but manifest.json lists it" in capsys.readouterr().err


# The page


def test_the_page_shows_what_the_commands_print(tmp_path, monkeypatch, capsys):
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parents[1] / "book/reference/commands.md").read_text(encoding="utf-8")
    shown, names = 0, {}
    for kind, block in re.findall(r"```(python|console)\n(.*?)```", page, re.DOTALL):
        if kind == "python":
            exec(block, names)
            continue
        command, _, output = block.partition("\n")
        main(command.removeprefix("$ python -m nwslib.snapshots ").split())
        printed = capsys.readouterr()
        assert _timeless(printed.out + printed.err).replace(str(tmp_path), "/data") == _timeless(output)
        shown += 1
    assert shown == 7


def _timeless(text):
    """Leave out what differs from run to run or from version to version."""
    text = re.sub(r"\d{4}-\d\d-\d\dT[\d:+]+|\d+\.\d+ s\b|library [\w.]+", "", text)
    return re.sub(r"[\d.]+ MB|0\.\d\d of it", "", text)
