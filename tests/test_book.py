"""The driver on a book of three small chapters, made in a folder of its own."""

import contextlib
import ctypes
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest
import yaml

from nwslib.book import executed, parameters
from nwslib.book.check import check
from nwslib.book.progress import Terminal, seconds_left
from nwslib.book.project import BookError, Project, check_profile, select
from nwslib.book.run import _readers_last
from nwslib.book.state import Run, fingerprint, imported_files, read_state, why_stale

ROOT = Path(__file__).parents[1]
ADDRESS = "git+https://github.com/toys/book@main"
COLAB = f'import importlib.util\nif importlib.util.find_spec("nwslib") is None:\n    %pip install -q "{ADDRESS}"'
PARAMETERS = 'networks = 8  # how many\nrate = 0.5  # a number\nsets = ["digits"]  # image sets'
WRITE = """
import os
from pathlib import Path
results = Path(os.environ["NWS_RUN"]) / os.environ["NWS_PROFILE"] / "results"
results.mkdir(parents=True, exist_ok=True)
(results / "first.txt").write_text(f"{networks} networks at {rate}");
"""
IDENTIFIED = """
from uuid import uuid4
from IPython.display import HTML
HTML(f'<p id="{uuid4()}">An identifier as xarray makes them.</p>')
"""
READ = """
import os
from pathlib import Path
folder = Path(os.environ["NWS_RUN"]) / os.environ["NWS_PROFILE"] / "results"
print((folder / "first.txt").read_text())
"""
FIGURE = "plt.plot([0, networks]);"
FIGURE_METADATA = {
    "tags": ["figure"],
    "mystnb": {"figure": {"name": "fig_line", "caption": "A line."}, "image": {"alt": "A line that rises to 8."}},
}
PROSE = "Words that make this a page and not a stub. " * 4


def text(source, **metadata):
    return {"cell_type": "markdown", "source": source, "metadata": metadata}


def code(source, *tags, **metadata):
    metadata = {"tags": list(tags), **metadata} if tags else metadata
    source = textwrap.dedent(source).strip()
    return {"cell_type": "code", "source": source, "metadata": metadata, "outputs": [], "execution_count": None}


def notebook(*cells, **metadata):
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    cells = [cell | {"id": f"cell{n}"} for n, cell in enumerate(cells)]
    return {"cells": cells, "metadata": {"kernelspec": kernel, **metadata}, "nbformat": 4, "nbformat_minor": 5}


def chapter(title, *cells, **metadata):
    head = [text(f"# {title}\n\n{PROSE}"), code(COLAB, "colab"), code(PARAMETERS, "parameters")]
    return notebook(*head, *cells, text(f"## Summary\n\n{PROSE}"), **metadata)


def put(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".ipynb":
        content = json.dumps(content, indent=1)
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))


@pytest.fixture
def book(tmp_path):
    """A sound book: an introduction, a chapter that writes a result, one that reads it and draws, a page of notes."""
    root = tmp_path / "book of toys"
    config = yaml.safe_load((ROOT / "_config.yml").read_text())
    config["repository"]["url"] = "https://github.com/toys/book"
    put(root / "_config.yml", config)
    shutil.copytree(ROOT / "book", root / "book", ignore=shutil.ignore_patterns("*.ipynb", "*.md", "reference", ".*"))
    shutil.copy(ROOT / "references.bib", root)
    parts = [
        {"caption": "All", "chapters": [{"file": f"book/{name}"} for name in ("first", "second", "reference/notes")]}
    ]
    put(root / "_toc.yml", {"format": "jb-book", "root": "book/introduction", "parts": parts})
    draw = [code("import matplotlib.pyplot as plt"), code(FIGURE, **FIGURE_METADATA), text("The line rises.")]
    put(root / "book/introduction.ipynb", chapter("What is this?", text("Mathematics: $x^2$.")))
    put(root / "book/first.ipynb", chapter("What is written?", code(WRITE), code(IDENTIFIED)))
    put(root / "book/second.ipynb", chapter("What is read?", code(READ), *draw, nws={"inputs": ["results/*.txt"]}))
    put(root / "book/reference/notes.md", f"# Notes\n\n{PROSE}\n\n```{{bibliography}}\n:all:\n```\n")
    for profile in ("smoke", "quick"):
        for name in ("introduction", "first", "second"):
            networks = {"smoke": 2, "quick": 4}[profile]
            put(root / f"params/{profile}/{name}.yaml", f"# about 3 s on 2 cores\nnetworks: {networks}\n")
    return Project(root)


