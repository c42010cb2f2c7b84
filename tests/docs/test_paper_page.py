"""docs/paper.md: the files and recipe fields that it names exist, and its parameter counts are what `inspect` says."""

import json
import re
from pathlib import Path
from typing import get_args

import pytest

import charladder
from charladder.cli.main import main
from charladder.model import ModelConfig
from charladder.recipe import field_types

PAGE = Path(__file__).parents[2] / "docs" / "paper.md"
TEXT = PAGE.read_text()


def test_files_and_links_lead_somewhere():
    package = Path(charladder.__file__).parent
    files = re.findall(r"`((?:model|objective|training|evaluation|recipes|auxiliary)/[\w/.]*)", TEXT)
    assert len(files) > 5
    assert [name for name in files if not (package / name).exists()] == []
    links = [target for target in re.findall(r"\]\(([^)]+)\)", TEXT) if not target.startswith("https://")]
    assert links and [target for target in links if not (PAGE.parent / target).exists()] == []


def test_fields_are_those_of_a_recipe():
    fields = re.findall(r"`\"?((?:model|objective|training)\.[a-z_]+)\"?[ `]", TEXT)
    assert len(fields) > 5
    assert set(fields) <= set(field_types())
    positions = set(re.findall(r'positions\"? = "(\w+)"', TEXT)) - {"all"}
    assert positions == set(get_args(field_types()["model.positions"])) - {ModelConfig.positions}


@pytest.mark.parametrize("recipe", ["t12", "t64"])
def test_parameter_counts(recipe, capsys):
    assert main(["inspect", recipe, "--json"]) == 0
    counts = json.loads(capsys.readouterr().out)["parameters"]
    assert f"{counts['training']:,} / {counts['inference']:,}" in TEXT
