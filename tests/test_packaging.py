"""The set-up files agree with one another."""

import re
import subprocess
from importlib import metadata
from pathlib import Path

import pytest
import yaml

try:
    import tomllib
except ImportError:  # Python 3.10
    import tomli as tomllib

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def name_of(requirement: str) -> str:
    return re.match(r"[A-Za-z0-9_.-]+", requirement)[0].lower().replace("_", "-")


def constraints() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line.split(";")[0].strip() for line in lines if line.strip() and not line.startswith("#")]
    return {name_of(pin): pin.split("==")[1] for pin in pins}


def test_environment_yml_equals_pyproject():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    *conda, last = environment["dependencies"]
    assert conda == [f"python{PROJECT['requires-python']}", "pip", "make"]
    optional = PROJECT["optional-dependencies"]
    wanted = sorted({*PROJECT["dependencies"], *optional["demo"], *optional["test"]}, key=str.lower)
    assert last["pip"] == [*wanted, "-e ."]


def test_every_requirement_is_pinned_by_the_constraints():
    pins = constraints()
    optional = PROJECT["optional-dependencies"].values()
    for requirement in [*PROJECT["dependencies"], *(r for group in optional for r in group)]:
        assert name_of(requirement) in pins, requirement


def test_pins_lie_within_the_bounds_of_pyproject():
    from packaging.requirements import Requirement

    pins = constraints()
    for text in PROJECT["dependencies"]:
        requirement = Requirement(text)
        assert requirement.specifier.contains(pins[name_of(text)]), text


def test_the_version_is_the_packages():
    import mvfa_core

    assert metadata.version("mvfa-benchmark") == mvfa_core.__version__


def test_ci_calls_the_readmes_test_command():
    assert "make test" in (ROOT / ".ci" / "run").read_text()
    assert "make test" in (ROOT / "README.md").read_text()


def test_tracked_files_tell_nothing_of_a_machine():
    """No absolute home or temporary path, and no file over 5 MiB except what DVC's store holds."""
    tracked = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.split("\0")
    if len(tracked) < 2:
        pytest.skip("not a Git checkout")
    pattern = re.compile(rb"/(?:home|root|Users|tmp|work)/[A-Za-z0-9_.]")
    found = [
        name
        for name in tracked
        if name and not name.startswith(("store/", "tests/")) and pattern.search((ROOT / name).read_bytes())
    ]
    assert found == []
