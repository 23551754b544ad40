"""The profile `released` on a small release in the true format: converted, then read by chapters."""

import csv
import itertools
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import yaml
from released_files import nws_csv, nws_network, nws_row, variables, vector

from nwslib import meta, snapshots
from nwslib.analysis import results, scores
from nwslib.book.project import Project
from nwslib.book.state import Run
from nwslib.snapshots import released
from nwslib.snapshots.__main__ import main
from nwslib.space import sample, varying

ROOT = Path(__file__).parents[1]
PROFILE = ROOT / "params/released"
CSVS = ["nws_fixed_train.csv", "nws_fixed_test.csv"]


def release(root, networks=40):
    """Write a release in which the activation sets the scale of all weights, and the images the moving means."""
    random = np.random.default_rng(0)
    rows, errors = [], random.uniform(0, 100, (20, 3))
    for number in range(networks):
        row = nws_row(
            f"networks/{number:04d}",
            dataset=("mnist", "cifar10")[number % 2],
            lrate=random.uniform(0.0002, 0.005),
            optimizer=random.integers(2),
            activation=random.integers(2),
        )
        weights = [variables(20 * number + snapshot) for snapshot in range(20)]
        for layer in itertools.chain(*weights):
            layer |= {name: values * np.float32(1 + row["activation"]) for name, values in layer.items()}
            layer |= {"mean": layer["mean"] + np.float32(5 * (number % 2))} if "mean" in layer else {}
        nws_network(root / row["path"], list(map(vector, weights)), errors)
        rows.append(row)
    nws_csv(root / CSVS[0], [row for n, row in enumerate(rows) if n % 10 not in (2, 5, 9)])
    nws_csv(root / CSVS[1], [row for n, row in enumerate(rows) if n % 10 in (2, 5, 9)])
    return root


def paths_in(file):
    with file.open(newline="") as opened:
        return [row["path"] for row in csv.DictReader(opened)]


def split_of(folder):
    table = snapshots.table(folder)
    return {side: table["path"].values[table["split"].values == side].tolist() for side in ("train", "test")}


def test_the_design_of_released_networks_is_their_table_and_nothing_remains(tmp_path):
    folder = tmp_path / "population"
    snapshots.write(folder, released.read_nws(release(tmp_path, 10), CSVS))
    design = snapshots.design_of(folder, "released", 0, seed=0, dataset=["stl10"])
    assert design["path"].values.tolist() == [path for name in CSVS for path in paths_in(tmp_path / name)]
    assert varying(design) == varying(snapshots.table(folder))
    assert "activation" in varying(design)
    assert snapshots.remaining(design, folder).sizes["model"] == 0
    assert snapshots.design_of(folder, "released", 10, seed=0).identical(design)
    with pytest.raises(ValueError, match=r"holds 10 networks, not 3,000. The command that converts them goes on"):
        snapshots.design_of(folder, "released", 3000, seed=0)


def test_released_networks_alike_in_all_but_their_weights_are_told_apart(tmp_path):
    rows = [nws_row(path) for path in ("a", "b")]
    for number, row in enumerate(rows):
        nws_network(tmp_path / row["path"], [vector(variables(number))] * 20, np.full((20, 3), 50.0))
    nws_csv(tmp_path / CSVS[0], rows)
    for name, count in (("both", 2), ("first", 1)):
        networks = list(released.read_nws(tmp_path, CSVS[0]))[:count]
        snapshots.write(tmp_path / name, networks)
    both = snapshots.table(tmp_path / "both")
    assert snapshots.remaining(both, tmp_path / "both").sizes["model"] == 0
    with pytest.raises(ValueError, match="seed must be a whole number, 0 or larger, not -1"):
        snapshots.remaining(both, tmp_path / "first")  # what nobody trained here, nobody can train again


def test_a_design_that_is_not_released_is_drawn(tmp_path):
    drawn = snapshots.design_of(tmp_path, "nws_small", 5, 3, dataset=["digits"])
    assert drawn.identical(sample("nws_small", 5, 3, dataset=["digits"]))
    with pytest.raises(ValueError, match=r"unknown collection 'nws_smal'. Did you mean 'nws_small'\?"):
        snapshots.design_of(tmp_path, "nws_smal", 5, 3)
    with pytest.raises(
        FileNotFoundError, match=r"no released networks in .*: .* read-nws NWS_FOLDER .*/none TRAIN_CSV"
    ):
        snapshots.design_of(tmp_path / "none", "released", 0, 0)


