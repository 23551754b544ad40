import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from nwslib.snapshots import fake, layout_of, validate
from nwslib.snapshots.layout import LABELS
from nwslib.snapshots.schema import (
    ATTRIBUTES,
    COORDINATES,
    OPTIONAL_ATTRIBUTES,
    OPTIONAL_VARIABLES,
    SCHEMA_VERSION,
    VARIABLES,
    all_finite,
    faults,
    further_properties,
)
from nwslib.space import CONSTANTS, PROPERTIES, SWITCH_COLUMNS, SWITCHABLE, sample


@pytest.fixture(scope="module")
def population():
    networks = list(fake.population(sample("nws_small", 3, seed=0), diverged=[1]))
    longest = max(network.sizes["evaluation"] for network in networks)
    padded = [network.pad(evaluation=(0, longest - network.sizes["evaluation"])) for network in networks]
    population = xr.concat(padded, "model", data_vars="minimal", combine_attrs="override")
    after = {f"{name}_after": ("model", population[name].values) for name in SWITCHABLE}
    return population.assign_coords(switch_epoch=("model", [2, 3, 4]), **after)


def test_the_schema_knows_every_property_and_label():
    assert [name for name in COORDINATES if name in PROPERTIES] == list(PROPERTIES)
    assert [name for name in COORDINATES if name in LABELS] == list(LABELS)
    assert [name for name in COORDINATES if name in SWITCH_COLUMNS] == list(SWITCH_COLUMNS)
    assert {*CONSTANTS, "seed", "split", "shard", "id", "status"} <= set(COORDINATES)


def test_every_entry_says_what_it_means():
    everything = {**VARIABLES, **OPTIONAL_VARIABLES, **COORDINATES}
    assert all(variable.meaning for variable in everything.values())
    assert all({**ATTRIBUTES, **OPTIONAL_ATTRIBUTES}.values())
    axes = {axis for variable in everything.values() for axis in variable.dims}
    assert axes == {"model", "snapshot", "weight", "evaluation"}


def test_a_population_passes_with_and_without_labels(population):
    validate(population)
    layout = layout_of(population)
    labelled = population.assign_coords({name: ("weight", values) for name, values in layout.labels().items()})
    validate(labelled)
    wrong = labelled.assign_coords(unit=("weight", labelled["unit"].values[::-1]))
    with pytest.raises(ValueError, match="the labels 'unit' are not those of the layout"):
        validate(wrong)


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_a_missing_attribute_is_named(population, name):
    broken = population.copy()
    del broken.attrs[name]
    with pytest.raises(ValueError, match=f"a.nc: not a population: attribute '{name}' is missing"):
        validate(broken, "a.nc")


@pytest.mark.parametrize("name", [name for name in VARIABLES | COORDINATES if name not in LABELS])
def test_a_missing_or_mistyped_variable_is_named(population, name):
    if (VARIABLES | COORDINATES)[name].required:
        with pytest.raises(ValueError, match=f"variable '{name}' is missing"):
            validate(population.drop_vars(name))
    else:
        validate(population.drop_vars(name))
    other = "int16" if (VARIABLES | COORDINATES)[name].type != "text" else "S3"
    clean = population.fillna(0) if other == "int16" else population
    with pytest.raises(ValueError, match=f"{name} has type .*, but the schema says"):
        validate(clean.assign({name: clean[name].astype(other)}))


def test_other_dimensions_are_refused(population):
    with pytest.raises(ValueError, match=r"epoch has dimensions \('model',\), but the schema says"):
        validate(population.assign(epoch=population["epoch"][:, 0].drop_vars("snapshot")))


def test_unreadable_json_is_named(population):
    for name in ("layout", "parameters", "implementation"):
        for text in ("{", "7"):
            with pytest.raises(ValueError, match=f"a.nc: attribute '{name}' is unreadable"):
                validate(population.assign_attrs({name: text}), "a.nc")


def test_another_major_version_is_refused_and_another_minor_one_is_not(population):
    major, minor = SCHEMA_VERSION.split(".")
    validate(population.assign_attrs(schema_version=f"{major}.{int(minor) + 7}"))
    with pytest.raises(ValueError, match=f"schema version {int(major) + 1}.0, but this library reads"):
        validate(population.assign_attrs(schema_version=f"{int(major) + 1}.0"))


def test_the_vector_has_the_length_of_the_layout(population):
    with pytest.raises(ValueError, match=r"20 in all, of 1600 weights, but cnn-.* of 1676"):
        validate(population.isel(weight=slice(0, 1600)))


def test_snapshots_are_numbered_from_1_however_many(population):
    validate(population.isel(snapshot=slice(0, 1)))
    with pytest.raises(ValueError, match=r"snapshots \[2\] to \[20\], 19 in all"):
        validate(population.isel(snapshot=slice(1, None)))
    with pytest.raises(ValueError, match=r"snapshots \[\] to \[\], 0 in all"):
        validate(population.isel(snapshot=slice(0, 0)))


DROPOUT = '{"dropout": {"type": "float64", "units": "1", "meaning": "share of units that are dropped"}}'


