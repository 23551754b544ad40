import json
import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from nwslib import snapshots
from nwslib.snapshots import fake, files, writer
from nwslib.space import sample

DESIGN = sample("nws_small", 40, seed=0)
NETWORKS = list(fake.population(DESIGN, diverged=[4]))


@pytest.fixture(autouse=True)
def _short_shards(monkeypatch):
    monkeypatch.setattr(writer, "SHARD_ROWS", 8)


NETWORKS = [network.assign_coords(shard=("model", [number // 8])) for number, network in enumerate(NETWORKS)]


def _until(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def _names(folder):
    return sorted(path.name.split(".", 1)[1] for path in [*folder.glob("*.nc"), *folder.glob("parts/*.nc")])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer, "SHARD_ROWS", 8)
        snapshots.write(folder, NETWORKS, seconds=0)
    return snapshots.open_population(folder)


@pytest.mark.parametrize("seconds", [0, 0.005, 2, 1e9, np.inf])
def test_however_long_networks_wait_the_population_is_the_same(tmp_path, whole, seconds):
    order = np.random.default_rng(1).permutation(len(NETWORKS))
    assert snapshots.write(tmp_path, (NETWORKS[k] for k in order), seconds=seconds) == len(NETWORKS)
    assert snapshots.same(snapshots.open_population(tmp_path), whole) == []
    snapshots.verify(tmp_path)
    assert _names(tmp_path) == [f"0000{shard}.08.nc" for shard in range(5)]
    assert not list(tmp_path.rglob("*.tmp"))


def test_networks_that_come_fast_are_written_once(tmp_path, monkeypatch):
    saved, begin = [], files.begin
    monkeypatch.setattr(files, "begin", lambda dataset, path, *form: saved.append(path.name) or begin(dataset, path))
    snapshots.write(tmp_path, NETWORKS, seconds=60)
    assert [name.split(".", 1)[1] for name in saved] == [f"0000{shard}.08.nc" for shard in range(5)]


def test_a_network_is_safe_in_time_although_no_other_follows(tmp_path):
    def slow():
        yield NETWORKS[0]
        _until(lambda: snapshots.remaining(DESIGN, tmp_path).sizes["model"] == 39)
        yield NETWORKS[1]
        yield NETWORKS[2]
        _until(lambda: snapshots.remaining(DESIGN, tmp_path).sizes["model"] == 37)
        snapshots.verify(tmp_path)

    assert snapshots.write(tmp_path, slow(), seconds=0.2) == 3


def test_company_shares_a_file_and_the_file_is_not_written_each_time(tmp_path):
    seen = []

    def slow():
        for number, network in enumerate(NETWORKS[:7]):
            yield network
            if number in (3, 5, 6):
                left = len(NETWORKS) - number - 1
                _until(lambda left=left: snapshots.remaining(DESIGN, tmp_path).sizes["model"] == left)
                seen.append(_names(tmp_path))

    snapshots.write(tmp_path, slow(), seconds=0.3)
    assert seen[0] == ["00000.04.nc"]
    assert seen[1] == ["00000.04.nc", "00000004.nc", "00000005.nc"]
    assert seen[2] == ["00000.04.nc", "00000004.nc", "00000005.nc", "00000006.nc"]
    assert _names(tmp_path) == ["00000.07.nc"]


def test_what_waits_is_bounded(tmp_path, monkeypatch):
    size = NETWORKS[0].nbytes
    monkeypatch.setattr(writer, "_memory", lambda: 6 * size)
    waiting, written = [], []
    save = files.begin

    def slow(dataset, path, *form):
        time.sleep(0.02)
        written.append(dataset.sizes["model"])
        return save(dataset, path, *form)

    monkeypatch.setattr(files, "begin", slow)

    def fast():
        for number, network in enumerate(NETWORKS[::-1]):
            yield network
            waiting.append(number + 1 - sum(written))

    # Shards of eight never fit into the room for six.
    snapshots.write(tmp_path, fast(), seconds=60)
    assert max(waiting) <= 8
    assert snapshots.remaining(DESIGN, tmp_path).sizes["model"] == 0


def test_an_error_in_the_writing_reaches_the_caller_with_the_next_network(tmp_path):
    asked = []

    def networks():
        for number, network in enumerate(NETWORKS):
            asked.append(number)
            yield network.assign_coords(model=[0]) if number == 3 else network
            time.sleep(0.05)

    with pytest.raises(ValueError, match="holds another network as row 0"):
        snapshots.write(tmp_path, networks(), seconds=0.01)
    assert len(asked) <= 6
    assert snapshots.table(tmp_path)["model"].values.tolist() == [0, 1, 2]
    snapshots.verify(tmp_path)
    assert "snapshots-writer" not in [one.name for one in threading.enumerate()]


def test_a_negative_or_missing_time_is_refused(tmp_path):
    for seconds in (-1, np.nan):
        with pytest.raises(ValueError, match="seconds is a time, 0 or longer, not"):
            snapshots.write(tmp_path, [], seconds=seconds)


def test_a_shard_that_a_killed_writer_had_not_listed_is_taken_up(tmp_path, whole):
    snapshots.write(tmp_path, NETWORKS[:16])
    path = tmp_path / "manifest.json"
    fields = json.loads(path.read_text())
    last = max(fields["files"])
    kept = [row for row, file in enumerate(fields["table"]["file"]) if file != last]
    fields["table"] = {name: [column[row] for row in kept] for name, column in fields["table"].items()}
    del fields["files"][last]
    path.write_text(json.dumps(fields))
    assert snapshots.table(tmp_path).sizes["model"] == 8
    assert snapshots.write(tmp_path, NETWORKS) == 24
    assert snapshots.same(snapshots.open_population(tmp_path), whole) == []
    snapshots.verify(tmp_path)


_KILLED = """
import sys, time, numpy as np
from nwslib import snapshots
from nwslib.snapshots import fake, writer
from nwslib.space import sample
writer.SHARD_ROWS = 8
design = sample("nws_small", 40, 0)
def told():
    for number, network in enumerate(fake.population(snapshots.remaining(design, sys.argv[1]), diverged=[4])):
        yield network.assign_coords(shard=("model", [network["model"].item() // 8]))
        time.sleep(0.02)
snapshots.write(sys.argv[1], told(), seconds=0.1)
"""


def test_a_kill_loses_at_most_what_had_not_waited_its_time(tmp_path, whole):
    random = np.random.default_rng()
    left = len(NETWORKS)
    for _ in range(3):
        with subprocess.Popen([sys.executable, "-c", _KILLED, tmp_path / "killed"]) as process:
            # Networks become safe while the process goes on; after the kill no more do, and none is lost.
            _until(lambda before=left: snapshots.remaining(DESIGN, tmp_path / "killed").sizes["model"] < before)
            time.sleep(random.uniform(0, 0.1))
            process.kill()
        left = snapshots.remaining(DESIGN, tmp_path / "killed").sizes["model"]
        if not left:
            break
    snapshots.write(tmp_path / "killed", NETWORKS)
    assert snapshots.same(snapshots.open_population(tmp_path / "killed"), whole) == []
    snapshots.verify(tmp_path / "killed")
    assert not [path for path in (tmp_path / "killed").rglob("*.tmp") if os.path.exists(path)]
