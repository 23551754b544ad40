"""Image networks: fitted in crowds as they would be alone."""

import json
import threading
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

from nwslib import space
from nwslib.population import fitting, images, train
from nwslib.population.images import ImageSet
from nwslib.population.networks import siren
from nwslib.population.shared import Shared
from nwslib.snapshots import schema

SIDE, WIDTH, STEPS = 6, 7, 30
SHARED = Shared(torch.device("cpu"), torch.float64, None, 4, {}, lambda row: str(row["model"]), "1", False)


def _image_set(name: str, grey: bool) -> ImageSet:
    """Give smooth images in three channels, and classes in their turn."""
    line = torch.linspace(0, 3, SIDE)
    waves = torch.stack([torch.sin(line[:, None] * k + line * (k % 3) + 1) for k in range(1, 9)])
    pixels = (127 * (1 + waves)).to(torch.uint8)[..., None]
    pixels = pixels.expand(-1, -1, -1, 3).clone() if grey else torch.cat([pixels, 255 - pixels, pixels // 2], dim=3)
    labels = torch.arange(len(pixels)) % 2
    return ImageSet(name, pixels, labels, pixels, labels, ("even", "odd"), grey, "procedural", "1")


IMAGES = {"digits": _image_set("digits", grey=True), "textures": _image_set("textures", grey=False)}


def _design(networks: int = 5, **columns: object) -> xr.Dataset:
    """Give a design of networks of different images, rates and seeds."""
    numbers = np.arange(networks)
    fields = {"family": "siren", "task": "image", "dataset": "digits", "image_size": SIDE, "split": "train", "shard": 0}
    fields |= {"width": WIDTH, "depth": 2, "frequency": 20.0, "initialization": "own", "optimizer": "adam"}
    fields |= {"steps": STEPS, "image": numbers, "seed": 7 + numbers, "learning_rate": 1e-3 * (1 + numbers)} | columns
    data = {name: ("model", np.broadcast_to(value, networks).copy()) for name, value in fields.items()}
    return xr.Dataset(data, {"model": numbers})


def _fitted(design: xr.Dataset, shared: Shared = SHARED) -> dict[int, xr.Dataset]:
    return {int(one["model"][0]): one for one in fitting.fit_rows(design, IMAGES, shared)}


@pytest.fixture
def two_threads() -> Iterator[None]:
    """Let PyTorch have two threads, whatever this machine has."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def networks() -> dict[int, xr.Dataset]:
    return _fitted(_design())


def _pixels(dataset: str, image: int) -> torch.Tensor:
    pixels = IMAGES[dataset].train_images[image].double().flatten(0, 1) / 255
    return pixels[:, :1] if IMAGES[dataset].grey else pixels


def _plain_fit(row: xr.Dataset, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Fit one network as people do in PyTorch: its weights (s, w) and losses (s,), the first before any step."""
    target, frequency = _pixels(str(row["dataset"].item()), int(row["image"])), float(row["frequency"])
    network = [nn.Linear(2, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, target.shape[1])]
    parameters = [parameter for layer in network for parameter in layer.double().parameters()]
    layout = siren.layout(target.shape[1], WIDTH)
    start = siren.initial_weights(layout, torch.tensor([int(row["seed"])]), frequency)
    nn.utils.vector_to_parameters(start[0], parameters)
    optimizer = torch.optim.Adam(parameters, lr=float(row["learning_rate"]))
    places = torch.arange(SIDE, dtype=torch.float64) * 2 / (SIDE - 1) - 1
    grid = torch.stack([places.repeat_interleave(SIDE), places.repeat(SIDE)], dim=1)
    vectors, losses = [], []
    for _ in range(steps + 1):
        hidden = torch.sin(frequency * network[1](torch.sin(frequency * network[0](grid))))
        loss = (network[2](hidden) - target).square().mean()
        vectors.append(nn.utils.parameters_to_vector(parameters).detach().numpy())
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return np.array(vectors), np.array(losses)


@pytest.mark.parametrize("kind", ["compiled", "stacked"])
def test_steps_are_those_of_plain_pytorch(kind: str) -> None:
    rows = _design(3)
    layout = siren.layout(1, WIDTH)
    weights = siren.initial_weights(layout, torch.from_numpy(rows["seed"].values), 20.0)
    images = torch.stack([_pixels("digits", k) for k in range(3)])
    make = siren.gradient if kind == "compiled" else siren.stacked
    program = make(layout, fitting.coordinates(SIDE), images, frequency=20.0)
    adam = fitting.Adam(weights, rows["learning_rate"].values.tolist())
    plain = [_plain_fit(rows.isel(model=k), 10) for k in range(3)]
    for step in range(10):
        losses = program(weights, adam.gradient)
        for k, (vectors, expected) in enumerate(plain):
            np.testing.assert_allclose(weights[k].numpy(), vectors[step], rtol=0, atol=1e-8)
            assert abs(losses[k].item() - expected[step]) < 1e-8
        adam.step() if kind == "compiled" else adam.stacked_step()


@pytest.mark.parametrize("dataset", IMAGES)
def test_a_fitted_network_is_what_plain_pytorch_fits(dataset: str) -> None:
    design = _design(3, dataset=dataset)
    for number, one in _fitted(design).items():
        vectors, losses = _plain_fit(design.isel(model=number), STEPS)
        at = one["epoch"].values[0]
        assert at.tolist() == [0, 10, 20, 30]
        np.testing.assert_allclose(one["weights"].values[0], vectors[at], rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(one["train_loss"].values[0], losses[at], rtol=1e-5)
        assert one["psnr"].item() == pytest.approx(-10 * np.log10(losses[-1]), abs=1e-4)


@pytest.mark.usefixtures("two_threads")
def test_company_changes_no_bit(networks: dict[int, xr.Dataset]) -> None:
    shuffled = _design().isel(model=[3, 0, 4, 2, 1])
    for slots in (1, 2, 4):
        for number, one in _fitted(shuffled, replace(SHARED, slots=slots)).items():
            for name in ("weights", "train_loss", "psnr"):
                np.testing.assert_array_equal(one[name].values, networks[number][name].values)


def test_a_network_says_what_computed_it() -> None:
    for collection, fixed, expected in (
        ("siren", {}, "compiled"),
        ("kan_image", {"order": 3}, "compiled"),
        ("kan_image", {"order": 2}, "stacked"),
    ):
        design = space.sample(collection, 1, seed=0, dataset="digits", image_size=16, steps=1, **fixed)
        one = next(train(design, {"digits": images.load("digits", size=16)}, device="cpu", snapshots=2, progress=False))
        told = {"training": expected, "equality": {"compiled": "exact", "stacked": "agreement"}[expected]}
        assert json.loads(one.attrs["implementation"]) == told


def test_a_network_says_what_it_shows_and_how_well(networks: dict[int, xr.Dataset]) -> None:
    for number, one in networks.items():
        schema.validate(one)
        assert schema.not_measured(one.attrs) == ("train_accuracy", "valid_accuracy", "test_accuracy")
        assert (one["image"].item(), one["label"].item()) == (number, ("even", "odd")[number % 2])
        assert schema.further_properties(one.attrs)["psnr"].units == "dB"
        module = siren.to_module(schema.layout_of(one), one["weights"].values[0, -1], frequency=20.0)
        with torch.no_grad():
            error = (module(fitting.coordinates(SIDE).float()) - _pixels("digits", number)).square().mean()
        assert one["psnr"].item() == pytest.approx(-10 * np.log10(error.item()), abs=0.01)
        assert one["train_loss"].values[0, -1] < one["train_loss"].values[0, 0] / 2


def test_networks_start_from_draws_of_their_own_or_from_one(networks: dict[int, xr.Dataset]) -> None:
    own = {one["weights"].values[0, 0].tobytes() for one in networks.values()}
    shared = {
        one["weights"].values[0, 0].tobytes() for one in _fitted(_design(3, initialization="shared", steps=3)).values()
    }
    assert (len(own), len(shared)) == (5, 1)


def test_networks_of_several_kinds_make_blocks_of_their_own() -> None:
    mixed = {"dataset": ["digits", "textures", "digits"], "steps": [6, 6, 3], "width": [WIDTH, WIDTH, 4]}
    found = _fitted(_design(3, **mixed))
    sizes = [siren.layout(1, WIDTH).size, siren.layout(3, WIDTH).size, siren.layout(1, 4).size]
    assert [found[k].sizes["weight"] for k in range(3)] == sizes
    assert [found[k]["steps"].item() for k in range(3)] == [6, 6, 3]


@pytest.mark.usefixtures("two_threads")
def test_training_that_is_ended_early_ends_its_threads() -> None:
    threads = threading.active_count()
    # The first block is short; those behind it would take minutes.
    fits = fitting.fit_rows(_design(6, steps=[3] + [10_000_000] * 5), IMAGES, replace(SHARED, slots=2))
    next(fits)
    fits.close()
    assert threading.active_count() == threads
    later: list[int] = []
    worker = threading.Thread(target=lambda: later.append((torch.zeros(1) + 1, torch.get_num_threads())[1]))
    worker.start()
    worker.join()
    assert later == [2]  # threads that start later have as many as before


def test_a_network_that_diverges_says_so() -> None:
    found = _fitted(_design(2, learning_rate=[1e-3, 1e60]))
    for one in found.values():
        schema.validate(one)
    assert [one["status"].item() for one in found.values()] == ["stopped", "diverged"]


def test_impossible_designs_are_refused() -> None:
    with pytest.raises(ValueError, match="needs image 8 of 'digits', but there are 8 training images"):
        _fitted(_design(1, image=8))
    with pytest.raises(ValueError, match="image networks have no optimizer 'momentum'"):
        _fitted(_design(1, optimizer="momentum"))
    with pytest.raises(ValueError, match=r"no initialization 'owm'\. Did you mean 'own'"):
        _fitted(_design(1, initialization="owm"))


def test_coordinates_run_row_by_row() -> None:
    assert fitting.coordinates(3)[[1, 3]].tolist() == [[-1, 0], [0, -1]]