def test_the_command_goes_on_and_leaves_out_what_it_is_told(tmp_path, capsys):
    root, target = release(tmp_path, 10), tmp_path / "population"
    snapshots.write(target, list(released.read_nws(root, CSVS))[:4])
    broken = root / paths_in(root / CSVS[0])[6] / "weights/020.bin"
    np.full(broken.stat().st_size // 8, 0.1).tofile(broken)  # no float32 number
    assert main(["read-nws", str(root), str(target), *CSVS]) == 2
    assert "skip=[6] leaves it out" in capsys.readouterr().err
    assert main(["read-nws", str(root), str(target), *CSVS, "--skip", "6"]) == 0
    assert re.search(r"population: \d networks read, 9 in all \(train 6, test 3\)", capsys.readouterr().out)
    assert snapshots.table(target)["model"].values.tolist() == [0, 1, 2, 3, 4, 5, 7, 8, 9]
    assert main(["read-nws", str(root), str(target), "nws_main_train.csv"]) == 2
    assert "no CSV nws_main_train.csv" in capsys.readouterr().err


def test_every_other_profile_has_every_chapter():
    project = Project(ROOT)
    partial = [name for name in project.profiles if Run(project, name, ROOT / "_run").left_out]
    assert partial == ["released"]
    assert project.pages[0] in Run(project, "released", ROOT / "_run").pages


@pytest.fixture
def book(tmp_path):
    """Two chapters of the book, their profile `released` with readers of smoke size, and a small release."""
    shutil.copy(ROOT / "_config.yml", tmp_path)
    toc = {"format": "jb-book", "root": "book/statistics", "parts": [{"chapters": [{"file": "book/runs"}]}]}
    (tmp_path / "_toc.yml").write_text(yaml.safe_dump(toc))
    for folder in ("book", "params/released"):
        (tmp_path / folder).mkdir(parents=True)
    shared = yaml.safe_load((PROFILE / "statistics.yaml").read_text())  # the population and the folders
    for name in ("statistics", "runs"):
        shutil.copy(ROOT / f"book/{name}.ipynb", tmp_path / "book")
        asked, tiny = (
            yaml.safe_load((ROOT / f"params/{one}/{name}.yaml").read_text()) for one in ("released", "smoke")
        )
        asked |= {parameter: value for parameter, value in tiny.items() if parameter not in shared}
        (tmp_path / f"params/released/{name}.yaml").write_text(f"# about 10 s on 2 cores\n{yaml.safe_dump(asked)}")
    release(tmp_path / "nws")
    return tmp_path


def drive(book):
    environment = os.environ | {"NWS_HOME": str(book), "OMP_NUM_THREADS": "1"}
    environment.pop("NWS_RUN", None)
    command = [sys.executable, "-m", "nwslib.book", "run", "--profile", "released"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_chapters_read_released_networks_with_the_split_of_their_csvs(book):
    refused = drive(book)
    assert refused.returncode == 1
    [command] = re.findall(r"for runs: python -m nwslib.snapshots (.*)", refused.stderr)
    assert main(command.replace("NWS_FOLDER", str(book / "nws")).split()) == 0
    folder = book / "_run/released/populations/nws_fixed"
    before = {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}

    done = drive(book)
    assert done.returncode == 0, done.stderr
    assert {file.name: file.stat().st_mtime_ns for file in folder.iterdir()} == before  # nothing was trained

    sides = [paths_in(book / "nws" / name) for name in CSVS]
    assert split_of(folder) == dict(zip(("train", "test"), sides, strict=True))
    readings = [xr.load_dataset(file) for file in (book / "_run/released/readings").glob("*.nc")]
    assert {reading.attrs["method"].split(",")[0] for reading in readings} == {"statistics", "DMC"}
    paths = snapshots.table(folder).set_index(model="id")["path"]
    assert {tuple(paths.sel(model=one["id"].values).values.tolist()) for one in readings} == {tuple(sides[1])}
    assert {one.attrs["networks_trained_on"] for one in readings} == {len(sides[0])}
    told = results.load(book / "_run/released/results").set_index(row="claim")
    assert set(told["chapter"].values.tolist()) == {"statistics", "runs"}
    assert set(told["parameter_file"].values.tolist()) == {f"params/released/{n}.yaml" for n in ("statistics", "runs")}
    numbers = told.sel(
        row=["activation is read from statistics, last snapshot", "activation is read without batch-norm variables"]
    )
    assert numbers["number"].values.tolist() == [1, 1]
    assert numbers["networks"].values.tolist() == [len(sides[1])] * 2


def test_before_training_moving_statistics_of_released_networks_tell_the_images(tmp_path):
    folder = tmp_path / "population"
    snapshots.write(folder, released.read_nws(release(tmp_path), CSVS))
    networks = snapshots.networks(snapshots.open_population(folder))
    found = {
        kinds: scores.table([meta.read(networks, "dataset", meta.StatisticsReader(snapshot=1, kinds=kinds))])
        for kinds in ("all", "trained")
    }
    assert scores.above_chance(found["all"]) == ["dataset"]
    assert scores.above_chance(found["trained"]) == []
