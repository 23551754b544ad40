"""What the book is made of: the table of contents, its chapters, the profiles, the parts of a notebook."""

import ast
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

import nwslib
from nwslib.space import nearest

_MAGIC = re.compile(r"^(\s*)[%!].*$", re.MULTILINE)


class BookError(Exception):
    """A fault in what the book was given, said in one sentence; the command line prints it without a traceback."""


@dataclass(frozen=True)
class Page:
    """One entry of the table of contents.

    Attributes
    ----------
    path
        Its file, relative to the root: ``book/population.ipynb``.
    told
        Whether it tells a part of the story, and so ends in a summary: neither the first page nor a reference page.
    """

    path: Path
    told: bool

    @property
    def name(self) -> str:
        """Short name, ``"population"``: that of the parameter file, and of the chapter on the command line."""
        return self.path.stem

    @property
    def is_chapter(self) -> bool:
        """Whether it is a notebook, hence executed."""
        return self.path.suffix == ".ipynb"


@dataclass(frozen=True)
class Project:
    """A folder with a book in it.

    Attributes
    ----------
    root
        The folder of ``_toc.yml`` and ``_config.yml``.
    library
        The folder of the package that the chapters import.
    """

    root: Path
    library: Path = Path(nwslib.__file__).parent

    @cached_property
    def config(self) -> dict:
        """What ``_config.yml`` says."""
        return _mapping(self.root / "_config.yml")

    @cached_property
    def entries(self) -> tuple[str, ...]:
        """What the table of contents names, in its order."""
        toc = _mapping(self.root / "_toc.yml")
        if "root" not in toc:
            raise BookError("_toc.yml names no first page: it needs the key 'root'")
        return (str(toc["root"]), *_entries(toc))

    @cached_property
    def pages(self) -> tuple[Page, ...]:
        """The pages that the table of contents names, in its order; those that are there."""
        paths = [(name, self._find(name)) for name in self.entries]
        first = self.entries[0]
        return tuple(Page(path, name != first and "reference" not in path.parts) for name, path in paths if path)

    @property
    def missing(self) -> list[str]:
        """A sentence for each page that the table of contents names and that is not there."""
        files = [
            file.relative_to(self.root) for suffix in ("md", "ipynb") for file in self.root.glob(f"book/**/*.{suffix}")
        ]
        known = [file.with_suffix("").as_posix() for file in files]
        absent = [name for name in self.entries if not self._find(name)]
        return [f"_toc.yml names the page {name!r}, which is not there. {nearest(name, known)}" for name in absent]

    @property
    def chapters(self) -> tuple[Page, ...]:
        """The pages that are notebooks."""
        return tuple(page for page in self.pages if page.is_chapter)

    @property
    def profiles(self) -> list[str]:
        """The folders under ``params``."""
        return sorted(folder.name for folder in (self.root / "params").glob("*") if folder.is_dir())

    @property
    def assets(self) -> list[str]:
        """The files that ``_config.yml`` points at, relative to the root."""
        html = self.config.get("html") or {}
        named = [self.config.get("logo"), html.get("favicon"), *(self.config.get("bibtex_bibfiles") or [])]
        return [str(name) for name in named if name]

    def parameter_file(self, profile: str, page: Page) -> Path:
        """Give the file that sets a chapter's parameters."""
        return self.root / "params" / profile / f"{page.name}.yaml"

    def install_address(self) -> str:
        """Give what pip installs on Colab, from the one place that states the repository's address."""
        repository = self.config.get("repository") or {}
        if not repository.get("url") or not repository.get("branch"):
            raise BookError("_config.yml must state the repository's address: repository.url and repository.branch")
        return f"git+{repository['url']}@{repository['branch']}"

    def _find(self, name: str) -> Path | None:
        given = Path(name)
        named = [given, given.with_name(given.name + ".ipynb"), given.with_name(given.name + ".md")]
        return next((path for path in named if path.suffix and (self.root / path).is_file()), None)


