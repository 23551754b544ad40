import json

import numpy as np
import pytest
import xarray as xr
from readings import classes, numbers, often

from nwslib import meta, space
from nwslib.analysis import league as scoring
from nwslib.analysis import scores
from nwslib.meta.league import Task, league, learning_curve, readings
from nwslib.meta.masks import WeightReader, read_masks
from nwslib.snapshots import fake, layout_of

NETWORKS = 60


def named(reading, **attributes):
    """Give a reading what the harness knows of one: names of the networks, and what it cost."""
    costs = {"networks_trained_on": 180, "seconds_to_train": 2.0, "seconds_per_network": 0.1, "parameter_count": 7}
    ids = [f"n{number}" for number in range(reading.sizes["model"])]
    return reading.assign_coords(id=("model", ids)).assign_attrs(costs | attributes)


def right(share, seed=0, seeds=3):
    return named(classes(luck(share, seed, seeds), seed=9))


def luck(share, seed, seeds=3):
    return often(share, NETWORKS, seed=seed, reader=seeds).rename(reader="seed")


def noisy(spread, seed=0, **attributes):
    noise = spread * np.random.default_rng(seed).normal(size=(NETWORKS, 3))
    return named(numbers(xr.DataArray(noise, dims=("model", "seed")), seed=9), **attributes)


def masked(share, seed=0):
    """Give a reading of masks that names a share of the weights right, a little more or less of each network."""
    luck = 0.02 * np.random.default_rng(seed).normal(size=NETWORKS)
    columns = dict.fromkeys(("accuracy", "AUC"), ("model", share + luck)) | {"base_rate": ("model", 0.6 + luck)}
    return named(xr.Dataset(columns, attrs={"task": "mask"}))


def test_a_row_scores_classes_as_scores_does_and_names_the_baseline():
    every = {"good": right(0.9), "poor": right(0.4, seed=1)}
    found = scoring.row("a task", every, "accuracy", "a group").sel(task="a task", measure="accuracy")
    for name, reading in every.items():
        one = found.sel(reader=name)
        assert one["score"].item() == pytest.approx(scores.accuracy(reading))
        assert (one["low"].item(), one["high"].item()) == pytest.approx(scores.accuracy_interval(reading))
    assert found["baseline"].item() == scores.chance(every["good"])
    assert found["group"].item() == "a group"
    assert (found["networks"].item(), found["trained_on"].item()) == (NETWORKS, 180)
    assert found["parameters"].values.tolist() == [7, 7]


def test_numbers_are_scored_by_all_that_is_usual_and_the_baseline_is_the_median():
    found = scoring.row("a task", {"one": noisy(0.1), "other": noisy(2.0)}, "MSE").squeeze("task")
    reading = noisy(0.1)
    error = np.log10(reading["truth"]) - np.log10(reading["prediction"])
    assert found["score"].sel(reader="one", measure="MSE").item() == pytest.approx((error**2).mean().item())
    always = np.log10(reading["truth"]) - np.log10(reading.attrs["train_median"])
    assert found["baseline"].sel(measure="MSE").item() == pytest.approx((always**2).mean().item())
    assert (found["low"] <= found["score"]).all()
    assert (found["score"] <= found["high"]).all()
    assert found["behind"].sel(reader="one").item() == 0  # of errors, less is better
    assert found["behind_low"].sel(reader="other").item() > 0


def test_numbers_on_a_linear_scale_are_scored_as_they_are():
    linear = scoring.row("a task", {"one": noisy(0.1, scale="linear")}, "R2").squeeze()
    reading = noisy(0.1)
    error = ((reading["truth"] - reading["prediction"]) ** 2).mean().item()
    assert linear["score"].sel(measure="MSE").item() == pytest.approx(error)


def test_a_resample_of_equal_truths_explains_nothing():
    few = noisy(0.1).isel(model=slice(3))
    found = scoring.row("a task", {"one": few, "other": noisy(1.0, 1).isel(model=slice(3))}, "R2")
    assert np.isfinite(found[["low", "high", "behind_low", "behind_high"]].to_dataarray()).all()


