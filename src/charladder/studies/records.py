"""The runs of a training function on disk: a JSON file for each arm and seed, in the folder of the study.

A run is identified by the function's name, the numbers and texts bound to it, the arm's name, its settings and the
seed. What else a result depends on
(the code of the function, its data, versions of libraries) is recorded where possible, and is not part of the identity.
"""

import hashlib
import inspect
import json
import math
import platform
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from charladder.atomic_io import write_text
from charladder.errors import UserError
from charladder.strict_json import dumps
from charladder.studies.bound_values import find_bound_values, unwrap

FINISHED = "finished"
FAILED = "failed"  # train raised an error, or its process ended
INVALID = "invalid"  # train returned something that is not metrics
STARTED = "started"  # in a process of its own
_STATES = FINISHED, FAILED, INVALID, STARTED
_FORMAT_VERSION = 1
_LIBRARIES = {"torch": "torch", "numpy": "numpy", "sklearn": "scikit-learn", "transformers": "transformers"}

TrainFunction = Callable[[Any, int], Any]
Metrics = dict[str, float]


@dataclass(frozen=True, eq=False)  # hashed by identity: settings are dicts
class PlannedCall:
    """One call of a training function: the settings of an arm, a seed, and the file of its record."""

    train_name: str
    arm: str
    settings: Any
    seed: int
    path: Path


@dataclass(frozen=True)
class RunRecord:
    """The record of one run.

    metrics: its last ones; NaN where they were not finite. curve: (step, metrics) in rising order of the steps; empty
    where the function returned its metrics. error: one sentence, for a run that has not finished.
    """

    state: str
    metrics: Metrics
    curve: tuple[tuple[float, Metrics], ...]
    seconds: float
    error: str | None
    traceback: str | None
    source_sha256: str | None
    versions: dict[str, str]


def name_of_function(train: TrainFunction) -> str:
    """Module and name of a function; for the main program the name of its file."""
    function = unwrap(train)
    module = getattr(function, "__module__", None) or "unknown"
    if module == "__main__":
        module = Path(getattr(sys.modules["__main__"], "__file__", None) or "interactive").stem
    return f"{module}.{getattr(function, '__qualname__', None) or type(function).__qualname__}"


def default_folder(train_name: str) -> Path:
    """studies/, and the name of the function."""
    return Path("studies") / _file_name(train_name)


def plan_calls(
    train_name: str, arms: Mapping[str, Any], seeds: Sequence[int], folder: Path, bound: Mapping[str, str]
) -> tuple[PlannedCall, ...]:
    """All calls, seed by seed, so that an interrupted study has complete seeds.

    bound: the values bound to the function, which are part of the identity of a run. Raises UserError for settings that
    cannot be recorded as JSON.
    """
    calls = []
    for seed in seeds:
        for arm, settings in arms.items():
            try:
                json.dumps(settings, ensure_ascii=False).encode()  # raises ValueError for text that is not Unicode
                about = [train_name, arm, settings, seed, *([dict(bound)] if bound else [])]
                identity = json.dumps(about, sort_keys=True, allow_nan=False)
            except (TypeError, ValueError, RecursionError) as error:
                raise UserError(
                    f"the settings of arm {arm!r} cannot be recorded as JSON: {error}; give numbers, texts, lists and "
                    "dicts, and make other objects from them in train"
                ) from None
            digest = hashlib.sha256(identity.encode()).hexdigest()[:16]
            path = folder / f"{_file_name(arm)}-seed{seed}-{digest}.json"
            calls.append(PlannedCall(train_name, arm, settings, seed, path))
    return tuple(calls)


def read_record(call: PlannedCall) -> RunRecord | None:
    """The record of a call; None without one. Raises UserError for a damaged file."""
    try:
        value = json.loads(call.path.read_text(encoding="utf-8"))
        if value["format_version"] != _FORMAT_VERSION or value["state"] not in _STATES:
            raise ValueError("it is of another version")
        return RunRecord(
            state=value["state"],
            metrics=_read_metrics(value["metrics"]),
            curve=tuple((float(step), _read_metrics(metrics)) for step, metrics in value["curve"]),
            seconds=float(value["seconds"]),
            error=value["error"],
            traceback=value["traceback"],
            source_sha256=value["source_sha256"],
            versions=dict(value["versions"]),
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{call.path} cannot be read: {error}; delete it, and the run is repeated") from None


def write_record(call: PlannedCall, record: RunRecord) -> None:
    """Writes the record of a call atomically."""
    about = {"train": call.train_name, "arm": call.arm, "settings": call.settings, "seed": call.seed}
    write_text(call.path, dumps({"format_version": _FORMAT_VERSION, **about, **asdict(record)}) + "\n")


def make_record(
    state: str,
    metrics: Metrics | None = None,
    curve: Sequence[tuple[float, Metrics]] = (),
    seconds: float = 0.0,
    error: str | None = None,
    traceback: str | None = None,
    source_sha256: str | None = None,
) -> RunRecord:
    """A record with the versions of the libraries that are imported."""
    return RunRecord(state, metrics or {}, tuple(curve), seconds, error, traceback, source_sha256, _versions())


def hash_source(train: TrainFunction) -> str | None:
    """SHA-256 of the source text of the function itself, without what it calls, and of the lists, dicts and dataclasses
    bound to it; None where nothing of both is known."""
    changeable = find_bound_values(train).changeable
    texts = [_source_text(unwrap(train)), *(f"{name}: {text}" for name, text in changeable.items())]
    return hashlib.sha256("\n".join(texts).encode(errors="replace")).hexdigest() if any(texts) else None


def _source_text(function: Any) -> str:
    """The source text of a function, or of the class of a callable instance; empty where it is not known."""
    is_function = inspect.isroutine(function) or inspect.isclass(function)
    for code in [function] if is_function else [type(function), type(function).__call__]:
        try:
            return inspect.getsource(code)
        except (OSError, TypeError):
            continue
    return ""


def _read_metrics(value: Any) -> Metrics:
    """Metrics in JSON, where null stands for a number that is not finite."""
    return {name: math.nan if number is None else float(number) for name, number in value.items()}


def _versions() -> dict[str, str]:
    names = {"charladder": "charladder"} | _LIBRARIES
    found = {package: _version(package) for module, package in names.items() if module in sys.modules}
    return {"python": platform.python_version(), **{name: version for name, version in found.items() if version}}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _file_name(name: str) -> str:
    """The name with the characters that every file system takes; several names may give the same."""
    return re.sub(r"[^A-Za-z0-9._=+-]+", "-", name).strip(".-")[:80] or "arm"
