import itertools
import json
import os
import pickle
import re
import subprocess
import sys
import tracemalloc
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from released_files import (
    NWS_COLUMNS,
    TINY,
    ZOO_EPOCHS,
    ZOO_TENSORS,
    forward,
    nws_csv,
    nws_folder,
    nws_network,
    nws_row,
    variables,
    vector,
    zoo_folder,
    zoo_rows,
)

from nwslib import snapshots
from nwslib.population import networks, train
from nwslib.snapshots import cnn, fake, layout_of, released
from nwslib.space import sample


@pytest.fixture
def release(tmp_path):
    """Give the folder of a small release: two training networks, one test network, two architectures."""
    rows = [
        nws_row("0001"),
        nws_row("0002", dataset="stl10", augmentation=True, optimizer=2, activation=3, initialization=0, width_fc=9),
        nws_row("0003", lrate=0.1 + 0.2, batch_size=256),
    ]
    held = nws_folder(tmp_path, rows)
    nws_csv(tmp_path / "nws_fixed_train.csv", rows[:2])
    nws_csv(tmp_path / "nws_fixed_test.csv", rows[2:])
    return tmp_path, rows, held


def values(one, name):
    return one[name].item()


# ---- the NWS release ----


@pytest.mark.parametrize("activation", ["relu", "elu", "sigmoid", "tanh"])
@pytest.mark.parametrize(("depth_conv", "depth_fc", "filter_size"), [(3, 2, 3), (4, 3, 5), (5, 4, 3)])
def test_a_released_network_rebuilt_computes_what_its_variables_say(
    tmp_path, activation, depth_conv, depth_fc, filter_size
):
    shape = {
        "filter_size": filter_size,
        "depth_conv": depth_conv,
        "depth_fc": depth_fc,
        "width_conv": 2,
        "width_fc": 16,
    }
    code = ["relu", "elu", "sigmoid", "tanh"].index(activation)
    nws_csv(tmp_path / "train.csv", [nws_row("a", activation=code, **shape)])
    layers = variables(5, **shape)
    nws_network(tmp_path / "a", [vector(layers)] * 20, np.full((20, 3), 50.0))
    [one] = released.read_nws(tmp_path, "train.csv")
    module = networks.to_module(layout_of(one), one["weights"].values[0, -1], activation=values(one, "activation"))
    images = np.random.default_rng(0).random((3, 32, 32, 3))
    found = module.double()(torch.from_numpy(images).permute(0, 3, 1, 2)).detach().numpy()
    np.testing.assert_allclose(found, forward(layers, depth_conv, images, activation), rtol=1e-6, atol=1e-6)


def test_codes_become_names_and_percentages_accuracies(release):
    root, rows, held = release
    first, second = released.read_nws(root, "nws_fixed_train.csv")
    told = {
        name: values(second, name) for name in ("dataset", "augmentation", "optimizer", "activation", "initialization")
    }
    assert told == {
        "dataset": "stl10",
        "augmentation": "on",
        "optimizer": "momentum",
        "activation": "tanh",
        "initialization": "constant",
    }
    assert {name: values(second, name) for name in TINY} == {name: rows[1][name] for name in TINY}
    assert [values(second, name) for name in ("image_size", "decay", "seed", "path")] == [32, 1.0, -1, "0002"]
    errors = np.fromfile(root / "0002" / "error.bin").reshape(-1, 5)
    for column, name in enumerate(("train_accuracy", "valid_accuracy", "test_accuracy"), start=1):
        np.testing.assert_allclose(second[f"curve_{name}"].values[0], 1 - errors[:, column] / 100, rtol=1e-5)
    kept = [0, 1, 2, 3, 5, 6, 7, 8, 9, 10, 12, 13, 14, 15, 16, 17, 19, 20, 21, 22]  # of 23 evaluations
    assert second["epoch"].values[0].tolist() == kept
    np.testing.assert_array_equal(second["test_accuracy"], second["curve_test_accuracy"].values[:, kept])
    assert [values(second, name) for name in ("n_exports", "steps", "seconds")] == [23, 22 * 7, 12.5]
    np.testing.assert_array_equal(first["weights"].values[0], held["0001"])
    assert json.loads(first.attrs["not_measured"]) == ["train_loss"]


@pytest.mark.parametrize(("true", "false"), [(True, False), (1, 0), ("TRUE", "FALSE")])
def test_switches_may_be_words_or_digits(tmp_path, true, false):
    rows = [nws_row("a", batch_norm=true, augmentation=true), nws_row("b", batch_norm=true, augmentation=false)]
    nws_folder(tmp_path, rows)
    nws_csv(tmp_path / "test.csv", rows)
    assert [values(one, "augmentation") for one in released.read_nws(tmp_path, "test.csv")] == ["on", "off"]


def test_columns_are_read_by_name(tmp_path):
    row = nws_row("a", optimizer=1, unheard_of="x")
    nws_folder(tmp_path, [row])
    nws_csv(tmp_path / "train.csv", [row], columns=["unheard_of", *reversed(NWS_COLUMNS)])
    [one] = released.read_nws(tmp_path, "train.csv")
    assert values(one, "optimizer") == "rmsprop"


