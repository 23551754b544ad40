"""A population, ready for a data repository: small, complete, checked, described and citable.

The folder of a release is flat, and is itself a population that `nwslib.snapshots.open_population` opens. It holds

- ``<node>.<shard>.<rows>.nc`` and ``manifest.json``: the population in the archive form;
- ``README.md``: the data card, for people;
- ``datacard.json``: the same for programs, a Dataset of schema.org in JSON-LD;
- ``CITATION.cff``: how to cite it, in the Citation File Format 1.2.0;
- ``LICENSE``: name and address of the licence;
- ``SHA256SUMS``: of all other files, for ``sha256sum -c``; written last, so that it is there only if all is.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from nwslib.snapshots import datacard, files
from nwslib.snapshots.checks import faults
from nwslib.snapshots.contents import MANIFEST, Contents, manifest, read, read_filled, shards_in
from nwslib.snapshots.datacard import Facts, Licence, Statement
from nwslib.snapshots.store import convert, open_population
from nwslib.snapshots.summary import summary
from nwslib.space import nearest

SUMS = "SHA256SUMS"
AUTHORS = ("The nwslib developers",)
_CREATIVE_COMMONS = "https://creativecommons.org"

#: Licences for data, by SPDX identifier.
LICENCES: Mapping[str, Licence] = MappingProxyType(
    {
        one.spdx: one
        for one in (
            Licence(
                "CC-BY-4.0", "Creative Commons Attribution 4.0 International", f"{_CREATIVE_COMMONS}/licenses/by/4.0/"
            ),
            Licence(
                "CC-BY-SA-4.0",
                "Creative Commons Attribution-ShareAlike 4.0 International",
                f"{_CREATIVE_COMMONS}/licenses/by-sa/4.0/",
            ),
            Licence(
                "CC-BY-NC-4.0",
                "Creative Commons Attribution-NonCommercial 4.0 International",
                f"{_CREATIVE_COMMONS}/licenses/by-nc/4.0/",
            ),
            Licence("CC0-1.0", "Creative Commons Zero 1.0 Universal", f"{_CREATIVE_COMMONS}/publicdomain/zero/1.0/"),
            Licence("ODC-By-1.0", "Open Data Commons Attribution 1.0", "https://opendatacommons.org/licenses/by/1-0/"),
            Licence("MIT", "MIT License", "https://opensource.org/license/mit"),
            Licence("BSD-3-Clause", "BSD 3-Clause License", "https://opensource.org/license/bsd-3-clause"),
            Licence("Apache-2.0", "Apache License 2.0", "https://www.apache.org/licenses/LICENSE-2.0"),
        )
    }
)
_LICENCE = "CC-BY-4.0"


def release(
    source: str | Path,
    target: str | Path,
    *,
    title: str | None = None,
    licence: str | None = None,
    authors: Iterable[str] | None = None,
    released: str | None = None,
    keep_bits: int | None = None,
    rows: int | None = None,
) -> list[str]:
    """Make a folder that can be given to a data repository; the module says what is in it.

    The same population gives the same bytes, but for the date. After an interruption the same call goes on. An
    unfinished population is released as it is, and the data card says what is missing.

    Parameters
    ----------
    source
        Where `nwslib.snapshots.write` wrote, finished or not; it is only read.
    target
        Made where it does not exist.
    title
        Of the data set; None: how many networks of which family.
    licence
        SPDX identifier of one of `LICENCES`; None: ``"CC-BY-4.0"``, if the networks were trained here.
    authors
        ``"Family, Given"`` for people, anything else for groups; None: `AUTHORS`.
    released
        Date of the release, ISO 8601; None: today, UTC.
    keep_bits
        Round each weight to so many bits of its mantissa, 1 to 23 (BitRound); None: without loss.
    rows
        How many rows the design has; None: unknown.

    Returns
    -------
    list of str
        The faults that a validation of the release found, one sentence each; the data card tells them too.

    Raises
    ------
    FileNotFoundError
        If there is no population in `source`, or a shard is missing.
    OSError
        If the target can't be written to.
    ValueError
        If the licence is unknown, or not named for networks that come from elsewhere; if the title, an author, the
        date or `rows` is none; if a file in `source` was changed since it was written; if the target holds anything
        but a release of this population, rounded alike. All known before a network is copied.

    Examples
    --------
    >>> import tempfile
    >>> from nwslib.snapshots import fake, write
    >>> from nwslib.space import sample
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = write(f"{folder}/main", fake.population(sample("nws_small", 3, seed=0)))
    ...     found = release(f"{folder}/main", f"{folder}/release")
    ...     names = sorted(path.name for path in Path(folder, "release").iterdir())
    >>> found, names[:4]
    ([], ['CITATION.cff', 'LICENSE', 'README.md', 'SHA256SUMS'])
    """
    source, target = Path(source), Path(target)
    files.check_form("archive", keep_bits)
    held = read_filled(source)
    statement = _statement(held, title, licence, AUTHORS if authors is None else tuple(authors), released)
    _check_rows(held, rows)
    _check_target(held, target, keep_bits)
    _check_unchanged(held)
    _begin(held, target)
    convert(source, target, keep_bits=keep_bits)
    facts = Facts(_settled(target), _twins(source), rows, tuple(faults(target)))
    _describe(facts, replace(statement, title=statement.title or datacard.default_title(facts)))
    return list(facts.faults)


def _statement(
    held: Contents, title: str | None, licence: str | None, authors: tuple[str, ...], released: str | None
) -> Statement:
    """Check what those say who publish; no title is an empty one here."""
    if licence is None and any("source" in own for own in held.nodes.values()):
        sources = "; ".join(sorted({own["source"] for own in held.nodes.values() if "source" in own}))
        raise ValueError(f"these networks come from elsewhere ({sources}): say under which licence (--licence)")
    if (licence or _LICENCE) not in LICENCES:
        raise ValueError(f"unknown licence {licence!r}. {nearest(licence, LICENCES)}")
    if title is not None and not title.strip():
        raise ValueError("a title is not empty; leave it out for one that says how many networks of which family")
    if not authors or not all(author.strip(" ,") for author in authors):
        raise ValueError(f"a data set has at least one author, and each has a name, not {list(authors)!r}")
    day = datetime.now(UTC).date().isoformat() if released is None else released
    try:
        day = date.fromisoformat(day).isoformat()
    except ValueError as error:
        raise ValueError(f"the date of a release is written as 2026-12-31, not {released!r}") from error
    return Statement(" ".join((title or "").split()), LICENCES[licence or _LICENCE], authors, day)


def _check_rows(held: Contents, rows: int | None) -> None:
    least = max(held.table["model"]) + 1
    if rows is not None and rows < least:
        raise ValueError(
            f"the design has at least {least:,} rows, since {held.folder} holds its row {least - 1}, not {rows}"
        )


def _check_target(held: Contents, target: Path, keep_bits: int | None) -> None:
    """Refuse a folder that holds anything but a release of this population, begun or complete."""
    if held.folder.resolve() == target.resolve():
        raise ValueError(f"source and target are one folder, {target}: choose another target")
    if not target.is_dir() or not any(target.iterdir()):
        return
    advice = f"Remove it, or choose another folder, for example {target.name}-2"
    if not (target / MANIFEST).is_file() and any(not path.name.startswith(".") for path in target.iterdir()):
        raise ValueError(f"{target} holds other files, and no release. {advice}")
    there = read(target)
    if there.table["model"] and summary(target)["form"] != "archive":
        raise ValueError(f"{target} holds a population in the working form, and no release. {advice}")
    others = set(there.table["id"]) - set(held.table["id"])
    if others:
        raise ValueError(f"{target} holds {len(others):,} networks that {held.folder} does not hold. {advice}")
    for node, own in there.nodes.items():
        asked = held.nodes[node].get("keep_bits") if keep_bits is None else str(keep_bits)
        if own.get("keep_bits") != asked:
            bits = [
                f"{value} bits of each mantissa" if value else "all bits" for value in (own.get("keep_bits"), asked)
            ]
            raise ValueError(f"{target} holds weights with {bits[0]}, not with {bits[1]}. {advice}")


def _check_unchanged(held: Contents) -> None:
    """Refuse damage, which would get a new checksum, and pass for sound."""
    for name, facts in held.files.items():
        if files.facts_of(held.folder / name)["sha256"] != facts["sha256"]:
            raise ValueError(
                f"{held.folder / name} was changed: its SHA-256 is not the one in {MANIFEST}. Nothing was released; "
                f"python -m nwslib.snapshots validate {held.folder} says which networks are damaged"
            )


def _begin(held: Contents, target: Path) -> None:
    """Leave a manifest before there is a shard, and no shard that it does not list: a killed release is made again."""
    target.mkdir(parents=True, exist_ok=True)
    (target / SUMS).unlink(missing_ok=True)
    if not (target / MANIFEST).is_file():
        files.write_text(target / MANIFEST, manifest(Contents(target, dict(held.shared))))
    listed = read(target).files
    for path in shards_in(target):
        if path.name not in listed:
            path.unlink()


def _settled(target: Path) -> Contents:
    """Write the manifest in an order that does not depend on interruptions."""
    there = read_filled(target)
    there = replace(there, files=dict(sorted(there.files.items())), nodes=dict(sorted(there.nodes.items())))
    files.write_text(target / MANIFEST, manifest(there))
    return there


def _twins(source: Path) -> int:
    """Count networks whose final weights are those of one before them, bit for bit."""
    seen, twins = set(), 0
    for node in open_population(source).children.values():
        final = node["weights"].isel(snapshot=-1)
        for weights in (final[row].values for row in range(final.sizes["model"])):
            if np.isfinite(weights).any():  # all networks that failed look the same
                digest = hashlib.sha256(weights.tobytes()).digest()
                twins += digest in seen
                seen.add(digest)
    return twins


def _describe(facts: Facts, statement: Statement) -> None:
    """Write everything beside the population; the checksums last."""
    folder = facts.contents.folder
    texts = {
        "README.md": datacard.text(facts, statement),
        "CITATION.cff": citation(facts, statement),
        "LICENSE": _licence(statement),
        "datacard.json": json.dumps(json_ld(facts, statement), indent=2, ensure_ascii=False, allow_nan=False) + "\n",
    }
    for name, text in texts.items():
        files.write_text(folder / name, text)
    for leftover in (folder / ".lock", *folder.glob("parts")):
        leftover.rmdir() if leftover.is_dir() else leftover.unlink()
    # Those of shards are what they were when they were written: a byte that was changed since then is found.
    sums = {name: own["sha256"] for name, own in facts.contents.files.items()}
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name not in sums:
            sums[name] = files.facts_of(path)["sha256"]
    files.write_text(folder / SUMS, "".join(f"{sums[name]}  {name}\n" for name in sorted(sums)))


def citation(facts: Facts, statement: Statement) -> str:
    """Write how to cite a data set, in the Citation File Format 1.2.0.

    Parameters
    ----------
    facts
        Of the population.
    statement
        Of those who publish it.

    Returns
    -------
    str
        YAML, each value written as JSON, which YAML contains.
    """
    fields = {
        "cff-version": "1.2.0",
        "type": "dataset",
        "title": statement.title,
        "message": "If you use this data set, please cite it, and the study that it carries forward.",
        "abstract": datacard.description(facts),
        "authors": [_author(name) for name in statement.authors],
        "date-released": statement.date,
        "license": statement.licence.spdx,
        "keywords": _keywords(facts),
        "references": [
            {
                "type": "software",
                "title": "nwslib",
                "authors": [{"name": AUTHORS[0]}],
                "repository-code": datacard.CODE,
            },
            _STUDY,
        ],
    }
    return "".join(f"{name}: {json.dumps(value, ensure_ascii=False)}\n" for name, value in fields.items())


_STUDY = {
    "type": "conference-paper",
    "title": "Classifying the classifier: dissecting the weight space of neural networks",
    "authors": [
        {"family-names": "Eilertsen", "given-names": "Gabriel"},
        {"family-names": "Jönsson", "given-names": "Daniel"},
        {"family-names": "Ropinski", "given-names": "Timo"},
        {"family-names": "Unger", "given-names": "Jonas"},
        {"family-names": "Ynnerman", "given-names": "Anders"},
    ],
    "year": 2020,
    "conference": {"name": "24th European Conference on Artificial Intelligence (ECAI)"},
    "notes": "arXiv:2002.05688",
}


def json_ld(facts: Facts, statement: Statement) -> dict[str, Any]:
    """Describe a data set for programs: a Dataset of schema.org.

    Parameters
    ----------
    facts
        Of the population.
    statement
        Of those who publish it.

    Returns
    -------
    dict
        JSON-LD.
    """
    return {
        "@context": "https://schema.org/",
        "@type": "Dataset",
        "name": statement.title,
        "description": datacard.description(facts),
        "creator": [_creator(name) for name in statement.authors],
        "datePublished": statement.date,
        "license": statement.licence.url,
        "isAccessibleForFree": True,
        "keywords": _keywords(facts),
        "citation": datacard.STUDY,
        "measurementTechnique": "; ".join(facts.attribute("source")) or f"training with nwslib, {datacard.CODE}",
        "size": f"{facts.networks} networks",
        "variableMeasured": datacard.measured(facts),
        "distribution": [
            {
                "@type": "DataDownload",
                "name": name,
                "contentUrl": name,
                "encodingFormat": "application/x-netcdf",
                "contentSize": f"{own['bytes']} B",
                "sha256": own["sha256"],
            }
            for name, own in sorted(facts.contents.files.items())
        ],
    }


def _keywords(facts: Facts) -> list[str]:
    families = sorted(set(facts.contents.table["family"]))
    return ["neural network weights", "weight space learning", "model zoo", *families]


def _author(name: str) -> dict[str, str]:
    family, comma, given = (part.strip() for part in name.partition(","))
    return {"family-names": family, "given-names": given} if comma and given else {"name": name.strip(" ,")}


def _creator(name: str) -> dict[str, str]:
    known = _author(name)
    if "name" in known:
        return {"@type": "Organization", **known}
    return {"@type": "Person", "familyName": known["family-names"], "givenName": known["given-names"]}


def _licence(statement: Statement) -> str:
    licence = statement.licence
    return (
        f"{statement.title}\n\nCopyright {statement.date[:4]} {'; '.join(statement.authors)}\n\n"
        f"Everything in this folder is licensed under: {licence.name}\nSPDX-License-Identifier: {licence.spdx}\n"
        f"Text of the licence: {licence.url}\n"
    )
