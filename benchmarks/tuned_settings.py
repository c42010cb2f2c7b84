"""Settings of benchmarks/reference.py as TOML: what a sweep found is written, checked and read."""

from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import tomli_w

from benchmarks.reference import Settings
from charladder.atomic_io import write_text
from charladder.errors import UserError, suggest_names
from charladder.input_files import parse_toml, read_bytes

FOLDER = Path(__file__).parent / "tuned"
_TYPES = {field.name: type(field.default) for field in fields(Settings)}


def tuned_file(seconds: float) -> Path:
    """The committed file of the best settings that a sweep with this budget found."""
    return FOLDER / f"reference-{seconds:g}.toml"


def write_settings(path: Path, settings: Settings, found_by: dict[str, Any]) -> None:
    """Writes settings, and in a table [sweep] how they were found."""
    write_text(path, tomli_w.dumps({**asdict(settings), "sweep": found_by}))


def read_settings(path: Path) -> Settings:
    """Reads settings; the table [sweep] is not read. Raises UserError for a file that is missing or not valid."""
    try:
        entries = parse_toml(read_bytes(path), str(path))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    entries.pop("sweep", None)
    for name, value in entries.items():
        if name not in _TYPES:
            raise UserError(f"{path} has the unknown setting {name!r}{suggest_names(name, _TYPES)}")
        wanted = _TYPES[name]
        if type(value) is not wanted or not 0 < value < 1 << 20:
            kind = "a whole number" if wanted is int else "a number with a decimal point"
            raise UserError(f"{path} has {name} = {value!r}; it must be {kind} above 0")
    missing = [name for name in _TYPES if name not in entries]
    if missing:
        raise UserError(f"{path} lacks {missing[0]}; a file of `python -m benchmarks reference_sweep` has all settings")
    settings = Settings(**entries)
    if settings.width % (2 * settings.heads):
        raise UserError(
            f"{path} has width = {settings.width} and heads = {settings.heads}; the width must be a multiple of twice "
            "the heads"
        )
    return settings