def test_training_and_test_networks_make_one_population(release, tmp_path_factory):
    root, _, held = release
    folder = tmp_path_factory.mktemp("population")
    files = {"train": "nws_fixed_train.csv", "test": root / "nws_fixed_test.csv"}
    assert snapshots.write(folder, released.read_nws(root, files)) == 3
    table = snapshots.table(folder)
    assert table["model"].values.tolist() == [0, 1, 2]
    assert table["split"].values.tolist() == ["train", "train", "test"]
    assert table["path"].values.tolist() == ["0001", "0002", "0003"]
    for node in snapshots.open_population(folder).children.values():
        snapshots.validate(node.to_dataset())
        for one in node.to_dataset().transpose("model", ...).groupby("model"):
            np.testing.assert_array_equal(one[1]["weights"].values[0], held[values(one[1], "path")])
    assert snapshots.write(folder, released.read_nws(root, files)) == 0


def test_the_split_is_told_by_name_argument_or_mapping(release):
    root, _, _ = release
    csvs = ["nws_fixed_train.csv", "nws_fixed_test.csv"]
    assert [values(one, "split") for one in released.read_nws(root, csvs)] == ["train", "train", "test"]
    (root / "nws_fixed_test.csv").rename(root / "all.csv")
    with pytest.raises(ValueError, match=r"all\.csv: its name does not end in train or test"):
        released.read_nws(root, "all.csv")
    [one] = released.read_nws(root, "all.csv", split="train")
    assert values(one, "split") == "train"
    with pytest.raises(ValueError, match=r"unknown split 'tset'\. Did you mean 'test'"):
        released.read_nws(root, {"tset": "all.csv"})


def test_several_readings_do_not_collide(release):
    root, _, _ = release
    found = [*released.read_nws(root, "nws_fixed_train.csv"), *released.read_nws(root, "nws_fixed_test.csv", first=2)]
    assert [values(one, "model") for one in found] == [0, 1, 2]
    with pytest.raises(ValueError, match="the first network has a number from 0 on, not -1"):
        released.read_nws(root, "nws_fixed_train.csv", first=-1)
    places = [(layout_of(one).name, values(one, "shard")) for one in found]
    assert len(set(places)) == 3
    again = released.read_nws(root, ["nws_fixed_train.csv", "nws_fixed_test.csv"], skip=np.array([0, 2]))
    assert [values(one, "path") for one in again] == ["0002"]


def test_networks_are_read_one_at_a_time(tmp_path):
    rows = [nws_row(f"{number}", width_fc=64) for number in range(30)]
    nws_folder(tmp_path, rows)
    nws_csv(tmp_path / "train.csv", rows)
    size = 20 * 8 * (rows[0]["weightn_conv"] + rows[0]["weightn_fc"])
    tracemalloc.start()
    for one in released.read_nws(tmp_path, "train.csv"):
        assert one.sizes["model"] == 1
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * size


FAULTS = {
    "text": ({"lrate": "fast"}, "column lrate: a number is needed, not 'fast'"),
    "rate": ({"lrate": -1}, "column lrate: a positive number is needed"),
    "infinite": ({"lrate": "inf"}, "column lrate: a positive number is needed"),
    "fraction": ({"batch_size": 32.5}, "column batch_size: a whole number from 1 on is needed, not '32.5'"),
    "empty": ({"depth_fc": ""}, "column depth_fc: a whole number from 1 on is needed"),
    "shallow": ({"depth_conv": 2}, "column depth_conv: a whole number from 3 on is needed"),
    "code": ({"optimizer": 3}, r"column optimizer: '3' is no code. Known: 0 adam, 1 rmsprop, 2 momentum"),
    "word": ({"activation": "relu"}, "column activation: 'relu' is no code"),
    "switch": ({"augmentation": "maybe"}, "column augmentation: True, False, 1 or 0 is needed, not 'maybe'"),
    "no norm": ({"batch_norm": False}, "column batch_norm: every network of the study has batch norm"),
    "image set": ({"dataset": "minst"}, "column dataset: unknown image set 'minst'. Did you mean 'mnist'"),
    "convolution": ({"weightn_conv": 5}, r"column weightn_conv: 5 \+ \d+ weights, but such a network has \d+"),
    "dense": ({"weightn_fc": 5}, "column weightn_fc: .* weights, but such a network has"),
    "missing": ({"path": "nowhere"}, "column path: no folder .*nowhere"),
    "no path": ({"path": ""}, "column path: no file .*001.bin"),
    "above": ({"path": "../elsewhere"}, "column path: .* leaves the folder"),
    "zero byte": ({"path": "a\0b"}, "column path: .* is no path"),
    "twice": ({"path": "0001"}, r"column path: '0001' comes twice: .*row 1 \(line 2\)"),
    "twice, disguised": ({"path": "./0001/../0001"}, "column path: .* comes twice"),
}


@pytest.mark.parametrize(("change", "message"), FAULTS.values(), ids=list(FAULTS))
def test_a_bad_row_is_named_before_any_network_is_read(release, change, message):
    root, rows, _ = release
    nws_csv(root / "train.csv", [rows[0], rows[2] | change])
    with pytest.raises((ValueError, FileNotFoundError), match=rf"train\.csv, row 2 \(line 3\), {message}"):
        released.read_nws(root, "train.csv")


def cut(root):
    with (root / "0003/weights/007.bin").open("r+b") as file:
        file.truncate(800)


def link_out(root):
    outside = root.parent / f"{root.name}-outside"
    (root / "0003").rename(outside)
    (root / "0003").symlink_to(outside)


