import json
import os

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
