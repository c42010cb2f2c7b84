"""Every reader of outside bytes, with damaged and invented inputs: an answer or one sentence, no traceback, no input
that takes more than ten seconds, no memory beyond a gigabyte."""

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

from benchmarks.fault_injection.kills import TEXT, TINY, cache
from charladder.cli.main import main
from charladder.errors import DamagedDataWarning, UserError
from charladder.model import ModelConfig, Transformer
from charladder.recipe import field_types, parse, resolve
from charladder.run import load_module, open_run
from charladder.text.archives import unpack
from charladder.text.cache import read_json
from charladder.training.checkpoint import PARTS, Broken, add_digest, file_digest, list_checkpoints, read
from charladder.training.health import restore_health
from charladder.training.memory import peak_bytes
from charladder.training.metrics import read_metrics

SECONDS, MEMORY = 10, 1 << 30
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
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """A file that was whole, with bytes changed, put in, taken out, or cut off."""
    data = bytearray(whole)
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


def one_sentence(error: Exception) -> None:
    assert "\n" not in str(error).rstrip() or "TOML" in str(error), error


def recipes(config: bytes) -> Target:
    """config.toml, as anybody may have written it."""
    names = sorted(field_types())
    fields = st.dictionaries(st.sampled_from(names), values, max_size=6)
    tables = fields.map(lambda found: "\n".join(f"{name} = {json.dumps(value)}" for name, value in found.items()))

    def act(data: bytes) -> None:
        try:
            resolve(parse(data, "config.toml"))
        except UserError as error:
            one_sentence(error)

    return st.one_of(st.binary(max_size=200), damaged(config), tables.map(str.encode)), act


def metrics(lines: bytes, folder: Path) -> Target:
    """metrics.jsonl."""
    invented = st.lists(values.map(json.dumps), max_size=4).map(lambda found: "\n".join(found).encode())

    def act(data: bytes) -> None:
        path = folder / "metrics.jsonl"
        path.write_bytes(data)
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", DamagedDataWarning
            )  # damaged lines are left out, which is what is tried here
            found = read_metrics(path)
        assert all(type(line["step"]) is int for line in found)
        read_json(path)
        read_json(path, step=int)

    return st.one_of(st.binary(max_size=200), damaged(lines), invented), act


def states(checkpoint: Path) -> Target:
    """state.json, sealed as it should be, with whatever in it; and damaged."""
    path = checkpoint / "state.json"
    whole = path.read_bytes()
    known = json.loads(whole)
    del known["seal"]
    places = st.sampled_from([(key,) for key in known] + [("clock", key) for key in known["clock"]] + [("health",)])

    def changed(place: tuple[str, ...], value: Any) -> bytes:
        state = json.loads(json.dumps(known))
        inner = state
        for key in place[:-1]:
            inner = inner[key]
        inner[place[-1]] = value
        return add_digest(state).encode()

    def act(data: bytes) -> None:
        path.write_bytes(data)
        try:
            found = read(checkpoint)
            with contextlib.suppress(ValueError, KeyError, TypeError):  # what Trainer.restore answers for
                restore_health(found.state.get("health"))
        except Broken as error:
            one_sentence(error)
        finally:
            path.write_bytes(whole)

    return st.one_of(damaged(whole), st.builds(changed, places, values)), act


def headed(header: Any, body: bytes) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def tensors(weights: bytes, model: ModelConfig, size: int, folder: Path) -> Target:
    """model.safetensors: damaged, and with headers that promise anything."""
    length = struct.unpack("<Q", weights[:8])[0]
    header = json.loads(weights[8 : 8 + length])
    names = st.sampled_from(sorted(header))
    entries = st.fixed_dictionaries({
        "dtype": st.sampled_from(["F32", "F64", "BF16", "I64", "U8", "X"]), "shape": st.lists(numbers, max_size=3),
        "data_offsets": st.lists(st.integers(0, 2**40), min_size=2, max_size=2),
    })  # fmt: skip
    lying = st.builds(lambda n, entry: headed(header | {n: entry}, weights[8 + length :]), names, entries | values)

    def act(data: bytes) -> None:
        path = folder / "model.safetensors"
        path.write_bytes(data)
        try:
            load_module(lambda: Transformer(model, size), path, model.layers)
        except UserError as error:
            one_sentence(error)

    return st.one_of(st.binary(max_size=100), damaged(weights), lying), act