def drive(project, *arguments, **kwargs):
    command = [sys.executable, "-m", "nwslib.book", *arguments]
    environment = os.environ | {"NWS_HOME": str(project.root)}
    environment.pop("NWS_RUN", None)
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, **kwargs)


def change(project, path, old, new):
    file = project.root / path
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))


def leave_out(project, name):
    put(project.root / f"params/smoke/{name}.yaml", "# left out: it draws\n")


def smoke(project):
    return Run(project, "smoke", project.root / "_run")


# --- check


def test_a_sound_book_has_no_findings(book):
    assert check(book, []) == []


def test_notebooks_of_this_repository_are_sound():
    assert check(Project(ROOT), []) == []


@pytest.mark.parametrize(
    ("cells", "finding"),
    [
        ([code("def f():\n    pass")], "'def'"),
        ([code("class A:\n    pass")], "'class'"),
        ([code("while False:\n    pass")], "'while'"),
        ([code("\n".join(f"a{n} = {n}" for n in range(11)))], "11 lines"),
        ([code("a ="), text("x")], "is not Python"),
        ([code("plt.plot([1])"), text("x")], "not tagged figure"),
        ([code("x = plots.bars(1)"), text("x")], "not tagged figure"),
        ([code(FIGURE, **FIGURE_METADATA), code("1 + 1")], "the next cell must say what to see"),
        ([code(FIGURE, "figure"), text("x")], "without a name"),
        ([code(FIGURE, "figure"), text("x")], "without a caption"),
        ([code(FIGURE, "figure"), text("x")], "without alternative text"),
        ([code(FIGURE, **FIGURE_METADATA), text("x")], "'fig_line' is taken by book/first.ipynb"),
        ([code("b = 1  # twice", "parameters")], "exactly one cell must be tagged parameters, not 2"),
        ([text("## More")], None),
        ([code("squares = [n**2 for n in range(3)]\nfor n in squares:\n    print(n)")], None),
    ],
)
def test_check_finds_what_is_wrong_in_a_cell(book, cells, finding):
    put(book.root / "book/first.ipynb", chapter("What?", *cells))
    found = check(book, [])
    if finding is None:
        assert found == []
    else:
        assert any(finding in line for line in found), found


@pytest.mark.parametrize(
    ("line", "finding"),
    [
        ("total = 2 * 3  # derived", "holds only 'name = literal', not 'total = 2 * 3'"),
        ("pair = (1, 2)  # a tuple becomes text", "holds only"),
        ("import os", "holds only"),
        ("networks: int = 3  # typed", "holds only"),
        ("bare = 3", "bare needs a comment"),
        ("long = [\n    1,\n    2,  # two\n]", None),
        ("negative = -1  # fine", None),
    ],
)
def test_check_wants_commented_literals_as_parameters(book, line, finding):
    change(book, "book/first.ipynb", json.dumps(PARAMETERS)[1:-1], json.dumps(f"{PARAMETERS}\n{line}")[1:-1])
    found = check(book, [])
    if finding is None:
        assert found == []
    else:
        assert any(finding in line for line in found), found


