import shutil

import numpy as np
import pytest
import torch

from benchmarks import contenders
from nwslib import space

WAYS = {"loop": contenders.loop, "vmap": contenders.vmap, "modelbatch": contenders.modelbatch}
CROWDS = ("vmap", "modelbatch")


def start(way, shape="small", networks=3, batch=8, **options):
    if way == "modelbatch":
        pytest.importorskip("modelbatch", reason="modelbatch is not installed: pip install 'nwslib[benchmark]'")
    if way == "loop":
        options = {"consecutive": 1} | options
    return WAYS[way](shape, networks, batch, "cpu", 5, **options)


def copy(contender):
    return {name: tensor.detach().clone() for name, tensor in contender.state().items()}


def moved(before, after):
    """Say of each network whether all its kernels moved."""
    kernels = [name for name in before if name.endswith("weight") and before[name].dim() > 2]
    return torch.stack([(before[name] != after[name]).flatten(1).any(1) for name in kernels]).all(0)


@pytest.mark.parametrize("way", WAYS)
def test_every_contender_learns(way):
    contender = start(way, networks=2, batch=32)
    losses = torch.stack([contender() for _ in range(150)])
    assert (losses[-5:].mean(0) < 0.5 * losses[0]).all()
    assert np.log(20) / 2 < losses[0].mean() < 2 * np.log(20)


@pytest.mark.parametrize("way", WAYS)
def test_a_call_is_one_step_of_every_network(way):
    contender = start(way, networks=3, batch=8)
    before = copy(contender)
    assert contender().shape == (3,)
    after = copy(contender)
    assert contender.images == 3 * 8
    assert moved(before, after).all()
    counts = [tensor for name, tensor in after.items() if name.endswith("num_batches_tracked")]
    assert len(counts) == 5
    assert all((count == 1).all() for count in counts)


@pytest.mark.parametrize("shape", ["small", "fixed"])
@pytest.mark.parametrize("way", CROWDS)
def test_crowds_train_as_the_loop_does(way, shape):
    options = {"shape": shape, "networks": 3, "batch": 6, "dropout": 0.0, "dtype": torch.float64}
    ours, theirs = start("loop", **options), start(way, **options)
    first = copy(ours)
    assert all(torch.equal(first[name], tensor) for name, tensor in theirs.state().items())
    for _ in range(2):  # the second step sees gradients that were not cleared
        torch.testing.assert_close(theirs(), ours(), rtol=1e-9, atol=0)
    for name, tensor in ours.state().items():
        torch.testing.assert_close(theirs.state()[name], tensor, rtol=0, atol=1e-8, msg=name)
    assert moved(first, copy(ours)).all()
    assert "0.bias" not in first  # in front of a batch norm
    assert (theirs.state()["1.running_var"] != first["1.running_var"]).all()


@pytest.fixture
def twins(monkeypatch):
    """Give all networks the same weights and images, and no rate: what differs is dropout."""
    batches, modules = contenders._batches, contenders._modules
    monkeypatch.setattr(
        contenders, "_batches", lambda *values: [part[:1].repeat_interleave(2, 0) for part in batches(*values)]
    )
    monkeypatch.setattr(contenders, "_modules", lambda *values: [modules(*values)[0] for _ in range(2)])
    monkeypatch.setattr(contenders, "RATE", 0.0)
    monkeypatch.setitem(contenders.OPTIMIZERS, "adam", lambda parameters: torch.optim.Adam(parameters, lr=0.0))


@pytest.mark.parametrize("way", WAYS)
def test_networks_drop_units_of_their_own(twins, way):
    first, second = start(way, networks=2)()
    assert first != second
    first, second = start(way, networks=2, dropout=0.0)()
    torch.testing.assert_close(first, second)


@pytest.mark.parametrize("way", WAYS)
def test_units_are_dropped_anew_at_each_step_where_no_note_says_otherwise(twins, way):
    contender = start(way, networks=2)
    assert torch.equal(contender(), contender()) == ("every step drops the same units" in contender.note)


def test_the_loop_gives_each_network_its_consecutive_steps():
    contender = start("loop", networks=4, consecutive=2)
    for turn in ([0, 1], [2, 3], [0, 1]):
        before = copy(contender)
        assert contender().shape == (4,)
        assert moved(before, copy(contender)).nonzero()[:, 0].tolist() == turn
    contender = start("loop", networks=2, consecutive=5)
    for taken in ([2, 0], [4, 0], [5, 1], [5, 3]):
        contender()
        assert contender.state()["1.num_batches_tracked"].tolist() == taken