def link_one_file_out(root):
    outside = root.parent / f"{root.name}-outside.bin"
    (root / "0003/weights/020.bin").rename(outside)
    (root / "0003/weights/020.bin").symlink_to(outside)


def link_weights_out(root):
    outside = root.parent / f"{root.name}-outside"
    (root / "0003/weights").rename(outside)
    (root / "0003/weights").symlink_to(outside)


def folder_for_file(root):
    (root / "0003/error.bin").unlink()
    (root / "0003/error.bin").mkdir()


BROKEN = {
    "short weights": (cut, "007.bin has 800 bytes, but .* weights take"),
    "no weights": (lambda root: (root / "0003/weights/020.bin").unlink(), "no file .*020.bin"),
    "no errors": (lambda root: (root / "0003/error.bin").unlink(), "no file .*error.bin"),
    "short errors": (lambda root: (root / "0003/error.bin").write_bytes(bytes(45)), "error.bin has 45 bytes, but 23"),
    "short facts": (lambda root: (root / "0003/stat.bin").write_bytes(bytes(8)), "stat.bin has 8 bytes"),
    "no evaluations": (lambda root: (root / "0003/stat.bin").write_bytes(bytes(32)), "error.bin has 920 bytes, but 0"),
    "link out": (link_out, "leaves the folder"),
    "link to one file": (link_one_file_out, "020.bin leaves the folder"),
    "link to weights": (link_weights_out, "0003/weights leaves the folder"),
    "folder": (folder_for_file, "error.bin is not a file"),
}


@pytest.mark.parametrize(("damage", "message"), BROKEN.values(), ids=list(BROKEN))
def test_a_bad_file_is_named_with_its_row_before_any_network_is_read(release, damage, message):
    root, _, _ = release
    damage(root)
    with pytest.raises((ValueError, FileNotFoundError), match=rf"row 1 \(line 2\), column path: .*{message}"):
        released.read_nws(root, "nws_fixed_test.csv")


def test_links_within_the_folder_are_followed(release):
    root, _, held = release
    (root / "0003").rename(root / "moved")
    (root / "0003").symlink_to(root / "moved")
    link = root.parent / f"{root.name}-link"
    link.symlink_to(root)
    [one] = released.read_nws(link, "nws_fixed_test.csv")
    np.testing.assert_array_equal(one["weights"].values[0], held["0003"])


