"""Command line of the driver."""

import argparse
import contextlib
import os
import signal
import sys
from pathlib import Path

import psutil

from nwslib.book.build import build
from nwslib.book.check import check
from nwslib.book.progress import Terminal
from nwslib.book.project import BookError, Project, check_profile, find_root
from nwslib.book.run import run_chapters
from nwslib.book.state import Run


def main(arguments: list[str] | None = None) -> int:
    """Run one command and give its exit status: 0, 1 for a book at fault, 130 after an interruption."""
    asked = _parser().parse_args(arguments)
    terminal = Terminal(sys.stdout)
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda *_: _interrupt(terminal))
    try:
        _COMMANDS[asked.command](asked, Project(find_root()), terminal)
    except BookError as error:
        terminal.clear()
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _interrupt(terminal: Terminal) -> None:
    """Stop at once, kernel included: whatever is half done lies under a temporary name."""
    processes = psutil.Process().children(recursive=True)
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(processes, timeout=3)
    terminal.clear()
    print("interrupted; the same command goes on from here", file=sys.stderr, flush=True)
    os._exit(130)


def _check(asked: argparse.Namespace, project: Project, terminal: Terminal) -> None:
    profiles = [asked.profile] if isinstance(asked.profile, str) else asked.profile
    if found := check(project, profiles):
        raise BookError(f"{len(found)} findings\n" + "\n".join(f"  {finding}" for finding in found))
    terminal.line(f"check: {len(project.chapters)} notebooks and their parameters are sound")


def _run(asked: argparse.Namespace, project: Project, terminal: Terminal) -> None:
    run_chapters(_run_folder(asked, project), asked.chapter, asked.force, terminal)


def _build(asked: argparse.Namespace, project: Project, terminal: Terminal) -> None:
    check_profile(project, asked.profile)
    terminal.line("building the pages")
    terminal.line(f"the book is ready: {build(_run_folder(asked, project))}")


def _make(asked: argparse.Namespace, project: Project, terminal: Terminal) -> None:
    _check(asked, project, terminal)
    _run(asked, project, terminal)
    _build(asked, project, terminal)


_COMMANDS = {"check": _check, "run": _run, "build": _build, "make": _make}


def _run_folder(asked: argparse.Namespace, project: Project) -> Run:
    home = asked.run_folder or os.environ.get("NWS_RUN") or project.root / "_run"
    return Run(project, asked.profile, Path(home).resolve())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m nwslib.book", description="Check, execute and build the book.")
    commands = parser.add_subparsers(dest="command", required=True)
    checking = commands.add_parser("check", help="lint notebooks and parameter files")
    checking.add_argument("--profile", nargs="+", default=[], help="profiles to look at (default: all)")
    for name, text in {
        "run": "execute the chapters that have changed",
        "build": "build HTML from the executed chapters",
        "make": "check, run, build",
    }.items():
        command = commands.add_parser(name, help=text)
        command.add_argument("--profile", required=True, help="a folder under params")
        command.add_argument("--run-folder", help="where output goes (default: NWS_RUN, else _run)")
        command.set_defaults(chapter=[], force=False)
        if name == "run":
            command.add_argument("--chapter", nargs="+", default=[], metavar="NAME", help="only these chapters")
        if name != "build":
            command.add_argument("--force", action="store_true", help="execute also what has not changed")
    return parser


if __name__ == "__main__":
    sys.exit(main())
