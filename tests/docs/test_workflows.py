"""The workflows of GitHub run scripts of this repository, with the versions of Python that pyproject.toml names."""

import os
import re
import shlex
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
WORKFLOWS = {file.name: yaml.safe_load(file.read_text()) for file in (ROOT / ".github/workflows").glob("*.yml")}
JOBS = [(f"{file}:{name}", job) for file, workflow in WORKFLOWS.items() for name, job in workflow["jobs"].items()]
STEPS = [(place, step) for place, job in JOBS for step in job.get("steps", [])]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CLASSIFIED = re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["classifiers"]))
ACTIONS = {
    "actions/checkout@v7",
    "actions/setup-python@v7",
    "actions/upload-artifact@v7",
    "actions/download-artifact@v8",
    "pypa/gh-action-pypi-publish@release/v1",
}


def test_there_are_workflows_for_tests_wheels_and_releases():
    assert set(WORKFLOWS) == {"tests.yml", "wheels.yml", "release.yml"}


@pytest.mark.parametrize("place, line", [(place, step["run"]) for place, step in STEPS if "run" in step])
def test_every_command_is_a_script_of_this_repository(place, line):
    words = shlex.split(re.sub(r"\$\{\{.*?\}\}", "VALUE", line))
    assert "\n" not in line.strip()
    assert words[0].startswith("scripts/")
    assert os.access(ROOT / words[0], os.X_OK)


@pytest.mark.parametrize("place, action", [(place, step["uses"]) for place, step in STEPS if "uses" in step])
def test_actions_are_known_and_have_one_version(place, action):
    assert action in ACTIONS


def test_versions_of_python_are_those_of_the_classifiers():
    assert WORKFLOWS["tests.yml"]["jobs"]["linux"]["strategy"]["matrix"]["python"] == CLASSIFIED
    assert PROJECT["requires-python"] == f">={CLASSIFIED[0]}"
    versions = {step["with"]["python-version"] for _, step in STEPS if "setup-python" in step.get("uses", "")}
    assert versions - {"${{ matrix.python }}"} <= set(CLASSIFIED)


@pytest.mark.parametrize("file", WORKFLOWS)
def test_a_workflow_reads_the_repository_only_and_has_a_concurrency_group(file):
    assert WORKFLOWS[file]["permissions"] == {"contents": "read"}
    assert WORKFLOWS[file]["concurrency"]["group"]


@pytest.mark.parametrize("place, job", JOBS, ids=[place for place, _ in JOBS])
def test_a_job_has_a_time_limit_and_only_publishing_has_a_permission(place, job):
    assert "uses" in job or job["timeout-minutes"] <= 60
    assert job.get("permissions") == ({"id-token": "write"} if place == "release.yml:publish" else None)


def test_tests_of_the_oldest_versions_exist_and_name_every_extra_of_a_user():
    cases = WORKFLOWS["tests.yml"]["jobs"]["oldest"]["strategy"]["matrix"]["include"]
    extras = {extra for case in cases for extra in case["extras"].split(",")}
    # examples and peers are for this repository; harness has no version that installs without a compilation
    assert extras == set(PROJECT["optional-dependencies"]) - {"dev", "examples", "peers", "harness"}
    assert all((ROOT / path).exists() for case in cases for path in case["tests"].split())
