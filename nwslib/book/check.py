"""Lint of the notebooks and parameter files: a book that passes can be executed, built, and read on Colab."""

import ast
import io
import tokenize
from collections.abc import Iterator

import nbformat

from nwslib.book import parameters
from nwslib.book.project import (
    BookError,
    Page,
    Project,
    check_profile,
    code_cells,
    is_literal,
    parse,
    read_notebook,
    source,
    tags,
)
from nwslib.book.state import input_patterns

MAX_CODE_LINES = 10
_FORBIDDEN = {ast.ClassDef: "class", ast.FunctionDef: "def", ast.AsyncFunctionDef: "async def", ast.While: "while"}


def check(project: Project, profiles: list[str]) -> list[str]:
    """Lint the whole book.

    Parameters
    ----------
    project
        The book.
    profiles
        Profiles whose parameter files are read; every profile for an empty list.

    Returns
    -------
    list of str
        One sentence per finding; empty for a sound book.

    Raises
    ------
    BookError
        If a profile is unknown, or ``_toc.yml`` or ``_config.yml`` cannot be read.
    """
    for profile in profiles:
        check_profile(project, profile)
    found = list(_contents_findings(project))
    figures: dict[str, str] = {}
    for page in project.chapters:
        try:
            found += _notebook_findings(project, page, figures)
        except BookError as error:
            found.append(str(error))
    for profile in profiles or project.profiles:
        found += parameters.findings(project, profile)
    return found


def _contents_findings(project: Project) -> Iterator[str]:
    yield from project.missing
    if not project.profiles:
        yield "there is no profile: params holds no folder"
    for name in project.assets:
        if not (project.root / name).is_file():
            yield f"_config.yml names the file {name!r}, which is not there"
    names = [page.name for page in project.chapters]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"_toc.yml names two chapters {name!r}, which would share one parameter file"
    listed = {project.root / page.path for page in project.pages}
    for path in sorted((project.root / "book").rglob("*.ipynb")):
        if path not in listed and ".ipynb_checkpoints" not in path.parts:
            yield f"{path.relative_to(project.root)} is in no table of contents"


def _notebook_findings(project: Project, page: Page, figures: dict[str, str]) -> Iterator[str]:
    """Yield what is wrong with one notebook; `figures` collects the names of figures over the book."""
    notebook = read_notebook(project.root / page.path)
    for finding in _format_findings(notebook):
        yield f"{page.path}: {finding}"
    for finding in (*_frame_findings(notebook, page.told), *_setup_findings(notebook, project.install_address())):
        yield f"{page.path}: {finding}"
    for number, cell in code_cells(notebook):
        try:
            cell_findings = [*_code_findings(cell), *_figure_findings(notebook, number, cell)]
        except BookError as error:
            cell_findings = [str(error)]
        for finding in cell_findings:
            yield f"{page.path}, cell {number} {finding}"
        name = _figure(cell).get("name") if "figure" in tags(cell) else None
        here = f"{page.path}, cell {number}"
        if name and figures.setdefault(name, here) != here:
            yield f"{here}: the figure name {name!r} is taken by {figures[name]}"


def _format_findings(notebook: dict) -> Iterator[str]:
    """Check the file as a file: valid, with cell ids, ready for the kernel python3, nothing executed in it."""
    ids = [cell.get("id") for cell in notebook["cells"]]
    if notebook.get("nbformat") != 4:
        yield f"the notebook format must be 4, not {notebook.get('nbformat')!r}"
    elif None in ids or len(set(ids)) < len(ids):
        yield "every cell needs an id of its own (notebook format 4.5)"
    else:
        try:
            nbformat.validate(notebook)
        except nbformat.ValidationError as error:
            yield f"is not a valid notebook: {error.message}"
    if notebook.get("metadata", {}).get("kernelspec", {}).get("name") != "python3":
        yield "the kernelspec must be python3"
    try:
        input_patterns(notebook)
    except BookError as error:
        yield str(error)
    for number, cell in code_cells(notebook):
        if cell.get("outputs") or cell.get("execution_count") is not None:
            yield f"cell {number} holds outputs; notebooks are committed without (nbstripout --keep-id)"


