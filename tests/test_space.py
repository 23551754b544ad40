import hashlib
import re

import numpy as np
import pytest
import xarray as xr

from nwslib import space
from nwslib.space import (
    COLLECTIONS,
    PROPERTIES,
    SWITCH_COLUMNS,
    VOCABULARY,
    complete,
    image_sets,
    nearest,
    row_keys,
    sample,
    switch,
    switch_columns,
)


@pytest.mark.parametrize("collection", ["nws_main", "nws_fixed", "nws_small"])
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


@pytest.mark.parametrize(
    ("collection", "digest"),
    [("nws_main", "59a69d94a4c97b4e"), ("nws_fixed", "8fc4bc699cc8226b"), ("nws_small", "196f84b77da1a739")],
)
def test_rows_are_those_that_populations_were_begun_with(collection, digest):
    keys = row_keys(sample(collection, 100, seed=0))
    assert hashlib.sha256(repr(keys).encode()).hexdigest()[:16] == digest


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
        ({"batch_size": 32.0}, "a whole number, 1 or larger, not 32.0. The nearest is 32"),
        ({"filter_size": 4}, "must be odd, not 4"),
        ({"depth_conv": 2}, "a whole number, 3 or larger, not 2. The nearest is 3"),
        ({"image_size": 28}, "The nearest is 32"),
        ({"family": "mlp"}, "unknown family 'mlp'. Known: 'cnn'"),
        ({"width": 32}, "unknown property 'width'. Did you mean 'width_fc'"),
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
        (lambda design: design.assign(batch_size=("model", [0, 32])), "1 or larger, not 0. The nearest is 1"),
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


def test_a_switch_is_one_value_or_one_for_each_or_a_mapping():
    design = sample("nws_small", 4, seed=0, optimizer=["adam", "momentum"])
    before = design["optimizer"].values.tolist()
    assert switch(design, 5, optimizer="rmsprop")["optimizer_after"].values.tolist() == ["rmsprop"] * 4
    each = switch(design, [1, 2, 3, 4], learning_rate=np.array([0.1, 0.2, 0.3, 0.4]))
    assert each["learning_rate_after"].values.tolist() == [0.1, 0.2, 0.3, 0.4]
    assert each["switch_epoch"].values.tolist() == [1, 2, 3, 4]
    assert {"optimizer_after", "dataset_after", "augmentation_after"}.isdisjoint(each)
    after = switch(design, 5, optimizer={"adam": "rmsprop"})["optimizer_after"].values.tolist()
    assert after == ["rmsprop" if value == "adam" else value for value in before]
    assert len(set(after)) == 2


def test_a_switched_design_is_the_design_with_columns_of_the_right_types():
    design = sample("nws_small", 3, seed=0, dataset="digits")
    done = switch(design, np.int32(7), dataset="kmnist[test]", learning_rate=1, augmentation="on", optimizer="adam")
    assert done.drop_vars(SWITCH_COLUMNS).identical(design)
    assert [done[name].dtype.kind for name in SWITCH_COLUMNS] == list("iUfUU")
    assert complete(done).identical(done)
    assert switch_columns(done) == list(SWITCH_COLUMNS)
    assert switch_columns(design) == []
    assert image_sets(done) == ["digits", "kmnist[test]"]
    assert image_sets(design) == ["digits"]


@pytest.mark.parametrize(
    ("epoch", "after", "message"),
    [
        (3, {}, "nothing is to change: name what does. Known: 'dataset', 'learning_rate'"),
        (3, {"optimiser": "adam"}, "'optimiser' is no property, so it can't change. Did you mean 'optimizer'?"),
        (3, {"activation": "relu"}, "'activation' is fixed before training, so it can't change. Did you mean 'augm"),
        (3, {"optimizer": "adm"}, "optimizer_after: unknown optimizer 'adm'. Did you mean 'adam'?"),
        (3, {"dataset": "mnits"}, "dataset_after: unknown image set 'mnits'. Did you mean 'mnist'?"),
        (3, {"learning_rate": 0.0}, "learning_rate_after: learning_rate must be a positive number, not 0.0"),
        (3, {"optimizer": {"momentun": "adam"}}, "unknown optimizer 'momentun'. Did you mean 'momentum'?"),
        (3, {"augmentation": ["on", "off"]}, "augmentation: 2 values for 3 networks. Give one for all, or 3"),
        ([3, 4], {"augmentation": "on"}, "switch_epoch: 2 values for 3 networks. Give one for all, or 3"),
        (0, {"augmentation": "on"}, "switch_epoch must be a whole number, 1 or larger, not 0. The nearest is 1."),
        (4.4, {"augmentation": "on"}, "switch_epoch must be a whole number, 1 or larger, not 4.4. The nearest is 4."),
        ("x", {"augmentation": "on"}, "switch_epoch must be a whole number, 1 or larger, not 'x'"),
        (True, {"augmentation": "on"}, "switch_epoch must be a whole number, 1 or larger, not True"),
    ],
)
def test_a_wrong_switch_names_the_nearest_valid_choice(epoch, after, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        switch(sample("nws_small", 3, seed=0), epoch, **after)


def test_networks_change_course_once_and_at_some_time():
    design = sample("nws_small", 3, seed=0)
    done = switch(design, 3, augmentation="on")
    with pytest.raises(ValueError, match="networks change course once, and these do already"):
        switch(done, 4, optimizer="adam")
    with pytest.raises(ValueError, match="has 'augmentation_after', but no 'switch_epoch'"):
        complete(done.drop_vars("switch_epoch"))


def test_keys_tell_courses_apart():
    design = sample("nws_small", 3, seed=0, optimizer="adam", augmentation="off")
    courses = [
        design,
        switch(design, 3, optimizer="adam"),
        switch(design, 4, optimizer="adam"),
        switch(design, 3, optimizer="momentum"),
        switch(design, 3, augmentation="off"),
    ]
    assert len({key for course in courses for key in row_keys(course)}) == 15
    both = xr.concat([courses[1], courses[3]], "model").assign_coords(model=np.arange(6)).drop_vars("shard")
    assert complete(both).sizes["model"] == 6
