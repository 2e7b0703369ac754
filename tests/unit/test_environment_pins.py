"""pyproject.toml's ranges, the constraints and the conda environment name versions that agree."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"].values()
RANGES = [Requirement(line) for line in [*PROJECT["dependencies"], *sum(EXTRAS, [])]]


def read_pins(path: Path) -> dict[str, Version]:
    """The pinned version of each package that a file of constraints names."""
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    pins = {name: Version(version) for name, version in (line.split("==") for line in lines)}
    assert len(pins) == len(lines), f"{path} names a package twice"
    return pins


CURRENT, OLDEST = (read_pins(ROOT / f"constraints{end}.txt") for end in ("", "-oldest"))


@pytest.mark.parametrize("pins", [CURRENT, OLDEST], ids=["current", "oldest"])
def test_the_constraints_pin_each_dependency_and_no_other_package(pins):
    assert pins.keys() == {allowed.name for allowed in RANGES}


@pytest.mark.parametrize("allowed", RANGES, ids=str)
def test_a_range_reaches_from_the_oldest_pin_to_the_current_one(allowed):
    ends = {end.operator: Version(end.version) for end in allowed.specifier}
    assert ends.keys() == {">=", "<"}
    assert ends[">="] == OLDEST[allowed.name] <= CURRENT[allowed.name] < ends["<"]


def test_the_conda_environment_has_the_pins_of_the_constraints():
    environment = yaml.safe_load((ROOT / "envs/seqembed.yaml").read_text())
    pip = next(entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    names = [Requirement(line).name for line in PROJECT["dependencies"]]
    assert pip == [f"{name}=={CURRENT[name]}" for name in names]
