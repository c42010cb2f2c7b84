"""How small do files become, and how fast, against xz, zstd, bzip2 and ppmd?

Compresses and decompresses the beginning of each FILE and compares the result with the original. ppmd needs the
package pyppmd (variant H, order 8, 256 MiB), zstd its program; what is not installed is listed as absent. The other
programs compress on one thread.

    python -m benchmarks compression text8 enwik8 --limit 1000000 [--run runs/ladder-1] [--no-online]
"""

import argparse
import bz2
import importlib
import lzma
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.measure import report
from charladder.compression import Codec, compress_file, decompress_file, network_codec, online_codec
from charladder.run import open_run

Pack = Callable[[bytes], bytes]


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks compression", description=__doc__)
    parser.add_argument("files", nargs="*", help="files (default: argparse.py of Python)")
    parser.add_argument("--limit", type=int, default=1_000_000, help="bytes of each file")
    parser.add_argument("--run", help="compress with the network of this run too")
    parser.add_argument("--no-online", action="store_true", help="without compress --online, which is slow")
    parser.add_argument("--quick", action="store_true", help="1,000 bytes")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)
    files = [Path(name) for name in options.files] or [Path(argparse.__file__)]
    limit = 1000 if options.quick else options.limit
    codecs: dict[str, Codec] = {} if options.no_online else {"charladder --online": online_codec()}
    if options.run:
        codecs["charladder " + options.run] = network_codec(open_run(Path(options.run)))
    rows, measured, ratios = [["file", "program", "bytes", "bits per byte", "packed/s", "unpacked/s"]], {}, {}
    for path in files:
        with path.open("rb") as file:
            data = file.read(limit)
        results: dict[str, Any] = {name: _measure_codec(codec, data) for name, codec in codecs.items()}
        for name, functions in _peers().items():
            results[name] = None if functions is None else _measure_peer(data, *functions)
        for name, result in results.items():
            rows.append([path.name, name, *(["absent", "", "", ""] if result is None else _cells(result))])
        sizes = [results[name]["bytes"] for name in _peers() if results[name] is not None]
        ratios |= {f"{path.name}_{name}_over_smallest_peer": results[name]["bytes"] / min(sizes) for name in codecs}
        measured[path.name] = results
    report("compressed size and speed", ratios, measured, {"limit": limit}, rows, options.json)
    return 0


def _cells(result: dict[str, float]) -> list[str]:
    return [
        f"{result['bytes']:,.0f}", f"{result['bits_per_byte']:.4f}", f"{result['packed_per_second']:,.0f}",
        f"{result['unpacked_per_second']:,.0f}",
    ]  # fmt: skip


def _peers() -> dict[str, tuple[Pack, Pack] | None]:
    """Compression and decompression of each peer; None for one that is not installed."""
    try:
        ppmd = _ppmd_functions(importlib.import_module("pyppmd"))
    except ImportError:
        ppmd = None
    return {
        "xz -9e": (lambda data: lzma.compress(data, preset=9 | lzma.PRESET_EXTREME), lzma.decompress),
        "zstd -19": (_program("zstd", "-19"), _program("zstd", "-d")) if shutil.which("zstd") else None,
        "bzip2 -9": (bz2.compress, bz2.decompress),
        "ppmd": ppmd,
    }


def _ppmd_functions(pyppmd: Any) -> tuple[Pack, Pack]:
    settings = 8, 256 << 20  # order, bytes of memory

    def pack(data: bytes) -> bytes:
        encoder = pyppmd.Ppmd7Encoder(*settings)
        return len(data).to_bytes(8, "little") + encoder.encode(data) + encoder.flush()

    def unpack(data: bytes) -> bytes:
        decoder = pyppmd.Ppmd7Decoder(*settings)
        return decoder.decode(data[8:], int.from_bytes(data[:8], "little"))

    return pack, unpack


def _program(*command: str) -> Pack:
    return lambda data: subprocess.run([*command, "-q", "-c"], input=data, capture_output=True, check=True).stdout


def _measure_peer(data: bytes, pack: Pack, unpack: Pack) -> dict[str, float]:
    began = time.perf_counter()
    packed = pack(data)
    middle = time.perf_counter()
    assert unpack(packed) == data
    return _result(len(data), len(packed), middle - began, time.perf_counter() - middle)


def _measure_codec(codec: Codec, data: bytes) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        source, packed, back = (Path(folder) / name for name in ("source", "packed", "back"))
        source.write_bytes(data)
        compressed = compress_file(source, packed, codec)
        decompressed = decompress_file(packed, back, codec)
        assert back.read_bytes() == data
        return _result(len(data), compressed.compressed_bytes, compressed.seconds, decompressed.seconds)


def _result(size: int, packed_size: int, pack_seconds: float, unpack_seconds: float) -> dict[str, float]:
    return {
        "bytes": packed_size, "bits_per_byte": 8 * packed_size / size, "packed_per_second": size / pack_seconds,
        "unpacked_per_second": size / unpack_seconds,
    }  # fmt: skip
