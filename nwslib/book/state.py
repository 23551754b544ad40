"""What a run folder remembers: from which notebook, parameters, library and inputs each chapter was executed."""

import ast
import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nwslib.book import parameters
from nwslib.book.project import BookError, Page, Project, code_cells, parse, read_notebook


@dataclass(frozen=True)
class Run:
    """The live output of one profile.

    Attributes
    ----------
    project
        The book.
    profile
        Name of the profile.
    home
        The folder of all profiles, ``_run`` unless asked otherwise.
    """

    project: Project
    profile: str
    home: Path

    @property
    def folder(self) -> Path:
        """The folder of this profile."""
        return self.home / self.profile

    @property
    def pages(self) -> tuple[Page, ...]:
        """The pages of the book, without the chapters that the profile leaves out."""
        return tuple(page for page in self.project.pages if page not in self.left_out)

    @property
    def left_out(self) -> dict[Page, str]:
        """The chapters that the profile leaves out, and why."""
        files = {page: self.project.parameter_file(self.profile, page) for page in self.project.chapters}
        return {page: reason for page, file in files.items() if (reason := parameters.left_out(file))}

    def executed(self, page: Page) -> Path:
        """Give the executed notebook of a chapter: the same path as in the repository, below `folder`."""
        return self.folder / page.path


def read_state(run: Run) -> dict[str, dict]:
    """Read ``state.json``: for each chapter its fingerprint, duration, peak memory and the time it was finished."""
    path = run.folder / "state.json"
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return state if isinstance(state, dict) else {}


def record(run: Run, page: Page, entry: dict[str, Any]) -> None:
    """Put one chapter into ``state.json``."""
    state = read_state(run) | {page.name: entry}
    write_atomically(run.folder / "state.json", json.dumps(state, indent=1, sort_keys=True) + "\n")


def write_atomically(path: Path, text: str) -> None:
    """Write a file so that a kill leaves the old one or the new one, never a part of it."""
    temporary = path.with_name(f".{path.name}.new")
    with temporary.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)


def fingerprint(run: Run, page: Page) -> dict[str, str]:
    """Hash everything that a chapter's outputs depend on.

    Returns
    -------
    dict
        ``notebook``; ``parameters`` (their values, comments do not count); ``library`` (the modules that the chapter
        imports, and those that they import); ``inputs`` (the files that match `input_patterns`, in the run folder or
        in the repository).
    """
    path = run.project.root / page.path
    notebook = read_notebook(path)
    values = parameters.for_chapter(run.project, run.profile, page)
    patterns, folders = input_patterns(notebook), (run.folder, run.project.root)
    inputs = [_hash((file for pattern in patterns for file in folder.glob(pattern)), folder) for folder in folders]
    return {
        "notebook": _hash([path], path.parent),
        "parameters": hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest(),
        "library": _hash(imported_files(notebook, run.project.library), run.project.library),
        "inputs": " ".join(inputs),
    }


def input_patterns(notebook: dict) -> list[str]:
    """Read which files a chapter reads, besides those it writes itself: ``nws.inputs`` in the notebook's metadata.

    Raises
    ------
    BookError
        If it is not a list of patterns relative to the run folder or the repository, without ``..``.
    """
    patterns = notebook.get("metadata", {}).get("nws", {}).get("inputs", [])
    if not isinstance(patterns, list) or not all(isinstance(pattern, str) for pattern in patterns):
        raise BookError(f"nws.inputs must be a list of patterns like 'results/*.nc', not {patterns!r}")
    for pattern in patterns:
        if Path(pattern).is_absolute() or ".." in Path(pattern).parts:
            raise BookError(f"nws.inputs must stay inside the run folder or the repository, not {pattern!r}")
    return patterns


def why_stale(run: Run, page: Page) -> str | None:
    """Say why a chapter must be executed, or None where its executed notebook still holds."""
    entry = read_state(run).get(page.name)
    path = run.executed(page)
    if entry is None or not path.is_file():
        return "not executed yet"
    if hash_file(path) != entry.get("executed"):
        return "the executed notebook is not the one that was recorded"
    now = fingerprint(run, page)
    changed = [part for part, value in now.items() if value != entry.get("fingerprint", {}).get(part)]
    return f"changed: {', '.join(changed)}" if changed else None


def hash_file(path: Path) -> str:
    """Give the SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def imported_files(notebook: dict, library: Path) -> set[Path]:
    """Find the files of the library that a notebook imports, directly or through other files of the library."""
    found: set[Path] = set()
    waiting = {file for _, cell in code_cells(notebook) for file in _imports(parse(cell), library, library.parent)}
    while waiting:
        file = waiting.pop()
        found.add(file)
        tree = ast.parse(file.read_text(encoding="utf-8"))
        waiting |= _imports(tree, library, file.parent) - found
    return found


def _imports(tree: ast.Module, library: Path, here: Path) -> set[Path]:
    """Give the library's files that a piece of code imports; `here` is where its relative imports start."""
    files: set[Path] = set()
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                dotted = [alias.name for alias in names]
            case ast.ImportFrom(module=module, names=names, level=level):
                base = [*_package(library, here, level), *([module] if module else [])]
                dotted = [".".join([*base, alias.name]) for alias in names]
            case _:
                continue
        for name in dotted:
            files |= _files(name.split("."), library)
    return files


def _package(library: Path, here: Path, level: int) -> list[str]:
    if not level:
        return []
    folder = here.parents[level - 2] if level > 1 else here
    return list(folder.relative_to(library.parent).parts)


def _files(parts: list[str], library: Path) -> set[Path]:
    """Give every file that importing a dotted name reads: the packages above it, and itself where it is a module."""
    files = set()
    for depth in range(1, len(parts) + 1):
        place = library.parent.joinpath(*parts[:depth])
        if parts[0] == library.name:
            files |= {file for file in (place / "__init__.py", place.with_suffix(".py")) if file.is_file()}
    return files


def _hash(files: Iterable[Path], base: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(set(files)):
        digest.update(f"{file.relative_to(base).as_posix()}\0{hash_file(file)}\n".encode())
    return digest.hexdigest()