def test_readers_are_compared_network_by_network():
    alike = luck(0.6, 5)
    alike[0] = ~alike[0]
    every = {"one": luck(0.6, 5), "alike": alike, "apart": luck(0.6, 8)}
    every = {name: named(classes(one, seed=9)) for name, one in every.items()}
    found = scoring.row("a task", every, "accuracy").squeeze("task")
    width = (found["behind_high"] - found["behind_low"]).values
    assert sorted(width)[0] == 0  # the best against itself
    assert found["behind"].min() == 0
    pair = scoring.row("a task", {name: every[name] for name in ("one", "alike")}, "accuracy").squeeze("task")
    assert (pair["behind_high"] - pair["behind_low"]).max() < 0.5 * width.max()


def test_masks_are_scored_by_network():
    found = scoring.row("a mask", {"one": masked(0.8), "other": masked(0.7, 1)}, "accuracy").squeeze("task")
    assert found["score"].sel(reader="one", measure="AUC").item() == pytest.approx(masked(0.8)["AUC"].mean().item())
    assert found["baseline"].sel(measure="accuracy").item() == pytest.approx(masked(0.8)["base_rate"].mean().item())
    assert found["baseline"].sel(measure="AUC").item() == 0.5
    assert found["behind_low"].sel(reader="other").item() > 0


def test_tables_of_different_tasks_stand_below_each_other():
    one = scoring.row("classes", {"a": right(0.9), "b": right(0.5, 1)}, "accuracy")
    other = scoring.row("numbers", {"b": noisy(0.1), "c": noisy(1.0)}, "R2")
    both = scoring.together(one, other)
    assert both["task"].values.tolist() == ["classes", "numbers"]
    assert both["reader"].values.tolist() == ["a", "b", "c"]
    assert both["counts"].values.tolist() == ["accuracy", "R2"]
    assert np.isnan(both["score"].sel(task="numbers", reader="a")).all()
    xr.testing.assert_allclose(both.sel(task="classes", reader=["a", "b"], measure=["accuracy"]), one.squeeze("task"))
    with pytest.raises(ValueError, match="each task once"):
        scoring.together(one, one)


def test_the_best_reader_beats_others_only_by_more_than_the_interval():
    clear = scoring.row("clear", {"ours": right(0.95), "DMC": right(0.5, 1), "plain": right(0.6, 2)}, "accuracy")
    close = scoring.row("close", {"ours": right(0.85, 2), "DMC": right(0.8, 1)}, "accuracy")
    lost = scoring.row("lost", {"ours": noisy(1.0), "DMC": noisy(2.0), "plain": noisy(0.1)}, "R2")
    found = scoring.best(scoring.together(clear, close, lost), {"DMC": ["DMC"], "statistics": ["plain"]})
    assert found["reader"].values.tolist() == ["ours", "ours", "plain"]
    assert found["beaten"].sel(other="DMC").values.tolist() == [True, False, True]
    assert found["beaten"].sel(other="statistics").values.tolist() == [True, False, False]
    assert np.isnan(found["ahead"].sel(task="close", other="statistics"))
    assert found["ahead"].sel(task="lost", other="statistics").item() == 0
    assert np.isnan(scoring.best(clear, {"nobody": []})["ahead"]).all()
    gap = scores.accuracy(right(0.95)) - scores.accuracy(right(0.5, 1))
    assert found["ahead"].sel(task="clear", other="DMC").item() == pytest.approx(gap)
    with pytest.raises(ValueError, match=r"unknown reader 'DCM'\. Did you mean 'DMC'"):
        scoring.best(clear, {"DMC": ["DCM"]})