@pytest.mark.parametrize(
    ("old", "new", "finding"),
    [
        ('"# What', '"What', "begins with '# Title'"),
        ("## Summary", "## Something else", "last section must be '## Summary'"),
        ('"python3"', '"python2"', "kernelspec must be python3"),
        ('"execution_count": null', '"execution_count": 1', "holds outputs"),
        ('"outputs": []', '"outputs": [{"output_type": "stream", "name": "stdout", "text": ""}]', "holds outputs"),
        ('"id": "cell1"', '"id": "cell0"', "an id of its own"),
        ('"nbformat": 4', '"nbformat": "four"', "format must be 4, not 'four'"),
        ('"cell_type": "markdown"', '"cell_type": "markup"', "is not a valid notebook"),
        ("github.com/toys", "github.com/tays", f"must install {ADDRESS}"),
        ('"colab"', '"other"', "first code cell must be"),
        ('"cells"', '"sells"', "has no list of cells"),
        ('{\n "cells"', '\n "cells"', "is not a notebook"),
    ],
)
def test_check_finds_what_is_wrong_in_a_notebook(book, old, new, finding):
    change(book, "book/first.ipynb", old, new)
    found = check(book, [])
    assert any(line.startswith(("book/first.ipynb", "first.ipynb")) and finding in line for line in found), found


@pytest.mark.parametrize(
    ("inputs", "finding"),
    [("results/*.nc", "must be a list"), (["../x"], "must stay inside"), (["/etc/*"], "must stay inside")],
)
def test_inputs_are_patterns_inside_the_book(book, inputs, finding):
    put(book.root / "book/first.ipynb", chapter("What?", nws={"inputs": inputs}))
    assert any(finding in line for line in check(book, []))


def test_a_comment_in_an_example_is_no_heading(book):
    change(book, "book/first.ipynb", "## Summary", "## Summary\\n\\n```\\n# a comment\\n```\\n")
    assert check(book, []) == []


def test_summary_is_asked_of_the_story_only(book):
    for page in ("introduction", "second"):
        change(book, f"book/{page}.ipynb", "## Summary", "## End")
    assert [finding for finding in check(book, []) if "Summary" in finding] == [
        "book/second.ipynb: the last section must be '## Summary'"
    ]


def test_check_finds_a_notebook_outside_the_contents(book):
    put(book.root / "book/draft.ipynb", chapter("What?"))
    assert check(book, []) == ["book/draft.ipynb is in no table of contents"]


def test_check_finds_a_missing_asset(book):
    (book.root / "references.bib").unlink()
    assert check(book, []) == ["_config.yml names the file 'references.bib', which is not there"]


def test_contents_must_exist(book):
    change(book, "_toc.yml", "book/first", "book/fist")
    assert "_toc.yml names the page 'book/fist', which is not there. Did you mean 'book/first'?" in check(book, [])
    done = drive(book, "run", "--profile", "smoke")
    assert "Did you mean 'book/first'?" in done.stderr


@pytest.mark.parametrize(
    ("line", "finding"),
    [
        ("network: 3", "has no parameter 'network'. Did you mean 'networks'?"),
        ("networks: 2.5", "networks must be a whole number, not 2.5"),
        ("networks: true", "networks must be a whole number, not True"),
        ("rate: 1e-3", "rate must be a number, not the text '1e-3': write 1.0e-3"),
        ("rate: 5e4", "write 5.0e+4"),
        ("rate: fast", "rate must be a number, not the text 'fast'"),
        ("sets: digits", "sets must be a list, not 'digits'"),
        ("sets: [digits, 3]", "sets must be a list, each element text, not 3"),
        ("networks: 2\nnetworks: 2", "sets 'networks' twice"),
        ("- networks", "must be a mapping"),
        ("networks: [", "is not YAML"),
        ("rate: !!python/object:os.system {}", "is not YAML"),
    ],
)
def test_parameter_files_are_checked_against_the_parameters_cell(book, line, finding):
    for name in ("introduction", "first", "second"):
        put(book.root / f"params/smoke/{name}.yaml", f"# about 3 s on 2 cores\n{line}\n")
    found = check(book, ["smoke"])
    assert any("params/smoke/first.yaml" in sentence and finding in sentence for sentence in found), found