def test_the_loop_gives_out_optimizers_and_activations():
    names = {"optimizers": ("adam", "rmsprop", "momentum"), "activations": ("relu", "tanh")}
    mixed, plain = start("loop", dropout=0.0, **names), start("loop", dropout=0.0)
    first, same = mixed(), plain()
    assert first[0] == same[0]
    assert first[1] != same[1]  # tanh
    assert first[2] == same[2]
    weights, expected = mixed.state()["0.weight"], plain.state()["0.weight"]
    assert torch.equal(weights[0], expected[0])
    assert not torch.allclose(weights[2], expected[2])  # momentum


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # PyTorch's compiler warns of PyTorch's own code
def test_the_compiled_crowd_steps_as_the_loop_does():
    options = {"dropout": 0.0, "dtype": torch.float64}
    ours, theirs = start("loop", **options), start("vmap", compiled=True, **options)
    torch.testing.assert_close(theirs(), ours(), rtol=1e-12, atol=0)
    for name, tensor in ours.state().items():
        torch.testing.assert_close(theirs.state()[name], tensor, rtol=0, atol=1e-8, msg=name)


def test_every_network_has_its_own_weights_and_batch():
    contender = start("vmap", networks=3)
    weights = contender.state()["0.weight"]
    assert len({tuple(one.flatten().tolist()) for one in weights}) == 3
    images, labels = contenders._batches("small", 3, 8, "cpu", 5, torch.float32)
    assert images.shape == (3, 8, 3, 16, 16)
    assert 0 <= images.min() < images.max() <= 1
    assert (images[0] != images[1]).any(0).all()
    assert not torch.equal(labels[0], labels[1])


def test_a_call_uses_its_threads_and_leaves_the_number_as_it_was():
    before = torch.get_num_threads()
    seen = []
    contender = contenders.Contender(1, before + 1, lambda: seen.append(torch.get_num_threads()), dict)
    contender()
    assert seen == [before + 1]
    assert torch.get_num_threads() == before
    assert start("loop", networks=1, threads=2).threads == 2
    assert start("loop", networks=1).threads == before


def test_what_has_no_meaning_is_refused():
    with pytest.raises(ValueError, match=r"unknown shape 'smal'. Did you mean 'small'\?"):
        contenders.vmap("smal", 2, 8, "cpu", 0)
    with pytest.raises(ValueError, match="networks and batch must be at least 1, not 0 and 8"):
        contenders.loop("small", 0, 8, "cpu", 0)
    with pytest.raises(ValueError, match="consecutive must be at least 1, not 0"):
        contenders.loop("small", 2, 8, "cpu", 0, consecutive=0)
    with pytest.raises(ValueError, match=r"unknown optimizer 'adm'. Did you mean 'adam'\?"):
        contenders.loop("small", 2, 8, "cpu", 0, optimizers=["adm"])


def mixed_design(**fixed):
    return space.sample("nws_main", 3, 0, image_size=16, dataset=["digits", "textures"], width_conv=4, **fixed)


def test_the_mixed_loop_trains_every_row(bars):
    images, seconds = contenders.mixed_loop(mixed_design(batch_size=[32, 64]), bars, epochs=1, images_per_epoch=80)
    batches = mixed_design(batch_size=[32, 64])["batch_size"].values
    assert images == sum(80 // batches * batches)
    assert seconds > 0


@pytest.mark.parametrize("evaluate", [True, False])
@pytest.mark.parametrize("images", [None, 100, 2000])
def test_the_mixed_loop_makes_epochs_of_the_size_asked_for(bars, monkeypatch, images, evaluate):
    seen = []
    monkeypatch.setattr(contenders, "train_alone", lambda one, bank, epochs: seen.append((one, bank, epochs)))
    trained, _ = contenders.mixed_loop(mixed_design(batch_size=32), bars, 5, images, evaluate=evaluate)
    assert [epochs for *_, epochs in seen] == [5, 5, 5]
    for one, everything, _ in seen:
        available = contenders.draws.balanced_count(one.labels)
        steps = (available if images is None else images) // 32
        assert one.steps_per_epoch == steps
        assert available >= steps * 32
        assert torch.equal(everything.labels[one.train], one.labels)
        test = len(everything.test[one.row["dataset"]])
        assert len(one.test) == (test if evaluate else 1)
        assert (len(one.valid) > 0) == evaluate
    assert trained == 5 * 32 * sum(one.steps_per_epoch for one, *_ in seen)


def test_an_epoch_below_a_batch_is_refused(bars):
    with pytest.raises(ValueError, match="network 0: an epoch of 20 images is smaller than its batch of 32"):
        contenders.mixed_loop(mixed_design(batch_size=32), bars, images_per_epoch=20)
