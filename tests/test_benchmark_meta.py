import gc
import json

import numpy as np
import pytest
import torch

from benchmarks import meta
from benchmarks.loaders import Pipeline, ShardBatches, ShardRuns
from nwslib import snapshots
from nwslib.meta import runs_view

CPU = torch.device("cpu")
LENGTH, BATCH = 300, 32


@pytest.fixture(scope="module", params=["one", "several"])
def folder(request, tmp_path_factory):
    return meta.made(tmp_path_factory.mktemp("meta") / "population", 6, request.param)


@pytest.fixture(scope="module")
def view(folder):
    return runs_view(snapshots.open_population(folder), LENGTH, snapshots=[3, 20])


@pytest.fixture(scope="module")
def targets(view):
    return torch.randint(0, 9, (len(view.room),), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def wanted(view, targets):
    """Every run cut by hand from the weights that xarray reads."""
    rows, starts = pairs = meta.draw(view, 100)
    vectors = [
        node["weights"].sel(model=model, snapshot=number).values
        for node in view.networks.nodes
        for model in node["model"].values
        for number in view.snapshots
    ]
    cut = [vectors[row][start : start + LENGTH] for row, start in zip(rows.tolist(), starts.tolist(), strict=True)]
    return pairs, torch.tensor(np.stack(cut)), targets[rows]


@pytest.fixture
def uncollected():
    """Leave garbage where it is."""
    gc.disable()
    yield
    gc.enable()


def assert_feeds(feed, wanted):
    pairs, runs, labels = wanted
    batches = list(feed(pairs))
    assert [len(some) for some, _ in batches] == [BATCH, BATCH, BATCH, 4]
    assert torch.equal(torch.cat([some for some, _ in batches]), runs)
    assert torch.equal(torch.cat([some for _, some in batches]), labels)


def test_ours_feeds_the_runs_that_were_asked_for(folder, view, targets, wanted):
    assert_feeds(meta.ours(view, targets, BATCH), wanted)
    files = runs_view(snapshots.open_population(folder), LENGTH, snapshots=view.snapshots, resident="never")
    assert_feeds(meta.ours(files, targets, BATCH), wanted)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("kind", [ShardRuns, ShardBatches])
def test_loaders_feed_the_same_runs_epoch_after_epoch(kind, workers, folder, view, targets, wanted):
    pipeline = Pipeline(kind(folder, view, targets), BATCH, workers, CPU)
    assert [len(runs) for runs, _ in pipeline.feed(meta.draw(view, 40, seed=1))] == [BATCH, 8]
    assert_feeds(pipeline.feed, wanted)


@pytest.mark.parametrize("kind", [ShardRuns, ShardBatches])
def test_workers_end_with_their_pipeline(kind, folder, view, targets, uncollected):
    pipeline = Pipeline(kind(folder, view, targets), BATCH, 1, CPU)
    batches = pipeline.feed(meta.draw(view, 40))
    next(batches)
    workers = pipeline.loader._iterator._workers
    assert [worker.is_alive() for worker in workers] == [True]
    del pipeline, batches
    assert [worker.is_alive() for worker in workers] == [False]


def test_draws_take_every_row_equally_often(view):
    rows, starts = meta.draw(view, 3 * len(view.room))
    assert torch.bincount(rows).tolist() == [3] * len(view.room)
    assert ((starts >= 0) & (starts < view.room[rows])).all()
    assert not torch.equal(starts, meta.draw(view, len(rows), seed=1)[1])


def test_operations_are_counted():
    module = torch.nn.Sequential(torch.nn.Linear(100, 8), torch.nn.Linear(8, 4))
    forward_and_weights, inputs = 2 * 2 * (100 * 8 + 8 * 4), 2 * 8 * 4
    assert meta._operations(module, 100, 5, CPU) == forward_and_weights + inputs


def test_the_last_line_is_one_json_object(capsys):
    meta.run(device="cpu", quick=True, repeats=None, only=None, population=None, accuracy=None)
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    for name in meta.POPULATIONS:
        for length in meta.LENGTHS:
            for batch in meta.BATCHES:
                assert found[f"feed_{name}_{length}_{batch}_runs_per_s"] > 0
                for against in ("vs_loader", "vs_fastest"):
                    assert found[f"feed_{against}_least"] <= found[f"feed_{name}_{length}_{batch}_{against}"]
    for against in ("vs_loader", "vs_fastest"):
        assert found[f"feed_{against}"] >= found[f"feed_{against}_least"] > 0
    for network in meta.TRAININGS:
        assert 0 < found[f"{network}_feeding_share"] < 1
        assert found[f"{network}_runs_per_s"] > 0
        assert found[f"{network}_epoch_s"] > 0
        assert found[f"{network}_vs_loader"] > 0
        assert found[f"{network}_vs_floor"] > 0
    assert found["accuracy_of"] == "activation"
    assert (found["seconds_to_accuracy"] is None) == (found["accuracy_vs_loader"] is None)
    assert set(found["system"]["versions"]) == set(meta.PACKAGES)
    assert found["device"].startswith("CPU")


def test_ratios_name_whom_they_are_against():
    rates = {
        "ours": [8.0, 16.0, 24.0],
        "loader, 0 workers": [1.0, 2.0, 3.0],
        "loader, 2 workers": [2.0, 4.0, 6.0],
        "loader of batches, 0 workers": [4.0, 8.0, 12.0],
        "ours, from files": [6.0, 12.0, 18.0],
        "a plain copy": [16.0, 32.0, 48.0],
    }
    assert meta._feed_ratios("feed", rates) == {
        "feed_runs_per_s": 16,
        "feed_vs_loader": 4.0,
        "feed_vs_fastest": 2.0,
        "feed_from_files_vs_loader": 3.0,
        "feed_from_files_vs_fastest": 1.5,
        "feed_vs_copy": 0.5,
    }


def test_an_accuracy_that_is_not_reached_is_said_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(meta, "EPOCHS", 1)
    folder = meta.made(tmp_path / "population", 16)
    meta.run(device="cpu", quick=True, repeats=None, only=["accuracy"], population=folder, accuracy=1.1)
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2] == "not reached in 1 epochs"
    assert json.loads(lines[-1])["seconds_to_accuracy"] is None
