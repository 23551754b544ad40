import numpy as np
import pytest

from nwslib import space
from nwslib.space import COLLECTIONS, PROPERTIES, VOCABULARY, complete, nearest, row_keys, sample


@pytest.mark.parametrize("collection", COLLECTIONS)
def test_every_drawn_value_is_in_the_vocabulary(collection):
    design = sample(collection, 200, seed=1)
    for name in PROPERTIES:
        values = set(design[name].values.tolist())
        if name == "learning_rate":
            assert min(values) >= VOCABULARY[name][0]
            assert max(values) <= VOCABULARY[name][1]
        elif name in COLLECTIONS[collection]:
            assert values == {COLLECTIONS[collection][name]}
        else:
            assert values == set(VOCABULARY[name])


def test_values_are_uniform_and_properties_independent():
    design = sample("nws_main", 6000, seed=3)
    for name in set(PROPERTIES) - {"learning_rate"}:
        counts = np.unique(design[name].values, return_counts=True)[1]
        expected = 6000 / len(VOCABULARY[name])
        assert abs(counts - expected).max() < 5 * np.sqrt(expected)
    pairs = np.unique(design["optimizer"].values.astype("O") + design["activation"].values, return_counts=True)[1]
    assert len(pairs) == 12
    assert abs(pairs - 500).max() < 5 * np.sqrt(500)
    low, high = VOCABULARY["learning_rate"]
    share = (np.sort(design["learning_rate"].values) - low) / (high - low)
    assert abs(share - np.linspace(0, 1, 6000)).max() < 0.03


def test_a_longer_design_begins_with_the_shorter_one():
    long, short = sample("nws_main", 130, seed=5), sample("nws_main", 77, seed=5)
    assert long.isel(model=slice(0, 77)).equals(short)


def test_seeds_give_different_designs_and_every_network_its_own_seed():
    first, second = sample("nws_small", 500, seed=0), sample("nws_small", 500, seed=1)
    assert not set(row_keys(first)) & set(row_keys(second))
    assert len(np.unique(first["seed"])) == 500


def test_one_network_in_four_is_for_testing():
    split = sample("nws_small", 400, seed=2)["split"].values
    assert ((split == "test").reshape(100, 4).sum(1) == 1).all()
    assert len({tuple(block) for block in split.reshape(100, 4)}) == 4


