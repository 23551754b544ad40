"""Classifiers of further families: alone as in a crowd, as a plain loop trains them, on labels with noise."""

import threading

import numpy as np
import pytest
import torch
import xarray as xr

from nwslib.population import classifying, draws, images, networks, train
from nwslib.population.shared import Shared
from nwslib.population.slots import bank, member, rows
from nwslib.snapshots.schema import validate

FAMILY_ROWS = {
    "mlp": {"width": 8, "depth": 2},
    "smallcnn": {"width": 4, "depth": 2},
    "resnet8": {"weight_decay": [0.01, 0.1, 0.0], "label_smoothing": [0.2, 0.0, 0.1]},
}


@pytest.fixture(autouse=True)
def one_thread():
    """Let PyTorch have one thread: two that wait for each other in every small product would take minutes at worst."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def sets():
    return {name: images.load(name, size=16, train_limit=200, test_limit=60) for name in ("digits", "patches")}


def _design(family, count=3, **columns):
    """Rows by hand: values, or one for all."""
    columns = {
        "family": family,
        "task": "classify",
        "split": "train",
        "shard": 0,
        "dataset": "digits",
        "image_size": 16,
        "seed": np.arange(count) + 40,
        "batch_size": 32,
        "epochs": 2,
        "learning_rate": np.geomspace(1e-3, 1e-2, count),
        **FAMILY_ROWS[family],
        **columns,
    }
    spread = {name: value if np.ndim(value) else [value] * count for name, value in columns.items()}
    return xr.Dataset({name: ("model", np.asarray(v)[:count]) for name, v in spread.items()}, {"model": range(count)})


def _shared(slots=None, snapshots=20, dtype=torch.float64):
    return Shared(torch.device("cpu"), dtype, slots, snapshots, {}, lambda row: f"{row['model']:x}", "1", False)


def _train(design, sets, *arguments, **options):
    found = list(classifying.classify_rows(design, sets, _shared(*arguments, **options)))
    return sorted(found, key=lambda one: int(one["model"][0]))


def _module(family):
    return networks.FAMILIES[family]


def _train_plainly(row, sets, steps):
    """Train one network with PyTorch's own module, loss and optimiser, within its first epoch; give its weights."""
    images_of = sets[row["dataset"]]
    everything = bank({row["dataset"]: images_of}, torch.device("cpu"))
    us, channels, family = member(row, everything), 1 if images_of.grey else 3, _module(row["family"])
    layout = family.classifier(row, channels, len(images_of.classes))
    module = family.to_module(layout, family.initial_weights(layout, torch.tensor([row["seed"]]))[0])
    decay = row.get("weight_decay", 0.0)
    optimizer = (torch.optim.AdamW if decay else torch.optim.Adam)(module.parameters(), weight_decay=decay)
    loss = torch.nn.CrossEntropyLoss(label_smoothing=row.get("label_smoothing", 0.0))
    labels = classifying.noisy_labels(row["seed"], us.labels, row.get("label_noise", 0.0), len(images_of.classes))
    order = draws.epoch_order(row["seed"], 0, us.labels)
    for step in range(steps):
        chosen = order[step * row["batch_size"] :][: row["batch_size"]]
        pixels = everything.images[us.train[chosen]][..., :channels].double() / 255
        rising = step / us.steps_per_epoch  # of two epochs, the peak is at the first
        optimizer.param_groups[0]["lr"] = row["learning_rate"] * (rising if row["family"] == "resnet8" else 1)
        optimizer.zero_grad()
        loss(module(pixels.permute(0, 3, 1, 2)), labels[chosen]).backward()
        optimizer.step()
    values = zip(layout.tensors, module.state_dict().values(), strict=True)
    return torch.cat([_as_laid_out(tensor, found).flatten() for tensor, found in values])


def _as_laid_out(tensor, values):
    """Bring the inputs of a first dense layer, (channel, y, x) in a module, into the order of the layout."""
    if tensor.axes != ("unit", "row", "column", "source"):
        return values
    unit, row, column, source = tensor.shape
    return values.reshape(unit, source, row, column).permute(0, 2, 3, 1)


def _block(design, sets, **options):
    shared = _shared(**options)
    family = _module(design["family"].values[0])
    banks = classifying.banks(sets, shared.device)
    return classifying.Block(
        family, [classifying.learner(row, family, sets, banks, shared) for row in rows(design)], shared
    )