def test_an_absolute_path_must_lie_in_the_folder_too(release, tmp_path_factory):
    root, rows, _ = release
    nws_csv(root / "train.csv", [rows[0] | {"path": str(root / "0001")}])
    assert len([*released.read_nws(root, "train.csv")]) == 1
    with pytest.raises(ValueError, match="leaves the folder"):
        released.read_nws(tmp_path_factory.mktemp("other"), root / "train.csv")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dataset,lrate\nmnist,0.1\n", "column batch_size is missing"),
        ("", "column dataset is missing"),
        (",".join([*NWS_COLUMNS, "path"]) + "\n", "column path comes twice"),
        (",".join(NWS_COLUMNS) + "\n\nmnist,0.1\n", r"row 1 \(line 3\): 2 cells, but the header has 16"),
        (",".join(NWS_COLUMNS) + '\n"mnist', "truncated, or not a CSV"),
        (b"\xff\xfe\x00", "truncated, or not a CSV"),
    ],
)
def test_a_file_that_is_no_such_csv_is_refused(tmp_path, text, message):
    (tmp_path / "train.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=rf"train\.csv.*{message}"):
        released.read_nws(tmp_path, "train.csv")


def replace(file, place, value):
    numbers = np.fromfile(file)
    numbers[place] = value
    numbers.tofile(file)


def test_weights_that_are_no_float32_numbers_are_refused_or_rounded(release):
    root, _, held = release
    replace(root / "0003/weights/004.bin", [0, 5], [1 / 3, 1e-60])
    with pytest.raises(ValueError, match=r"row 1 .*004.bin: 2 of \d+ weights are no float32 numbers"):
        next(released.read_nws(root, "nws_fixed_test.csv"))
    [one] = released.read_nws(root, "nws_fixed_test.csv", exact=False)
    assert one["weights"].values[0, 3, [0, 5, 6]].tolist() == [np.float32(1 / 3), 0, held["0003"][3, 6]]
    replace(root / "0003/weights/004.bin", 0, 1e300)
    with pytest.raises(ValueError, match=r"004.bin: 1e\+300 is too large for float32"):
        next(released.read_nws(root, "nws_fixed_test.csv", exact=False))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_network_whose_weights_are_not_finite_has_diverged(release, value):
    root, _, _ = release
    replace(root / "0003/weights/020.bin", 3, value)
    [one] = released.read_nws(root, "nws_fixed_test.csv")
    assert values(one, "status") == "diverged"
    snapshots.validate(one)


@pytest.mark.parametrize(("epochs", "status"), [(22, "converged"), (1000, "stopped")])
def test_a_network_that_used_all_epochs_was_stopped(release, epochs, status):
    root, _, _ = release
    replace(root / "0003/stat.bin", 2, epochs)
    [one] = released.read_nws(root, "nws_fixed_test.csv")
    assert values(one, "status") == status


@pytest.mark.parametrize("value", [101, -1, np.nan])
def test_errors_that_are_no_percentages_are_refused_with_their_row(release, value):
    root, _, _ = release
    replace(root / "0003/error.bin", 3, value)
    with pytest.raises(ValueError, match=r"row 1 .*error.bin: an error is a percentage .*\. skip=\[0\] leaves it out"):
        next(released.read_nws(root, "nws_fixed_test.csv"))
    assert [*released.read_nws(root, "nws_fixed_test.csv", skip=[0])] == []


def test_rounding_at_the_ends_of_the_scale_is_forgiven(release):
    root, _, _ = release
    replace(root / "0003/error.bin", [2, 3], [100 + 1e-12, -1e-12])
    [one] = released.read_nws(root, "nws_fixed_test.csv")
    assert (one["curve_valid_accuracy"].values[0, 0], one["curve_test_accuracy"].values[0, 0]) == (0, 1)


# ---- and out again ----


@pytest.fixture
def population(release, tmp_path_factory):
    """Give the folder of a population of the study's family."""
    root, _, _ = release
    folder = tmp_path_factory.mktemp("population")
    snapshots.write(folder, released.read_nws(root, ["nws_fixed_train.csv", "nws_fixed_test.csv"]))
    return folder


def same(first, second, names):
    return all(first[name].values.tobytes() == second[name].values.tobytes() for name in names)


def test_an_exported_population_comes_back_bit_for_bit(population, tmp_path_factory):
    target = tmp_path_factory.mktemp("export")
    assert released.export_nws(population, target) == 3
    again = {values(one, "model"): one for one in released.read_nws(target, ["nws_train.csv", "nws_test.csv"])}
    for node in snapshots.open_population(population).children.values():
        for position in range(node.sizes["model"]):
            one = node.to_dataset().isel(model=[position])
            other = again.pop(values(one, "model"))
            curves = [name for name in one.data_vars if "accuracy" in name]
            assert same(one, other, ["weights", "epoch", *curves])
            columns = {"dataset", "learning_rate", "batch_size", "augmentation", "optimizer", "activation", "decay"}
            columns |= {"initialization", "image_size", "split", "n_exports", "steps", "seconds", *TINY}
            assert all(values(one, name) == values(other, name) for name in columns)
            assert layout_of(one) == layout_of(other)
    assert not again


def test_the_export_is_what_the_scripts_of_the_study_read(population, tmp_path_factory, monkeypatch):
    target = tmp_path_factory.mktemp("export")
    released.export_nws(population, target)
    monkeypatch.chdir(target)
    table = pd.read_csv("nws_train.csv")
    assert list(table) == NWS_COLUMNS
    assert table["augmentation"].tolist() == [False, True]
    assert table["optimizer"].tolist() == [0, 2]
    for _, row in table.iterrows():
        errors = np.fromfile(f"{row['path']}/error.bin").reshape(-1, 5)
        evaluations, last, _, _ = np.fromfile(f"{row['path']}/stat.bin")
        assert len(errors) == evaluations
        assert errors[[0, -1], 0].tolist() == [0, last]
        smooth = errors[0, 2]
        for place, error in enumerate(errors[:, 2]):
            smooth = smooth if place == 0 else (smooth + error) / 2
            assert errors[place, 4] == pytest.approx(smooth, abs=1e-4)
        assert sorted(os.listdir(f"{row['path']}/weights")) == [f"{number:03d}.bin" for number in range(1, 21)]
        for number in range(1, 21):
            size = np.fromfile(f"{row['path']}/weights/{number:03d}.bin", "double").size
            assert size == row["weightn_conv"] + row["weightn_fc"]


def test_networks_trained_here_survive_the_way_out_and_back(bars, tmp_path):
    design = sample("nws_small", 2, seed=0, dataset="digits")
    snapshots.write(tmp_path / "population", train(design, bars, device="cpu", max_epochs=3, progress=False))
    assert released.export_nws(tmp_path / "population", tmp_path / "out") == 2
    trained = snapshots.networks(snapshots.open_population(tmp_path / "population"))
    found = list(released.read_nws(tmp_path / "out", ["nws_train.csv", "nws_test.csv"]))
    for one in found:
        own = trained.isel(model=[int(values(one, "path").rpartition("/")[2])])
        assert values(one, "image_size") == 16
        assert np.isnan(one["curve_train_accuracy"].values[0, 0])
        curves = [name for name in own.data_vars if "accuracy" in name]
        assert same(own, one, ["weights", "epoch", "learning_rate", "n_exports", "steps", "seconds", *curves])
        steps = np.fromfile(tmp_path / "out" / values(one, "path") / "error.bin").reshape(-1, 5)[:, 0]
        assert np.diff(steps).tolist() == [values(own, "steps") / 2] * 2
    assert len(found) == 2


def test_what_is_not_known_stays_unknown(population, tmp_path):
    [node, *_] = snapshots.open_population(population).children.values()
    one = node.to_dataset().isel(model=[0]).load()
    one["steps"][:], one["seconds"][:] = -1, np.nan
    snapshots.write(tmp_path / "population", iter([one]))
    released.export_nws(tmp_path / "population", tmp_path / "out")
    [again] = released.read_nws(tmp_path / "out", "nws_train.csv")
    assert np.isnan(np.fromfile(tmp_path / "out" / values(again, "path") / "stat.bin")[1])
    assert values(again, "steps") == -1
    assert np.isnan(values(again, "seconds"))


def test_the_size_of_the_images_follows_from_the_number_of_weights(tmp_path):
    shape = {"filter_size": 3, "depth_conv": 3, "depth_fc": 2, "width_conv": 1, "width_fc": 8}
    nws_csv(tmp_path / "train.csv", [nws_row("a", dataset="digits", image_size=16)])
    nws_network(tmp_path / "a", [vector(variables(1, image_size=16))] * 20, np.full((20, 3), 50.0))
    [one] = released.read_nws(tmp_path, "train.csv")
    assert values(one, "image_size") == 16
    assert layout_of(one) == cnn.layout(16, **shape)


def test_networks_that_diverged_are_not_exported(release, tmp_path_factory):
    root, _, _ = release
    replace(root / "0001/weights/020.bin", 3, np.nan)
    folder, target = tmp_path_factory.mktemp("population"), tmp_path_factory.mktemp("export")
    snapshots.write(folder, released.read_nws(root, "nws_fixed_train.csv"))
    assert released.export_nws(folder, target) == 1
    assert [values(one, "model") for one in released.read_nws(target, "nws_train.csv")] == [0]
    assert pd.read_csv(target / "nws_train.csv")["path"].tolist() == ["networks/00001"]


def test_only_the_study_s_family_is_exported_and_only_into_a_new_folder(population, tmp_path):
    snapshots.write(tmp_path / "fake", fake.population(sample("nws_small", 2, seed=0)))
    with pytest.raises(ValueError, match="do not stand in the order of the study's family"):
        released.export_nws(tmp_path / "fake", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    snapshots.write(tmp_path / "inr", released.read_inr(inr_folder(tmp_path / "set")))
    with pytest.raises(ValueError, match="is not of the study's family"):
        released.export_nws(tmp_path / "inr", tmp_path / "out")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/notes.txt").touch()
    with pytest.raises(FileExistsError, match="is not empty: choose a new folder"):
        released.export_nws(population, tmp_path / "full")


# ---- the Small CNN Zoo ----


def test_checkpoints_of_the_small_cnn_zoo_become_snapshots(tmp_path):
    rows = list(zoo_rows(5))
    # The table need not be in order.
    order = np.random.default_rng(1).permutation(len(rows))
    rows = [rows[place] for place in order]
    held = zoo_folder(tmp_path / "zoo", rows)
    found = {values(one, "path"): one for one in released.read_small_cnn_zoo(tmp_path / "zoo", "fashion")}
    assert list(found) == list(dict.fromkeys(row["modeldir"] for row in rows))
    for row, tensors in zip(rows, held, strict=True):
        one = found[row["modeldir"]]
        snapshots.validate(one)
        snapshot = one.isel(model=0, snapshot=ZOO_EPOCHS.index(row["step"]))
        named = layout_of(one).split(snapshot["weights"].values)
        for (name, values_), (own, tensor) in zip(tensors.items(), named.items(), strict=True):
            assert name.rpartition("/")[2] == f"{own.rpartition('.')[2]}:0"
            np.testing.assert_array_equal(tensor, values_)
        for name in ("train_accuracy", "test_accuracy", "train_loss"):
            assert snapshot[name].item() == np.float32(row[name])
        for name in ("activation", "optimizer", "learning_rate", "dropout", "l2reg", "train_fraction", "init_std"):
            assert values(one, name) == row[f"config.{name}"]
        assert values(one, "initialization") == row["config.w_init"]
    assert [values(one, "dataset") for one in found.values()] == ["fashion"] * 5
    assert one["epoch"].values.tolist() == [list(ZOO_EPOCHS)]
    assert json.loads(one.attrs["properties"])["l2reg"]["type"] == "float64"


def test_axes_of_the_zoo_are_labelled_as_tensorflow_stores_them(tmp_path):
    zoo_folder(tmp_path / "zoo", list(zoo_rows(1)))
    [one] = released.read_small_cnn_zoo(tmp_path / "zoo", "fashion_mnist")
    layout = layout_of(one)
    layers = list(dict.fromkeys(tensor.layer for tensor in layout.tensors))
    assert layers == ["conv1", "conv2", "conv3", "output"]
    labels = layout.labels()
    kernel = (labels["layer"] == "conv2") & (labels["kind"] == "kernel")
    place = np.ravel_multi_index((1, 2, 5, 7), (3, 3, 16, 16))
    assert [labels[name][kernel][place] for name in ("row", "column", "source", "unit")] == [1, 2, 5, 7]


def test_a_zoo_written_to_a_population_is_valid(tmp_path):
    rows = list(zoo_rows(4))
    for row in rows[:9]:
        row["config.init_std"] = ""  # as pandas writes NaN
    zoo_folder(tmp_path / "zoo", rows)
    assert snapshots.write(tmp_path / "population", released.read_small_cnn_zoo(tmp_path / "zoo", "fashion")) == 4
    snapshots.verify(tmp_path / "population")
    table = snapshots.table(tmp_path / "population")
    assert table["num_units"].values.tolist() == [16] * 4
    assert np.isnan(table["init_std"].values).tolist() == [True, False, False, False]
    assert snapshots.networks(snapshots.open_population(tmp_path / "population")).sizes["snapshot"] == 9


def test_a_network_of_the_zoo_that_lacks_a_checkpoint_has_failed(tmp_path):
    rows = [row for row in zoo_rows(3) if not (row["modeldir"].endswith("/1") and row["step"] in (2, 86))]
    held = zoo_folder(tmp_path / "zoo", rows)
    _, one, last = released.read_small_cnn_zoo(tmp_path / "zoo", "fashion")
    assert (values(one, "status"), values(one, "reason")) == ("failed", "no checkpoint at epoch 2, 86")
    assert np.isnan(one["weights"].values[0]).all(1).tolist() == [epoch in (2, 86) for epoch in ZOO_EPOCHS]
    assert one["weights"].values[0, 1, :16].tolist() == held[10]["sequential/conv2d/bias:0"].tolist()
    assert values(last, "status") == "stopped"
    snapshots.validate(one)


def test_a_network_of_the_zoo_that_is_not_finite_has_diverged(tmp_path):
    rows = list(zoo_rows(2))
    rows[9]["test_accuracy"] = ""  # as pandas writes NaN
    zoo_folder(tmp_path / "zoo", rows)
    weights = np.load(tmp_path / "zoo/weights.npy")
    weights[4, 7] = np.inf
    np.save(tmp_path / "zoo/weights.npy", weights)
    first, second = released.read_small_cnn_zoo(tmp_path / "zoo", "fashion")
    assert values(first, "status") == "diverged"
    assert (values(second, "status"), values(second, "reason")) == ("failed", "a test accuracy is missing")


def test_one_network_in_four_of_the_zoo_is_a_test_network(tmp_path):
    tensors = {"sequential/dense/bias:0": (2,), "sequential/dense/kernel:0": (1, 2)}
    zoo_folder(tmp_path / "zoo", list(zoo_rows(200)), tensors)
    splits = {
        values(one, "path"): values(one, "split") for one in released.read_small_cnn_zoo(tmp_path / "zoo", "fashion")
    }
    assert 30 < list(splits.values()).count("test") < 70
    zoo_folder(tmp_path / "part", list(itertools.islice(zoo_rows(200), 90)), tensors)
    for one in released.read_small_cnn_zoo(tmp_path / "part", "fashion"):
        assert values(one, "split") == splits[values(one, "path")]


ZOO_FAULTS = {
    "text": ({"config.l2reg": "none"}, "column config.l2reg: a number is needed, not 'none'"),
    "step": ({"step": "last"}, "column step: a number is needed"),
    "fraction": ({"config.num_units": 1.5}, "column config.num_units: a whole number from 1 on"),
    "share": ({"test_accuracy": 80}, "column test_accuracy: a share between 0 and 1 is needed, not 80"),
    "image set": ({"config.dataset": "imagenet"}, "column config.dataset: unknown image set 'imagenet'"),
    "other set": ({"config.dataset": "mnist"}, "column config.dataset: 'mnist', but 'fashion' was asked for"),
}


@pytest.mark.parametrize(("change", "message"), ZOO_FAULTS.values(), ids=list(ZOO_FAULTS))
def test_a_bad_row_of_the_zoo_is_named_before_any_network_is_read(tmp_path, change, message):
    rows = list(zoo_rows(2))
    rows[9] |= change
    zoo_folder(tmp_path / "zoo", rows)
    with pytest.raises(ValueError, match=rf"metrics\.csv\.gz, row 10 \(line 11\), {message}"):
        released.read_small_cnn_zoo(tmp_path / "zoo", "fashion")


def test_rows_of_one_network_of_the_zoo_must_agree(tmp_path):
    rows = list(zoo_rows(2))
    rows[12]["config.optimizer"] = "magic"
    zoo_folder(tmp_path / "zoo", rows)
    with pytest.raises(ValueError, match=r"row 13 .*column config.optimizer: 'magic', but '\w+' in another row"):
        released.read_small_cnn_zoo(tmp_path / "zoo", "fashion")
    rows[12] = rows[11]
    zoo_folder(tmp_path / "zoo", rows)
    with pytest.raises(ValueError, match=r"row 13 .*column step: checkpoint 2 of .*/1 comes twice"):
        released.read_small_cnn_zoo(tmp_path / "zoo", "fashion")


def edit(file, old, new):
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def test_files_of_the_zoo_that_do_not_fit_each_other_are_refused(tmp_path):
    zoo = tmp_path / "zoo"
    zoo_folder(zoo, list(zoo_rows(2)))
    weights = np.load(zoo / "weights.npy")
    np.save(zoo / "weights.npy", weights[:-1])
    with pytest.raises(ValueError, match=r"weights.npy holds float32 of shape \(17, 4970\), but metrics.csv.gz has 18"):
        released.read_small_cnn_zoo(zoo, "fashion")
    np.save(zoo / "weights.npy", weights)
    (zoo / "weights.npy").write_bytes((zoo / "weights.npy").read_bytes()[:-4])
    with pytest.raises(ValueError, match=r"weights.npy is truncated, or not a matrix of numbers"):
        released.read_small_cnn_zoo(zoo, "fashion")
    np.save(zoo / "weights.npy", weights.astype(object))
    with pytest.raises(ValueError, match=r"weights.npy is truncated, or not a matrix of numbers"):
        released.read_small_cnn_zoo(zoo, "fashion")
    (zoo / "weights.npy").unlink()
    with pytest.raises(FileNotFoundError, match=r"no file .*weights.npy"):
        released.read_small_cnn_zoo(zoo, "fashion")
    (zoo / "weights.npy").symlink_to("/etc/hostname")
    with pytest.raises(ValueError, match=r"weights.npy leaves the folder"):
        released.read_small_cnn_zoo(zoo, "fashion")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"(16, 10)"', "__import__('os')", "column shape: whole numbers are needed"),
        ('"(16, 10)"', '"(10, 10)"', "column shape: .* does not fit sequential/dense/kernel:0"),
        ("dense/kernel:0,4810,4970", "dense/kernel:0,4820,4980", "column start_idx: the tensor before it ends at 4810"),
        ("dense/kernel", "gru/kernel", "column varname: .* is no kernel or bias"),
        ("varname", "name", "column varname is missing"),
    ],
)
def test_a_bad_list_of_tensors_is_refused(tmp_path, old, new, message):
    zoo_folder(tmp_path / "zoo", list(zoo_rows(1)))
    edit(tmp_path / "zoo/layout.csv", old, new)
    with pytest.raises(ValueError, match=rf"layout\.csv.*{message}"):
        released.read_small_cnn_zoo(tmp_path / "zoo", "fashion")