def test_an_integer_is_a_number(book):
    for name in ("introduction", "first", "second"):
        put(book.root / f"params/smoke/{name}.yaml", "# about 3 s on 2 cores\nrate: 1\n")
    assert check(book, ["smoke"]) == []


def test_one_profile_has_one_value_for_one_name(book):
    put(book.root / "params/smoke/second.yaml", "# about 3 s on 2 cores\n")  # falls back to the notebook's 8
    assert check(book, ["smoke"]) == [
        "params/smoke/second.yaml: networks is 8 but 2 in params/smoke/introduction.yaml; one profile, one value"
    ]


def test_the_parameters_cell_states_the_colab_profile(book):
    for name in ("introduction", "first", "second"):
        put(book.root / f"params/colab/{name}.yaml", "# about 3 s on 2 cores\nnetworks: 9\n")
    assert any("first.yaml: networks is 9, but the parameters cell" in line for line in check(book, ["colab"]))


def test_every_chapter_has_a_file_and_every_file_a_chapter(book):
    (book.root / "params/smoke/first.yaml").rename(book.root / "params/smoke/fist.yaml")
    found = check(book, ["smoke"])
    assert any(line.startswith("params/smoke/first.yaml is missing") for line in found)
    assert "params/smoke/fist.yaml belongs to no chapter. Did you mean 'first'?" in found


def test_duration_is_stated(book):
    put(book.root / "params/smoke/first.yaml", "networks: 2\n")
    assert any("must state the duration" in line for line in check(book, ["smoke"]))
    assert parameters.expected_seconds(book.root / "params/smoke/second.yaml") == 3


def test_a_profile_may_leave_a_chapter_out_if_it_says_why(book):
    leave_out(book, "second")
    run = smoke(book)
    assert check(book, ["smoke"]) == []
    assert {page.name: why for page, why in run.left_out.items()} == {"second": "it draws"}
    assert [page.name for page in run.pages] == ["introduction", "first", "notes"]
    put(book.root / "params/smoke/second.yaml", "# left out: it draws\nnetworks: 5\n")
    assert check(book, ["smoke"]) == [
        "params/smoke/second.yaml leaves the chapter out, so it sets nothing; it sets networks"
    ]
    put(book.root / "params/smoke/second.yaml", "# left out:\n")
    assert any("must state the duration" in line for line in check(book, ["smoke"]))


def test_a_chapter_that_is_left_out_cannot_be_asked_for(book):
    leave_out(book, "second")
    done = drive(book, "run", "--profile", "smoke", "--chapter", "second")
    assert done.returncode == 1
    assert "the profile 'smoke' leaves out the chapter 'second': it draws" in done.stderr
    leave_out(book, "introduction")
    done = drive(book, "build", "--profile", "smoke")
    assert done.returncode == 1
    assert "the profile 'smoke' leaves out the first page: it is executed, and not built" in done.stderr


def test_released_networks_must_be_there_before_anything_runs(book):
    cell = PARAMETERS + '\ncollection = "nws_small"  # which\npopulation_folder = "_run/a/populations/main"  # where'
    head = [text(f"# What?\n\n{PROSE}"), code(COLAB, "colab"), code(cell, "parameters")]
    put(book.root / "book/second.ipynb", notebook(*head, text("## Summary")))
    place = "_run/smoke/populations/nws_fixed"
    lines = ["# about 3 s on 2 cores", "networks: 2", "collection: released", f"population_folder: {place}"]
    put(book.root / "params/smoke/second.yaml", "\n".join(lines))
    done = drive(book, "run", "--profile", "smoke")
    assert done.returncode == 1
    command = (
        f"python -m nwslib.snapshots read-nws NWS_FOLDER {book.root / place} nws_fixed_train.csv nws_fixed_test.csv"
    )
    assert f"for second: {command}" in done.stderr
    assert not smoke(book).folder.exists()


