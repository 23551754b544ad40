"""From executed chapters to HTML: staged, built with warnings as errors, looked through, and swapped in at once."""

import datetime
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import yaml
from docutils.nodes import make_id

from nwslib import __version__
from nwslib.book import executed
from nwslib.book.project import BookError, Page, check_complete, check_profile, code_cells, read_notebook, source, tags
from nwslib.book.state import Run, why_stale

_JUPYTER_BOOK = "from jupyter_book.cli.main import main; main()"
_MATHJAX_KEPT = ("tex-chtml.js", "output/chtml/fonts")
_LOADING = {
    "script": "src",
    "img": "src",
    "iframe": "src",
    "source": "src",
    "video": "src",
    "audio": "src",
    "embed": "src",
}
_LOADING_LINKS = {"stylesheet", "preload", "modulepreload", "prefetch", "icon", "preconnect", "manifest"}
_ELSEWHERE = re.compile(r"^(https?:)?//", re.IGNORECASE)
_CSS_ELSEWHERE = re.compile(r"""(?:url\(|@import)\s*["']?((?:https?:)?//[^"')\s]+)""", re.IGNORECASE)
_NEEDLESS = re.compile(
    r"""\s*(?:<script>const\ THEBE_JS_URL.*?</script>
    |<script[^>]*sphinx-thebe\.js[^>]*></script>
    |<script\ type="text/x-thebe-config">.*?</script>
    |<link\ rel="preload"\ as="font"[^>]*>)""",
    re.DOTALL | re.VERBOSE,
)
_LINK = re.compile(r"\[([^\[\]]*)\]\(([^()\s#]+)(?:#[^()\s]*)?\)")
_MIN_WORDS = 20


def build(run: Run) -> Path:
    """Build the HTML of a profile from its executed chapters.

    Parameters
    ----------
    run
        The book, the profile, and where the executed chapters are.

    Returns
    -------
    Path
        The first page, ``index.html``.

    Raises
    ------
    BookError
        If a chapter is missing, stale or faulty, jupyter-book fails or warns, a page of the table of contents did not
        become HTML, or a page would load something from another host. The HTML of an earlier build then stays.
    """
    check_profile(run.project, run.profile)
    check_complete(run.project)
    if run.project.pages[0] not in run.pages:
        raise BookError(f"the profile {run.profile!r} leaves out the first page: it is executed, and not built")
    chapters = [page for page in run.pages if page.is_chapter]
    if found := [f"{page.name}: {fault}" for page in chapters for fault in _chapter_faults(run, page)]:
        raise BookError("chapters are not fit to be published:\n" + "\n".join(f"  {fault}" for fault in found))
    _restore(run)
    stage = _stage(run)
    html = _jupyter_book(run, stage)
    _prune_mathjax(html)
    _tidy(html)
    if found := [*_page_faults(run, html), *_outside_requests(html)]:
        raise BookError("the pages are not sound:\n" + "\n".join(f"  {fault}" for fault in found))
    return _publish(run, html) / "index.html"


def _chapter_faults(run: Run, page: Page) -> Iterator[str]:
    if reason := why_stale(run, page):
        yield f"{reason}; execute it with: python -m nwslib.book run --profile {run.profile}"
    else:
        yield from executed.faults(read_notebook(run.executed(page)))