def test_a_truncated_table_is_refused(tmp_path):
    zoo_folder(tmp_path / "zoo", list(zoo_rows(2)))
    table = tmp_path / "zoo/metrics.csv.gz"
    table.write_bytes(table.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"metrics.csv.gz is truncated, or not a CSV"):
        released.read_small_cnn_zoo(tmp_path / "zoo", "fashion")


# ---- implicit neural representations ----


def siren(seed, outputs=1, keys="seq.{}"):
    random = torch.Generator().manual_seed(seed)
    shapes = [(32, 2), (32, 32), (outputs, 32)]
    state = OrderedDict()
    for number, shape in enumerate(shapes):
        state[f"{keys.format(number)}.weight"] = torch.randn(shape, generator=random)
        state[f"{keys.format(number)}.bias"] = torch.randn(shape[:1], generator=random)
    return state


def save(state, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, path)


def inr_folder(root):
    for number, name in enumerate(("mnist_png_training_7_12", "mnist_png_testing_0_3")):
        save(siren(number), root / "mnist-inrs" / name / "checkpoints/model_final.pth")
    save(siren(2, outputs=3), root / "mnist-inrs/cifar10_png_train_airplane_1/checkpoints/model_final.pth")
    save({"mean": torch.zeros(3)}, root / "statistics.pth")
    return root


