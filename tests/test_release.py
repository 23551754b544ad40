"""A population that is made public: what lies in the folder, what its card says, and that it can be trusted."""

import hashlib
import itertools
import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import netCDF4
import numpy as np
import pytest
import yaml

from nwslib import snapshots
from nwslib.snapshots import datacard, fake, files, release, writer
from nwslib.snapshots.__main__ import main
from nwslib.snapshots.imagesets import SOURCES
from nwslib.space import EMBEDDED_SETS, PUBLISHED_SETS, VOCABULARY, sample

ROOT = Path(__file__).parents[1]
ROWS = 3  # rows per shard
DIVERGED = (4, 6)
TEXTS = ["CITATION.cff", "LICENSE", "README.md", "SHA256SUMS", "datacard.json"]


@pytest.fixture(autouse=True)
def _short_shards(monkeypatch):
    monkeypatch.setattr(writer, "SHARD_ROWS", ROWS)


def _design(rows, collection="nws_small", **fixed):
    return sample(collection, rows, 0, **fixed).assign(shard=("model", np.arange(rows) // ROWS))


NETWORKS = list(fake.population(_design(8, optimizer="adam"), diverged=DIVERGED))


@pytest.fixture(scope="module")
def _once(tmp_path_factory):
    """Eight networks in three shards, and their release: made once, and copied for each test."""
    once = tmp_path_factory.mktemp("once")
    with pytest.MonkeyPatch.context() as context:
        context.setattr(writer, "SHARD_ROWS", ROWS)
        snapshots.write(once / "population", NETWORKS)
        assert release.release(once / "population", once / "made", released="2026-05-04") == []
    return once


@pytest.fixture
def folder(_once, tmp_path):
    return shutil.copytree(_once / "population", tmp_path / "population")


@pytest.fixture
def made(_once, tmp_path):
    return shutil.copytree(_once / "made", tmp_path / "made")


def _content(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _card(folder):
    return (folder / "README.md").read_text(encoding="utf-8")


def _section(card, title):
    return re.search(rf"^## {title}\n\n(.*?)(?=\n## |\Z)", card, flags=re.MULTILINE | re.DOTALL).group(1)


def _rows(text):
    """Give the rows of all tables in a text, by their first cell."""
    cells = (
        [cell.strip().strip("`") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for line in text.splitlines()
        if line.startswith("| ")
    )
    return {first: others for first, *others in cells}


def _wrong_sums(folder):
    """Check SHA256SUMS with sha256sum where there is one, else alike; give the files that it does not pass."""
    if shutil.which("sha256sum"):
        ended = subprocess.run(
            ["sha256sum", "--strict", "-c", "SHA256SUMS"],
            cwd=folder,
            capture_output=True,
            text=True,
            env={"LC_ALL": "C"},
        )
        wrong = [line.removesuffix(": FAILED") for line in ended.stdout.splitlines() if not line.endswith(": OK")]
        assert (ended.returncode == 0) == (wrong == []), ended.stderr
        return wrong
    lines = (line.split("  ") for line in (folder / "SHA256SUMS").read_text().splitlines())
    return [name for sha, name in lines if hashlib.sha256((folder / name).read_bytes()).hexdigest() != sha]


# The population


def test_a_release_is_the_population_in_the_archive_form(folder, made):
    assert snapshots.same(*map(snapshots.open_population, (made, folder))) == []
    shards = sorted(path.name for path in made.glob("*.nc"))
    assert sorted(path.name for path in made.iterdir()) == sorted([*TEXTS, "manifest.json", *shards])
    assert shards == sorted(path.name for path in folder.glob("*.nc"))
    for name in shards:
        with netCDF4.Dataset(made / name) as file:
            assert file["weights"].chunking() != "contiguous"
            assert file["weights"].filters()["fletcher32"]
    assert main(["validate", str(made)]) == 0


def test_checksums_cover_every_file_and_hold(made):
    listed = [line.split("  ")[1] for line in (made / "SHA256SUMS").read_text().splitlines()]
    assert listed == sorted(path.name for path in made.iterdir() if path.name != "SHA256SUMS")
    assert _wrong_sums(made) == []


def test_the_same_population_gives_the_same_bytes_but_for_the_date(folder, made, tmp_path):
    release.release(folder, tmp_path / "again", released="2026-05-04")
    assert _content(tmp_path / "again") == _content(made)
    release.release(folder, tmp_path / "later", released="2027-06-05")
    later = {
        name: content.replace(b"2027-06-05", b"2026-05-04").replace(b"2027", b"2026")
        for name, content in _content(tmp_path / "later").items()
    }
    changed = {name for name, content in _content(made).items() if later[name] != content}
    assert changed == {"SHA256SUMS"}
    assert len(later) == len(_content(made))


def test_a_release_that_was_killed_goes_on(folder, made, tmp_path, monkeypatch):
    write_text, written = files.write_text, []

    def killed(path, *arguments):
        written.append(path)
        if len(written) == moment:
            path.with_name(f".{path.name}.tmp").write_bytes(b"half")
            raise KeyboardInterrupt
        return write_text(path, *arguments)

    for moment in itertools.count(1):
        target = tmp_path / f"killed-{moment}"
        written.clear()
        with monkeypatch.context() as context:
            context.setattr(files, "write_text", killed)
            try:
                release.release(folder, target, released="2026-05-04")
                break  # there is no later moment
            except KeyboardInterrupt:
                assert not (target / "SHA256SUMS").exists()
        assert release.release(folder, target, released="2026-05-04") == []
        assert _content(target) == _content(made)
    assert moment > 1 + len(TEXTS)


def test_a_release_that_is_begun_again_is_not_complete_before_its_end(folder, made, monkeypatch):
    monkeypatch.setattr(release, "convert", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        release.release(folder, made)
    assert not (made / "SHA256SUMS").exists()


def test_a_flipped_byte_in_the_release_is_found(folder, made, capsys):
    shard = sorted(made.glob("*.nc"))[1]
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    assert _wrong_sums(made) == [shard.name]
    # Neither does a second call give the damaged file a new checksum.
    assert main(["release", str(folder), str(made), "--date", "2026-05-04"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert f"{shard.name} was changed: its SHA-256 is not the one in manifest.json" in lines
    assert re.search(r"has \d+ faults?; its data card tells them", lines[-1])
    assert shard.name in _section(_card(made), "What is left out, and what was kept")
    assert _wrong_sums(made) == [shard.name]


def test_a_damaged_population_is_not_released(folder, tmp_path):
    shard = sorted(folder.glob("*.nc"))[1]
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    with pytest.raises(
        ValueError, match=rf"{shard.name} was changed: its SHA-256 is not the one in manifest.json. Noth"
    ):
        release.release(folder, tmp_path / "made")
    assert not (tmp_path / "made").exists()


def test_an_unfinished_population_is_released_as_it_is(tmp_path):
    def interrupted():
        yield from (NETWORKS[k] for k in (7, 1, 4, 2, 0))
        raise RuntimeError

    with pytest.raises(RuntimeError):
        snapshots.write(tmp_path / "population", interrupted())
    assert any((tmp_path / "population" / "parts").iterdir())
    before = _content(tmp_path / "population")
    assert release.release(tmp_path / "population", tmp_path / "made", rows=8) == []
    assert _content(tmp_path / "population") == before
    assert snapshots.table(tmp_path / "made")["model"].values.tolist() == [0, 1, 2, 4, 7]
    assert not (tmp_path / "made" / "parts").exists()
    left_out = _rows(_section(_card(tmp_path / "made"), "What is left out, and what was kept"))
    assert left_out["rows of the design that are missing, of 8: not trained when this was released"] == ["3", "no"]
    snapshots.write(tmp_path / "population", NETWORKS)
    assert release.release(tmp_path / "population", tmp_path / "made", rows=8) == []
    assert snapshots.same(*(snapshots.open_population(tmp_path / name) for name in ("made", "population"))) == []
    assert _wrong_sums(tmp_path / "made") == []


def test_rounded_weights_make_it_smaller_and_the_card_says_so(folder, made, tmp_path):
    assert release.release(folder, tmp_path / "rounded", keep_bits=7) == []
    sizes = [sum(path.stat().st_size for path in one.glob("*.nc")) for one in (tmp_path / "rounded", made)]
    assert sizes[0] < 0.7 * sizes[1]
    assert "rounded to 7 bits of their mantissa" in _card(tmp_path / "rounded")
    assert "mantissa" not in _card(made)
    with pytest.raises(ValueError, match=r"holds weights with all bits, not with 7 bits of each mantissa\. Remove it"):
        release.release(folder, made, keep_bits=7)


# What is refused


def test_a_folder_that_is_no_population_is_refused_with_the_nearest_name(folder, tmp_path, capsys):
    assert main(["release", str(tmp_path / "populatoin"), str(tmp_path / "made")]) == 2
    assert capsys.readouterr().err.endswith(f"no such folder. The nearest that exists is {folder}\n")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"licence": "CC-BY-4"}, "unknown licence 'CC-BY-4'. Did you mean 'CC-BY-4.0'?"),
        ({"title": " "}, "a title is not empty"),
        ({"authors": ["Kepler, Johannes", " , "]}, "each has a name, not .*Kepler"),
        ({"authors": []}, "at least one author"),
        ({"released": "4.5.2026"}, "written as 2026-12-31, not '4.5.2026'"),
        ({"rows": 7}, "at least 8 rows, since .* holds its row 7, not 7"),
        ({"keep_bits": 24}, "keep_bits is a whole number from 1 to 23"),
    ],
)
def test_what_is_said_is_checked_before_anything_is_written(folder, tmp_path, said, message):
    with pytest.raises(ValueError, match=message):
        release.release(folder, tmp_path / "made", **said)
    assert not (tmp_path / "made").exists()


def test_a_target_that_holds_anything_else_is_refused(folder, made, tmp_path):
    snapshots.write(tmp_path / "smaller", NETWORKS[:6])
    before = _content(made)
    with pytest.raises(ValueError, match=r"holds 2 networks that .*smaller does not hold\. Remove it, or .* made-2"):
        release.release(tmp_path / "smaller", made)
    assert _content(made) == before
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="full holds other files, and no release"):
        release.release(folder, tmp_path / "full")
    shutil.copytree(folder, tmp_path / "backup")
    for target, message in ((folder, "source and target are one folder"), (tmp_path / "backup", "in the working form")):
        before = _content(target)
        with pytest.raises(ValueError, match=message):
            release.release(folder, target)
        assert _content(target) == before


def test_networks_from_elsewhere_are_released_only_under_a_licence_that_is_named(tmp_path):
    networks = [network.assign_attrs(source="a zoo in Vienna") for network in NETWORKS[:3]]
    snapshots.write(tmp_path / "zoo", networks)
    with pytest.raises(ValueError, match=r"come from elsewhere \(a zoo in Vienna\): say under which licence"):
        release.release(tmp_path / "zoo", tmp_path / "made")
    assert release.release(tmp_path / "zoo", tmp_path / "made", licence="CC0-1.0") == []
    assert _rows(_section(_card(tmp_path / "made"), "How the networks were trained"))["source"] == ["a zoo in Vienna"]
    assert "SPDX-License-Identifier: CC0-1.0" in (tmp_path / "made" / "LICENSE").read_text()


# The card


def _columns(folder):
    names = set()
    for path in folder.glob("*.nc"):
        with netCDF4.Dataset(path) as file:
            names |= set(file.variables)
    opened = snapshots.open_population(folder)
    assert set().union(*(node.variables for node in opened.children.values())) == names
    return names


def test_the_glossary_has_every_column_and_no_other(made):
    glossary = _rows(_section(_card(made), "What each column means"))
    assert set(glossary) - {"name", "---"} == _columns(made)
    for node in snapshots.open_population(made).children.values():
        for name, variable in node.variables.items():
            dimensions, _, units, meaning = glossary[name]
            assert dimensions == ", ".join(variable.dims)
            assert units == variable.attrs.get("units", "")
            assert meaning.replace("\\", "") == variable.attrs["long_name"]


def test_the_glossary_follows_the_population(tmp_path):
    text = json.dumps({"dropout": {"type": "float64", "units": "1", "meaning": "share of units | dropped"}})
    networks = [
        network.drop_vars(["augmentation", "decay"])
        .assign_coords(dropout=("model", [share]))
        .assign(updates=network.variables["weights"] * np.float32(0))
        .assign_attrs(properties=text, not_measured='["valid_accuracy"]')
        for network, share in zip(NETWORKS[:3], (0.0, 0.5, 0.25), strict=True)
    ]
    for network in networks:
        for name in ("valid_accuracy", "curve_valid_accuracy"):
            network[name] = network[name] * np.nan
    snapshots.write(tmp_path / "population", networks)
    assert release.release(tmp_path / "population", tmp_path / "made") == []
    card = _card(tmp_path / "made")
    glossary = _rows(_section(card, "What each column means"))
    assert set(glossary) - {"name", "---"} == _columns(tmp_path / "made")
    assert glossary["dropout"] == ["model", "float64", "1", r"share of units \| dropped"]
    assert {"updates"} <= set(glossary)
    assert not {"augmentation", "decay"} & set(glossary)
    assert _rows(_section(card, "What is constant, and what varies"))["dropout"] == ["0.0 (1), 0.25 (1), 0.5 (1)"]
    assert "Nobody measured `valid_accuracy`" in card


def test_counts_are_those_of_the_population(folder, made):
    card, table = _card(made), snapshots.table(folder)
    amounts = _rows(_section(card, "How much there is"))
    splits = Counter(zip(table["status"].values.tolist(), table["split"].values.tolist(), strict=True))
    for status in ("converged", "diverged"):
        assert amounts[status] == [str(splits[status, split]) for split in ("train", "test")]
    assert "failed" not in amounts
    layout = snapshots.layout_of(NETWORKS[0])
    assert amounts[layout.name] == ["8", f"{layout.size:,}", str(len(layout.tensors)), "20"]
    assert f"{8 * 20 * layout.size:,} weights" in card
    layers = {tensor.layer for tensor in layout.tensors}
    assert sum(int(amounts[layer][-1].replace(",", "")) for layer in layers) == layout.size
    sound = table["status"].values == "converged"
    for name in set(table["dataset"].values[sound].tolist()):
        found = table["test_accuracy"].values[sound & (table["dataset"].values == name)]
        assert amounts[name] == [str(len(found)), *(f"{value:.3f}" for value in np.quantile(found, (0, 0.5, 1)))]


def test_what_was_kept_and_what_is_missing_is_counted(tmp_path):
    low = NETWORKS[1].copy(deep=True)
    low["test_accuracy"][:] = np.float32(0.1)
    near = NETWORKS[2].copy(deep=True)
    near["test_accuracy"][:] = np.float32(0.15)
    diverged = NETWORKS[4].copy(deep=True)
    diverged["test_accuracy"][:] = np.float32(0.05)  # nor does it count as one that learned little
    networks = [NETWORKS[0], low, near, diverged, NETWORKS[7]]
    networks[-1] = NETWORKS[7].copy(deep=True)
    networks[-1]["weights"][:] = NETWORKS[0]["weights"].values
    snapshots.write(tmp_path / "population", networks)
    found = release.release(tmp_path / "population", tmp_path / "made", rows=10)
    assert len(found) == 1  # the twin
    section = _section(_card(tmp_path / "made"), "What is left out, and what was kept")
    counts, ends = map(_rows, section.split("How and why"))
    counts = {name.split(":")[0]: numbers for name, numbers in counts.items()}
    assert counts["diverged"] == ["1", "yes"]
    assert counts["failed"] == ["0", "yes"]
    assert counts["final test accuracy at most 0.10"] == ["1", "yes"]
    assert counts["final test accuracy at most 0.20"] == ["2", "yes"]
    assert counts["final weights equal to those of another network, bit for bit"] == ["1", "yes"]
    assert counts["rows of the design that are missing, of 10"] == ["5", "no"]
    assert ends["diverged"] == ["weights are not finite", "1"]
    assert "1 found" in section
    assert "has the same weights at its last snapshot" in section


def test_what_is_constant_and_what_varies_is_told_apart(folder, made):
    values, table = _section(_card(made), "What is constant, and what varies"), snapshots.table(folder)
    constant, varying = map(_rows, values.split("Varying"))
    named = [*VOCABULARY, "image_size", "decay", "family"]
    assert {name for name in named if name in constant} == {
        name for name in named if len(set(table[name].values.tolist())) == 1
    }
    assert constant["optimizer"] == ["adam"]
    assert set(constant) | set(varying) == {*named, "property", "---"}
    assert set(constant) & set(varying) == {"property", "---"}
    counts = Counter(table["activation"].values.tolist())
    assert varying["activation"] == [", ".join(f"{name} ({counts[name]})" for name in sorted(counts))]


def test_ranges_are_given_of_numbers_that_are_too_many_to_list(tmp_path):
    snapshots.write(tmp_path / "population", fake.population(_design(15)))
    release.release(tmp_path / "population", tmp_path / "made")
    rates = snapshots.table(tmp_path / "population")["learning_rate"].values
    [told] = _rows(_section(_card(tmp_path / "made"), "What is constant, and what varies"))["learning_rate"]
    assert told == f"from {rates.min():.4g} to {rates.max():.4g}, median {np.median(rates):.4g}; 15 different values"


def test_limits_are_told_where_they_hold(made, tmp_path):
    limits = _section(_card(made), "What to beware of")
    assert "`kind` is `mean` or `variance`" in limits
    assert "trivially told from the others" in limits
    assert "length of the weight vector" not in limits
    assert "8 networks of 1 architecture in 3 files" in _card(made)
    networks = fake.population(_design(4, "nws_main", initialization="glorot_normal"))
    snapshots.write(tmp_path / "main", networks)
    assert release.release(tmp_path / "main", tmp_path / "of-main") == []
    limits = _section(_card(tmp_path / "of-main"), "What to beware of")
    sizes = sorted(snapshots.layout_of(node).size for node in snapshots.open_population(tmp_path / "main").values())
    assert f"4 networks of 4 architectures of {sizes[0]:,} to {sizes[-1]:,} weights" in _card(tmp_path / "of-main")
    assert "trivially told" not in limits
    assert re.search(r"length of the weight vector alone, [234] lengths in 4 architectures", limits)


def test_the_card_can_be_read_by_running_it(made, monkeypatch):
    monkeypatch.chdir(made)
    short, other = re.findall(r"```python\n(.*?)```", _card(made), flags=re.DOTALL)
    names = {}
    exec(compile(short + other, "README.md", "exec"), names)
    assert len([line for line in short.splitlines() if line]) == 5
    assert 0 < names["chosen"].sizes["model"] < 8
    assert set(names["weights"]["layer"].values.tolist()) == {"conv1"}
    assert len(names["table"]) == 8
    assert names["shard"]["weights"].dims == ("model", "snapshot", "weight")
    names["shard"].close()


def test_text_from_a_population_can_not_break_a_table(tmp_path):
    networks = [network.assign_coords(reason=("model", ["a | b\n# <b>c</b>"])) for network in NETWORKS[:2]]
    snapshots.write(tmp_path / "population", networks)
    assert release.release(tmp_path / "population", tmp_path / "made", title="One\n# two") == []
    card = _card(tmp_path / "made")
    assert card.startswith("# One # two\n")
    assert r"| `converged` | a \| b # \<b>c\</b> | 2 |" in card
    assert re.findall(r"^# ", card, flags=re.MULTILINE) == ["# "]


def test_the_page_tells_what_there_is(made, capsys):
    page = (ROOT / "book" / "reference" / "datacard.md").read_text(encoding="utf-8")
    _, shards, *others = _rows(_section(page, "Make a release"))
    assert shards == "<node>.<shard>.<rows>.nc"
    assert sorted(others) == sorted(path.name for path in made.iterdir() if path.suffix != ".nc")
    _, *titles = _rows(_section(page, "What the card says"))
    assert titles == re.findall(r"^## (.*)", _card(made), flags=re.MULTILINE)
    for code in re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL):
        exec(compile(code, "datacard.md", "exec"), {})
    assert len(capsys.readouterr().out.splitlines()) == len(SOURCES)


# Citation, licence, JSON-LD


def test_the_citation_is_that_of_a_data_set(folder, made, tmp_path):
    fields = yaml.safe_load((made / "CITATION.cff").read_text(encoding="utf-8"))
    assert fields["cff-version"] == "1.2.0"
    assert fields["type"] == "dataset"
    assert fields["title"].startswith("8 small convolutional networks: ")
    assert fields["message"]
    assert fields["authors"] == [{"name": "The nwslib developers"}]
    assert fields["date-released"] == "2026-05-04"
    assert fields["license"] == "CC-BY-4.0"
    own = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    [study] = [one for one in fields["references"] if one["type"] == "conference-paper"]
    assert study == {name: value for name, value in own["references"][0].items() if name in study}
    assert fields["references"][0]["repository-code"] == own["repository-code"] == datacard.CODE
    authors = ["Kepler, Johannes", "The observatory: Prague"]
    release.release(folder, tmp_path / "other", title='Weights: "w" # 1', licence="CC-BY-SA-4.0", authors=authors)
    fields = yaml.safe_load((tmp_path / "other" / "CITATION.cff").read_text(encoding="utf-8"))
    assert fields["title"] == 'Weights: "w" # 1'
    assert fields["license"] == "CC-BY-SA-4.0"
    assert fields["authors"] == [
        {"family-names": "Kepler", "given-names": "Johannes"},
        {"name": "The observatory: Prague"},
    ]


def test_licence_and_authors_stand_in_every_file(folder, tmp_path):
    release.release(folder, tmp_path / "made", licence="ODC-By-1.0", authors=["Kepler, Johannes"])
    licence = release.LICENCES["ODC-By-1.0"]
    for name in ("LICENSE", "README.md", "datacard.json"):
        assert licence.url in (tmp_path / "made" / name).read_text(encoding="utf-8")
    for name in ("LICENSE", "README.md", "datacard.json", "CITATION.cff"):
        assert "Kepler" in (tmp_path / "made" / name).read_text(encoding="utf-8")


def test_the_card_for_programs_is_a_dataset_of_schema_org(made):
    card = json.loads((made / "datacard.json").read_text(encoding="utf-8"))
    assert (card["@context"], card["@type"]) == ("https://schema.org/", "Dataset")
    assert 50 <= len(card["description"]) <= 5000  # what search engines ask for
    assert card["license"] == release.LICENCES["CC-BY-4.0"].url
    assert card["creator"] == [{"@type": "Organization", "name": "The nwslib developers"}]
    assert card["datePublished"] == "2026-05-04"
    assert {one["name"] for one in card["variableMeasured"]} == _columns(made)
    measured = {one["name"]: one for one in card["variableMeasured"]}
    assert measured["optimizer"]["value"] == "adam"
    rates = snapshots.table(made)["learning_rate"].values
    assert (measured["learning_rate"]["minValue"], measured["learning_rate"]["maxValue"]) == (rates.min(), rates.max())
    for one in card["distribution"]:
        content = (made / one["contentUrl"]).read_bytes()
        assert one["sha256"] == hashlib.sha256(content).hexdigest()
        assert one["contentSize"] == f"{len(content)} B"
    assert len(card["distribution"]) == 3


def test_every_image_set_has_a_source_and_a_licence():
    assert set(SOURCES) == {*PUBLISHED_SETS, *EMBEDDED_SETS}
    for one in SOURCES.values():
        assert one.content
        assert one.source
        assert one.licence


def test_the_card_tells_the_licences_of_the_image_sets_that_were_used(made):
    told = _rows(_section(_card(made), "The image sets"))
    counts = Counter(network["dataset"].item() for network in NETWORKS)
    assert set(told) - {"image set", "---"} == set(counts)
    for name, number in counts.items():
        assert told[name][0] == str(number)
        assert told[name][-1] == SOURCES[name].licence


# The commands


def test_the_command_says_how_large_it_became(folder, tmp_path, capsys):
    assert main(["release", str(folder), str(tmp_path / "made"), "--author", "Kepler, Johannes", "--rows", "8"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert re.search(r"made: 8 networks; [\d.]+ [kM]B became [\d.]+ [kM]B, 0\.\d\d of it, \d+\.\d s", lines[0])
    assert len(lines) == 2


def test_a_release_is_made_without_torch():
    code = "import sys; from nwslib.snapshots import release; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_make_says_which_command_makes_the_population(tmp_path):
    (tmp_path / "params" / "smoke").mkdir(parents=True)
    shutil.copy(ROOT / "Makefile", tmp_path)
    shutil.copy(ROOT / "params" / "smoke" / "population.yaml", tmp_path / "params" / "smoke")
    command = ["make", "release", "PROFILE=smoke", "--old-file=.venv/.installed"]
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / ".installed").touch()
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 2
    assert "error: there is no population in _run/smoke/populations/main yet; make it: make book PROFILE=smoke" in (
        ended.stdout + ended.stderr
    )


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_make_releases_the_population_of_the_profile(folder, tmp_path):
    (tmp_path / "params" / "smoke").mkdir(parents=True)
    shutil.copy(ROOT / "Makefile", tmp_path)
    shutil.copy(ROOT / "params" / "smoke" / "population.yaml", tmp_path / "params" / "smoke")
    shutil.copytree(folder, tmp_path / "_run" / "smoke" / "populations" / "main")
    command = ["make", "release", "PROFILE=smoke", f"BIN={Path(sys.executable).parent}", "--old-file=.venv/.installed"]
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / ".installed").touch()
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    made = tmp_path / "_run" / "smoke" / "release" / "main"
    assert "missing, of 40: not trained when this was released | 32 | no |" in _card(made)
    assert _wrong_sums(made) == []
