import errno
import gc
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from bars import stripes

from nwslib import snapshots, space
from nwslib.population import implementations, loop, train
from nwslib.population.lanes import plan
from nwslib.population.lanes.crowd import Crowd
from nwslib.population.slots import Slots
from nwslib.snapshots import files

DESIGN = space.sample("nws_small", 10, seed=9, dataset=["digits", "textures"], batch_size=32)
IMAGES = {"digits": stripes("digits", train=350, grey=True), "textures": stripes("textures")}
LONG = {"max_epochs": 100, "slots": 4, "progress": False}  # most of it lies behind the first two networks
SHORT = {"max_epochs": 3, "slots": 4, "progress": False}


def run(folder, given=LONG):
    """Train what remains, and write every network before the next is asked for."""
    return snapshots.write(folder, train(snapshots.remaining(DESIGN, folder), IMAGES, **given), seconds=0)


@pytest.fixture(autouse=True)
def _two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)
    assert not workers()


def workers():
    return [one for one in threading.enumerate() if one.name.startswith("nws-")]


def outcome(**given):
    return {int(one.model[0]): one for one in train(DESIGN, IMAGES, **{**SHORT, **given})}


def identical(one, other):
    return all(one[name].variable.equals(other[name].variable) for name in set(one.variables) - {"seconds"})


@pytest.fixture(scope="module")
def networks():
    """What an undisturbed training gives."""
    return outcome()


def same_as(finished, networks):
    assert sorted(finished) == sorted(networks)
    return all(identical(one, networks[number]) for number, one in finished.items())


def differences(folder, tmp_path, given):
    """Compare a folder with that of an undisturbed run."""
    run(tmp_path / "undisturbed", given)
    snapshots.verify(folder)
    populations = [snapshots.open_population(place) for place in (folder, tmp_path / "undisturbed")]
    return snapshots.same(*populations)


# A kill, and Ctrl-C: real processes.


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    run(folder)
    return snapshots.open_population(folder)


def ended():
    """Give the processor time of the child processes that have ended, in seconds."""
    return sum(os.times()[2:4])


def interrupted(folder, sent):
    """Run a process until it has written two networks, then send it a signal; give its end, what it said and took.

    What it took is processor time from then on, in seconds: a clock would measure who else is at work.
    """
    heeding = "signal.signal(signal.SIGINT, signal.default_int_handler)"  # a shell's background jobs ignore it
    work = f"import signal, test_unstoppable as own; {heeding}; own.run({str(folder)!r})"
    command = [sys.executable, "-c", work]
    own = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "2"}
    with subprocess.Popen(command, env=own, stderr=subprocess.PIPE, text=True) as process:
        while len([*folder.glob("parts/*.nc")]) < 2:
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.005)
        used = sum(psutil.Process(process.pid).cpu_times()[:2]) + ended()
        process.send_signal(sent)
        try:
            said = process.communicate(timeout=2)[1]
        except subprocess.TimeoutExpired:
            process.send_signal(sent)  # as one does: Python swallows an interrupt that falls into a destructor
            said = process.communicate(timeout=60)[1]
    return process.returncode, said, ended() - used


def test_after_a_kill_the_next_run_does_what_remains(tmp_path, undisturbed):
    code, _, _ = interrupted(tmp_path, signal.SIGKILL)
    assert code == -signal.SIGKILL
    before = snapshots.table(tmp_path).sizes["model"]
    assert 2 <= before < 10
    assert run(tmp_path) == 10 - before
    snapshots.verify(tmp_path)
    assert snapshots.same(snapshots.open_population(tmp_path), undisturbed) == []


def test_ctrl_c_ends_a_run_at_once_and_the_next_one_goes_on(tmp_path, undisturbed):
    code, said, seconds = interrupted(tmp_path, signal.SIGINT)
    assert code in (-signal.SIGINT, 128 + signal.SIGINT, 1), said
    assert said.rstrip().endswith("KeyboardInterrupt")
    assert seconds < 5
    before = snapshots.table(tmp_path).sizes["model"]
    assert 2 <= before < 10
    snapshots.verify(tmp_path)
    assert run(tmp_path) == 10 - before
    assert snapshots.same(snapshots.open_population(tmp_path), undisturbed) == []


# Threads.


@pytest.mark.parametrize("threads", [1, 3])
def test_the_number_of_threads_changes_no_result(networks, threads):
    torch.set_num_threads(threads)
    assert same_as(outcome(), networks)
    assert same_as(outcome(slots=None), networks)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_training_that_is_given_up_ends_its_threads_and_removes_its_files(threads):
    torch.set_num_threads(threads)
    files = Path("/proc/self/fd")
    gc.collect()  # or files of earlier tests are closed meanwhile
    before = len([*files.iterdir()]) if files.is_dir() else pytest.skip("needs /proc")
    training = train(DESIGN, IMAGES, **SHORT | {"max_epochs": 300})
    next(training)
    assert len(workers()) == (2 if threads == 2 else 0)
    assert len([*files.iterdir()]) > before
    del training
    assert not workers()
    assert len([*files.iterdir()]) <= before