def _stage(run: Run) -> Path:
    """Lay out the sources of the book, executed notebooks in the place of the committed ones."""
    stage, root = run.folder / "stage", run.project.root
    shutil.rmtree(stage, ignore_errors=True)
    shutil.copytree(root / "book", stage / "book", ignore=shutil.ignore_patterns("*.ipynb", ".*"))
    if (root / "examples").exists():  # pages show them
        shutil.copytree(root / "examples", stage / "examples")
    for page in run.pages:
        (stage / page.path).parent.mkdir(parents=True, exist_ok=True)
        (stage / page.path).write_text(_staged(run, page), encoding="utf-8")
    for name in run.project.assets:
        (stage / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root / name, stage / name)
    absent = {str(form) for page in run.left_out for form in (page.path, page.path.with_suffix(""))}
    contents = _without(yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8")), absent)
    (stage / "_toc.yml").write_text(yaml.safe_dump(contents, allow_unicode=True, sort_keys=False), encoding="utf-8")
    config = run.project.config
    footer = f"<p>{_about(run)}</p>"
    html = config.get("html") or {}
    staged = config | {"html": html | {"extra_footer": html.get("extra_footer", "") + footer}}
    (stage / "_config.yml").write_text(yaml.safe_dump(staged, allow_unicode=True), encoding="utf-8")
    return stage


def _staged(run: Run, page: Page) -> str:
    """Give the source of a page: a notebook executed, and no link to a page that the profile leaves out."""
    absent, folder = {page.path for page in run.left_out}, page.path.parent
    if not page.is_chapter:
        return _unlinked((run.project.root / page.path).read_text(encoding="utf-8"), folder, absent)
    notebook = executed.for_page(read_notebook(run.executed(page)))
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            cell["source"] = _unlinked(source(cell), folder, absent)
    return json.dumps(notebook, indent=1, ensure_ascii=False)


def _about(run: Run) -> str:
    """Say on every page what made it, and what is missing beside it."""
    made = f"Profile {run.profile}, nwslib {__version__}, {datetime.date.today().isoformat()}"
    names = [page.name for page in run.left_out]
    return f"{made}; this profile leaves out the chapters {', '.join(names)}" if names else made


def _without(entry: Any, names: set[str]) -> Any:
    """Take pages out of the table of contents, or of a part of it, and with the last page of a part the part."""
    match entry:
        case dict():
            return {key: _without(value, names) for key, value in entry.items()}
        case list():
            kept = [_without(child, names) for child in entry if str(child.get("file")) not in names]
            return [child for child in kept if child.get("chapters") != []]
    return entry


def _unlinked(text: str, folder: Path, absent: set[Path]) -> str:
    """Leave the words of a link to a page that is left out, and not the link."""

    def words(link: re.Match) -> str:
        return link[1] if Path(os.path.normpath(folder / link[2])) in absent else link[0]

    return _LINK.sub(words, text)


def _jupyter_book(run: Run, stage: Path) -> Path:
    """Build into a folder of its own, from nothing, and give the folder with the HTML."""
    site, log = run.folder / "site", run.folder / "build.log"
    shutil.rmtree(site, ignore_errors=True)
    options = ["build", str(stage), "--path-output", str(site), "-W", "-n", "--keep-going"]
    with log.open("w", encoding="utf-8") as stream:
        done = subprocess.run(
            [sys.executable, "-c", _JUPYTER_BOOK, *options],
            stdout=stream,
            stderr=subprocess.STDOUT,
            env=os.environ | {"JUPYTER_PLATFORM_DIRS": "1", "PYTHONHASHSEED": "0", "NO_COLOR": "1"},
            check=False,
        )
    if done.returncode:
        raise BookError(f"jupyter-book failed, see {log}:\n{_complaints(log, stage)}")
    return site / "_build" / "html"


def _complaints(log: Path, stage: Path) -> str:
    """Pick the warnings and errors out of a log; its end where there are none."""
    lines = re.sub(r"\x1b\[[0-9;]*m", "", log.read_text(encoding="utf-8")).replace(f"{stage}/", "").splitlines()
    picked = [line for line in lines if "WARNING" in line or "ERROR" in line or "rror:" in line]
    return "\n".join(f"  {line}" for line in picked or lines[-10:])


def _prune_mathjax(html: Path) -> None:
    """Delete what no page loads from the copy of MathJax, nine tenths of it."""
    folder = html / "_static" / "mathjax"
    for path in sorted(folder.rglob("*"), reverse=True):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and not name.startswith(_MATHJAX_KEPT):
            path.unlink()
        elif path.is_dir() and not any(path.iterdir()):
            path.rmdir()


def _tidy(html: Path) -> None:
    """Take out of every page what the theme puts there for nothing, and what makes a browser complain.

    The scripts for live code come twice, name another host, and nothing uses them; fonts that are preloaded are
    refused by a browser that reads the page from a file, and are loaded anyway where they are needed.
    """
    for path in html.rglob("*.html"):
        path.write_text(_NEEDLESS.sub("", path.read_text(encoding="utf-8")), encoding="utf-8")


class _PageReader(HTMLParser):
    """What one page says, shows, and loads from other hosts."""

    def __init__(self) -> None:
        super().__init__()
        self.words = 0
        self.headings = 0
        self.outside: list[str] = []
        self.without_alternative: list[str] = []
        self._article = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self._article += tag == "article"
        self.headings += bool(self._article) and tag == "h1"
        address = given.get(_LOADING.get(tag, ""), "")
        if tag == "link" and _LOADING_LINKS.intersection(given.get("rel", "").split()):
            address = given.get("href", "")
        if _ELSEWHERE.match(address):
            self.outside.append(address)
        if tag == "img" and self._article and not given.get("alt"):
            self.without_alternative.append(given.get("src", ""))

    def handle_endtag(self, tag: str) -> None:
        self._article -= tag == "article"

    def handle_data(self, data: str) -> None:
        self.words += len(data.split()) if self._article else 0


def _read_page(path: Path) -> _PageReader:
    reader = _PageReader()
    reader.feed(path.read_text(encoding="utf-8"))
    return reader


def _page_faults(run: Run, html: Path) -> Iterator[str]:
    """Yield the pages of the table of contents that are missing, all but empty, or lost a figure."""
    if not (html / "index.html").is_file():
        yield "index.html was not built"
    for page in run.pages:
        path = html / page.path.with_suffix(".html")
        if not path.is_file():
            yield f"{page.path} did not become HTML"
            continue
        reader = _read_page(path)
        if not reader.headings or reader.words < _MIN_WORDS:
            yield f"{page.path} became a page of {reader.words} words and {reader.headings} titles"
        for image in reader.without_alternative:
            yield f"{page.path} shows {image} without alternative text"
        if page.is_chapter:
            yield from _lost_figures(run, page, path)


def _lost_figures(run: Run, page: Page, path: Path) -> Iterator[str]:
    text = path.read_text(encoding="utf-8")
    for _, cell in code_cells(read_notebook(run.executed(page))):
        if "figure" not in tags(cell):
            continue
        name = cell["metadata"]["mystnb"]["figure"]["name"]
        if f'id="{make_id(name)}"' not in text:
            yield f"{page.path} lost the figure {name!r}"


def _outside_requests(html: Path) -> Iterator[str]:
    """Yield what a browser would fetch from another host when a page is viewed; links to click are fine."""
    for path in sorted(html.rglob("*.html")):
        for address in _read_page(path).outside:
            yield f"{path.relative_to(html)} would load {address}"
    for path in sorted(html.rglob("*.css")):
        for address in _CSS_ELSEWHERE.findall(path.read_text(encoding="utf-8")):
            yield f"{path.relative_to(html)} would load {address}"


def _restore(run: Run) -> None:
    """Undo a kill between the two renames of `_publish`."""
    final, old = run.folder / "html", run.folder / "html.old"
    if old.exists() and not final.exists():
        old.rename(final)


def _publish(run: Run, html: Path) -> Path:
    """Swap the new HTML in: two renames, so that the old book is whole until the new one is."""
    final, old = run.folder / "html", run.folder / "html.old"
    shutil.rmtree(old, ignore_errors=True)
    if final.exists():
        final.rename(old)
    html.rename(final)
    shutil.rmtree(old, ignore_errors=True)
    shutil.rmtree(run.folder / "site", ignore_errors=True)
    return final
