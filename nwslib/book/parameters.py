"""The parameter files of a profile: one mapping per chapter, checked against the chapter's parameters cell."""

import re
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import yaml

from nwslib.book.project import BookError, Page, Project, defaults, read_notebook
from nwslib.space import nearest

_DURATION = re.compile(r"# about (\d+(?:\.\d+)?) s on \S")
_LEFT_OUT = re.compile(r"# left out: (\S.*)")
_KINDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    list: "a list",
    dict: "a mapping",
}


def read(path: Path) -> dict[str, Any]:
    """Read a parameter file.

    Raises
    ------
    BookError
        If the file is missing, is not a YAML mapping, or sets a name twice.
    """
    if not path.is_file():
        raise BookError(f"{_short(path)} is missing: every chapter has a parameter file in every profile")
    text = path.read_text(encoding="utf-8")
    try:
        node, values = yaml.compose(text, Loader=yaml.SafeLoader), yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise BookError(f"{_short(path)} is not YAML: {' '.join(str(error).split())}") from error
    if node is None:
        return {}
    if not isinstance(values, dict):
        raise BookError(f"{_short(path)} must be a mapping of parameter names to values")
    for name, occurrences in groupby(sorted(str(key.value) for key, _ in node.value)):
        if len(list(occurrences)) > 1:  # YAML itself would silently keep the last value
            raise BookError(f"{_short(path)} sets {name!r} twice")
    return values


def left_out(path: Path) -> str | None:
    """Give why a profile goes without a chapter, where the first line says it: ``# left out: it trains networks``."""
    first, *_ = (path.read_text(encoding="utf-8") if path.is_file() else "").splitlines() or [""]
    stated = _LEFT_OUT.fullmatch(first.rstrip())
    return stated[1] if stated else None


def expected_seconds(path: Path) -> float | None:
    """Give the duration that the first line of a parameter file states: ``# about 180 s on 2 cores``."""
    first, *_ = path.read_text(encoding="utf-8").splitlines() or [""]
    stated = _DURATION.match(first)
    return float(stated[1]) if stated else None


def for_chapter(project: Project, profile: str, page: Page) -> dict[str, Any]:
    """Give the values that a chapter runs with: its parameters cell, overlaid with the profile's file."""
    cell = defaults(read_notebook(project.root / page.path))
    return cell | read(project.parameter_file(profile, page))


def findings(project: Project, profile: str) -> Iterator[str]:
    """Yield a sentence for everything that is wrong with the parameter files of a profile."""
    for page in project.chapters:
        try:
            yield from _chapter_findings(project, profile, page)
        except BookError as error:
            yield str(error)
    yield from _strangers(project, profile)
    yield from _disagreements(project, profile)


def _chapter_findings(project: Project, profile: str, page: Page) -> Iterator[str]:
    path = project.parameter_file(profile, page)
    values, known = read(path), defaults(read_notebook(project.root / page.path))
    if left_out(path):
        if values:
            yield f"{_short(path)} leaves the chapter out, so it sets nothing; it sets {', '.join(values)}"
        return
    if expected_seconds(path) is None:
        yield (
            f"{_short(path)}: the first line must state the duration, like '# about 180 s on 2 cores', or "
            "'# left out: ' and why the profile goes without the chapter"
        )
    for name, value in values.items():
        if name not in known:
            yield f"{_short(path)}: {page.path} has no parameter {name!r}. {nearest(name, known)}"
        elif fault := _mismatch(value, known[name]):
            yield f"{_short(path)}: {name} must be {fault}"
        elif profile == "colab" and value != known[name]:
            yield (
                f"{_short(path)}: {name} is {value!r}, but the parameters cell of {page.path} says {known[name]!r}; "
                "that cell states the colab profile"
            )


def _mismatch(value: Any, default: Any) -> str | None:
    """Say what a value should have been, or None where its type is that of the default."""
    if default is None:
        return None
    numeric = isinstance(default, int | float) and not isinstance(default, bool)
    if numeric and isinstance(value, str):
        return f"{_KINDS[type(default)]}, not the text {value!r}{_hint(value)}"
    fits = isinstance(value, int | float) if isinstance(default, float) else isinstance(value, type(default))
    if not fits or isinstance(value, bool) != isinstance(default, bool):
        return f"{_KINDS[type(default)]}, not {value!r}"
    if isinstance(default, list) and default:
        faults = (_mismatch(element, default[0]) for element in value)
        return next((f"a list, each element {fault}" for fault in faults if fault), None)
    return None


def _hint(text: str) -> str:
    """Explain the trap of YAML 1.1, which reads ``1e-3`` as text."""
    written = re.fullmatch(r"([+-]?\d+)(\.\d*)?[eE]([+-]?)(\d+)", text)
    if not written:
        return ""
    whole, fraction, sign, exponent = written.groups()
    return f": write {whole}{fraction if fraction and fraction != '.' else '.0'}e{sign or '+'}{exponent}"


def _strangers(project: Project, profile: str) -> Iterator[str]:
    known = [page.name for page in project.chapters]
    for path in sorted((project.root / "params" / profile).iterdir()):
        if path.name.startswith("."):
            continue
        if path.suffix != ".yaml" or path.stem not in known:
            yield f"{_short(path)} belongs to no chapter. {nearest(path.stem, known)}"


def _disagreements(project: Project, profile: str) -> Iterator[str]:
    """Compare parameters of one name: one population serves all chapters, so all must name the same one."""
    first: dict[str, tuple[Page, Any]] = {}
    for page in project.chapters:
        if left_out(project.parameter_file(profile, page)):
            continue
        try:
            values = for_chapter(project, profile, page)
        except BookError:
            continue  # reported already
        for name, value in values.items():
            other, agreed = first.setdefault(name, (page, value))
            if value != agreed:
                here, there = project.parameter_file(profile, page), project.parameter_file(profile, other)
                yield f"{_short(here)}: {name} is {value!r} but {agreed!r} in {_short(there)}; one profile, one value"


def _short(path: Path) -> str:
    """Name a parameter file from its root: ``params/quick/data.yaml``."""
    return "/".join(path.parts[-3:])
