import json
import os
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from nwslib.analysis import glue, results

ROW = results.claim("adam can be told", 0.9, (0.8, 1.0), chance=0.3, networks=60, figure="bars")


def saved(folder, chapter="statistics", claims=(ROW,)):
    return results.save(folder, chapter, claims, device="CPU", parameters={"seed": 3})


def test_claims_survive_the_file_with_what_made_them(tmp_path, monkeypatch):
    monkeypatch.setenv("NWS_PROFILE", "quick")
    saved(tmp_path / "new" / "folder")
    found = results.load(tmp_path / "new" / "folder")
    assert found["claim"].values.tolist() == ["adam can be told"]
    assert (found["low"].item(), found["chance"].item(), found["networks"].item()) == (0.8, 0.3, 60)
    assert np.isnan(found["baseline"].item())
    assert found["commit"].item() == results.commit()
    assert found["parameter_file"].item() == "params/quick/statistics.yaml"
    assert all(found[name].item() for name in ("created_at", "library_version", "device"))
    with xr.open_dataset(tmp_path / "new" / "folder" / "statistics.nc") as file:
        assert json.loads(file.attrs["parameters"]) == {"seed": 3}


def test_chapters_are_collected_and_a_second_run_replaces_the_first(tmp_path):
    for chapter, number in (("runs", 0.1), ("statistics", 0.2), ("runs", 0.3)):
        saved(tmp_path, chapter, [ROW | {"number": number}])
    assert results.load(tmp_path)["number"].values.tolist() == [0.3, 0.2]
    assert sorted(os.listdir(tmp_path)) == ["runs.nc", "statistics.nc"]


def test_a_half_written_chapter_is_no_chapter(tmp_path):
    saved(tmp_path)
    (tmp_path / ".runs.nc").write_text("half of a")
    assert results.load(tmp_path)["chapter"].values.tolist() == ["statistics"]


def test_a_table_gives_one_claim_per_reading():
    table = xr.Dataset(
        {
            "property": ("reading", ["batch_size", "optimizer"]),
            "method": ("reading", ["SVM", "SVM"]),
            "networks": ("reading", [60, 60]),
            "accuracy": ("reading", [0.4, 0.8]),
            "low": ("reading", [0.3, 0.7]),
            "high": ("reading", [0.5, 0.9]),
            "chance": ("reading", [0.25, 0.33]),
        }
    )
    first, second = results.claims_of(table, "bars")
    assert first["claim"] == "batch size from SVM"
    assert (second["number"], second["low"], second["chance"]) == (0.8, 0.7, 0.33)
    regression = table.rename(accuracy="r2").drop_vars("chance")
    assert results.claims_of(regression, "bars")[0] | {} == {**first, "unit": "R2", "chance": 0.0}


def test_a_table_of_a_simple_reader_is_the_baseline_of_the_properties_that_it_has():
    columns = {"property": ["batch_size", "optimizer"], "networks": [60, 60], "accuracy": [0.4, 0.8]}
    columns |= {"method": ["DMC", "DMC"], "low": [0.3, 0.7], "high": [0.5, 0.9], "chance": [0.25, 0.33]}
    table = xr.Dataset({name: ("reading", values) for name, values in columns.items()})
    simple = table.isel(reading=[1]).assign(accuracy=("reading", [0.6]))
    first, second = results.claims_of(table, "bars", baseline=simple)
    assert np.isnan(first["baseline"])
    assert second["baseline"] == 0.6
    with pytest.raises(ValueError, match="has no 'accuracy': it is of another measure"):
        results.claims_of(table, "bars", baseline=simple.rename(accuracy="r2"))
    with pytest.raises(ValueError, match="two readings of one property"):
        results.claims_of(table, "bars", baseline=simple.isel(reading=[0, 0]))


