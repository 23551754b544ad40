"""One line in the terminal: which chapter, how far, how long to go. Nothing of it reaches the pages."""

import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TextIO

POLL_SECONDS = 0.5
PLAIN_SECONDS = 15.0  # where the line cannot be updated in place, a log stays readable


@dataclass
class Terminal:
    """Where the driver talks: lines that stay, and one line that is updated in place if the stream is a terminal."""

    stream: TextIO
    _last: float = field(default=0.0, init=False)

    def line(self, text: str) -> None:
        """Print a line that stays."""
        self._write(f"\r\x1b[2K{text}\n" if self.stream.isatty() else f"{text}\n")
        self._last = time.monotonic()

    def update(self, text: str) -> None:
        """Show the current state: in place, or as a plain line now and then."""
        if self.stream.isatty():
            width = shutil.get_terminal_size().columns - 1
            self._write(f"\r\x1b[2K{text if len(text) <= width else text[: width - 1] + '…'}")
        elif time.monotonic() - self._last >= PLAIN_SECONDS:
            self.line(text)

    def clear(self) -> None:
        """Take away the line that is updated in place."""
        if self.stream.isatty():
            self._write("\r\x1b[2K")

    def _write(self, text: str) -> None:
        self.stream.write(text)
        self.stream.flush()


@contextmanager
def polled(report: Callable[[], None]) -> Iterator[None]:
    """Call `report` every half second, from a thread, until the block is left."""
    done = threading.Event()

    def poll() -> None:
        while not done.wait(POLL_SECONDS):
            report()

    thread = threading.Thread(target=poll, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def seconds_left(expected: Mapping[str, float], measured: Mapping[str, float], current: str, elapsed: float) -> float:
    """Estimate the time to go.

    Parameters
    ----------
    expected
        Seconds that each chapter of this run was expected to take.
    measured
        Seconds that the finished ones took; their ratio to what was expected tells how fast this machine is.
    current
        The chapter under way.
    elapsed
        Seconds since it began.

    Examples
    --------
    >>> seconds_left({"a": 10, "b": 20, "c": 40}, {"a": 20}, "b", elapsed=15)
    105.0
    """
    foreseen = sum(expected[name] for name in measured)
    pace = sum(measured.values()) / foreseen if foreseen else 1.0
    later = sum(seconds for name, seconds in expected.items() if name not in measured and name != current)
    return pace * later + max(0.0, pace * expected[current] - elapsed)


def clock(seconds: float) -> str:
    """Write a duration as minutes and seconds.

    Examples
    --------
    >>> clock(80), clock(7290)
    ('1:20', '2:01:30')
    """
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