def test_state_dicts_become_networks_of_one_snapshot(tmp_path):
    found = list(released.read_inr(inr_folder(tmp_path)))
    told = [[values(one, name) for name in ("dataset", "split", "label", "model", "shard")] for one in found]
    assert told == [["cifar10", "train", "airplane", 0, 0], ["mnist", "test", "0", 1, 0], ["mnist", "train", "7", 2, 0]]
    for one, state in zip(found, (siren(2, outputs=3), siren(1), siren(0)), strict=True):
        snapshots.validate(one)
        tensors = layout_of(one).split(one["weights"].values[0, 0])
        assert list(tensors) == [
            f"{name}.{kind}" for name in ("dense1", "dense2", "output") for kind in ("kernel", "bias")
        ]
        for tensor, own in zip(tensors.values(), state.values(), strict=True):
            np.testing.assert_array_equal(tensor, own.numpy())
    assert len({layout_of(one).name for one in found}) == 2


def test_sets_of_state_dicts_are_stored(tmp_path):
    assert snapshots.write(tmp_path / "population", released.read_inr(inr_folder(tmp_path / "set"))) == 3
    snapshots.verify(tmp_path / "population")
    assert snapshots.table(tmp_path / "population")["label"].values.tolist() == ["airplane", "0", "7"]


