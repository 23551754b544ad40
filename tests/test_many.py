import os
import signal
from types import SimpleNamespace

import pytest
import xarray as xr
from test_read import QUICK

from nwslib import space
from nwslib.meta import RunReader, StatisticsReader, many, read, read_all
from nwslib.snapshots import fake, open_population, write


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    folder = tmp_path_factory.mktemp("networks")
    write(folder, fake.population(space.sample("nws_small", 40, seed=0)))
    return open_population(folder)


def test_readings_side_by_side_are_those_one_after_the_other(tree, tmp_path):
    wanted = [("optimizer", RunReader(**QUICK)), ("learning_rate", RunReader(**QUICK, seed=3))]
    wanted += [("activation", StatisticsReader(machine=machine)) for machine in ("linear", "boosting")]
    both = read_all(tree, wanted, workers=2, keep=tmp_path)
    assert len(list(tmp_path.iterdir())) == len(wanted)
    for found, (name, reader) in zip(both, wanted, strict=True):
        xr.testing.assert_equal(found, read(tree, name, reader))
        assert found.attrs["property"] == name
    assert read_all(tree, [], workers=2) == []


def test_the_first_failure_is_told_and_the_others_are_kept(tree, tmp_path):
    good, bad = ("optimizer", StatisticsReader()), ("optimiser", StatisticsReader())
    with pytest.raises(ValueError, match="unknown property 'optimiser'"):
        read_all(tree, [good, good, bad], workers=2, keep=tmp_path)
    assert len(list(tmp_path.glob("*.nc"))) == 1  # and perhaps one that is still being written


def test_processes_are_others_and_end_with_this_one(tree):
    (first, second) = (many._pool(2).submit(os.getpid).result() for _ in range(2))
    assert os.getpid() not in (first, second)
    assert many._pool(2).submit(os.getppid).result() == os.getpid()


def test_an_interrupt_ends_a_reading_but_no_process_that_waits():
    assert many._pool(2).submit(signal.getsignal, signal.SIGINT).result() == signal.SIG_IGN
    before = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(KeyboardInterrupt):
            many._interruptible(lambda: os.kill(os.getpid(), signal.SIGINT))
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_there_are_no_more_processes_than_memory_suffices_for(monkeypatch):
    monkeypatch.setattr(many.os, "sched_getaffinity", lambda _: range(64), raising=False)
    for free, expected in ((1 << 30, 1), (9 << 30, 4), (1 << 40, 64)):
        monkeypatch.setattr(many.psutil, "virtual_memory", lambda free=free: SimpleNamespace(available=free))
        assert many._affordable() == expected
