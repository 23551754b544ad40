import io
import sys

from nwslib.population import progress


def test_a_line_reaches_the_driver_whole_and_an_empty_one_clears_it(tmp_path, monkeypatch):
    channel = tmp_path / "progress"
    monkeypatch.setenv("NWS_PROGRESS", str(channel))
    progress.report("12 of 240 networks", every=0)
    assert channel.read_text() == "12 of 240 networks"
    progress.report("")
    assert channel.read_text() == ""
    assert [path.name for path in tmp_path.iterdir()] == ["progress"]


def test_lines_that_come_too_soon_are_dropped(tmp_path, monkeypatch):
    channel = tmp_path / "progress"
    monkeypatch.setenv("NWS_PROGRESS", str(channel))
    progress.report("first", every=0)
    progress.report("second", every=1000)
    assert channel.read_text() == "first"


def test_a_watcher_that_is_gone_stops_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("NWS_PROGRESS", str(tmp_path / "gone" / "progress"))
    progress.report("12 of 240 networks", every=0)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_written_where_nobody_watches(monkeypatch):
    monkeypatch.delenv("NWS_PROGRESS", raising=False)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    progress.report("12 of 240 networks", every=0)
    assert sys.stderr.getvalue() == ""


def test_a_terminal_shows_one_line(monkeypatch):
    monkeypatch.delenv("NWS_PROGRESS", raising=False)
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    progress.report("1 of 2", every=0)
    progress.report("2 of 2", every=0)
    assert terminal.getvalue().count("\r") == 2
    assert "\n" not in terminal.getvalue()
