"""Blocks of networks that are trained side by side: how large they are, and one on each thread."""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import torch

from nwslib.population.shared import Shared

Network, Block, Result = TypeVar("Network"), TypeVar("Block"), TypeVar("Result")


def thread_count(shared: Shared) -> int:
    """Say on how many threads blocks are trained: on a CPU one per core, but not more than networks; else one."""
    threads = torch.get_num_threads() if shared.device.type == "cpu" else 1
    return min(threads, shared.slots or threads)


def cut(some: Sequence[Network], most: int, threads: int) -> Iterator[list[Network]]:
    """Cut networks into blocks: as many for each thread, all of one size, so that no core ends alone.

    Parameters
    ----------
    some
        The networks, at least one.
    most
        Networks of a block, at least 1.
    threads
        That train blocks at the same time.

    Returns
    -------
    iterator of list
        In the order of the networks; their sizes differ by one at most.

    Examples
    --------
    >>> list(cut(range(5), most=2, threads=2))
    [[0, 1], [2], [3], [4]]
    """
    count = min(len(some), -(-len(some) // (most * threads)) * threads)
    for part in np.array_split(np.arange(len(some)), count):
        yield [some[k] for k in part]


def in_threads(
    blocks: Iterable[Block], train: Callable[[Block, threading.Event], Result], threads: int
) -> Iterator[tuple[Block, Result]]:
    """Train blocks, one on each thread, and give them in order; two more per thread may wait for their reader.

    Parameters
    ----------
    blocks
        What to train.
    train
        Trains one; soon after its event is set nobody waits for the result.
    threads
        How many; PyTorch has one core in each.

    Returns
    -------
    iterator of tuple
        Each block, and what became of it. Closing the iterator ends all threads.

    Raises
    ------
    Exception
        What `train` raises, when it is that block's turn.
    """
    stop, before = threading.Event(), torch.get_num_threads()
    pool = ThreadPoolExecutor(threads, "nws", torch.set_num_threads, (1,))  # a thread's operations are its own
    waiting: deque[tuple[Block, Future[Result]]] = deque()
    try:
        for block in blocks:
            waiting.append((block, pool.submit(train, block, stop)))
            if len(waiting) > 2 * threads:
                block, future = waiting.popleft()
                yield block, future.result()
        while waiting:
            block, future = waiting.popleft()
            yield block, future.result()
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)  # what threads that start later would have