def test_claims_and_words_name_the_best_reader_beside_the_plain_one():
    one = scoring.row("a class", {"ours": right(0.95), "plain": right(0.6, 2)}, "accuracy")
    table = scoring.together(one, scoring.row("a number", {"plain": noisy(0.1), "ours": noisy(1.0)}, "R2"))
    said = scoring.in_words(scoring.best(table, {"statistics": ["plain"]}), "x_")
    first, second = (
        one["score"].max().item() for one in (table.sel(task="a class"), table.sel(task="a number", measure="R2"))
    )
    assert said["x_best"] == f"a class: ours ({first:.1%}); a number: plain (R2 {second:.3g})"
    assert (said["x_tasks"], said["x_beats_statistics"], said["x_networks"]) == ("2", "1", str(NETWORKS))
    without = scoring.best(table, {"DMC": [], "plain": ["plain"]})
    assert [scoring.in_words(without)[f"with_{word}"] for word in ("DMC", "plain")] == ["0", "2"]
    assert said["x_first"] == "ours (1), plain (1)"
    stated = scoring.claims(table, ["plain"], "a-figure")
    assert [one["claim"] for one in stated] == ["a class by ours", "a number by plain"]
    assert stated[0]["baseline"] == pytest.approx(scores.accuracy(right(0.6, 2)))
    assert [one["chance"] for one in stated] == [scores.chance(right(0.95)), 0]
    assert stated[1]["number"] == stated[1]["baseline"]


def test_what_is_no_row_is_refused():
    with pytest.raises(ValueError, match=r"'accurate'\. Did you mean 'accuracy'"):
        scoring.row("a task", {"a": right(0.9)}, "accurate")
    with pytest.raises(ValueError, match="'R2' is no score of a classification"):
        scoring.row("a task", {"a": right(0.9)}, "R2")
    with pytest.raises(ValueError, match="at least one reader"):
        scoring.row("a task", {}, "accuracy")
    with pytest.raises(ValueError, match="the same test networks, but 'b' read others"):
        scoring.row("a task", {"a": right(0.9), "b": right(0.9).isel(model=slice(30))}, "accuracy")
    with pytest.raises(ValueError, match="as many seeds, but 'b' has others"):
        scoring.row("a task", {"a": right(0.9), "b": right(0.9, seeds=2)}, "accuracy")


def test_published_figures_have_a_source_and_say_what_differs():
    assert {one.task for one in scoring.PUBLISHED} == set(scoring.TASKS)
    assert len(scoring.TASKS) == 10
    for one in scoring.PUBLISHED:
        assert one.measure in scoring.MEASURES
        assert one.source.startswith("arXiv:")
        assert one.differs.startswith("same task, our zoo")
        assert 0 < one.value < (0.01 if one.measure == "MSE" else 1)
    errors = [one.value for one in scoring.published("test accuracy, kmnist", "MSE")]
    assert errors == sorted(errors)
    accuracies = [one.value for one in scoring.published("image class, mnist", "accuracy")]
    assert accuracies == sorted(accuracies, reverse=True)
    with pytest.raises(ValueError, match=r"image class, mnits'\. Did you mean 'image class, mnist'"):
        scoring.published("image class, mnits")


@pytest.fixture(scope="module")
def population():
    """Give networks that were not trained, whose properties leave strong traces."""
    design = space.sample("nws_small", 48, seed=0, optimizer=["adam", "momentum"])
    networks = [one.drop_dims("evaluation") for one in fake.population(design, signal=2)]
    return xr.concat(networks, "model", data_vars="all")


@pytest.fixture(scope="module")
def masks(population):
    """Give masks that keep what is larger than the mean of its layer, and ask nothing about biases."""
    layout = layout_of(population)
    sizes = np.abs(population["weights"].values[:, -1])
    keep = np.concatenate(
        [part > part.mean(axis=1, keepdims=True) for part in (sizes[:, place] for place in layout.slices.values())],
        axis=1,
    ).astype("float32")
    keep[:, layout.label("kind") == "bias"] = np.nan
    coordinates = {"model": population["model"].values, "id": ("model", population["id"].values)}
    return xr.DataArray(keep, coordinates, ("model", "weight"), name="keep", attrs={"threshold": 1.0})


READERS = {"layers": meta.StatisticsReader(), "vector": meta.StatisticsReader(per="vector")}


def test_a_league_reads_every_task_with_every_reader_and_goes_on_where_it_stopped(
    population, masks, tmp_path, monkeypatch
):
    tasks = [
        Task("the optimizer", population, "optimizer", group="study"),
        Task("the rate", population, "learning_rate", score="R2", group="study"),
    ]
    table = league(tasks, READERS, [0, 1], keep=tmp_path, workers=1)
    assert table["counts"].values.tolist() == ["accuracy", "R2"]
    one = meta.read(population, "optimizer", READERS["layers"], seeds=[0, 1])
    scored = table["score"].sel(task="the optimizer", reader="layers", measure="accuracy").item()
    assert scored == pytest.approx(scores.accuracy(one))
    assert (table["seconds_to_train"] > 0).all()
    monkeypatch.setattr(meta.StatisticsReader, "fit", None)
    xr.testing.assert_equal(league(tasks, READERS, [0, 1], keep=tmp_path, workers=1), table)


