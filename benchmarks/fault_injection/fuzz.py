"""Fuzzing of every reader of external data with damaged and generated inputs. Each must give a result or a UserError
of one sentence, within ten seconds and a gigabyte of memory, and without a traceback."""

import argparse
import bz2
import contextlib
import gzip
import io
import json
import lzma
import struct
import sys
import tarfile
import tempfile
import traceback
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from benchmarks.fault_injection.kills import SMALL_RUN, TEXT, use_cache
from charladder.cli.main import main
from charladder.errors import DamagedDataWarning, UserError
from charladder.model import ModelConfig, Transformer
from charladder.recipe import field_types, parse_recipe_fields, resolve
from charladder.run import load_module, open_run
from charladder.text.archives import unpack
from charladder.text.cache import read_record
from charladder.training.checkpoint import (
    PARTS,
    DamagedCheckpoint,
    add_digest,
    file_digest,
    list_checkpoints,
    load_checkpoint,
)
from charladder.training.health import restore_health
from charladder.training.memory import peak_bytes
from charladder.training.metrics import read_metrics

MAX_SECONDS, MAX_MEMORY_BYTES = 10, 1 << 30
Target = tuple[Any, Callable[[Any], None]]

numbers = st.one_of(
    st.integers(-3, 300), st.sampled_from([2**31, 2**63, 2**64, -(2**63), 10**30]), st.floats(), st.booleans()
)
values = st.recursive(
    st.one_of(st.none(), numbers, st.text(max_size=8)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """A copy of the content with bytes changed, inserted, removed, repeated or truncated."""
    data = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        kind = draw(st.sampled_from(["change", "insert", "remove", "cut", "repeat"]))
        if kind == "change" and data:
            data[at] = draw(st.integers(0, 255))
        elif kind == "insert":
            data[at:at] = draw(st.binary(max_size=8))
        elif kind == "remove":
            del data[at : at + draw(st.integers(1, 40))]
        elif kind == "cut":
            del data[at:]
        else:
            data[at:at] = data[at : at + draw(st.integers(1, 60))] * draw(st.integers(1, 5))
    return bytes(data)


def assert_one_sentence(error: Exception) -> None:
    assert "\n" not in str(error).rstrip() or "TOML" in str(error), error


def recipes(config: bytes) -> Target:
    """config.toml."""
    names = sorted(field_types())
    fields = st.dictionaries(st.sampled_from(names), values, max_size=6)
    tables = fields.map(lambda found: "\n".join(f"{name} = {json.dumps(value)}" for name, value in found.items()))

    def act(data: bytes) -> None:
        try:
            resolve(parse_recipe_fields(data, "config.toml"))
        except UserError as error:
            assert_one_sentence(error)

    return st.one_of(st.binary(max_size=200), damaged(config), tables.map(str.encode)), act


def metrics(lines: bytes, folder: Path) -> Target:
    """metrics.jsonl."""
    generated = st.lists(values.map(json.dumps), max_size=4).map(lambda found: "\n".join(found).encode())

    def act(data: bytes) -> None:
        path = folder / "metrics.jsonl"
        path.write_bytes(data)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DamagedDataWarning)  # such lines are skipped with a warning
            found = read_metrics(path)
        assert all(type(line["step"]) is int for line in found)
        read_record(path)
        read_record(path, step=int)

    return st.one_of(st.binary(max_size=200), damaged(lines), generated), act


def states(checkpoint: Path) -> Target:
    """state.json of a checkpoint: damaged, and with changed values and a correct digest."""
    path = checkpoint / "state.json"
    content = path.read_bytes()
    known = json.loads(content)
    del known["seal"]
    keys = st.sampled_from([(key,) for key in known] + [("clock", key) for key in known["clock"]] + [("health",)])

    def changed(keys: tuple[str, ...], value: Any) -> bytes:
        state = json.loads(json.dumps(known))
        inner = state
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = value
        return add_digest(state).encode()

    def act(data: bytes) -> None:
        path.write_bytes(data)
        try:
            found = load_checkpoint(checkpoint)
            with contextlib.suppress(ValueError, KeyError, TypeError):  # Trainer.restore handles these
                restore_health(found.state.get("health"))
        except DamagedCheckpoint as error:
            assert_one_sentence(error)
        finally:
            path.write_bytes(content)

    return st.one_of(damaged(content), st.builds(changed, keys, values)), act


def safetensors_bytes(header: Any, body: bytes) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def tensors(weights: bytes, model: ModelConfig, size: int, folder: Path) -> Target:
    """model.safetensors: damaged, and with wrong headers."""
    length = struct.unpack("<Q", weights[:8])[0]
    header = json.loads(weights[8 : 8 + length])
    names = st.sampled_from(sorted(header))
    entries = st.fixed_dictionaries({
        "dtype": st.sampled_from(["F32", "F64", "BF16", "I64", "U8", "X"]), "shape": st.lists(numbers, max_size=3),
        "data_offsets": st.lists(st.integers(0, 2**40), min_size=2, max_size=2),
    })  # fmt: skip
    wrong_headers = st.builds(
        lambda n, entry: safetensors_bytes(header | {n: entry}, weights[8 + length :]), names, entries | values
    )

    def act(data: bytes) -> None:
        path = folder / "model.safetensors"
        path.write_bytes(data)
        try:
            load_module(lambda: Transformer(model, size), path, model.layers)
        except UserError as error:
            assert_one_sentence(error)

    return st.one_of(st.binary(max_size=100), damaged(weights), wrong_headers), act


def shards(folder: Path) -> Target:
    """The files of a sharded checkpoint, with correct checksums and generated headers."""
    checkpoint = folder / "1"
    checkpoint.mkdir()
    state = {"format_version": 2, "clock": {"step": 1, "characters": 1, "seconds": 1.0}, "sampler": {"examples": 1}}
    offsets = st.lists(st.one_of(st.integers(0, 4), numbers), max_size=3)
    info = st.one_of(st.dictionaries(st.sampled_from("ab"), st.fixed_dictionaries({"saved_offsets": offsets})), values)
    shapes = st.lists(st.integers(0, 4), max_size=2)

    def act(drawn: list[tuple[Any, list[int]]]) -> None:
        for old in checkpoint.iterdir():
            old.unlink()
        digests = {}
        for n, (sharding, shape) in enumerate(drawn):
            count = 4 * int(torch.Size(shape).numel())
            header = {"__metadata__": {"DCP_SHARDING_INFO": json.dumps(sharding)}}
            header |= {"a": {"dtype": "F32", "shape": shape, "data_offsets": [0, count]}}
            file = checkpoint / f"shard-{n}.safetensors"
            file.write_bytes(safetensors_bytes(header, bytes(count)))
            digests[file.name] = file_digest(file)
        (checkpoint / "state.json").write_text(add_digest({**state, "sha256": digests}))
        try:
            load_checkpoint(checkpoint)
        except DamagedCheckpoint as error:
            assert_one_sentence(error)

    return st.lists(st.tuples(info, shapes), max_size=3), act


def archives() -> Target:
    """Compressed files and archives of texts."""
    text = TEXT.encode()[:800]
    zipped, tarred = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("a", text)
        archive.writestr("b/c", text)
    with tarfile.open(fileobj=tarred, mode="w") as archive:
        member = tarfile.TarInfo("a")
        member.size = len(text)
        archive.addfile(member, io.BytesIO(text))
    kinds = {
        "t.gz": gzip.compress(text), "t.xz": lzma.compress(text), "t.bz2": bz2.compress(text),
        "t.zip": zipped.getvalue(), "t.tar": tarred.getvalue(), "t.tar.gz": gzip.compress(tarred.getvalue()),
    }  # fmt: skip
    with contextlib.suppress(ImportError):
        from backports import zstd

        kinds["t.zst"] = zstd.compress(text)
    inputs = [st.tuples(st.just(name), damaged(content) | st.binary(max_size=200)) for name, content in kinds.items()]

    def act(drawn: tuple[str, bytes]) -> None:
        name, data = drawn
        try:
            for _, chunks in unpack(io.BytesIO(data), name, len(data)):
                for _ in chunks:
                    pass
        except UserError as error:
            assert_one_sentence(error)

    return st.one_of(inputs), act


def directories(run: Path) -> Target:
    """Commands on a run directory with one damaged file."""
    files = {name: (run / name).read_bytes() for name in ("config.toml", "model.safetensors", "metrics.jsonl")}
    files["heads.safetensors"] = (run / "heads.safetensors").read_bytes()
    changes = st.one_of([st.tuples(st.just(name), damaged(content)) for name, content in files.items()])
    commands = st.sampled_from([
        ["evaluate", str(run), "--limit", "40", "--json"], ["inspect", str(run), "--json"],
        ["generate", str(run), "--length", "4", "--json"],
    ])  # fmt: skip

    def act(drawn: tuple[tuple[str, bytes], list[str]]) -> None:
        (name, data), arguments = drawn
        (run / name).write_bytes(data)
        out, err = io.StringIO(), io.StringIO()
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                code = main(arguments)
        finally:
            (run / name).write_bytes(files[name])
        assert code in (0, 2), (code, err.getvalue())
        assert "Traceback" not in err.getvalue()

    return st.tuples(changes, commands), act


class Counter:
    """Counts the inputs of a check."""

    def __init__(self, act: Callable[[Any], None]) -> None:
        self.inputs, self.act = 0, act

        def check(drawn: Any) -> None:
            self.inputs += 1
            self.act(drawn)

        self.check = check


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Counts the inputs of every reader; failures (LOST) are printed."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name, use_cache(Path(name) / "cache"):
        folder = Path(name)
        (folder / "text").write_text(TEXT)
        path = folder / "run"
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            assert main(["train", str(folder / "text"), "--run", str(path), *SMALL_RUN, "--steps", "4", "--json"]) == 0
        known = open_run(path)
        weights = (path / "model.safetensors").read_bytes()
        checkpoint = list_checkpoints(path / "checkpoints")[-1]
        assert {file.name for file in checkpoint.iterdir()} == {f"{part}.safetensors" for part in PARTS} | {
            "state.json"
        }
        targets = {
            "recipes": (0.3, recipes((path / "config.toml").read_bytes())),
            "metrics": (0.15, metrics((path / "metrics.jsonl").read_bytes(), folder)),
            "archives": (0.2, archives()),
            "states of checkpoints": (0.13, states(checkpoint)),
            "safetensors": (0.12, tensors(weights, known.recipe.model, known.alphabet.size, folder)),
            "pieces of checkpoints": (0.05, shards(folder)),
            "run directories": (0.05, directories(path)),
        }
        before, failures = peak_bytes(torch.device("cpu")) or 0, 0
        for reader, (share, (inputs, act)) in targets.items():
            counter = Counter(act)
            examples = max(1, round(share * options.inputs))
            check = settings(
                max_examples=examples, deadline=1000 * MAX_SECONDS, database=None,
                suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
                phases=[Phase.generate, Phase.shrink],
            )(seed(options.seed)(given(inputs)(counter.check)))  # fmt: skip
            try:
                check()
            except Exception:
                failures += 1
                traceback.print_exc()
            found[reader] = counter.inputs
            print(f"fuzz: {reader}, {counter.inputs:,} inputs", file=sys.stderr, flush=True)
        growth = (peak_bytes(torch.device("cpu")) or 0) - before
    found["inputs"] = sum(found.values())
    return found | {
        "most memory, MiB": growth >> 20, "LOST: readers that failed": failures,
        "LOST: memory": int(growth > MAX_MEMORY_BYTES),
    }  # fmt: skip