def test_the_commit_is_that_of_the_repository_and_empty_without_one(tmp_path, monkeypatch):
    root = Path(results.__file__).parents[2]
    if (root / ".git").exists():
        head = subprocess.run(["git", "-C", root, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
        assert results.commit().removesuffix("-dirty") == head.stdout[:12]
    monkeypatch.setenv("PATH", str(tmp_path))  # no git
    assert results.commit() == ""
    monkeypatch.undo()
    monkeypatch.setattr(results, "__file__", str(tmp_path / "nwslib" / "analysis" / "results.py"))
    assert results.commit() == ""


def test_an_archive_is_shown_where_there_is_one_but_not_to_the_run_that_makes_it(tmp_path, monkeypatch):
    assert results.archived(tmp_path / "none") is None
    saved(tmp_path)
    assert results.archived(tmp_path)["claim"].values.tolist() == ["adam can be told"]
    monkeypatch.setenv("NWS_PROFILE", "reference")
    assert results.archived(tmp_path) is None


def test_the_page_shows_a_reference_run_below_this_run(tmp_path):
    other = results.claim("only now", 0.5, (0.4, 0.6), networks=5, figure="none")
    rare = results.claim("only then", 0.2, (0.1, 0.3), networks=7, figure="none")
    saved(tmp_path / "live", claims=[ROW | {"baseline": 0.77}, other])
    saved(tmp_path / "archive", claims=[rare, ROW | {"number": 0.95}])
    live, archive = results.load(tmp_path / "live"), results.archived(tmp_path / "archive")
    html = results.page(live, archive).to_html()
    body = re.findall(r"<tr>(.*?)</tr>", html[html.index("<tbody>") :], re.DOTALL)
    rows = [re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row) for row in body]
    first, second, third, fourth = rows
    assert first[:5] == ["adam can be told", "this run", "0.9 (0.8 to 1)", "0.30", "0.77"]
    assert second[:4] == ["reference run", "0.95 (0.8 to 1)", "0.30", ""]  # the claim is written once, for both
    assert third[:3] == ["only now", "this run", "0.5 (0.4 to 0.6)"]
    assert fourth[:3] == ["only then", "reference run", "0.2 (0.1 to 0.3)"]
    assert html.count('rowspan="2"') == 1


def test_text_of_a_file_is_shown_and_not_obeyed(tmp_path):
    saved(tmp_path, claims=[ROW | {"claim": "<script>x</script>", "unit": "<b>", "figure": '"><img src=x>'}])
    shown = results.page(results.load(tmp_path)).to_html()
    assert "<script>x" not in shown
    assert "<b>" not in shown
    assert "<img" not in shown
    assert "&lt;script&gt;" in shown


def test_nothing_to_save_and_nothing_to_load_say_so(tmp_path):
    with pytest.raises(ValueError, match="chapter 'runs' claims nothing"):
        saved(tmp_path, "runs", [])
    with pytest.raises(FileNotFoundError, match="run the chapters before this one"):
        results.load(tmp_path)


def test_glue_takes_formatted_text_only():
    with pytest.raises(TypeError, match="best must be formatted text, not float64"):
        glue(best=np.float64(0.5))


def test_glue_puts_text_where_the_page_finds_it(monkeypatch):
    seen = {}
    monkeypatch.setattr("myst_nb.glue", lambda name, text, display: seen.update({name: (text, display)}))
    glue(best="93 %", worst="12 %")
    assert seen == {"best": ("93 %", False), "worst": ("12 %", False)}


def test_glue_prints_where_there_is_no_book(monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    glue(best="93 %", worst="12 %")
    assert capsys.readouterr().out == "best = 93 %, worst = 12 %\n"


def test_the_page_shows_number_interval_chance_figure_and_parameter_file(tmp_path, monkeypatch):
    monkeypatch.setenv("NWS_PROFILE", "quick")
    exact = results.claim("networks differ by", 0, (0, 0), networks=6, figure="none", unit="weight")
    saved(tmp_path, claims=[ROW, exact])
    html = results.page(results.load(tmp_path)).to_html()
    for text in (
        "adam can be told",
        "0.9 (0.8 to 1)",
        "0.30",
        "60",
        "params/quick/statistics.yaml",
        "0 (0 to 0) weight",
    ):
        assert text in html
    assert '<a href="statistics.html#bars">bars</a>' in html
    assert 'href="statistics.html#none"' not in html
    assert "nan" not in html


def test_tables_of_the_reference_run_stand_beside_those_of_this_run(tmp_path, monkeypatch):
    table = xr.Dataset({"accuracy": ("reading", [0.5, 0.7]), "above_chance": ("reading", [False, True])})
    results.save(tmp_path, "runs", [ROW], device="CPU", parameters={}, tables={"how-much": table})
    live = table + 0.1
    shown = results.beside("runs", "how-much", live, tmp_path)
    assert list(shown) == ["this run", "reference run"]
    xr.testing.assert_identical(shown["this run"], live)
    xr.testing.assert_identical(shown["reference run"], table)
    assert list(results.beside("runs", "other", live, tmp_path)) == ["this run"]
    assert list(results.beside("statistics", "how-much", live, tmp_path)) == ["this run"]
    assert results.load(tmp_path).sizes == {"row": 1}
    monkeypatch.setenv("NWS_PROFILE", "reference")
    assert list(results.beside("runs", "how-much", live, tmp_path)) == ["this run"]