def test_unknown_profile_and_chapter_name_the_nearest(book):
    with pytest.raises(BookError, match=r"unknown profile 'smok'. Did you mean 'smoke'\?"):
        check_profile(book, "smok")
    with pytest.raises(BookError, match=r"unknown chapter 'fist'. Did you mean 'first'\?"):
        select(book, ["fist"])
    with pytest.raises(BookError, match="unknown profile"):
        check(book, ["../smoke"])


def test_check_reports_everything_and_exits_1(book):
    change(book, "book/first.ipynb", "## Summary", "## End")
    put(book.root / "params/smoke/second.yaml", "# about 3 s on 2 cores\nnetwork: 2\n")
    done = drive(book, "check")
    assert done.returncode == 1
    assert "## Summary" in done.stderr
    assert "Did you mean 'networks'?" in done.stderr
    assert "Traceback" not in done.stderr


# --- what a chapter depends on


def test_imported_files_follow_the_library(tmp_path):
    library = tmp_path / "toys"
    put(library / "__init__.py", "")
    put(library / "a.py", "def f():\n    from .inner import c\n")
    put(library / "b.py", "")
    put(library / "inner/__init__.py", "")
    put(library / "inner/c.py", "import toys.inner.d as d\nimport json\n")
    put(library / "inner/d.py", "from .. import b\n")
    put(library / "unused.py", "")

    def names(line):
        files = imported_files(notebook(code(f"%matplotlib inline\n{line}")), library)
        return {str(file.relative_to(library)) for file in files}

    assert names("import json") == set()
    assert names("from toys import b") == {"__init__.py", "b.py"}
    assert names("from toys.inner import c") == {"__init__.py", "b.py", "inner/__init__.py", "inner/c.py", "inner/d.py"}
    assert names("import toys.a") == {"__init__.py", "a.py", "b.py", "inner/__init__.py", "inner/c.py", "inner/d.py"}


def test_fingerprint_tells_what_changed(book, tmp_path):
    library = tmp_path / "toys"
    put(library / "__init__.py", "")
    put(book.root / "book/second.ipynb", chapter("What?", code("import toys"), nws={"inputs": ["results/*.txt"]}))
    run = Run(Project(book.root, library), "smoke", book.root / "_run")
    page = run.project.chapters[2]
    seen = [fingerprint(run, page)]

    def changed():
        seen.append(fingerprint(run, page))
        return [part for part, value in seen[-1].items() if value != seen[-2][part]]

    put(book.root / "params/smoke/second.yaml", "# about 99 s on 2 cores\nnetworks: 2\n")
    assert changed() == []
    put(book.root / "params/smoke/second.yaml", "# about 99 s on 2 cores\nnetworks: 3\n")
    assert changed() == ["parameters"]
    put(library / "__init__.py", "new = True")
    assert changed() == ["library"]
    put(run.folder / "results/first.txt", "new")
    assert changed() == ["inputs"]
    put(book.root / "results/reference.txt", "archived")
    assert changed() == ["inputs"]
    change(book, "book/second.ipynb", "What?", "Who?")
    assert changed() == ["notebook"]


# --- what a page shows


def test_a_page_shows_one_parameters_cell_with_the_values_of_the_run():
    committed = 'rate = 0.5  # größer is coarser\nsets = [\n    "digits",\n]  # which\nnetworks = 8  # how many'
    injected = "# Parameters of this run: params/quick/first.yaml\nsets = ['glyphs', 'digits']\nrate = 0.25"
    cells = [code(COLAB, "colab"), code(committed, "parameters"), code(injected, "injected-parameters"), code("1")]
    shown = executed.for_page(notebook(*cells))["cells"]
    assert shown[1]["source"].splitlines() == [
        "# Parameters of this run: params/quick/first.yaml",
        "rate = 0.25  # größer is coarser",
        "sets = ['glyphs', 'digits']  # which",
        "networks = 8  # how many",
    ]
    assert "remove-cell" in shown[0]["metadata"]["tags"]
    assert len(shown) == 3


