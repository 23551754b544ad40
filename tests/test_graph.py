import pytest
import torch
from families import LAYOUTS

from nwslib.meta.networks import graph, probe
from nwslib.snapshots.units import permutation
from nwslib.snapshots.wiring import wiring

FAMILIES = pytest.mark.parametrize("family", LAYOUTS)


def vectors(layout, networks, snapshots=1, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(networks, snapshots, layout.size, generator=generator, dtype=dtype)


def built(layout, **changes):
    torch.manual_seed(0)
    return graph.build(layout, **{"snapshots": 2, "outputs": 3, "width": 8} | changes)


@torch.no_grad()
def read(family, per_weight, consistent=True, probes=0):
    """Give what is read of networks with their units permuted, and what of those as they were."""
    layout = LAYOUTS[family]
    network, whole = built(layout, per_weight=per_weight, probes=probes).double(), vectors(layout, 3, 2)
    network(whole[..., torch.randperm(layout.size)])  # in training, with probes, it learns the scale of tensors
    network.eval()
    index = torch.from_numpy(permutation(layout, 5, consistent=consistent))
    found = network(whole)
    return network(whole[..., index]), found[:, index] if per_weight else found


@FAMILIES
@pytest.mark.parametrize("per_weight", [False, True])
def test_networks_with_permuted_units_are_the_same_to_it(family, per_weight):
    found, expected = read(family, per_weight)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    assert expected.std() > 0.01


@FAMILIES
@pytest.mark.parametrize("per_weight", [False, True])
def test_networks_that_were_permuted_inconsistently_are_others_to_it(family, per_weight):
    found, expected = read(family, per_weight, consistent=False)
    assert (found - expected).abs().max() > 1e-3


@pytest.mark.parametrize("family", probe.DENSE_FAMILIES)
@pytest.mark.parametrize("per_weight", [False, True])
def test_probed_units_obey_both_laws(family, per_weight):
    found, expected = read(family, per_weight, probes=4)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    found, expected = read(family, per_weight, probes=4, consistent=False)
    assert (found - expected).abs().max() > 1e-3


@pytest.mark.parametrize("family", probe.DENSE_FAMILIES)
@torch.no_grad()
def test_units_are_read_by_what_they_add_up_for_each_input(family):
    layout, whole = LAYOUTS[family], vectors(LAYOUTS[family], 2, 1)
    inputs = probe.learned_inputs(layout, 3).double()()
    answers = probe.layer_answers(layout, whole, inputs)
    assert list(answers) == list(wiring(layout).nodes)[1:]
    sizes = [(2, 1, 3, len(nodes.weights)) for nodes in list(wiring(layout).nodes.values())[1:]]
    assert [tuple(answer.shape) for answer in answers.values()] == sizes
    if family == "kan":
        return
    tensors = {t.name: whole[:, 0, layout.slices[t.name]].unflatten(1, t.shape) for t in layout.tensors}
    follows = torch.sin if family == "siren" else torch.relu
    seen = follows(30 * answers["dense1"] if family == "siren" else answers["dense1"])[:, 0]
    expected = seen @ tensors["dense2.kernel"].mT + tensors["dense2.bias"][:, None]
    torch.testing.assert_close(answers["dense2"][:, 0], expected)


def test_with_probes_it_brings_weights_to_the_scale_that_it_saw_in_training():
    layout, whole = LAYOUTS["siren"], vectors(LAYOUTS["siren"], 4)
    network = built(layout, snapshots=1, probes=4).double()
    assert network.raw
    assert not built(layout).raw
    probing = network.probing
    for part in whole.split(2):
        probing.standardized(5 * part + 3)
    probing.eval()
    for place in layout.slices.values():
        found = probing.standardized(5 * whole + 3)[..., place]
        assert found.mean().item() == pytest.approx(0, abs=1e-9)
        assert found.std(correction=0).item() == pytest.approx(1)
    alone = probing.standardized(5 * whole[:1] + 3)
    torch.testing.assert_close(alone, probing.standardized(5 * whole + 3)[:1])


def test_layers_that_are_not_dense_are_not_probed():
    with pytest.raises(ValueError, match=r"units of family 'cnn' can't be probed, dense ones can: kan, mlp, siren"):
        built(LAYOUTS["cnn"], probes=4)
    with pytest.raises(ValueError, match=r"frequency: only probed networks compute something\. Give probes too"):
        built(LAYOUTS["siren"], frequency=10.0)


@FAMILIES
def test_every_weight_gets_its_own_score_and_takes_part_in_others(family):
    network, whole = built(LAYOUTS[family], per_weight=True).double(), vectors(LAYOUTS[family], 1, 2).requires_grad_()
    scores = network(whole)
    assert scores.shape == (1, LAYOUTS[family].size)
    (own,) = torch.autograd.grad(scores[0, 7], whole, retain_graph=True)
    assert (own[0, :, 7] != 0).all()
    (all_,) = torch.autograd.grad(scores[0].sum(), whole)
    assert (all_ != 0).all()


@pytest.mark.parametrize("family", ["mlp", "siren", "kan"])
def test_inputs_and_outputs_have_places(family):
    layout = LAYOUTS[family]
    network, whole = built(layout).double(), vectors(layout, 1, 2)
    tensors = {tensor.name: tensor for tensor in layout.tensors}
    first = next(iter(tensors.values()))
    with torch.no_grad():
        found = network(whole)
        moved = whole.clone()
        block = moved[..., layout.slices[first.name]].unflatten(-1, first.shape)
        moved[..., layout.slices[first.name]] = block.flip(3).flatten(2)
        assert (network(moved) - found).abs().max() > 1e-3


def test_snapshots_have_an_order():
    network, whole = built(LAYOUTS["siren"]).double(), vectors(LAYOUTS["siren"], 1, 2)
    with torch.no_grad():
        assert (network(whole) - network(whole.flip(1))).abs().max() > 1e-3


def test_a_network_is_read_alike_alone_and_among_others():
    network, whole = built(LAYOUTS["resnet8"]).double(), vectors(LAYOUTS["resnet8"], 5, 2)
    with torch.no_grad():
        torch.testing.assert_close(network(whole)[2:3], network(whole[2:3]))


def fitted(network, whole, labels, steps):
    """Fit to labels; give the loss on networks that it was not fitted to, and that of the constant prediction."""
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
    loss = torch.nn.functional.binary_cross_entropy_with_logits
    fit, rest = slice(0, 400), slice(400, None)
    for step in range(steps):
        rows = torch.arange(64) * 7 + 64 * step
        optimizer.zero_grad()
        loss(network(whole[fit][rows % 400]), labels[fit][rows % 400]).backward()
        optimizer.step()
    with torch.no_grad():
        constant = torch.logit(labels[fit].mean(0, keepdim=True).clamp(0.01, 0.99)).expand_as(labels[rest])
        return loss(network(whole[rest]), labels[rest]).item(), loss(constant, labels[rest]).item()


def test_it_learns_what_depends_on_two_layers_together():
    layout = LAYOUTS["siren"]
    whole = vectors(layout, 500, dtype=torch.float32)
    bias, kernel = (whole[:, 0, layout.slices[name]] for name in ("dense2.bias", "output.kernel"))
    labels = ((bias * kernel).sum(1, keepdim=True) > 0).float()  # neither layer alone tells
    found, constant = fitted(built(layout, snapshots=1, outputs=1, rounds=1), whole, labels, 60)
    assert found < 0.3 * constant


def test_it_learns_which_weights_are_among_the_largest_of_their_unit():
    layout = LAYOUTS["siren"]
    whole = vectors(layout, 500, dtype=torch.float32)
    kernel = whole[:, 0, layout.slices["dense2.kernel"]].unflatten(1, (5, 6)).abs()
    labels = torch.zeros(500, layout.size)
    labels[:, layout.slices["dense2.kernel"]] = (kernel > kernel.mean(2, keepdim=True)).float().flatten(1)
    found, constant = fitted(built(layout, snapshots=1, per_weight=True, rounds=1), whole, labels, 60)
    assert found < 0.6 * constant


def test_its_first_weights_come_from_the_generator_and_nothing_else_is_kept():
    states = [built(LAYOUTS["kan"]).state_dict() for _ in range(2)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert sum(value.numel() for value in states[0].values()) == sum(
        parameter.numel() for parameter in built(LAYOUTS["kan"]).parameters()
    )


@pytest.mark.parametrize("name", ["snapshots", "outputs", "width", "rounds"])
def test_numbers_that_are_too_small_are_refused(name):
    with pytest.raises(ValueError, match=f"{name} must be at least [12], not 0"):
        built(LAYOUTS["siren"], **{name: 0})