def _frame_findings(notebook: dict, told: bool) -> Iterator[str]:
    cells = notebook["cells"]
    if not cells or cells[0].get("cell_type") != "markdown" or not source(cells[0]).startswith("# "):
        yield "the first cell must be markdown that begins with '# Title', or the page gets no navigation"
    headings = [line for cell in cells if cell.get("cell_type") == "markdown" for line in _headings(source(cell))]
    if told and (not headings or headings[-1] != "## Summary"):
        yield "the last section must be '## Summary'"


def _headings(text: str) -> Iterator[str]:
    fenced = False
    for line in text.splitlines():
        fenced ^= line.lstrip().startswith(("```", ":::"))
        if not fenced and line.startswith("#"):
            yield line.strip()


def _setup_findings(notebook: dict, address: str) -> Iterator[str]:
    """Check the two cells that every notebook has: installation on Colab, and parameters."""
    code = list(code_cells(notebook))
    if not code or "colab" not in tags(code[0][1]):
        yield "the first code cell must be the one that installs the library on Colab, tagged colab"
    elif address not in source(code[0][1]):
        yield f"the colab cell must install {address}, the address that _config.yml states"
    holders = [(number, cell) for number, cell in code if "parameters" in tags(cell)]
    if len(holders) != 1:
        yield f"exactly one cell must be tagged parameters, not {len(holders)}"
    for number, cell in holders:
        try:
            statements = parse(cell).body
        except BookError:
            continue  # reported with the code
        comments = _comment_lines(source(cell))
        for statement in statements:
            yield from _parameter_findings(number, statement, comments)


def _parameter_findings(number: int, statement: ast.stmt, comments: set[int]) -> Iterator[str]:
    match statement:
        case ast.Assign(targets=[ast.Name(id=name)], value=value) if is_literal(value):
            if not comments.intersection(range(statement.lineno, statement.end_lineno + 1)):
                yield f"cell {number}: the parameter {name} needs a comment on its line"
        case _:
            text = ast.unparse(statement).splitlines()[0]
            yield f"cell {number}: the parameters cell holds only 'name = literal', not {text!r} (it would stay stale)"


def _comment_lines(text: str) -> set[int]:
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return {token.start[0] for token in tokens if token.type == tokenize.COMMENT}


def _code_findings(cell: dict) -> Iterator[str]:
    lines = [line for line in source(cell).splitlines() if line.strip() and not line.lstrip().startswith("#")]
    if len(lines) > MAX_CODE_LINES and "parameters" not in tags(cell):
        yield f"has {len(lines)} lines of code; a cell computes or shows in at most {MAX_CODE_LINES}"
    for node in ast.walk(parse(cell)):
        if type(node) in _FORBIDDEN:
            yield f"holds a '{_FORBIDDEN[type(node)]}' (line {node.lineno}): what is defined belongs into the library"


def _figure_findings(notebook: dict, number: int, cell: dict) -> Iterator[str]:
    """Check that a figure can be cited, understood without being seen, and is talked about."""
    if "figure" not in tags(cell):
        if _draws(parse(cell)):
            yield "draws (plots. or plt.) but is not tagged figure"
        return
    described = cell.get("metadata", {}).get("mystnb", {})
    said = {**_figure(cell), "alt": (described.get("image") or {}).get("alt")}
    places = {
        "name": ("a name", "mystnb.figure.name"),
        "caption": ("a caption", "mystnb.figure.caption"),
        "alt": ("alternative text", "mystnb.image.alt"),
    }
    for word, (what, place) in places.items():
        if not str(said.get(word) or "").strip():
            yield f"is a figure without {what} ({place} in its metadata)"
    # A cell that the page does not show may stand between a figure and its text, to compute the text's numbers.
    following = [one for one in notebook["cells"][number:] if "remove-cell" not in tags(one)]
    if not following or following[0].get("cell_type") != "markdown":
        yield "is a figure that no text follows: the next cell must say what to see"


def _figure(cell: dict) -> dict:
    return cell.get("metadata", {}).get("mystnb", {}).get("figure") or {}


def _draws(module: ast.Module) -> bool:
    """Whether a cell calls something of ``plots`` or ``plt``; ``plots.style`` draws nothing."""
    calls = (node.func for node in ast.walk(module) if isinstance(node, ast.Call))
    called = [ast.unparse(function) for function in calls if isinstance(function, ast.Attribute)]
    return any(name.split(".")[0] in ("plots", "plt") and name != "plots.style" for name in called)