def test_a_page_shows_no_widget():
    widget = {"output_type": "display_data", "data": {"application/vnd.jupyter.widget-view+json": {}}, "metadata": {}}
    cell = code("bar") | {"outputs": [widget]}
    shown = executed.for_page(notebook(cell, widgets={"state": {}}))
    assert shown["cells"][0]["outputs"] == []
    assert "widgets" not in shown["metadata"]


# --- progress


def test_time_to_go_follows_the_pace_of_this_machine():
    expected = {"a": 10.0, "b": 20.0, "c": 40.0}
    assert seconds_left(expected, {}, "a", 0) == 70
    assert seconds_left(expected, {"a": 5.0}, "b", 4) == 0.5 * 40 + 0.5 * 20 - 4
    assert seconds_left(expected, {"a": 5.0, "b": 10.0}, "c", 1000) == 0


def test_line_is_updated_on_a_terminal_and_rare_elsewhere(monkeypatch):
    class Stream:
        def __init__(self, is_terminal):
            self.text, self.isatty = "", lambda: is_terminal

        def write(self, text):
            self.text += text

        def flush(self):
            pass

    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    screen, log = Terminal(Stream(True)), Terminal(Stream(False))
    for terminal in (screen, log):
        now[0] = 0.0
        terminal.line("begun")
        for _ in range(61):
            now[0] += 0.5
            terminal.update("x" * 500)
    assert screen.stream.text.count("\n") == 1
    assert max(len(piece) for piece in screen.stream.text.split("\r\x1b[2K")) < 200
    assert log.stream.text.count("\n") == 3
    assert "\x1b" not in log.stream.text


# --- run


def executed_texts(run, *names):
    """What the executed chapters say, dates and durations left out."""
    texts = {}
    for page in select(run.project, list(names)):
        cells = json.loads(run.executed(page).read_text())["cells"]
        texts[page.name] = [(cell["source"], json.dumps(cell.get("outputs"))) for cell in cells]
    return texts


@pytest.mark.slow
def test_run_executes_once_and_again_only_what_changed(book):
    first = drive(book, "run", "--profile", "smoke")
    assert first.returncode == 0, first.stderr
    assert first.stderr == ""
    run = smoke(book)
    assert (run.folder / "results/first.txt").read_text() == "2 networks at 0.5"
    assert all(why_stale(run, page) is None for page in book.chapters)
    entry = read_state(run)["second"]
    assert entry["seconds"] > 0
    assert entry["peak_memory_mib"] > 10
    written = run.executed(book.chapters[1]).read_text()
    assert str(book.root) not in written
    assert "# Parameters of this run: params/smoke/first.yaml" in written

    again = drive(book, "run", "--profile", "smoke")
    assert again.stdout.count("unchanged") == 3

    with run.executed(book.chapters[0]).open("a") as stream:
        stream.write(" ")
    assert why_stale(run, book.chapters[0]) == "the executed notebook is not the one that was recorded"

    before = executed_texts(run)["second"]
    for name in ("introduction", "first", "second"):
        put(book.root / f"params/smoke/{name}.yaml", "# about 3 s on 2 cores\nnetworks: 2\nrate: 0.25\n")
    drive(book, "run", "--profile", "smoke", "--chapter", "first")
    drive(book, "run", "--profile", "smoke", "--chapter", "introduction")
    assert why_stale(run, book.chapters[0]) is None
    assert why_stale(run, book.chapters[2]) == "changed: parameters, inputs"
    drive(book, "run", "--profile", "smoke", "--chapter", "second")
    assert executed_texts(run)["second"] != before


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("1 / 0", "chapter first failed: cell 4: ZeroDivisionError: division by zero"),
        (
            "import warnings\nwarnings.warn('look here')",
            "cell 4 wrote to stderr, and a warning is an error: .*look here",
        ),
        ("import os\nos._exit(7)", "chapter first failed: cell 4: the kernel died"),
        # What the kernel itself says, outside the notebook, is not the chapter's.
        ("import os\nos.write(2, b'Traceback')\n1 / 0", "by zero\n"),
    ],
)
def test_a_failed_chapter_stops_the_run_and_is_set_aside(book, cell, message):
    put(book.root / "book/first.ipynb", chapter("What?", code(cell), code("after = 1")))
    done = drive(book, "run", "--profile", "smoke", "--chapter", "first", "second")
    run = smoke(book)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert re.search(message, done.stderr), done.stderr
    assert (run.folder / "failed/book/first.ipynb").is_file()
    assert not (run.folder / "book").exists()


