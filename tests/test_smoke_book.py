"""The book of this repository: every chapter at smoke size, built, and looked at."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nwslib.book.project import Project

ROOT = Path(__file__).parents[1]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
NOTICES = ("[togglebutton]:", "[PST]:")  # the theme, about what it does
BROWSER_ITSELF = "not an origin"  # as its log names the one who asks

pytestmark = pytest.mark.slow


def make(root):
    environment = os.environ | {"NWS_HOME": str(root)}
    environment.pop("NWS_RUN", None)
    command = [sys.executable, "-m", "nwslib.book", "make", "--profile", "smoke"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A copy of the book in a folder of its own, executed and built once: the run folder of this one stays as it is."""
    root = tmp_path_factory.mktemp("repository")
    for folder in filter(lambda folder: (ROOT / folder).exists(), ("book", "examples", "params", "results")):
        shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns(".*"))
    for file in ("_config.yml", "_toc.yml", "references.bib"):
        shutil.copy(ROOT / file, root)
    done = make(root)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    return root


def test_every_page_is_there(made):
    html = made / "_run/smoke/html"
    for page in Project(made).pages:
        assert (html / page.path.with_suffix(".html")).is_file()
    assert not (made / "_run/smoke/failed").exists()


def test_a_second_run_executes_nothing(made):
    again = make(made)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("unchanged") == len(Project(made).chapters)


def view(url, folder):
    """Open a page in Chromium: what its console says, and what it asks of other hosts."""
    log = folder / "requests.json"
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
    command += ["--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={folder / 'browser'}"]
    command += [f"--log-net-log={log}", "--enable-logging=stderr", "--virtual-time-budget=5000", "--dump-dom", url]
    seen = subprocess.run(command, capture_output=True, text=True, check=True)
    events = [event.get("params", {}) for event in json.loads(log.read_text())["events"]]
    asked = {event["url"] for event in events if event.get("initiator", BROWSER_ITSELF) != BROWSER_ITSELF}
    console = [line for line in seen.stderr.splitlines() if "CONSOLE" in line]
    return [line for line in console if not any(notice in line for notice in NOTICES)], asked


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_a_browser_asks_no_other_host_and_has_no_complaint(made, tmp_path):
    control = tmp_path / "control.html"
    control.write_text('<img src="https://example.org/a.png"><script>console.error("seen")</script>')
    console, asked = view(control.as_uri(), tmp_path)
    assert len(console) == 1
    assert asked == {"https://example.org/a.png"}
    for page in Project(made).pages:
        path = made / "_run/smoke/html" / page.path.with_suffix(".html")
        assert view(path.as_uri(), tmp_path) == ([], set()), page.path
