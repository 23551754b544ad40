"""Blocks of networks: of one size, in order, one on each thread, and no thread outlives its reader."""

import threading
from dataclasses import replace

import pytest
import torch

from nwslib.population.blocks import cut, in_threads, thread_count
from nwslib.population.shared import Shared

SHARED = Shared(torch.device("cpu"), torch.float32, None, 2, {}, str, "1", False)


@pytest.fixture(autouse=True)
def two_threads():
    """Let PyTorch have two threads, whatever this machine has."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_no_more_threads_are_used_than_networks_may_stand_side_by_side():
    assert [thread_count(replace(SHARED, slots=slots)) for slots in (None, 1, 2, 9)] == [2, 1, 2, 2]
    assert thread_count(replace(SHARED, device=torch.device("cuda"))) == 1


@pytest.mark.parametrize(
    ("networks", "most", "threads"), [(1, 4, 2), (2, 4, 2), (7, 2, 2), (8, 4, 1), (9, 4, 1), (30, 7, 3)]
)
def test_blocks_are_of_one_size_and_hold_every_network_once(networks, most, threads):
    blocks = list(cut(range(networks), most, threads))
    sizes = [len(block) for block in blocks]
    assert [one for block in blocks for one in block] == list(range(networks))
    assert max(sizes) - 1 <= min(sizes)
    assert 0 < min(sizes) <= max(sizes) <= most
    assert len(blocks) % threads == 0 or len(blocks) == networks


def test_results_come_in_order_and_each_thread_has_one_core():
    def train(block, stop):
        assert not stop.is_set()
        return 10 * block, torch.get_num_threads(), threading.current_thread() is threading.main_thread()

    assert list(in_threads(range(9), train, 2)) == [(k, (10 * k, 1, False)) for k in range(9)]
    assert torch.get_num_threads() == 2


def test_few_blocks_wait_for_a_slow_reader():
    taken = []
    results = in_threads((taken.append(block) or block for block in range(50)), lambda block, stop: -block, 2)
    assert next(results) == (0, 0)
    assert len(taken) <= 5  # of which one is read
    assert list(results) == [(block, -block) for block in range(1, 50)]


def test_an_end_halfway_ends_every_thread():
    threads = threading.active_count()
    results = in_threads(range(6), lambda block, stop: block == 0 or stop.wait(9), 2)
    assert next(results) == (0, True)
    results.close()
    assert threading.active_count() == threads
    later: list[int] = []
    worker = threading.Thread(target=lambda: later.append((torch.zeros(1) + 1, torch.get_num_threads())[1]))
    worker.start()
    worker.join()
    assert later == [2]  # threads that start later have as many cores as before


def test_what_a_block_raises_is_raised_in_its_turn_and_ends_the_others():
    def train(block, stop):
        if block == 1:
            raise ArithmeticError("block 1")
        return block < 1 or stop.wait(9)

    threads, results = threading.active_count(), in_threads(range(4), train, 2)
    assert next(results) == (0, True)
    with pytest.raises(ArithmeticError, match="block 1"):
        next(results)
    assert threading.active_count() == threads