def test_further_properties_are_declared(population):
    declared = population.assign_attrs(properties=DROPOUT)
    validate(declared.assign_coords(dropout=("model", [0.0, 0.5, np.nan])))
    with pytest.raises(ValueError, match="variable 'dropout' is missing"):
        validate(declared)
    with pytest.raises(ValueError, match="dropout has type int64, but the schema says float64"):
        validate(declared.assign_coords(dropout=("model", [0, 1, 2])))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", "attribute 'properties' is unreadable"),
        ('{"dropout": {"type": "float64"}}', "attribute 'properties' is unreadable: KeyError"),
        (DROPOUT.replace("dropout", "seed"), "can't be called 'seed'"),
        (DROPOUT.replace("dropout", "a b"), "can't be called 'a b'"),
        (DROPOUT.replace("float64", "float32"), "dropout has type 'float32'. Did you mean 'float64'"),
    ],
)
def test_a_wrong_declaration_is_named(population, text, message):
    with pytest.raises(ValueError, match=message):
        further_properties({"properties": text})
    with pytest.raises(ValueError, match=f"a.nc: .*{message}"):
        validate(population.assign_attrs(properties=text), "a.nc")


def test_what_nobody_measured_is_nan_and_said(population):
    blind = population.assign(valid_accuracy=population["valid_accuracy"] * np.float32(np.nan))
    with pytest.raises(ValueError, match="has a valid_accuracy that is not finite"):
        validate(blind)
    validate(blind.assign_attrs(not_measured='["valid_accuracy"]'))
    with pytest.raises(ValueError, match="valid_accuracy is said to be not measured, but has values"):
        validate(population.assign_attrs(not_measured='["valid_accuracy"]'))
    with pytest.raises(ValueError, match="'not_measured' names 'weights'"):
        validate(population.assign_attrs(not_measured='["weights"]'))
    with pytest.raises(ValueError, match="attribute 'not_measured' is unreadable"):
        validate(population.assign_attrs(not_measured="7"))


def test_updates_are_checked_like_weights(population):
    updates = population["weights"].diff("snapshot").pad(snapshot=(1, 0), constant_values=0).astype("float32")
    updates = updates.assign_coords(snapshot=population["snapshot"])
    validate(population.assign(updates=updates))
    with pytest.raises(ValueError, match="network 2 did not diverge, but has updates that are not finite"):
        validate(_with(population.assign(updates=updates), "updates", (2, 7, 100), np.nan))


def test_every_fault_is_found_not_only_the_first(population):
    changed = _with(_with(population, "weights", (2, 7, 100), np.nan), "valid_accuracy", (0, 3), 97.5)
    found = list(faults(_with(changed, "split", 1, "valid"), "a.nc"))
    assert [text.split(".")[1][4:13] for text in found] == ["network 1", "network 0", "network 2"]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_finite_means_finite(value):
    large = np.full((3, 1000), 3e38, "float32")
    assert all_finite(large)  # although the sum of squares is not
    assert all_finite(large[:0])
    large[1, 7] = value
    assert not all_finite(large)


def test_layout_of_needs_the_attribute(population):
    assert layout_of(population).to_json() == json.dumps(json.loads(population.attrs["layout"]), separators=(",", ":"))
    with pytest.raises(ValueError, match="attribute 'layout' is missing"):
        layout_of(xr.Dataset())


def _with(population, name, position, value):
    changed = population.copy(deep=True)
    changed[name][position] = value
    return changed


@pytest.mark.parametrize(
    ("name", "position", "value", "message"),
    [
        ("weights", (2, 7, 100), np.nan, "network 2 did not diverge, but has weights that are not finite"),
        ("weights", (0, 0, 0), np.inf, "network 0 did not diverge, but has weights"),
        ("test_accuracy", (2, -1), np.nan, "network 2 did not diverge, but has a test_accuracy that is not finite"),
        ("valid_accuracy", (0, 3), 97.5, "network 0: valid_accuracy is a share between 0 and 1, not 97.5"),
        ("train_accuracy", (1, 3), -0.5, "network 1: train_accuracy is a share"),
        ("curve_test_accuracy", (0, -1), 0.5, "network 0: curve_test_accuracy goes on after its 20 evaluations"),
        ("n_exports", 0, 900, "network 0 has 900 exports, but curves of 27 evaluations"),
        ("status", 1, "divergd", "network 1 has status 'divergd'. Did you mean 'diverged'"),
        ("split", 1, "valid", "network 1 has split 'valid'"),
        ("status", 1, "stopped", "network 1 did not diverge"),
    ],
)
def test_an_impossible_network_is_named(population, name, position, value, message):
    with pytest.raises(ValueError, match=f"shard 4: {message}"):
        validate(_with(population, name, position, value), "shard 4")


@pytest.mark.parametrize("name", ["id", "model"])
def test_two_networks_share_neither_id_nor_row(population, name):
    twice = population[name].values[[0, 0, 2]]
    with pytest.raises(ValueError, match=f"two networks share the {name} "):
        validate(population.assign_coords({name: ("model", twice)}))


def test_the_page_of_the_schema_says_what_the_code_says():
    page = (Path(__file__).parents[1] / "book/reference/schema.md").read_text(encoding="utf-8")
    lines = [line for line in page.splitlines() if line.startswith("| `")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    told = {row[0].strip("`"): tuple(row[1:]) for row in rows if len(row) == 5}
    known = {**VARIABLES, **OPTIONAL_VARIABLES, **COORDINATES}
    assert told == {name: (", ".join(one.dims), one.type, one.units, one.meaning) for name, one in known.items()}
    told = {row[0].strip("`"): row[1] for row in rows if len(row) == 2}
    axes = ("model", "snapshot", "weight", "evaluation")
    assert told.keys() == {*axes, *ATTRIBUTES, *OPTIONAL_ATTRIBUTES}
    assert {**ATTRIBUTES, **OPTIONAL_ATTRIBUTES}.items() <= told.items()
    assert f"Version {SCHEMA_VERSION}." in page
    required, optional = page.split("There where they mean something")
    for name, one in COORDINATES.items():
        assert f"| `{name}` |" in (required if one.required else optional)