def test_a_task_is_read_at_its_own_snapshot(population):
    task = Task("early", population, "optimizer", at=1)
    found = readings(task, {"one": READERS["layers"], "several": meta.StatisticsReader(snapshot=[1, 20])}, workers=1)
    assert json.loads(found["one"].attrs["parameters"])["snapshot"] == 1
    assert json.loads(found["several"].attrs["parameters"])["snapshot"] == [1, 20]


def test_a_task_has_one_budget_for_networks_that_read_whole_networks(population):
    readers = {"net": meta.NetworkReader(network="statistics", width=4, epochs=9), "plain": READERS["layers"]}
    found = readings(Task("short", population, "optimizer", budget={"epochs": 3, "rate": 0.5}), readers, workers=1)
    assert json.loads(found["net"].attrs["parameters"])["epochs"] == 3
    assert json.loads(found["net"].attrs["parameters"])["rate"] == 0.5
    task = Task("long", population, "optimizer")
    assert json.loads(readings(task, readers, workers=1)["net"].attrs["parameters"])["epochs"] == 9
    with pytest.raises(ValueError, match=r"one: a budget has no 'epoch'. Did you mean 'epochs'"):
        Task("one", population, "optimizer", budget={"epoch": 3})


def test_fewer_networks_are_seen_as_often_in_all(population, tmp_path):
    known = int((population["split"] == "train").sum())
    task = Task("one", population, "optimizer", budget={"epochs": 4})
    readers = {"net": meta.NetworkReader(network="statistics", width=4)}
    learning_curve(task, readers, [known // 2, known], [0], keep=tmp_path, workers=1)
    kept = [xr.load_dataset(one).attrs for one in tmp_path.iterdir()]
    epochs = {one["networks_trained_on"]: json.loads(one["parameters"])["epochs"] for one in kept}
    assert epochs == {known: 4, known // 2: round(4 * known / (known // 2))}


def test_a_learning_curve_ends_where_the_league_is(population):
    task = Task("the optimizer", population, "optimizer")
    train = int((population["split"] == "train").sum())
    curve = learning_curve(task, READERS, [8, train], [0], workers=1)
    whole = league([task], READERS, [0], workers=1).squeeze("task")
    assert curve["trained_on"].values.tolist() == [8, train]
    for name in ("score", "low", "high", "baseline"):
        np.testing.assert_allclose(curve[name].isel(trained_on=1).values, whole[name].values)
    several = learning_curve(task, READERS, [8], [0, 1], workers=1)
    assert (several["score"].values != curve["score"].isel(trained_on=[0]).values).any()
    with pytest.raises(ValueError, match=f"learns from 2 to {train} of these networks, not from {train + 1}"):
        learning_curve(task, READERS, [train + 1], workers=1)


def test_by_one_seed_the_fewer_networks_are_among_the_more_and_classes_stay_balanced(population, monkeypatch):
    learned, fit = [], meta.StatisticsReader.fit

    def noted(self, data, property, **options):
        learned.append(data.isel(model=data["split"].values == "train"))
        return fit(self, data, property, **options)

    monkeypatch.setattr(meta.StatisticsReader, "fit", noted)
    task = Task("the optimizer", population, "optimizer")
    learning_curve(task, {"vector": READERS["vector"]}, [6, 12, 24], [0, 1], workers=1)
    names = [set(one["id"].values.tolist()) for one in learned]  # by count, then by seed
    assert [len(one) for one in names] == [6, 6, 12, 12, 24, 24]
    assert names[0] < names[2] < names[4]
    assert names[1] < names[3] < names[5]
    assert names[0] != names[1]
    share = (population["optimizer"].values[population["split"].values == "train"] == "adam").mean()
    for one in learned:
        assert abs((one["optimizer"].values == "adam").sum() - share * one.sizes["model"]) <= 1


def test_masks_are_a_task_as_any_other(population, masks, tmp_path, monkeypatch):
    readers = {"place": WeightReader("place"), "boosting": WeightReader(samples=3000)}
    task = Task("a mask", population, masks=masks)
    table = league([task], readers, [0], keep=tmp_path)
    accuracy = table["score"].sel(task="a mask", measure="accuracy")
    assert accuracy.sel(reader="boosting") > 0.97  # the mask is a function of what it sees
    assert table["behind_low"].sel(task="a mask", reader="place") > 0.1
    monkeypatch.setattr(WeightReader, "fit", None)
    xr.testing.assert_equal(league([task], readers, [0], keep=tmp_path), table)


def test_masks_have_learning_curves_by_several_seeds(population, masks):
    task = Task("a mask", population, masks=masks)
    curve = learning_curve(task, {"place": WeightReader("place")}, [8, 16], [0, 1])
    one = learning_curve(task, {"place": WeightReader("place")}, [8, 16], [0])
    assert (curve["score"] > 0.5).all()
    assert (curve["score"] != one["score"]).any()


def test_a_mask_without_dropped_weights_has_no_area_under_its_curve():
    lost = masked(0.8)
    lost["AUC"] = lost["AUC"].where(lost["model"] > 0)  # known of all but one
    found = scoring.row("a mask", {"one": lost}, "accuracy").squeeze("task").sel(measure="AUC")
    assert found["score"].item() == pytest.approx(lost["AUC"].mean().item())
    unknown = masked(0.8)
    unknown["AUC"] = unknown["AUC"] * np.nan
    assert np.isnan(scoring.row("a mask", {"one": unknown}, "accuracy")["score"].sel(measure="AUC")).all()


def test_shuffled_masks_leave_nothing_but_the_place(population, masks):
    shuffled = read_masks(population, masks, WeightReader(samples=3000), shuffled=True)
    place = read_masks(population, masks, WeightReader("place"))
    assert abs(shuffled["accuracy"].mean() - place["accuracy"].mean()) < 0.05


@pytest.mark.parametrize("machine", ["place", "boosting"])
def test_masks_of_test_networks_have_no_influence(population, masks, machine):
    test = xr.DataArray(population["split"].values == "test", dims="model")
    reader = WeightReader(machine, samples=2000)
    found = [reader.fit(population, one).predictions(population) for one in (masks, abs(masks - test))]
    xr.testing.assert_equal(*found)


def test_the_area_under_the_curve_is_that_of_pairs(population, masks):
    found = read_masks(population, masks, WeightReader("place"))
    reader = WeightReader("place").fit(population, masks)
    probability = reader.predictions(population)["probability"].values[0]
    truth = masks.sel(model=found["model"].values[0]).values
    kept, dropped = probability[truth == 1], probability[truth == 0]
    pairs = (kept[:, None] > dropped) + 0.5 * (kept[:, None] == dropped)
    assert found["AUC"].values[0] == pytest.approx(pairs.mean(), abs=1e-6)


def test_tasks_that_cannot_be_read_are_refused(population, masks):
    with pytest.raises(ValueError, match="reads either a property or masks"):
        Task("nothing", population)
    with pytest.raises(ValueError, match=r"unknown score 'acuracy'\. Did you mean 'accuracy'"):
        Task("a number", population, "learning_rate", score="acuracy")
    with pytest.raises(ValueError, match="tasks and readers, not 0 and 2"):
        league([], READERS)
    with pytest.raises(ValueError, match="networks have no mask"):
        read_masks(population, masks.isel(model=slice(4)), WeightReader())
    with pytest.raises(ValueError, match=r"masks of 1 of .* networks ask nothing, the first"):
        read_masks(population, masks.where(masks["id"] != masks["id"][0]), WeightReader())
    with pytest.raises(ValueError, match="every training mask is 1 throughout"):
        read_masks(population, masks.where(masks.isnull(), 1), WeightReader())
    with pytest.raises(ValueError, match=r"unknown machine 'places'\. Did you mean 'place'"):
        read_masks(population, masks, WeightReader("places"))
    with pytest.raises(ValueError, match="not fitted"):
        WeightReader().predictions(population)