def test_other_names_are_told_by_a_pattern(tmp_path):
    for number, image in enumerate((59_999, 60_001)):
        save(siren(number, keys="net.{}.linear"), tmp_path / f"randinit_smaller_{number}s/net{image}.pth")
    pattern = r"_(?P<label>\d)s/net(?P<split>\d+)\.pth$"
    with pytest.raises(ValueError, match="dataset is told once"):
        released.read_inr(tmp_path, pattern)
    pattern = r"_(?P<label>\d)s/net\d+\.pth$"
    with pytest.raises(ValueError, match="split is told once"):
        released.read_inr(tmp_path, pattern, dataset="mnist")
    found = list(released.read_inr(tmp_path, pattern, dataset="mnist", split="train"))
    assert [values(one, "label") for one in found] == ["0", "1"]


def test_labels_and_weights_may_lie_deeper_in_the_file(tmp_path):
    save({"label": 4, "params": siren(0)}, tmp_path / "a.ckpt")
    save(siren(1) | {"label": torch.tensor(6)}, tmp_path / "b.ckpt")
    found = released.read_inr(tmp_path, r"\.ckpt$", dataset="cifar", split="test")
    assert [(values(one, "dataset"), values(one, "label")) for one in found] == [("cifar10", "4"), ("cifar10", "6")]
    save(siren(0), tmp_path / "c.ckpt")
    with pytest.raises(ValueError, match=r"c\.ckpt: the class of the image is neither in the path nor in the file"):
        list(released.read_inr(tmp_path, r"c\.ckpt$", dataset="mnist", split="test"))


class Harm:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_a_matrix_that_would_run_code_is_refused(tmp_path):
    zoo_folder(tmp_path / "zoo", list(zoo_rows(1)))
    (tmp_path / "zoo/weights.npy").write_bytes(pickle.dumps(Harm(str(tmp_path / "harm"))))
    with pytest.raises(ValueError, match=r"weights.npy is truncated, or not a matrix of numbers"):
        released.read_small_cnn_zoo(tmp_path / "zoo", "fashion")
    assert not (tmp_path / "harm").exists()


