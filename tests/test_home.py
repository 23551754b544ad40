from pathlib import Path

import nwslib


def test_paths_start_at_the_variable_else_at_the_repository_else_here(tmp_path, monkeypatch):
    monkeypatch.delenv("NWS_RUN", raising=False)
    monkeypatch.setenv("NWS_HOME", str(tmp_path))
    assert nwslib.resolve("a/b") == tmp_path / "a" / "b"
    monkeypatch.delenv("NWS_HOME")
    repository = Path(__file__).parents[1]
    monkeypatch.chdir(repository / "book")
    assert nwslib.home() == repository
    monkeypatch.chdir(tmp_path)
    assert nwslib.home() == repository  # that of the library
    monkeypatch.setattr(nwslib, "__file__", str(tmp_path / "site-packages" / "nwslib" / "__init__.py"))
    assert nwslib.home() == tmp_path


def test_of_two_repositories_around_a_folder_the_inner_one_is_home(tmp_path, monkeypatch):
    monkeypatch.delenv("NWS_HOME", raising=False)
    for repository in (tmp_path, tmp_path / "inner"):
        (repository / "params").mkdir(parents=True)
        (repository / "_toc.yml").touch()
    monkeypatch.chdir(tmp_path / "inner")
    assert nwslib.home() == tmp_path / "inner"


def test_an_absolute_path_stays(tmp_path):
    assert nwslib.resolve(tmp_path) == tmp_path


def test_the_run_folder_may_be_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("NWS_RUN", str(tmp_path / "elsewhere"))
    assert nwslib.resolve("_run/quick/results") == tmp_path / "elsewhere" / "quick" / "results"
    assert nwslib.resolve("data") == nwslib.home() / "data"
    monkeypatch.delenv("NWS_RUN")
    assert nwslib.resolve("_run/quick") == nwslib.home() / "_run" / "quick"
