"""One line that says how far a long computation is, for people; never a result."""

import os
import sys
import time
from pathlib import Path

_shown_at = 0.0


def report(text: str, every: float = 0.5) -> None:
    """Show one status line, replacing the last: in the driver's terminal, or on a terminal of our own.

    Nothing is shown where nobody watches, so a log or a notebook holds no trace of it.

    Parameters
    ----------
    text
        What to show; empty to clear the line.
    every
        Seconds between two lines at least; a line that comes sooner is dropped, an empty one never.
    """
    global _shown_at
    now = time.monotonic()
    if text and now - _shown_at < every:
        return
    _shown_at = now
    channel = os.environ.get("NWS_PROGRESS")
    if channel:
        _replace(Path(channel), text)
    elif sys.stderr is not None and sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[2K{text}")
        sys.stderr.flush()


def duration(seconds: float) -> str:
    """Write a duration as people read it.

    Examples
    --------
    >>> duration(83), duration(7384)
    ('1:23', '2:03:04')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _replace(path: Path, text: str) -> None:
    draft = path.with_name(path.name + ".tmp")
    try:
        draft.write_text(text)
        draft.replace(path)
    except OSError:
        pass  # the watcher is gone; the computation matters more than its status line