@pytest.mark.parametrize("family", FAMILY_ROWS)
def test_a_few_steps_are_those_of_a_plain_loop(family, sets):
    noise = {} if family == "resnet8" else {"label_noise": [0.5, 0.0, 1.0]}
    design = _design(family, dataset="patches" if family == "resnet8" else "digits", **noise)
    block = _block(design, sets)
    for _ in range(4):
        block.step()
    for row, weights in zip(rows(design), block.vectors, strict=True):
        plain = _train_plainly(row, sets, 4)
        torch.testing.assert_close(weights, plain, rtol=0, atol=1e-8)


@pytest.mark.parametrize("family", FAMILY_ROWS)
def test_a_network_is_the_same_alone_and_in_any_crowd(family, sets):
    design = _design(family, 3, dataset=["digits", "digits", "patches"], epochs=[1, 2, 1])
    alone, *crowds = (_train(design, sets, slots, snapshots=3, dtype=torch.float32) for slots in (1, 5, 64))
    for crowd in crowds:
        for one, other in zip(crowd, alone, strict=True):
            for name in ("weights", "test_accuracy", "valid_accuracy", "train_accuracy", "train_loss"):
                np.testing.assert_allclose(one[name], other[name], rtol=0, atol=1e-5)


def test_a_large_batch_in_pieces_is_the_same_batch(sets, monkeypatch):
    design = _design("smallcnn", label_noise=0.3)
    whole = _block(design, sets)
    monkeypatch.setattr(classifying, "IMAGES_AT_ONCE", {"cpu": 20})
    pieces = _block(design, sets)
    for _ in range(3):
        whole.step()
        pieces.step()
    assert (whole.piece, pieces.piece) == (32, 10)
    torch.testing.assert_close(pieces.weights, whole.weights, rtol=0, atol=1e-10)
    torch.testing.assert_close(pieces.loss, whole.loss)
    assert torch.equal(pieces.correct, whole.correct)


@pytest.mark.parametrize("family", FAMILY_ROWS)
def test_mixed_precision_rounds_products_and_learns_alike(family):
    sets = {"digits": images.load("digits", size=16, train_limit=300, test_limit=60)}
    noise = {} if family == "resnet8" else {"label_noise": [0.0, 0.5]}
    design = _design(family, 2, dataset="digits", **noise)
    exact, mixed = (
        list(train(design, sets, device="cpu", precision=precision, snapshots=3, progress=False))
        for precision in ("float32", "bfloat16")
    )
    for one, other in zip(exact, mixed, strict=True):
        first, last = (one["weights"] - other["weights"]).values[0][[0, -1]]
        assert not first.any()  # weights themselves are kept in full
        moved = np.abs(np.diff(one["weights"].values[0][[0, -1]], axis=0)).mean()
        assert 0 < np.abs(last).mean() < 0.5 * moved
        assert other["weights"].dtype == "float32"
        assert one["id"].item() != other["id"].item()


def test_noise_in_the_labels_takes_the_accuracy_down_to_chance():
    sets = {"digits": images.load("digits", size=16)}
    noise = [0.0, 0.0, 0.5, 1.0, 1.0]
    design = _design("mlp", 5, width=16, label_noise=noise, learning_rate=0.01, epochs=5, batch_size=64)
    found = np.array([float(one["test_accuracy"][0, -1]) for one in _train(design, sets, dtype=torch.float32)])
    assert found[:2].min() > 0.8
    assert found[:2].min() > found[2] > 0.3
    assert found[3:].max() < 0.25
    learned = _train(_design("mlp", 2, label_noise=1.0, epochs=1), sets)
    assert float(learned[0]["train_accuracy"][0, -1]) < 0.3


def test_the_stated_share_of_labels_is_drawn_anew():
    labels = torch.arange(1000) % 10
    assert torch.equal(classifying.noisy_labels(1, labels, 0.0, 10), labels)
    for noise in (0.25, 0.5, 1.0):
        found = classifying.noisy_labels(3, labels, noise, 10)
        # One in ten of those replaced is drawn as it was.
        assert (found != labels).float().mean().item() == pytest.approx(0.9 * noise, abs=0.03)
        assert torch.bincount(found[found != labels], minlength=10).min() > 60 * noise
    assert not torch.equal(*(classifying.noisy_labels(seed, labels, 0.5, 10) for seed in (1, 2)))
    # More noise replaces more labels, and those of less noise alike.
    less, more = (classifying.noisy_labels(1, labels, noise, 10) for noise in (0.3, 0.6))
    assert torch.equal(more[less != labels], less[less != labels])
    assert (classifying.noisy_labels(1, torch.full((50,), 9), 1.0, 3) < 3).all()


