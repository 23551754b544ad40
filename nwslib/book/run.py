"""Execution of the chapters with papermill: in order, only where needed, and never half done."""

import datetime
import fcntl
import json
import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import papermill
import psutil
from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError

from nwslib import resolve
from nwslib.book import executed, parameters
from nwslib.book.progress import Terminal, clock, polled, seconds_left
from nwslib.book.project import BookError, Page, check_complete, check_profile, read_notebook, select
from nwslib.book.state import (
    Run,
    fingerprint,
    hash_file,
    input_patterns,
    read_state,
    record,
    why_stale,
    write_atomically,
)

# A kernel that outlives a killed driver would go on writing beside the next run. ipykernel looks for this itself, but
# only by asking whether its parent is process 1, which on a desktop it is not.
_KERNEL_STARTUP = """
def _end_with_the_driver():
    import os, threading, time

    def watch():
        while os.getppid() == int(os.environ["NWS_DRIVER"]):
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()

_end_with_the_driver()
del _end_with_the_driver
"""


# What a kernel says outside its notebook is for those who look for it: an ipykernel that is told to stop while it still
# answers logs an error of its own, which on the terminal would look like one of the chapter.
_KERNEL_LOG = "NWS_KERNEL_LOG"
_ARCHIVE = "results/reference/"  # comes with the repository


class _KernelManager(AsyncKernelManager):
    """Starts kernels whose own stderr goes to a file."""

    async def start_kernel(self, **options: Any) -> None:
        with Path(os.environ[_KERNEL_LOG]).open("w") as log:
            await super().start_kernel(stderr=log, **options)


def run_chapters(run: Run, names: list[str], force: bool, terminal: Terminal) -> None:
    """Execute the chapters whose notebook, parameters, library or inputs have changed.

    Parameters
    ----------
    run
        The book, the profile, and where the output goes.
    names
        Chapters to look at; for an empty list all that the profile does not leave out.
    force
        Execute them even where nothing has changed.
    terminal
        Where progress is told.

    Raises
    ------
    BookError
        If the profile, a chapter, a parameter or its type is unknown, the profile leaves out a chapter that is named,
        released networks are missing, the run folder cannot be written, another run is at work in it, or a chapter
        fails; later chapters are then not begun.
    """
    check_profile(run.project, run.profile)
    check_complete(run.project)
    pages = _readers_last(_included(run, names), run.project.root)
    if found := list(parameters.findings(run.project, run.profile)):
        raise BookError("the parameters are at fault:\n" + "\n".join(f"  {finding}" for finding in found))
    if found := list(_unconverted(run, pages)):
        raise BookError("released networks are missing:\n" + "\n".join(f"  {finding}" for finding in found))
    with _writable(run), _locked(run):
        stated = _expected_seconds(run)
        expected = {page.name: stated[page.name] for page in pages if force or why_stale(run, page)}
        measured: dict[str, float] = {}
        for number, page in enumerate(pages, 1):
            label = f"[{number}/{len(pages)}] {page.name}"
            reason = "asked for" if force else why_stale(run, page)
            if reason is None:
                terminal.line(f"{label} · unchanged")
                continue
            terminal.line(f"{label} · {reason}")
            expected.setdefault(page.name, stated[page.name])
            measured[page.name] = _execute(run, page, label, terminal, expected, measured)


def _included(run: Run, names: list[str]) -> tuple[Page, ...]:
    """Give the chapters of these names, or all that the profile does not leave out."""
    left_out = run.left_out
    for page in select(run.project, names):
        if page in left_out and names:
            raise BookError(f"the profile {run.profile!r} leaves out the chapter {page.name!r}: {left_out[page]}")
    return tuple(page for page in select(run.project, names) if page not in left_out)


def _unconverted(run: Run, pages: tuple[Page, ...]) -> Iterator[str]:
    """Say how to make the populations of released networks that chapters are to read and nobody has converted yet."""
    asked: dict[Path, str] = {}
    for page in pages:
        values = parameters.for_chapter(run.project, run.profile, page)
        folders = [value for name, value in values.items() if name.endswith("_folder") and "populations" in value]
        with _environment(_kernel_environment(run)):
            asked |= {resolve(folder): page.name for folder in folders if "released" in values.values()}
    for folder, name in asked.items():
        if not (folder / "manifest.json").is_file():
            csvs = f"{folder.name}_train.csv {folder.name}_test.csv"
            yield f"for {name}: python -m nwslib.snapshots read-nws NWS_FOLDER {folder} {csvs}"


def _readers_last(pages: tuple[Page, ...], root: Path) -> tuple[Page, ...]:
    """Put chapters that read what others leave in this run behind those that do not; else the book's order stays."""
    return tuple(sorted(pages, key=lambda page: _reads_others(read_notebook(root / page.path))))


def _reads_others(notebook: dict) -> bool:
    return not all(pattern.startswith(_ARCHIVE) for pattern in input_patterns(notebook))


def _execute(
    run: Run, page: Page, label: str, terminal: Terminal, expected: dict[str, float], measured: dict[str, float]
) -> float:
    """Execute one chapter, keep it if it is sound, and give the seconds it took."""
    before = fingerprint(run, page)
    work = run.folder / "working" / page.path
    work.parent.mkdir(parents=True, exist_ok=True)
    (progress := _settings(run) / "progress").unlink(missing_ok=True)
    began, peak = time.monotonic(), 0

    def report() -> None:
        nonlocal peak
        peak = max(peak, _children_bytes())
        elapsed = time.monotonic() - began
        begun, cells = executed.cells_begun(work)
        told = progress.read_text(encoding="utf-8").strip() if progress.is_file() else ""
        left = seconds_left(expected, measured, page.name, elapsed)
        to_go = f"about {clock(left)} left in all" if left else "longer than expected"
        parts = [label, f"cell {begun}/{cells}", told, f"{clock(elapsed)} elapsed, {to_go}"]
        terminal.update(" · ".join(part for part in parts if part))

    with polled(report):
        _papermill(run, page, work)
    seconds = time.monotonic() - began
    _keep(run, page, work, before, {"seconds": round(seconds, 1), "peak_memory_mib": peak >> 20})
    terminal.line(f"{label} · done in {clock(seconds)}, {peak >> 20:,} MiB")
    return seconds


