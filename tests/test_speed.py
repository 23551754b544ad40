from types import SimpleNamespace

import numpy as np
import pytest
import torch

from nwslib import space
from nwslib.population import speed, train
from nwslib.population.networks import cnn
from nwslib.population.slots import bank, member, rows


def test_every_way_is_measured_in_every_repeat(bars):
    measured = speed.compare("nws_small", bars, [2, 4], epochs=1, repeats=2, batch_size=64)["rate"]
    assert measured["way"].values.tolist() == ["one at a time", "2 side by side", "4 side by side"]
    assert measured.shape == (3, 2)
    assert (measured > 10).all()


def three_steps_an_epoch(design, images, *, max_epochs, **options):
    return [{"steps": [3 * (max_epochs - 1)], "batch_size": [64]}] * design.sizes["model"]


def test_a_rate_counts_the_images_of_all_networks_and_epochs(bars, monkeypatch):
    clock = iter(np.arange(0, 1000, 10.0))  # every look at the clock is ten seconds after the last
    monkeypatch.setattr(speed.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(speed, "train", three_steps_an_epoch)
    monkeypatch.setattr(speed, "train_alone", lambda *_: (0.5, 20.0))
    textures = {"textures": bars["textures"]}  # 360 training images: 5 steps of 64
    measured = speed.compare("nws_small", textures, [4], epochs=2, repeats=1, batch_size=64)["rate"]
    assert measured.sel(way="4 side by side").item() == pytest.approx(4 * 2 * 3 * 64 / 10)
    assert measured.sel(way="one at a time").item() == pytest.approx(2 * 5 * 64 / 20)


def test_cost_counts_the_images_between_the_shortest_training_and_a_longer_one(bars, monkeypatch):
    real, given = speed.train, []

    def counted(design, images, *, max_epochs, **options):
        given.append(max_epochs)
        return real(design, images, max_epochs=max_epochs, **options)

    moments = [0, 50, 100, 107, 200, 217]  # the first training, which compiles, takes 50 s; the others 7 and 17
    monkeypatch.setattr(speed, "time", SimpleNamespace(perf_counter=iter(moments).__next__))
    monkeypatch.setattr(speed, "train", counted)
    design = space.sample("nws_small", 2, 0, dataset="textures", batch_size=[32, 64])
    found = speed.cost(design, bars, epochs=3, device="cpu")
    assert given == [2, 1, 4]
    batches = design["batch_size"].values
    visited = sum(3 * (360 // batch) * batch for batch in batches)
    assert found["rate"].item() == pytest.approx(visited / (17 - 7))
    layout = cnn.layout(16, 3, 3, 2, 4, 32)
    assert found["operations"].item() == cnn.operations(layout, 16)
    assert (found["weights"].item(), found["networks"].item()) == (layout.size, 2)


def test_growth_measures_every_count_in_every_repeat(bars, monkeypatch):
    clock, asked = iter(np.arange(0, 1000, 10.0)), []
    monkeypatch.setattr(speed.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(speed, "train", lambda design, *_, **__: asked.append(design.sizes["model"]) or [])
    grown = speed.growth("nws_small", bars, [3, 5], repeats=2)["seconds"]
    assert asked == [3, 5, 3, 5, 3, 5]
    assert grown.dims == ("networks", "repeat")
    assert (grown == 10).all()
    with pytest.raises(ValueError, match="at least 1"):
        speed.growth("nws_small", bars, [0])


def test_a_matrix_product_is_faster_than_an_interpreter():
    assert 1e8 < speed.matrix_product_rate("cpu") < 1e15


@pytest.mark.slow
def test_the_loop_learns_as_the_crowd_does(bars):
    design = space.sample("nws_small", 6, seed=2, dataset="textures", batch_size=32, initialization="glorot_uniform")
    images = bank(bars, torch.device("cpu"))
    alone = [speed.train_alone(member(row, images), images, epochs=14)[0] for row in rows(design)]
    crowd = [one["test_accuracy"].values[0, -1] for one in train(design, bars, max_epochs=15, progress=False)]
    assert np.median(alone) > 0.6
    assert abs(np.median(alone) - np.median(crowd)) < 0.2


def test_the_loop_leaves_its_network_as_it_is(bars):
    design = space.sample("nws_small", 1, seed=2, dataset="digits", batch_size=64, optimizer="rmsprop")
    images = bank(bars, torch.device("cpu"))
    one = member(rows(design)[0], images)
    accuracy, seconds = speed.train_alone(one, images, epochs=1)
    assert 0 <= accuracy <= 1
    assert seconds > 0
    assert (one.epoch, one.step, one.evaluations) == (0, 0, 0)


@pytest.mark.parametrize(("dataset", "colourful"), [("digits", False), ("textures", True)])
def test_the_loop_augments_and_decays_as_the_crowd_does(bars, monkeypatch, dataset, colourful):
    seen, made, optimizer = [], [], speed._optimizer
    monkeypatch.setattr(speed, "augment", lambda images, draw, colours, noise: seen.append(colours.tolist()) or images)
    monkeypatch.setattr(speed, "_optimizer", lambda *values: made.append(optimizer(*values)) or made[-1])
    design = space.sample("nws_small", 2, seed=2, dataset=dataset, batch_size=64, decay=0.5)
    design["augmentation"] = ("model", np.array(["off", "on"]))
    images = bank(bars, torch.device("cpu"))
    for row in rows(design):
        one = member(row, images)
        speed.train_alone(one, images, epochs=2)
        assert made[-1].param_groups[0]["lr"] == pytest.approx(row["learning_rate"] / 4)
        assert seen == ([[colourful]] * 2 * one.steps_per_epoch if row["augmentation"] == "on" else [])


def test_the_loop_starts_where_the_crowd_starts(bars):
    design = space.sample("nws_small", 4, seed=2, dataset="textures", initialization="glorot_normal")
    images = bank(bars, torch.device("cpu"))
    crowd = {int(one["model"][0]): one for one in train(design, bars, max_epochs=1, progress=False)}
    for row in rows(design):
        start = crowd[row["model"]]["test_accuracy"].values[0, 0]
        assert speed.train_alone(member(row, images), images, epochs=0)[0] == pytest.approx(start, abs=1.01 / 80)


def test_bad_numbers_are_refused(bars):
    with pytest.raises(ValueError, match="must be at least 1"):
        speed.compare("nws_small", bars, [0])
    with pytest.raises(ValueError, match="unknown collection 'nws_smal'"):
        speed.compare("nws_smal", bars, [4])