@pytest.mark.parametrize("threads", [1, 2])
def test_an_error_in_a_thread_reaches_the_caller(monkeypatch, threads):
    torch.set_num_threads(threads)
    advance, calls = Crowd.advance, []

    def fail(crowd):
        calls.append(1)
        if len(calls) == 7:
            raise ZeroDivisionError("the seventh")
        advance(crowd)

    monkeypatch.setattr(Crowd, "advance", fail)
    with pytest.raises(ZeroDivisionError, match="the seventh"):
        outcome()
    assert not workers()


def test_an_error_of_the_machine_that_is_not_memory_is_no_reason_to_try_again(monkeypatch):
    def fail(crowd):
        raise RuntimeError("the machine is broken")

    monkeypatch.setattr(Crowd, "advance", fail)
    with pytest.raises(RuntimeError, match="the machine is broken"):
        outcome()


def test_networks_wait_for_a_slow_reader_in_a_queue_that_is_bounded(monkeypatch):
    made, result = [], loop._result

    def counted(*arguments):
        made.append(1)
        return result(*arguments)

    monkeypatch.setattr(loop, "WAITING", 1)
    monkeypatch.setattr(loop, "_result", counted)
    training = train(DESIGN, IMAGES, **SHORT)
    next(training)
    time.sleep(2)
    assert len(made) <= 1 + 2 + 2  # one was read, two wait, each thread holds one
    assert len(list(training)) == 9


def test_the_queue_is_no_longer_than_what_waits(monkeypatch):
    sizes, plain = [], queue.Queue

    def noted(size):
        sizes.append(size)
        return plain(size)

    monkeypatch.setattr(loop.queue, "Queue", noted)
    outcome(max_epochs=1)
    assert sizes == [2 * loop.WAITING]


# Memory.


def test_out_of_memory_halves_the_crowd_and_changes_no_result(monkeypatch, networks):
    torch.set_num_threads(1)
    tried, state = [], plan.state

    def small(layout, size, batch, m, *rest):
        tried.append(m)
        if m > 2:
            raise MemoryError(f"{m} lanes")
        return state(layout, size, batch, m, *rest)

    monkeypatch.setattr(plan, "state", small)
    assert same_as(outcome(slots=10), networks)
    assert tried[:3] == [16, 8, 2]  # ten networks, five, two
    assert max(tried[2:]) == 2


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (Crowd, "advance"),
        (Crowd, "evaluate"),
        (Crowd, "arrange"),
        (Crowd, "start_epoch"),
        (loop, "member"),
        (loop, "_result"),
    ],
)
def test_no_network_is_lost_or_doubled_wherever_memory_runs_out(monkeypatch, networks, threads, owner, name):
    torch.set_num_threads(threads)
    plain, calls = getattr(owner, name), []

    def sometimes(*arguments):
        calls.append(1)
        if len(calls) in (2, 4):
            raise MemoryError
        return plain(*arguments)

    monkeypatch.setattr(owner, name, sometimes)
    finished = list(train(DESIGN, IMAGES, **SHORT | {"slots": 8}))
    assert len(calls) > 4
    assert sorted(int(one.model[0]) for one in finished) == list(range(10))
    assert all(identical(one, networks[int(one.model[0])]) for one in finished)


def test_a_crowd_that_finds_no_memory_beside_others_leaves_its_networks_to_them(monkeypatch, networks):
    """Memory for four lanes in all: the second crowd gives up, and nothing is lost."""
    state, held, tried = plan.state, {}, []

    def scarce(layout, size, batch, m, *rest):
        me = threading.current_thread().name
        tried.append(me)
        if m + sum(held[other] for other in held if other != me) > 4:
            raise MemoryError(f"{m} lanes")
        held[me] = m
        return state(layout, size, batch, m, *rest)

    monkeypatch.setattr(plan, "state", scarce)
    assert same_as(outcome(slots=8), networks)
    assert len(set(tried)) > 1


def test_where_no_crowd_finds_memory_beside_others_one_trains_alone(monkeypatch, networks):
    state = plan.state

    def crowded(*arguments):
        if threading.current_thread().name.startswith("nws-"):
            raise MemoryError
        return state(*arguments)

    monkeypatch.setattr(plan, "state", crowded)
    assert same_as(outcome(), networks)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_network_that_does_not_fit_alone_is_an_error_that_says_so(monkeypatch, threads):
    torch.set_num_threads(threads)

    def none(*_):
        raise MemoryError("no lane")

    monkeypatch.setattr(plan, "state", none)
    with pytest.raises(MemoryError, match="not enough memory for a single network of 4,828 weights: no lane"):
        outcome()