def _papermill(run: Run, page: Page, work: Path) -> None:
    logging.getLogger("papermill").setLevel(logging.CRITICAL)  # what it would say is said below, in one sentence
    try:
        with _environment(_kernel_environment(run)):
            papermill.execute_notebook(
                str(run.project.root / page.path),
                str(work),
                parameters=parameters.for_chapter(run.project, run.profile, page),
                kernel_name="python3",
                kernel_manager_class=_KernelManager,
                cwd=str(_settings(run)),
                progress_bar=False,
                coalesce_streams=True,
            )
    except PapermillExecutionError as error:
        why = f"{error.ename}: {error.evalue}"
    except DeadKernelError:
        why = "the kernel died; was there enough memory?"
    else:
        return
    _fail(run, page, work, f"cell {executed.last_cell(read_notebook(work))}: {why}")


def _keep(run: Run, page: Page, work: Path, before: dict[str, str], measured: dict[str, Any]) -> None:
    """Put an executed chapter in its place with one rename, then record from what it was made."""
    notebook = read_notebook(work)
    if found := list(executed.faults(notebook)):
        _fail(run, page, work, "\n  ".join(found))
    if fingerprint(run, page)["inputs"] != before["inputs"]:
        _fail(run, page, work, "the chapter wrote into its own inputs (nws.inputs in its metadata)")
    parameter_file = f"params/{run.profile}/{page.name}.yaml"
    text = json.dumps(executed.clean(notebook, parameter_file), indent=1, ensure_ascii=False, sort_keys=True)
    final = run.executed(page)
    final.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(final, text + "\n")
    work.unlink()
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    record(run, page, {"fingerprint": before, "executed": hash_file(final), "finished_at": now, **measured})


def _fail(run: Run, page: Page, work: Path, why: str) -> None:
    """Set the partial notebook aside, where no build looks, and say what went wrong."""
    kept = run.folder / "failed" / page.path
    kept.parent.mkdir(parents=True, exist_ok=True)
    work.replace(kept)
    raise BookError(f"chapter {page.name} failed: {why}\n  the notebook as far as it came: {kept}")


def _expected_seconds(run: Run) -> dict[str, float]:
    """Give each chapter's seconds: as last measured here, else as its parameter file states."""
    state = read_state(run)
    stated = {
        page: parameters.expected_seconds(run.project.parameter_file(run.profile, page))
        for page in run.project.chapters
    }
    return {page.name: state.get(page.name, {}).get("seconds", seconds) for page, seconds in stated.items()}


def _settings(run: Run) -> Path:
    """Give the folder of the kernels' settings: they see neither this user's nor write among them."""
    return run.folder / "kernel"


def _kernel_environment(run: Run) -> dict[str, str]:
    settings = _settings(run)
    return {
        "NWS_DRIVER": str(os.getpid()),
        "NWS_HOME": str(run.project.root),
        "NWS_RUN": str(run.home),
        "NWS_PROFILE": run.profile,
        "NWS_PROGRESS": str(settings / "progress"),
        _KERNEL_LOG: str(settings / "kernel.log"),
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "MPLCONFIGDIR": str(settings / "matplotlib"),
        "IPYTHONDIR": str(settings / "ipython"),
        "JUPYTER_RUNTIME_DIR": str(settings / "runtime"),
        "JUPYTER_PREFER_ENV_PATH": "1",  # the kernel python3 of this environment, not one that the user once installed
        "JUPYTER_PLATFORM_DIRS": "1",
        "PYTHONHASHSEED": "0",
        # On a machine that does other work, threads that spin while they wait made training three times slower.
        "OMP_WAIT_POLICY": "passive",
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
    }


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def _writable(run: Run) -> Iterator[None]:
    """Prepare the run folder; say in one sentence where it is read-only or full."""
    settings = _settings(run)
    try:
        shutil.rmtree(run.folder / "working", ignore_errors=True)
        startup = settings / "ipython" / "profile_default" / "startup"
        startup.mkdir(parents=True, exist_ok=True)
        write_atomically(startup / "00-end-with-the-driver.py", _KERNEL_STARTUP)
        if not list((settings / "matplotlib").glob("fontlist*")):
            # Without its list of fonts matplotlib announces on stderr, in the first chapter, that it makes one.
            command = [sys.executable, "-c", "import matplotlib.font_manager"]
            subprocess.run(command, env=os.environ | _kernel_environment(run), capture_output=True, check=True)
        yield
    except OSError as error:
        raise BookError(f"the run folder {run.folder} cannot be written: {error}") from error


@contextmanager
def _locked(run: Run) -> Iterator[None]:
    with (run.folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # gone with the process, however it ends
        except BlockingIOError:
            raise BookError(f"another run of the profile {run.profile!r} is at work in {run.folder}") from None
        yield


def _children_bytes() -> int:
    """Sum the resident memory of the kernel and of the processes that it started."""
    total = 0
    for process in psutil.Process().children(recursive=True):
        try:
            total += process.memory_info().rss
        except psutil.Error:  # it ended in the meantime
            continue
    return total