def test_the_schedule_rises_to_epoch_five_and_falls_to_zero():
    steps = np.arange(31 * 4)
    found = classifying.schedule("triangular", 30, steps, 4)
    assert found[[0, 10, 20, 70, 120]].tolist() == [0, 0.5, 1, 0.5, 0]
    assert np.allclose(np.diff(found[:21]), 1 / 20)
    assert np.allclose(np.diff(found[20:121]), -1 / 100)
    assert classifying.schedule("triangular", 4, np.array([0, 8, 16]), 4).tolist() == [0, 1, 0]
    assert classifying.schedule("constant", 30, steps, 4).tolist() == [1.0] * len(steps)


def test_networks_of_unequal_length_end_when_they_should(sets):
    design = _design("mlp", 4, epochs=[10, 40, 10, 25])
    found = _train(design, sets, 4)
    for row, one in zip(rows(design), found, strict=True):
        per_epoch = int(one["steps"][0]) // row["epochs"]
        assert int(one["steps"][0]) == row["epochs"] * per_epoch
        assert 3 <= per_epoch <= 5
        assert int(one["epoch"][0, -1]) == row["epochs"]
        assert one["status"].item() == "stopped"
    assert [np.isfinite(one["weights"]).all().item() for one in found] == [True] * 4


def test_snapshots_are_spread_evenly_over_the_steps(sets):
    design = _design("mlp", 1, epochs=8)
    one = _train(design, sets)[0]
    validate(one)
    steps = int(one["steps"][0])
    at = np.round(np.linspace(0, steps, 20)).astype(int)
    assert one["epoch"].values[0].tolist() == (at // (steps // 8)).tolist()
    block = _block(design, sets, dtype=torch.float64)
    for place, step in enumerate(at):
        while block.steps < step:
            block.step()
        np.testing.assert_allclose(one["weights"][0, place], block.vectors[0], rtol=0, atol=1e-6)


def test_snapshots_repeat_where_there_are_more_than_steps(sets):
    one = _train(_design("mlp", 1, epochs=1), sets)[0]
    validate(one)
    assert one.sizes["evaluation"] == int(one["steps"][0]) + 1 < 20
    assert int(one["n_exports"][0]) == one.sizes["evaluation"]
    assert np.array_equal(one["weights"][0, 0], one["weights"][0, 1])
    assert not np.array_equal(one["weights"][0, 0], one["weights"][0, -1])


def test_accuracies_are_those_of_the_module(sets):
    design = _design("smallcnn", 2, epochs=3, learning_rate=0.02, label_noise=0.2)
    for row, one in zip(rows(design), _train(design, sets), strict=True):
        layout = _module("smallcnn").classifier(row, 1, 10)
        module = _module("smallcnn").to_module(layout, one["weights"].values[0, -1])
        us = member(row, bank(sets, torch.device("cpu")))
        for name, index in (("valid_accuracy", us.valid), ("test_accuracy", us.test)):
            everything = bank(sets, torch.device("cpu"))
            pixels = everything.images[index][..., :1].permute(0, 3, 1, 2) / 255
            right = module(pixels).argmax(1) == everything.labels[index]
            assert float(one[name][0, -1]) == pytest.approx(right.float().mean().item(), abs=1e-6)
        assert np.isnan(one["train_loss"][0, 0])
        assert one["train_loss"][0, 1] == pytest.approx(np.log(10), abs=0.2)


def test_a_network_that_diverges_says_so(sets):
    found = _train(_design("mlp", 2, learning_rate=[1e-3, 1e60], epochs=3), sets)
    assert [one["status"].item() for one in found] == ["stopped", "diverged"]
    for one in found:
        validate(one)


def test_an_unknown_family_and_too_large_a_batch_are_refused_before_work_starts(sets):
    with pytest.raises(ValueError, match=r"'mpl' has no classifiers\. Did you mean 'mlp'"):
        classifying.classify_rows(_design("mlp").assign(family=("model", ["mpl"] * 3)), sets, _shared())
    with pytest.raises(ValueError, match="network 2: batch_size 512 is larger than an epoch of 'digits'"):
        classifying.classify_rows(_design("mlp", batch_size=[32, 32, 512]), sets, _shared())


def test_an_end_halfway_leaves_no_thread_behind(sets):
    torch.set_num_threads(2)
    before = threading.active_count()
    results = classifying.classify_rows(_design("mlp", 8, epochs=10), sets, _shared(2))
    next(results)
    assert threading.active_count() == before + 2
    results.close()
    assert (threading.active_count(), torch.get_num_threads()) == (before, 2)