def test_a_file_that_would_run_code_is_refused(tmp_path):
    place = tmp_path / "mnist_png_training_1_1/checkpoints/model_final.pth"
    save(Harm(str(tmp_path / "harm")), place)
    with pytest.raises(ValueError, match=r"model_final.pth: truncated, or not only tensors"):
        list(released.read_inr(tmp_path))
    place.write_bytes(pickle.dumps(Harm(str(tmp_path / "harm"))))
    with pytest.raises(ValueError, match=r"model_final.pth: truncated, or not only tensors"):
        list(released.read_inr(tmp_path))
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ([torch.zeros(2)], "a state dict is needed, not a list"),
        ({}, "it holds no layer"),
        ({"norm.weight": torch.zeros(3)}, r"norm.weight of shape \(3,\) is no weight or bias of a dense or"),
        ({"a.weight": torch.zeros(3, 2), "a.scale": torch.zeros(3)}, "a.scale of shape"),
        ({"a.weight": torch.zeros(3, 2, dtype=torch.int64)}, "a.weight has type torch.int64"),
        ({"a.weight": torch.full((3, 2), 0.1, dtype=torch.float64)}, "6 of 6 weights are no float32 numbers"),
    ],
)
def test_files_that_hold_something_else_are_named(tmp_path, state, message):
    save(state, tmp_path / "mnist_png_training_1_1/checkpoints/model_final.pth")
    with pytest.raises(ValueError, match=rf"mnist_png_training_1_1/checkpoints/model_final.pth: {message}"):
        list(released.read_inr(tmp_path))


def test_a_truncated_state_dict_is_named(tmp_path):
    place = tmp_path / "mnist_png_training_1_1/checkpoints/model_final.pth"
    save(siren(0), place)
    place.write_bytes(place.read_bytes()[:3000])
    with pytest.raises(ValueError, match=r"model_final.pth: truncated, or not only tensors"):
        list(released.read_inr(tmp_path))


def test_folders_without_networks_and_links_out_of_them_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder"):
        released.read_inr(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match=r"no file in .* has a path like"):
        released.read_inr(tmp_path)
    save(siren(0), tmp_path / "outside.pth")
    place = tmp_path / "set/mnist_png_training_1_1/checkpoints/model_final.pth"
    place.parent.mkdir(parents=True)
    place.symlink_to(tmp_path / "outside.pth")
    with pytest.raises(ValueError, match="leaves the folder"):
        released.read_inr(tmp_path / "set")
    place.unlink()
    os.mkfifo(place)  # to open it would wait for ever
    with pytest.raises(ValueError, match=r"model_final.pth is not a file"):
        released.read_inr(tmp_path / "set")


# ---- all of them ----


def test_the_code_on_the_page_runs(release, tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("user")
    (folder / "nws").symlink_to(release[0])
    (folder / "zoo").mkdir()
    zoo_folder(folder / "zoo/fashion_mnist", list(zoo_rows(2)))
    inr_folder(folder / "inrs")
    for number, image in enumerate((0, 59_999, 60_000)):
        save(siren(number, keys="net.{}.linear"), folder / f"sirens/randinit_smaller_{number}s/net{image}.pth")
    monkeypatch.chdir(folder)
    page = (Path(__file__).parents[1] / "book/reference/released.md").read_text(encoding="utf-8")
    exec("\n".join(re.findall(r"```python\n(.*?)```", page, re.DOTALL)), {})
    sizes = {name: snapshots.table(f"populations/{name}").sizes["model"] for name in os.listdir("populations")}
    assert sizes == {"nws_fixed": 3, "zoo": 2, "inr": 3, "sirens": 3}
    assert snapshots.table("populations/sirens")["split"].values.tolist() == ["train", "train", "test"]
    assert (folder / "for_the_original_scripts/nws_test.csv").is_file()


def test_readers_need_no_torch_until_they_meet_a_state_dict():
    code = "import sys; from nwslib.snapshots import cnn, released; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_equal_networks_of_a_set_have_equal_ids_and_others_have_not(release):
    root, _, _ = release
    csvs = ["nws_fixed_train.csv", "nws_fixed_test.csv"]
    ids = [values(one, "id") for one in released.read_nws(root, csvs)]
    assert ids == [values(one, "id") for one in released.read_nws(root, csvs, first=10)]
    replace(root / "0003/weights/020.bin", 0, 2.0)
    changed = [values(one, "id") for one in released.read_nws(root, csvs)]
    assert changed[:2] == ids[:2]
    assert len({*ids, *changed}) == 4


def test_every_reader_yields_what_the_schema_says(release, tmp_path_factory):
    root, _, _ = release
    folder = tmp_path_factory.mktemp("sets")
    zoo_folder(folder / "zoo", list(zoo_rows(1)), ZOO_TENSORS)
    for reader in (
        released.read_nws(root, "nws_fixed_train.csv"),
        released.read_small_cnn_zoo(folder / "zoo", "fashion"),
        released.read_inr(inr_folder(folder / "inr")),
    ):
        for one in reader:
            assert isinstance(one, xr.Dataset)
            snapshots.validate(one)
            assert one.attrs["source"]