@pytest.mark.parametrize(("inputs", "last"), [("results/*.txt", "introduction"), ("results/reference/*.nc", "second")])
def test_only_chapters_that_read_what_others_leave_wait_for_them(book, inputs, last):
    put(book.root / "book/introduction.ipynb", chapter("What is this?", nws={"inputs": [inputs]}))
    change(book, "book/second.ipynb", "results/*.txt", "results/reference/*.txt")
    assert [page.name for page in _readers_last(book.chapters, book.root)][-1] == last


def test_a_chapter_must_not_write_what_it_says_it_reads(book):
    put(book.root / "book/first.ipynb", chapter("What?", code(WRITE), nws={"inputs": ["results/*.txt"]}))
    done = drive(book, "run", "--profile", "smoke", "--chapter", "first")
    assert "chapter first failed: the chapter wrote into its own inputs" in done.stderr


def test_terminal_shows_the_line_of_the_library_and_the_page_does_not(book):
    told = "import os, pathlib, time\n"
    told += "pathlib.Path(os.environ['NWS_PROGRESS']).write_text('7 of 9 networks')\ntime.sleep(1.5)"
    put(book.root / "book/first.ipynb", chapter("What?", code(told)))
    put(book.root / "params/smoke/first.yaml", "# about 600 s on 2 cores\nnetworks: 2\n")
    screen, inside = os.openpty()
    process = start(book, "run", "--profile", "smoke", "--chapter", "first", stdout=inside)
    os.close(inside)
    shown = ""
    with contextlib.suppress(OSError):  # how a terminal says that nobody is left at its other end
        while text := os.read(screen, 4096).decode():
            shown += text
    process.communicate()
    os.close(screen)
    assert re.search(
        r"\[1/1\] first · cell 4/4 · 7 of 9 networks · \d+:\d\d elapsed, about \d+:\d\d left in all", shown
    ), shown
    assert "7 of 9" not in json.dumps(executed_texts(smoke(book), "first")["first"][-1])


def test_run_refuses_before_anything_runs(book):
    put(book.root / "params/smoke/second.yaml", "# about 3 s on 2 cores\nnetwork: 2\n")
    done = drive(book, "run", "--profile", "smoke")
    assert done.returncode == 1
    assert "Did you mean 'networks'?" in done.stderr
    assert not smoke(book).folder.exists()


def test_run_folder_that_cannot_be_written_is_named(book):
    (book.root / "_run").write_text("a file where a folder should be")
    done = drive(book, "run", "--profile", "smoke")
    assert done.returncode == 1
    assert "cannot be written" in done.stderr
    assert "Traceback" not in done.stderr


def start(project, *arguments, stdout=subprocess.PIPE):
    command = [sys.executable, "-m", "nwslib.book", *arguments]
    environment = os.environ | {"NWS_HOME": str(project.root)}
    return subprocess.Popen(command, env=environment, stdout=stdout, stderr=subprocess.PIPE, text=True)


