import numpy as np
import pytest

from nwslib import space
from nwslib.population import OPTIONS, train


@pytest.fixture(scope="module")
def design(bars):
    return space.sample(
        "nws_small",
        4,
        seed=3,
        dataset=sorted(bars),
        batch_size=64,
        augmentation=["on", "off"],
        initialization="glorot_uniform",
        optimizer=["momentum", "rmsprop"],
    )


def trained(design, bars, options, implementation):
    finished = train(
        design, bars, max_epochs=2, precision="float64", implementation=implementation, options=options, progress=False
    )
    return {int(one["model"][0]): one for one in finished}


@pytest.fixture(scope="module")
def plain(design, bars):
    return trained(design, bars, (), "lanes")


@pytest.mark.parametrize("option", OPTIONS)
def test_an_option_is_the_same_in_every_implementation(design, bars, option):
    ours, theirs = (trained(design, bars, [option], name) for name in ("lanes", "grouped"))
    for number, one in ours.items():
        other = theirs[number]
        assert one["weights"].values == pytest.approx(other["weights"].values, rel=1e-5, abs=1e-6)
        for curve in ("curve_valid_accuracy", "curve_test_accuracy", "curve_train_accuracy"):
            np.testing.assert_allclose(one[curve].values, other[curve].values, atol=1e-6, err_msg=f"{number} {curve}")


@pytest.mark.parametrize("option", ["batch_statistics", "augmented_evaluation"])
def test_other_evaluations_change_accuracies_but_no_weight(design, bars, plain, option):
    changed = trained(design, bars, [option], "lanes")
    for number, one in changed.items():
        assert np.array_equal(one["weights"], plain[number]["weights"])
    curve = "curve_test_accuracy"
    differ = {n for n, one in changed.items() if not np.array_equal(one[curve], plain[n][curve])}
    augmented = set(design["model"].values[design["augmentation"].values == "on"].tolist())
    assert differ
    assert option == "batch_statistics" or differ <= augmented


def test_colour_per_batch_changes_augmented_networks_alone(design, bars, plain):
    for number, one in trained(design, bars, ["colour_per_batch"], "lanes").items():
        same = np.array_equal(one["weights"], plain[number]["weights"])
        assert same == (design["augmentation"].values[number] == "off")


def test_bias_noise_moves_biases_in_front_of_a_batch_norm(design, bars, plain):
    noisy = trained(design, bars, ["bias_noise"], "lanes")
    for number, one in noisy.items():
        first = slice(4 * 3 * 9, 4 * 3 * 9 + 4)  # the bias behind the first kernel
        assert not plain[number]["weights"].values[0, -1, first].any()
        moved = one["weights"].values[0, -1, first]
        assert moved.any()
        assert abs(moved).max() < 1e-9


def test_options_are_part_of_what_makes_a_network(design, bars, plain):
    one = trained(design.isel(model=[0]), bars, ["bias_noise"], "lanes")[0]
    assert one["id"].item() != plain[0]["id"].item()


def test_an_unknown_option_is_refused(design, bars):
    with pytest.raises(ValueError, match=r"unknown option 'bias_noises'.*bias_noise"):
        train(design, bars, options=["bias_noises"])