def test_a_shard_holds_64_rows_of_one_architecture_in_design_order():
    design = sample("nws_main", 600, seed=0, depth_conv=3, depth_fc=2, width_conv=4, width_fc=64)
    for _, rows in design.groupby("filter_size"):
        assert rows["shard"].values.tolist() == [rank // 64 for rank in range(rows.sizes["model"])]


def test_values_can_be_held_or_chosen_from_a_list():
    design = sample("nws_small", 60, seed=0, dataset=["digits", "cifar10[batches 1-2]"], optimizer="adam", decay=1)
    assert set(design["dataset"].values) == {"digits", "cifar10[batches 1-2]"}
    assert set(design["optimizer"].values) == {"adam"}
    assert design["decay"].dtype == "float64"
    narrow = sample("nws_small", 60, seed=0, learning_rate=[0.001, 0.002])["learning_rate"]
    assert 0.001 <= narrow.min() < narrow.max() <= 0.002
    assert (sample("nws_small", 9, seed=0, learning_rate=0.003)["learning_rate"] == 0.003).all()


@pytest.mark.parametrize(
    ("fixed", "message"),
    [
        ({"optimiser": "adam"}, "unknown property 'optimiser'. Did you mean 'optimizer'"),
        ({"optimizer": "adm"}, "unknown optimizer 'adm'. Did you mean 'adam'"),
        ({"dataset": "cifar"}, "unknown image set 'cifar'. Did you mean 'cifar10'"),
        ({"dataset": []}, "no value to choose from"),
        ({"augmentation": True}, "unknown augmentation True"),
        ({"learning_rate": -1}, "positive number, not -1"),
        ({"learning_rate": "1e-3"}, "positive number, not '1e-3'"),
        ({"learning_rate": [0.001, 0.002, 0.003]}, r"a range \[low, high\], not 3 values"),
        ({"batch_size": 48}, "48 is not in the study's space. The nearest is (32|64)"),
        ({"batch_size": 32.0}, "positive whole number, not 32.0"),
        ({"filter_size": 4}, "must be odd, not 4"),
        ({"depth_conv": 2}, "at least 3"),
        ({"image_size": 28}, "The nearest is 32"),
        ({"family": "mlp"}, "unknown family 'mlp'"),
    ],
)
def test_a_value_without_meaning_is_refused(fixed, message):
    with pytest.raises(ValueError, match=message):
        sample("nws_small", 4, seed=0, **fixed)


def test_impossible_designs_are_refused():
    with pytest.raises(ValueError, match="Did you mean 'nws_small'"):
        sample("nws_smal", 4, seed=0)
    with pytest.raises(ValueError, match="whole number of networks, at least 1, not 0"):
        sample("nws_small", 0, seed=0)
    with pytest.raises(ValueError, match="seed must be a whole number from 0"):
        sample("nws_small", 4, seed=-1)


def test_a_design_by_hand_may_leave_the_vocabulary():
    design = sample("nws_small", 3, seed=0)[[*PROPERTIES, "seed"]]
    design["batch_size"] = ("model", [1, 48, 1000])
    design["width_conv"] = ("model", np.array([5, 5, 7], "int32"))
    design["optimizer"] = design["optimizer"].astype(object)
    done = complete(design)
    assert done["shard"].values.tolist() == [0, 0, 0]
    assert done["image_size"].values.tolist() == [32, 32, 32]
    assert done["width_conv"].dtype == "int64"
    assert done["optimizer"].dtype.kind == "U"
    assert complete(done).identical(done)


def test_a_part_of_a_design_keeps_its_shards():
    design = sample("nws_small", 130, seed=0)
    assert (complete(design.isel(model=[129]))["shard"] == 2).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda design: design.drop_vars("optimizer"), "no column 'optimizer'"),
        (lambda design: design.rename(model="row"), "one row per network along the dimension 'model'"),
        (lambda design: design.isel(model=[0, 0]), "'model' holds a different whole number"),
        (lambda design: design.isel(model=[0, 0]).assign_coords(model=[0, 1]), "they are one network"),
        (lambda design: design.assign_coords(model=[0.0, 1.5]), "'model' holds a different whole number"),
        (lambda design: design.assign(batch_size=("model", [0, 32])), "positive whole number, not 0"),
        (lambda design: design.assign(decay=("model", [0.9, np.nan])), "decay must be a positive number, not nan"),
        (lambda design: design.assign(split=("model", ["train", "tset"])), "unknown split 'tset'. Did you mean 'test'"),
        (lambda design: design.assign(seed=("model", [-1, 1])), "seed must be a whole number"),
    ],
)
def test_a_broken_design_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        complete(change(sample("nws_small", 2, seed=0)))


def test_keys_tell_networks_apart_and_forget_the_row():
    design = sample("nws_small", 5, seed=0)
    turned = design.isel(model=[3, 1]).assign_coords(model=[0, 1])
    assert row_keys(turned) == [row_keys(design)[3], row_keys(design)[1]]
    for name in (*PROPERTIES, "seed", "decay", "image_size"):
        other = {"dataset": "digits", "augmentation": "?", "optimizer": "?", "activation": "?", "initialization": "?"}
        changed = design.assign({name: ("model", np.full(5, other.get(name, 999)))})
        assert not set(row_keys(changed)) & set(row_keys(design))


def test_nearest_names_what_is_close():
    assert nearest("momentun", ["adam", "momentum"]) == "Did you mean 'momentum'?"
    assert nearest(100, [32, 64, 128]) == "The nearest is 128."
    assert nearest("xyz", ["adam", "momentum"]) == "Known: 'adam', 'momentum'."
    assert space.base_set("kmnist[test]") == "kmnist"


def test_what_varies_is_what_takes_more_than_one_value():
    assert space.varying(space.sample("nws_main", 200, seed=0)) == list(space.PROPERTIES)
    small = space.sample("nws_small", 200, seed=0, dataset="digits")
    assert space.varying(small) == list(space.PROPERTIES[1:7])
