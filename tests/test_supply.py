"""What a container installs: pinned with hashes, in agreement with pyproject.toml, and nothing besides."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests import containerfile

REPOSITORY = Path(__file__).parents[1]
LOCKS = REPOSITORY / "requirements"
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["project"]
STAGES = containerfile.read(REPOSITORY / "Containerfile")
EXTRAS = {
    path.stem for path in LOCKS.glob("*.txt") if path.stem not in ("core", "build", "versions", "whisper-cpp")
}


def pins(name: str) -> dict[str, dict[Version, int]]:
    """Of each package in a file: its versions (several where Pythons need different ones), hashes of each."""
    found: dict[str, dict[Version, int]] = {}
    for line in (LOCKS / f"{name}.txt").read_text("utf-8").replace("\\\n", " ").splitlines():
        if line and not line.lstrip().startswith("#"):
            requirement = Requirement(line.partition(" --hash=")[0])
            (exact,) = requirement.specifier
            assert exact.operator == "==", line
            versions = found.setdefault(canonicalize_name(requirement.name), {})
            versions[Version(exact.version)] = len(re.findall(r" --hash=sha256:[0-9a-f]{64}\b", line))
    return found


def wanted(extra: str) -> list[Requirement]:
    lines = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"].get(extra, ())]
    return [Requirement(line) for line in lines]


@pytest.mark.parametrize("extra", ["core", *sorted(EXTRAS)])
def test_each_dependency_is_pinned_to_a_version_that_it_may_have(extra: str) -> None:
    """Where this fails, run scripts/lock."""
    pinned = pins(extra)
    for requirement in wanted(extra):
        versions = pinned.get(canonicalize_name(requirement.name), {})
        assert versions, f"{requirement.name} is not in requirements/{extra}.txt"
        for version in versions:
            assert requirement.specifier.contains(version), f"{requirement} is pinned to {version}"


@pytest.mark.parametrize("name", ["core", "build", "whisper-cpp", *sorted(EXTRAS)])
def test_all_that_is_pinned_has_hashes(name: str) -> None:
    assert {package for package, versions in pins(name).items() if not all(versions.values())} == set()


def test_extras_can_be_chosen_together() -> None:
    """One version of each package, whichever files are installed."""
    agreed = {package: versions.keys() for package, versions in pins("versions").items()}
    for extra in ("core", "whisper-cpp", *EXTRAS):
        for package, versions in pins(extra).items():
            assert versions.keys() <= agreed[package], f"{package} in requirements/{extra}.txt"


def test_whisper_cpp_is_compiled_in_the_version_that_is_otherwise_installed() -> None:
    assert pins("whisper-cpp").keys() == {"pywhispercpp"}
    assert pins("whisper-cpp")["pywhispercpp"].keys() == pins("core")["pywhispercpp"].keys()


@pytest.mark.parametrize("stage", ["cpu-build", "cuda-build"])
def test_whatever_comes_from_an_index_is_held_against_its_hashes(stage: str) -> None:
    commands = [
        command
        for step in STAGES[stage].named("RUN")
        for command in re.split("&&|;", step.value)
        if re.search(r"\bpip (install|wheel|download)\b", command)
    ]
    assert len(commands) >= 4
    for command in commands:
        assert ("--require-hashes" in command) != ("--no-index" in command), command


@pytest.mark.parametrize("stage", ["cpu-build", "cuda-build"])
def test_the_engines_built_in_by_default_can_be(stage: str) -> None:
    chosen = {name: value for step in STAGES[stage].named("ARG") for name, value in step.pairs({}).items()}
    assert {*chosen["EXTRAS"].split(",")} <= EXTRAS
