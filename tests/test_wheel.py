"""A built wheel has every data file of the package, such as recipes, tasks, C sources and the explorer page."""

import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOT_DATA = {".pyc", ".so", ".py"}


def test_wheel_has_every_data_file(tmp_path):
    wheel = pytest.importorskip("hatchling.builders.wheel")
    (path,) = wheel.WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    with zipfile.ZipFile(path) as archive:
        names = set(archive.namelist())
    tasks = {f"charladder/export/harness_tasks/{name}.yaml" for name in ("_bits", "enwik8", "text", "text8")}
    assert tasks | {"charladder/recipes/ladder.toml", "charladder/py.typed"} <= names
    source = ROOT / "src"
    data = {str(file.relative_to(source)) for file in source.glob("charladder/**/*.*") if file.suffix not in NOT_DATA}
    assert data <= names