def test_pytorch_s_words_for_a_lack_of_memory_are_known(monkeypatch):
    with pytest.raises(RuntimeError) as failed:
        torch.empty(2**50)
    assert loop.out_of_memory(failed.value)
    assert loop.out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert not loop.out_of_memory(RuntimeError("shapes do not fit"))
    torch.set_num_threads(1)
    plain, calls, given = Slots.step, [], {"implementation": "grouped", "max_epochs": 2, "slots": 4}
    expected = outcome(**given)

    def sometimes(crowd):
        calls.append(len(crowd.members))
        if len(calls) == 3:
            raise failed.value
        plain(crowd)

    monkeypatch.setattr(Slots, "step", sometimes)
    assert same_as(outcome(**given), expected)
    assert calls[:4] == [4, 4, 4, 2]


# Disks.


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
@pytest.mark.parametrize("threads", [1, 2])
def test_where_exports_find_no_room_the_run_ends_and_the_next_one_goes_on(monkeypatch, tmp_path, threads):
    torch.set_num_threads(threads)
    record, made = loop.Record, []

    def full(row):
        made.append(1)
        return record(row, open("/dev/full", "w+b")) if len(made) > 4 else record(row)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "Record", full)
        with pytest.raises(OSError, match=r"could not keep the exports.*No space left.*name another folder") as failed:
            run(tmp_path, SHORT)
    assert failed.value.errno == errno.ENOSPC
    assert not workers()
    snapshots.verify(tmp_path) if snapshots.remaining(DESIGN, tmp_path).sizes["model"] < 10 else None
    run(tmp_path, SHORT)
    assert differences(tmp_path, tmp_path, SHORT) == []


@pytest.mark.parametrize("kept", [0, 3])
def test_on_a_full_disk_the_run_ends_and_the_next_one_goes_on(monkeypatch, tmp_path, kept):
    sync, folder, synced = files.sync, tmp_path / "population", []

    def full(path):
        if str(path).endswith(".nc.tmp"):
            synced.append(path)
            if len(synced) > kept:
                raise OSError(errno.ENOSPC, "No space left on device")
        sync(path)

    with monkeypatch.context() as patch:
        patch.setattr(files, "sync", full)
        with pytest.raises(OSError, match=r"No space left on device.*make room and start again") as failed:
            run(folder, LONG)
    assert not workers(), failed  # although the traceback, as in a notebook, still holds the training
    assert 10 - snapshots.remaining(DESIGN, folder).sizes["model"] == kept
    assert run(folder, LONG) == 10 - kept
    assert differences(folder, tmp_path, LONG) == []


# What was begun goes on as it was begun.


@pytest.mark.parametrize("name", ["grouped", "lanes"])
def test_a_resumed_population_goes_on_with_its_implementation(tmp_path, name):
    torch.set_num_threads(1)
    given = {**SHORT, "implementation": name}
    folder = tmp_path / "population"
    training = train(DESIGN, IMAGES, **given)
    assert snapshots.write(folder, [next(training), next(training)]) == 2
    del training
    left = snapshots.remaining(DESIGN, folder)
    assert left.sizes["model"] == 8
    resumed = train(left, IMAGES, **SHORT)
    assert resumed.implementation == name
    assert snapshots.write(folder, resumed) == 8
    assert differences(folder, tmp_path, given) == []


def test_a_population_is_not_continued_by_another_implementation(tmp_path):
    torch.set_num_threads(1)
    snapshots.write(tmp_path, [next(train(DESIGN, IMAGES, **SHORT, implementation="grouped"))])
    with pytest.raises(ValueError, match="begun with implementation 'grouped', so 'lanes' cannot go on with it"):
        train(snapshots.remaining(DESIGN, tmp_path), IMAGES, implementation="lanes")


def test_a_network_that_diverges_is_kept_with_its_reason_while_others_go_on(monkeypatch, networks, tmp_path):
    advance = Crowd.advance

    def poison(crowd):
        for place, one in enumerate(crowd.members):
            if one.row["model"] == 4 and one.epoch == 1:
                weights, a, v = crowd.state(place)
                crowd.load(place, np.full_like(weights, np.nan), a, v)
        advance(crowd)

    monkeypatch.setattr(Crowd, "advance", poison)
    assert snapshots.write(tmp_path, train(DESIGN, IMAGES, **SHORT)) == 10
    snapshots.verify(tmp_path)
    table = snapshots.table(tmp_path)
    assert table["status"].values.tolist() == ["stopped"] * 4 + ["diverged"] + ["stopped"] * 5
    assert table["reason"].values[4] == "a weight was not finite after 2 epochs"
    [node] = snapshots.open_population(tmp_path).children.values()
    for number in (3, 5, 9):
        assert np.array_equal(node["weights"][number], networks[number]["weights"][0])


def test_capacity_is_asked_for_once_per_crowd(monkeypatch):
    """Groups of one architecture and batch size train one after the other, each with a crowd of its own."""
    asked, capacity = [], implementations.capacity

    def noted(name, layout, row, *rest):
        asked.append(row["batch_size"])
        return capacity(name, layout, row, *rest)

    torch.set_num_threads(1)
    monkeypatch.setattr(implementations, "capacity", noted)
    design = DESIGN.assign(batch_size=("model", [32, 64] * 5))
    finished = list(train(design, IMAGES, **SHORT))
    assert asked == [32, 64]
    assert len(finished) == 10
