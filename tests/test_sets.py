"""The simple networks that read whole networks: what they take, and which of the two laws each obeys."""

import numpy as np
import pytest
import torch

from nwslib.meta.networks import deepsets, dmc_whole, flat, settransformer, statistics
from nwslib.meta.networks.dmc import parameter_count
from nwslib.meta.networks.tokens import Tokens, units
from nwslib.meta.views import PERCENTILES
from nwslib.meta.views import statistics as by_numpy
from nwslib.snapshots.cnn import layout as cnn
from nwslib.snapshots.layout import Layout, Tensor
from nwslib.snapshots.units import permutation

SMALL = cnn(16, 3, 3, 2, 4, 16)
MODULES = {
    "flat": flat,
    "deepsets": deepsets,
    "settransformer": settransformer,
    "statistics": statistics,
    "dmc": dmc_whole,
}
# Does a consistent permutation of hidden units change nothing, and does an inconsistent one change something?
LAWS = {
    "flat": (False, True),
    "deepsets": (False, False),
    "settransformer": (False, False),
    "statistics": (True, False),
    "dmc": (False, True),
}


@pytest.fixture(scope="module")
def vectors():
    return torch.randn(3, 2, SMALL.size, generator=torch.Generator().manual_seed(0))


def built(name, outputs=4, **options):
    """Build a small network whose batch norms, if it has any, have seen something."""
    torch.manual_seed(0)
    module = MODULES[name].build(SMALL, 2, outputs, width=32, **options)
    with torch.no_grad():
        for _ in range(10):
            module(torch.randn(8, 2, SMALL.size))
    return module.eval()


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("consistent", [True, False])
def test_each_network_obeys_the_laws_that_its_page_says(vectors, name, consistent):
    module = built(name)
    order = permutation(SMALL, seed=1, consistent=consistent)
    with torch.inference_mode():
        before, after = module(vectors), module(vectors[..., order])
    unchanged = torch.allclose(before, after, atol=1e-5)
    obeys = LAWS[name][0] == unchanged if consistent else LAWS[name][1] != unchanged
    assert obeys
    words = " ".join(module.__doc__.split())
    broken = [law for law, kept in zip(("first", "second"), LAWS[name], strict=True) if not kept]
    assert ("breaks both laws" in words) if len(broken) == 2 else (f"breaks the {broken[0]}" in words)


@pytest.mark.parametrize("name", MODULES)
def test_each_network_is_told_by_its_outputs_and_follows_every_weight(vectors, name):
    module, inputs = built(name), vectors.clone().requires_grad_()
    scores = module(inputs)
    assert scores.shape == (3, 4)
    scores[1].sum().backward()
    seen = inputs.grad.abs().amax(dim=1)
    assert (seen[1] > 0).float().mean() > (0.1 if name == "dmc" else 0.2 if name == "statistics" else 0.99)
    assert not seen[[0, 2]].any()  # no network's score depends on another


@pytest.mark.parametrize("name", ["flat", "deepsets", "settransformer", "dmc"])
def test_every_weight_is_scored_at_its_place(vectors, name):
    module, places = built(name, 1, per_weight=True), torch.arange(0, SMALL.size, 50)
    several = vectors[:1].repeat(len(places), 1, 1)
    changed = several.clone()
    changed[torch.arange(len(places)), :, places] += 5
    with torch.inference_mode():
        scores, others = module(several), module(changed)
    assert scores.shape == (len(places), SMALL.size)
    change = (others - scores).abs()
    own = change.gather(1, places[:, None])
    assert own.median() > 5 * change.median()  # a summary of the network moves, too, for all weights


def test_statistics_know_of_no_weight():
    with pytest.raises(ValueError, match="statistics of a tensor say nothing of one weight"):
        built("statistics", 1, per_weight=True)


def test_a_unit_has_the_weights_that_the_labels_say():
    unit, layer = SMALL.label("unit"), SMALL.label("layer")
    found = units(SMALL)
    assert np.array_equal(np.sort(np.concatenate([places.ravel() for places in found])), np.arange(SMALL.size))
    for name, places in zip(dict.fromkeys(layer), found, strict=True):
        for number, row in enumerate(places):
            assert set(unit[row]) == {number}
            assert set(layer[row]) == {name}


def test_tensors_without_units_are_a_unit_of_their_own():
    scale = Tensor("norm", "dense", "gamma", ("row",), (3,))
    kernel = Tensor("output", "dense", "kernel", ("source", "unit"), (5, 2))
    found = units(Layout("mlp", (scale, kernel)))
    assert [places.tolist() for places in found] == [[[0, 1, 2]], [[3, 5, 7, 9, 11], [4, 6, 8, 10, 12]]]


def test_a_token_follows_its_own_weights_alone(vectors):
    tokens = Tokens(SMALL, 2, 8)
    with torch.inference_mode():
        before = tokens(vectors)
        changed = vectors.clone()
        changed[:, :, 100] += 1
        differs = (tokens(changed) != before).any(dim=2)
    assert differs.sum(dim=1).tolist() == [1, 1, 1]
    assert differs[:, tokens.owner[100]].all()


def test_statistics_are_those_of_the_view(vectors):
    module = built("statistics")
    found = module.prepare(vectors).view(3, 2, len(SMALL.tensors), -1)
    for number, place in enumerate(SMALL.slices.values()):
        expected = by_numpy(vectors[:, 0, place].numpy())
        kept = [0, 1, 3, *range(4, 4 + len(PERCENTILES))]  # all but the logarithm of the variance
        np.testing.assert_allclose(found[:, 0, number][:, kept], expected, rtol=1e-3, atol=1e-4)
    constant = module.prepare(torch.ones_like(vectors))
    assert constant.isfinite().all()


def test_the_width_is_a_knob(vectors):
    for name, module in MODULES.items():
        counts = [parameter_count(module.build(SMALL, 1, 3, width=width)) for width in (8, 16)]
        assert counts[0] < counts[1], name
    with pytest.raises(ValueError, match="vectors of 10 weights are too short"):
        dmc_whole.build(Layout("mlp", (Tensor("output", "dense", "bias", ("unit",), (10,)),)), 1, 3)
