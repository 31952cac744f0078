"""THIRD_PARTY.md tells the truth: its tables are what is installed, and what that says of its licences."""

import importlib.metadata
import re
import subprocess
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPOSITORY = Path(__file__).parents[1]
PAGE = (REPOSITORY / "THIRD_PARTY.md").read_text("utf-8")

SPDX = {
    "3-Clause BSD License": "BSD-3-Clause",
    "Apache 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "ISC License": "ISC",
    "MIT License": "MIT",
}
"""Older ways to state a licence, and their SPDX names."""


def table(heading: str) -> list[list[str]]:
    """The rows of the first table under a heading, as cells, without the table's own head."""
    section = PAGE.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    rows = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[2:]]


def needs(requirement: Requirement) -> Iterator[Requirement]:
    """What an installed package requires on this machine, with the extras asked for and no others."""
    for line in importlib.metadata.requires(requirement.name) or ():
        needed = Requirement(line)
        if needed.marker is None or any(
            needed.marker.evaluate({"extra": extra}) for extra in ("", *requirement.extras)
        ):
            yield needed


def installed(extra: str = "") -> dict[str, set[str]]:
    """All that a plain install brings, or an extra: each package's name, with the names of those that require
    it."""
    with (REPOSITORY / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    lines = project["optional-dependencies"][extra] if extra else project["dependencies"]
    wanted: dict[str, set[str]] = defaultdict(set)
    todo = [(Requirement(line), project["name"]) for line in lines]
    seen = set()
    while todo:
        requirement, by = todo.pop()
        name = canonicalize_name(requirement.name)
        wanted[name].add(by)
        if (visit := (name, frozenset(requirement.extras))) not in seen:
            seen.add(visit)
            todo += [(needed, name) for needed in needs(requirement)]
    return wanted


def stated_licence(package: str) -> str:
    """The licence in a package's own metadata, by its SPDX name."""
    metadata = importlib.metadata.metadata(package)
    classifiers = [line for line in metadata.get_all("Classifier", []) if line.startswith("License ::")]
    stated = [line for field in ("License-Expression", "License") for line in metadata.get_all(field, [])]
    licence: str = [*stated, *(line.rpartition(" :: ")[2] for line in classifiers)][0]
    return SPDX.get(licence, licence)


PACKAGES = installed()


def test_the_page_lists_exactly_what_a_plain_install_brings() -> None:
    assert [name for name, _, _ in table("Packages")] == sorted(PACKAGES)


def test_each_package_has_the_licence_that_it_states() -> None:
    assert {name: licence for name, licence, _ in table("Packages")} == {
        name: stated_licence(name) for name in PACKAGES
    }


def test_packages_are_brought_by_those_that_the_page_names() -> None:
    for name, _, why in table("Packages"):
        brought_by = set(re.split(", ", why.removeprefix("via "))) if why.startswith("via ") else {"whisperd"}
        assert brought_by <= PACKAGES[name], f"{name} is required by {PACKAGES[name]}"


def test_no_package_states_a_licence_of_the_gpl_family_but_those_that_the_page_tells_of() -> None:
    licences = {name: stated_licence(name) for name in PACKAGES}
    found = {name: licence for name, licence in licences.items() if re.search(r"\b[AL]?GPL|GNU", licence)}
    assert found == {"psycopg": "LGPL-3.0-only", "psycopg-binary": "LGPL-3.0-only"}
    assert "psycopg and psycopg-binary, which DBOS brings along" in PAGE


def test_the_page_lists_what_telling_speakers_apart_brings() -> None:
    listed = {name: licence for name, licence, _ in table("Telling speakers apart")}
    brought = installed("diarize").keys() - PACKAGES.keys()
    # torch has another build for CUDA, with packages of its own.
    cuda = {name for name in brought if name.startswith("nvidia-") or name in ("triton", "cuda-bindings")}
    assert listed.keys() >= brought - cuda
    assert not [licence for licence in listed.values() if re.search(r"\b[AL]?GPL|GNU", licence)]


def libraries_in_wheels() -> Iterator[tuple[str, str]]:
    """The package and the file name of each shared library that a wheel keeps beside its modules."""
    for package in PACKAGES:
        for file in importlib.metadata.files(package) or ():
            if file.parts[0].endswith(".libs") and ".so" in file.name:
                yield package, file.name


def test_each_library_inside_a_wheel_is_on_the_page() -> None:
    listed = {
        (package, start)
        for names, packages, _ in table("Libraries inside the wheels")
        for start in re.findall(r"`([-\w]+)`", names)
        for package in packages.split(", ")
    }
    found = list(libraries_in_wheels())
    assert found, "no wheel with libraries of its own: is everything here built from source?"
    missing = [
        (package, file)
        for package, file in found
        if not any(
            package == owner and re.match(rf"{re.escape(start)}[-\w.]*\.so", file) for owner, start in listed
        )
    ]
    assert not missing


def test_pyavs_ffmpeg_is_as_the_page_says() -> None:
    """Where one of these fails, PyAV has changed what it ships: look again and say it on the page."""
    facts = "import av._core; print(*av._core.library_meta.values())"
    said = subprocess.run([sys.executable, "-c", facts], capture_output=True, text=True, check=True).stdout
    assert "LGPL version 3 or later" in said
    for flag in ("--enable-version3", "--enable-libx264", "--enable-libx265"):
        assert flag in said
        assert f"`{flag}`" in PAGE
    for flag in ("--enable-gpl", "--enable-nonfree"):
        assert flag not in said


def test_the_server_itself_loads_none_of_it() -> None:
    loaded = subprocess.run(
        [sys.executable, "-c", "import server.app, sys; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert not {"av", "_pywhispercpp", "ctranslate2", "onnxruntime"} & set(loaded)


@pytest.mark.parametrize(
    "text", ["Apache License", "Version 2.0, January 2004", "END OF TERMS AND CONDITIONS"]
)
def test_our_own_licence_is_the_apache_licence_in_full(text: str) -> None:
    assert text in (REPOSITORY / "LICENSE").read_text("utf-8")