def find_root() -> Path:
    """Find the book: ``NWS_HOME``, else the nearest folder upwards of here with a ``_toc.yml``, else the library's."""
    if "NWS_HOME" in os.environ:
        return Path(os.environ["NWS_HOME"]).resolve()
    here = Path.cwd()
    beside_library = Path(nwslib.__file__).parents[1]
    for folder in (here, *here.parents, beside_library):
        if (folder / "_toc.yml").is_file():
            return folder
    raise BookError(f"no book here: {here} and the folders above it hold no _toc.yml")


def check_complete(project: Project) -> None:
    """Refuse a table of contents that names a page which is not there."""
    if project.missing:
        raise BookError("\n  ".join(project.missing))


def check_profile(project: Project, profile: str) -> None:
    """Refuse a profile that has no folder under ``params``."""
    if profile not in project.profiles:
        raise BookError(f"unknown profile {profile!r}. {nearest(profile, project.profiles)}")


def select(project: Project, names: list[str]) -> tuple[Page, ...]:
    """Give the chapters of these names in the book's order; all of them for an empty list."""
    known = [page.name for page in project.chapters]
    for name in names:
        if name not in known:
            raise BookError(f"unknown chapter {name!r}. {nearest(name, known)}")
    return tuple(page for page in project.chapters if not names or page.name in names)


def read_notebook(path: Path) -> dict:
    """Read a notebook as it lies on disk, without the repairs that a notebook library makes on the way."""
    try:
        notebook = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BookError(f"{path.name} is not a notebook: {error}") from error
    if not isinstance(notebook, dict) or not isinstance(notebook.get("cells"), list):
        raise BookError(f"{path.name} is not a notebook: it has no list of cells")
    return notebook


def source(cell: dict) -> str:
    """Give the text of a cell, which a file may hold as one string or as lines."""
    text = cell.get("source", "")
    return text if isinstance(text, str) else "".join(text)


def tags(cell: dict) -> list[str]:
    """Give the tags of a cell."""
    return cell.get("metadata", {}).get("tags", [])


def code_cells(notebook: dict) -> Iterator[tuple[int, dict]]:
    """Yield the code cells with their position among all cells, from 1."""
    return ((n, cell) for n, cell in enumerate(notebook["cells"], 1) if cell.get("cell_type") == "code")


def parse(cell: dict) -> ast.Module:
    """Parse a code cell as Python, notebook commands (``%pip``) replaced by ``pass``."""
    try:
        return ast.parse(_MAGIC.sub(r"\1pass", source(cell)))
    except SyntaxError as error:
        raise BookError(f"is not Python (line {error.lineno}): {error.msg}") from error


def defaults(notebook: dict) -> dict[str, Any]:
    """Read the parameters cell: each name with its literal value; what is not a literal is left out."""
    values = {}
    for _, cell in code_cells(notebook):
        if "parameters" in tags(cell):
            values |= dict(literals(parse(cell)))
    return values


def literals(module: ast.Module) -> Iterator[tuple[str, Any]]:
    """Yield the assignments of a literal to one name."""
    for statement in module.body:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=value) if is_literal(value):
                yield name, ast.literal_eval(value)


def is_literal(value: ast.expr) -> bool:
    """Whether an expression is a constant, or a list or a mapping of constants.

    Examples
    --------
    >>> [is_literal(ast.parse(text, mode="eval").body) for text in ("-0.5", "['adam']", "2 * 3", "(1, 2)")]
    [True, True, False, False]
    """
    match value:
        case ast.Constant() | ast.UnaryOp(op=ast.USub(), operand=ast.Constant()):
            return True
        case ast.List(elts=elements):
            return all(map(is_literal, elements))
        case ast.Dict(keys=keys, values=values):
            return all(isinstance(key, ast.Constant) for key in keys) and all(map(is_literal, values))
    return False


def _entries(entry: dict) -> Iterator[str]:
    """Walk through the parts, chapters and sections of the table of contents."""
    for key in ("parts", "chapters", "sections"):
        for child in entry.get(key) or []:
            if "file" in child:
                yield str(child["file"])
            yield from _entries(child)


def _mapping(path: Path) -> dict:
    if not path.is_file():
        raise BookError(f"there is no {path.name} in {path.parent}")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise BookError(f"{path.name} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise BookError(f"{path.name} must be a mapping of names to values")
    return content