def pieces(folder: Path) -> Target:
    """The files of a sharded checkpoint, with true checksums and heads that say anything of their pieces."""
    place = folder / "1"
    place.mkdir()
    state = {"format_version": 2, "clock": {"step": 1, "characters": 1, "seconds": 1.0}, "sampler": {"examples": 1}}
    offsets = st.lists(st.one_of(st.integers(0, 4), numbers), max_size=3)
    info = st.one_of(st.dictionaries(st.sampled_from("ab"), st.fixed_dictionaries({"saved_offsets": offsets})), values)
    shapes = st.lists(st.integers(0, 4), max_size=2)

    def act(drawn: list[tuple[Any, list[int]]]) -> None:
        for old in place.iterdir():
            old.unlink()
        marks = {}
        for at, (said, shape) in enumerate(drawn):
            count = 4 * int(torch.Size(shape).numel())
            header = {"__metadata__": {"DCP_SHARDING_INFO": json.dumps(said)}}
            header |= {"a": {"dtype": "F32", "shape": shape, "data_offsets": [0, count]}}
            file = place / f"shard-{at}.safetensors"
            file.write_bytes(headed(header, bytes(count)))
            marks[file.name] = file_digest(file)
        (place / "state.json").write_text(add_digest({**state, "sha256": marks}))
        try:
            read(place)
        except Broken as error:
            one_sentence(error)

    return st.lists(st.tuples(info, shapes), max_size=3), act


def archives() -> Target:
    """Texts that are packed."""
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
    several = [st.tuples(st.just(name), damaged(whole) | st.binary(max_size=200)) for name, whole in kinds.items()]

    def act(drawn: tuple[str, bytes]) -> None:
        name, data = drawn
        try:
            for _, chunks in unpack(io.BytesIO(data), name, len(data)):
                for _ in chunks:
                    pass
        except UserError as error:
            one_sentence(error)

    return st.one_of(several), act


def directories(run: Path) -> Target:
    """A run directory of which one file is damaged, through the command line."""
    files = {name: (run / name).read_bytes() for name in ("config.toml", "model.safetensors", "metrics.jsonl")}
    files["heads.safetensors"] = (run / "heads.safetensors").read_bytes()
    changes = st.one_of([st.tuples(st.just(name), damaged(whole)) for name, whole in files.items()])
    verbs = st.sampled_from([
        ["evaluate", str(run), "--limit", "40", "--json"], ["inspect", str(run), "--json"],
        ["generate", str(run), "--length", "4", "--json"],
    ])  # fmt: skip

    def act(drawn: tuple[tuple[str, bytes], list[str]]) -> None:
        (name, data), words = drawn
        (run / name).write_bytes(data)
        out, said = io.StringIO(), io.StringIO()
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(said):
                code = main(words)
        finally:
            (run / name).write_bytes(files[name])
        assert code in (0, 2), (code, said.getvalue())
        assert "Traceback" not in said.getvalue()

    return st.tuples(changes, verbs), act


class Count:
    """Counts what is tried."""

    def __init__(self, act: Callable[[Any], None]) -> None:
        self.tried, self.act = 0, act

        def check(drawn: Any) -> None:
            self.tried += 1
            self.act(drawn)

        self.check = check


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Counts the inputs of every reader; what went wrong is printed, and LOST."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name, cache(Path(name) / "cache"):
        folder = Path(name)
        (folder / "text").write_text(TEXT)
        path = folder / "run"
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            assert main(["train", str(folder / "text"), "--run", str(path), *TINY, "--steps", "4", "--json"]) == 0
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
            "pieces of checkpoints": (0.05, pieces(folder)),
            "run directories": (0.05, directories(path)),
        }
        before, wrong = peak_bytes(torch.device("cpu")) or 0, 0
        for reader, (share, (inputs, act)) in targets.items():
            count = Count(act)
            most = max(1, round(share * options.inputs))
            check = settings(
                max_examples=most, deadline=1000 * SECONDS, database=None,
                suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
                phases=[Phase.generate, Phase.shrink],
            )(seed(options.seed)(given(inputs)(count.check)))  # fmt: skip
            try:
                check()
            except Exception:
                wrong += 1
                traceback.print_exc()
            found[reader] = count.tried
            print(f"fuzz: {reader}, {count.tried:,} inputs", file=sys.stderr, flush=True)
        grown = (peak_bytes(torch.device("cpu")) or 0) - before
    found["inputs"] = sum(found.values())
    return found | {
        "most memory, MiB": grown >> 20, "LOST: readers that failed": wrong, "LOST: memory": int(grown > MEMORY),
    }  # fmt: skip