def wait_until(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


def test_interruption_leaves_no_kernel_and_no_traceback(book):
    put(book.root / "book/first.ipynb", chapter("What?", code("import time\nprint('begun')\ntime.sleep(600)")))
    process = start(book, "run", "--profile", "smoke", "--chapter", "first")
    work = smoke(book).folder / "working/book/first.ipynb"
    wait_until(lambda: executed.cells_begun(work)[0] == 4)
    second = drive(book, "run", "--profile", "smoke", timeout=30)
    assert "another run of the profile 'smoke' is at work" in second.stderr
    kernels = psutil.Process(process.pid).children(recursive=True)
    assert kernels
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert "goes on from here" in errors
    assert not any(kernel.is_running() for kernel in kernels)


@pytest.fixture
def orphans_come_here():
    """Become the parent of processes whose own has died, as on a desktop, where that is not process 1 either."""
    set_child_subreaper = 36
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(set_child_subreaper, 1, 0, 0, 0)
    yield
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(set_child_subreaper, 0, 0, 0, 0)


@pytest.mark.slow
def test_kill_at_any_moment_ends_in_the_same_book(book, orphans_come_here):
    drive(book, "run", "--profile", "smoke")
    run = smoke(book)
    undisturbed = executed_texts(run)
    shutil.rmtree(run.folder / "results")
    shutil.rmtree(run.folder / "book")
    for seconds in (1.2, 2.6, 4.0):
        process = start(book, "run", "--profile", "smoke")
        time.sleep(seconds)
        kernels = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        process.communicate(timeout=20)  # the pipe closes with the kernel, which holds its other end
        _, alive = psutil.wait_procs(kernels, timeout=10)
        assert not alive
        for page in book.chapters:
            if run.executed(page).exists():
                assert list(executed.faults(json.loads(run.executed(page).read_text()))) == []
    assert drive(book, "run", "--profile", "smoke").returncode == 0
    assert executed_texts(run) == undisturbed


# --- build


@pytest.mark.slow
def test_build_publishes_whole_books_only(book):
    run = smoke(book)
    refused = drive(book, "build", "--profile", "smoke")
    assert refused.returncode == 1
    assert "first: not executed yet" in refused.stderr

    made = drive(book, "make", "--profile", "smoke")
    assert made.returncode == 0, made.stderr
    assert made.stdout.splitlines()[-1].endswith(str(run.folder / "html/index.html"))
    page = (run.folder / "html/book/second.html").read_text()
    assert 'alt="A line that rises to 8."' in page
    assert "A line." in page
    assert "colab.research.google.com/github/toys/book/blob/main/book/second.ipynb" in page.replace("/./", "/")
    assert "find_spec" not in page
    assert "thebe" not in page.replace("sphinx-thebe.css", "")
    assert not list((run.folder / "html/_static/mathjax").glob("tex-svg*"))
    assert "Profile smoke, nwslib" in page

    change(book, "book/reference/notes.md", "# Notes", "# Notes\n\n{ref}`nowhere`\n")
    warned = drive(book, "build", "--profile", "smoke")
    assert warned.returncode == 1
    assert "nowhere" in warned.stderr
    assert (run.folder / "html/book/second.html").read_text() == page

    change(book, "book/reference/notes.md", "{ref}`nowhere`", '<img src="https://example.org/x.png" alt="far">')
    outside = drive(book, "build", "--profile", "smoke")
    assert "book/reference/notes.html would load https://example.org/x.png" in outside.stderr

    change(book, "book/second.ipynb", "What is read?", "What else?")
    stale = drive(book, "build", "--profile", "smoke")
    assert "second: changed: notebook" in stale.stderr


@pytest.mark.slow
def test_a_book_without_a_chapter_is_built_without_its_page(book):
    change(book, "book/reference/notes.md", "# Notes", "# Notes\n\nSee [the second one](../second.ipynb#what-is-read).")
    change(
        book,
        "book/first.ipynb",
        "## Summary",
        "## Summary\\n\\nNext: [reading](second.ipynb), [notes](reference/notes.md).",
    )
    leave_out(book, "second")
    made = drive(book, "make", "--profile", "smoke")
    assert made.returncode == 0, made.stderr
    assert "second" not in made.stdout
    html = smoke(book).folder / "html/book"
    assert not (html / "second.html").exists()
    assert "See the second one." in (html / "reference/notes.html").read_text()
    first = (html / "first.html").read_text()
    assert "Next: reading, <a" in first
    assert "this profile leaves out the chapters second" in first
    assert "second.html" not in first
