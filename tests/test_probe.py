import pytest
import torch
from families import LAYOUTS

from nwslib.meta.networks import probe
from nwslib.population.networks import FAMILIES as MODULES
from nwslib.population.networks import kan, mlp, resnet
from nwslib.snapshots import Layout
from nwslib.snapshots.units import permutation

FAMILIES = pytest.mark.parametrize("family", LAYOUTS)


def vectors(layout, networks, snapshots=2, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    found = torch.randn(networks, snapshots, layout.size, generator=generator, dtype=dtype) / 2
    for tensor in layout.tensors:
        if tensor.kind == "variance":
            found[..., layout.slices[tensor.name]] = found[..., layout.slices[tensor.name]].abs() + 0.5
    return found


def built(layout, **changes):
    torch.manual_seed(0)
    return probe.build(layout, **{"snapshots": 2, "outputs": 3, "width": 8, "probes": 4, "image_size": 8} | changes)


@FAMILIES
@torch.no_grad()
def test_networks_are_read_by_what_they_compute(family):
    layout, module = LAYOUTS[family], built(LAYOUTS[family]).double()
    whole, index = vectors(layout, 3), torch.from_numpy(permutation(layout, 5))
    found = module(whole)
    torch.testing.assert_close(module(whole[..., index]), found, rtol=0, atol=1e-10)
    broken = torch.from_numpy(permutation(layout, 5, consistent=False))
    assert (module(whole[..., broken]) - found).abs().max() > 1e-2
    torch.testing.assert_close(module(whole)[1:2], module(whole[1:2]))
    assert (module(whole.flip(1)) - found).abs().max() > 1e-2


@FAMILIES
@torch.no_grad()
def test_answers_are_the_outputs_of_each_network(family):
    layout = resnet.layout(3, 5) if family == "resnet8" else LAYOUTS[family]
    module = built(layout).double()
    whole, inputs = vectors(layout, 2), module.inputs()
    answers = module.answers(whole)
    inputs = inputs.permute(0, 3, 1, 2) if inputs.dim() == 4 else inputs
    names = [{"activation": name} for name in probe.ACTIVATIONS] if family == "cnn" else [{}]
    for network in range(2):
        vector = whole[network, 1]
        alone = torch.cat([MODULES[family].to_module(layout, vector, **name)(inputs) for name in names], dim=1)
        torch.testing.assert_close(answers[network, 1], alone)
    assert answers.std(2).mean() > 1e-3  # inputs differ


def test_signs_of_sine_units_make_no_difference():
    layout, module = LAYOUTS["siren"], built(LAYOUTS["siren"]).double()
    whole = vectors(layout, 1)
    tensors = layout.split(torch.arange(layout.size).numpy())
    flipped = whole.clone()
    for places in (tensors["dense1.kernel"][2], tensors["dense1.bias"][2], tensors["dense2.kernel"][:, 2]):
        flipped[..., places.tolist()] *= -1
    with torch.no_grad():
        torch.testing.assert_close(module(flipped), module(whole), rtol=0, atol=1e-10)


def test_settings_reach_the_family():
    whole = vectors(LAYOUTS["siren"], 1)
    with torch.no_grad():
        slow, fast = (built(LAYOUTS["siren"], frequency=value).double().answers(whole) for value in (1.0, 30.0))
    assert (slow - fast).abs().max() > 0.1
    one = built(LAYOUTS["cnn"], activations=("tanh",)).double()
    assert one.answers(vectors(LAYOUTS["cnn"], 1)).shape == (1, 2, 4, 20)


@FAMILIES
def test_inputs_learn(family):
    module = built(LAYOUTS[family]).double()
    module(vectors(LAYOUTS[family], 2)).sum().backward()
    assert all((parameter.grad != 0).any() for parameter in module.inputs.parameters())
    assert module.raw


@pytest.mark.parametrize(("family", "shape"), [("mlp", (5, 5, 1)), ("cnn", (16, 16, 3)), ("smallcnn", (8, 8, 1))])
def test_images_are_as_large_as_the_network_reads_them(family, shape):
    images = built(LAYOUTS[family]).inputs()
    assert images.shape == (4, *shape)
    assert images.min() >= 0
    assert images.max() <= 1


def test_splines_answer_to_images_of_as_many_pixels():
    assert built(kan.layout(10, inputs=49)).inputs().shape == (4, 7, 7, 1)
    assert built(kan.layout(10, inputs=75)).inputs().shape == (4, 5, 5, 3)
    with pytest.raises(ValueError, match="reads 7 inputs: neither 2 coordinates nor a square image"):
        built(kan.layout(10, inputs=7))


def test_it_learns_where_to_look():
    """Networks of which only what they answer near one corner tells the label."""
    layout = LAYOUTS["mlp"]
    whole = vectors(layout, 500, 1, dtype=torch.float32)
    tensors = {t.name: whole[:, 0, layout.slices[t.name]].unflatten(1, t.shape) for t in layout.tensors}
    image = torch.zeros(5, 5, 1)
    image[:2, :2] = 1
    answers = mlp.outputs(tensors, image.expand(500, 1, 5, 5, 1))[:, 0, :2]
    labels = (answers[:, 0] > answers[:, 1]).float()
    module = built(layout, snapshots=1, outputs=1, width=16, probes=8)
    found, constant = _fitted(module, whole, labels[:, None])
    assert found < 0.6 * constant


def _fitted(module, whole, labels, steps=80):
    """Fit to 400 networks; give the loss on the others, and that of the constant prediction."""
    optimizer, loss = (
        torch.optim.Adam(module.parameters(), lr=1e-2),
        torch.nn.functional.binary_cross_entropy_with_logits,
    )
    for step in range(steps):
        rows = torch.arange(64 * step, 64 * step + 64) % 400
        optimizer.zero_grad()
        loss(module(whole[rows]), labels[rows]).backward()
        optimizer.step()
    with torch.no_grad():
        constant = torch.logit(labels[:400].mean()).expand_as(labels[400:])
        return loss(module(whole[400:]), labels[400:]).item(), loss(constant, labels[400:]).item()


@pytest.mark.parametrize(
    ("family", "change", "message"),
    [
        ("mlp", {"per_weight": True}, "scores no single weights"),
        ("cnn", {"activations": ("relu", "selu")}, r"unknown activation 'selu'\. Did you mean 'elu'"),
        ("mlp", {"probes": 0}, "probes must be at least 1, not 0"),
    ],
)
def test_what_it_cannot_do_is_refused(family, change, message):
    with pytest.raises(ValueError, match=message):
        built(LAYOUTS[family], **change)


def test_other_families_are_refused():
    with pytest.raises(ValueError, match=r"family 'sirens' can't be probed\. Did you mean 'siren'"):
        built(Layout("sirens", LAYOUTS["siren"].tensors))


def test_a_part_of_a_network_is_not_probed():
    part = tuple(tensor for tensor in LAYOUTS["cnn"].tensors if tensor.part == "convolution")
    with pytest.raises(ValueError, match=r"can't be probed: no dense1\.kernel with rows"):
        built(Layout("cnn", part))
