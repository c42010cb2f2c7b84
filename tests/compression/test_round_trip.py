"""Every file comes back exactly, in about as many bits as `evaluate` says, and a damaged file is refused."""

import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from charladder.compression import (
    Codec,
    compress_file,
    decompress_file,
    find_codec,
    network_codec,
    online_codec,
    read_file_header,
)
from charladder.compression.segments import Segments, choose_segments
from charladder.errors import UserError
from charladder.evaluation import evaluate
from charladder.model import Transformer
from charladder.recipe import fields_from_tables, resolve
from charladder.run import Run
from charladder.training.tensor_files import save_tensors
from helpers import PROSE, predictor

pytest.importorskip("constriction")
MODEL = {"layers": 2, "width": 16, "attention_heads": 2, "feed_forward": 32, "context": 16}


def make_run(path: Path, letters: str = "", **model: object) -> Run:
    """A run with random weights, which are large enough to give different predictions."""
    tables = {
        "recipe": "ladder",
        "model": {**MODEL, **model},
        "text": {"letters": letters},
        "training": {"batch": 4, "minutes": 0.0, "steps": 2},
    }
    run = Run(path, resolve(fields_from_tables(tables, "test")))
    network = Transformer(run.recipe.model, run.alphabet.size, seed=1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(2)
    path.mkdir()
    save_tensors(run.network_path, network.state_dict())
    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    return make_run(tmp_path_factory.mktemp("runs") / "bytes")


@pytest.fixture(scope="module")
def lettered(tmp_path_factory) -> Run:
    return make_run(tmp_path_factory.mktemp("runs") / "letters", "".join(sorted(set(PROSE))))


def round_trip(codec: Codec, data: bytes, folder: Path) -> int:
    """Compresses and decompresses; returns the compressed size."""
    source, packed, back = (folder / name for name in ("source", "packed", "back"))
    for path in (packed, back):
        path.unlink(missing_ok=True)
    source.write_bytes(data)
    result = compress_file(source, packed, codec)
    assert result.compressed_bytes == packed.stat().st_size and result.bytes == len(data)
    decompress_file(packed, back, codec)
    assert back.read_bytes() == data
    assert sorted(path.name for path in folder.iterdir()) == ["back", "packed", "source"]
    return result.compressed_bytes


def make_file(number: int) -> bytes:
    """Files of all kinds: repeats, random bytes, prose, other scripts, binary numbers, mixtures."""
    rng = random.Random(number)
    size = rng.choice((0, 1, 2, 3, 15, 16, 17, 33, 100, 257, 600))
    kinds = [
        lambda: rng.randbytes(size),
        lambda: bytes([rng.randrange(256)]) * size,
        lambda: (PROSE * 4).encode()[number : number + size],
        lambda: "".join(map(chr, rng.choices(range(0x20, 0x3000), k=size))).encode(),
        lambda: (PROSE[:size] + "Ω\U0001f600").encode()[: size + 3],  # ends inside a character
        lambda: np.arange(size, dtype="<i4").tobytes(),
        lambda: b"".join(rng.choice((b"\r\n", b"\x00", b"\xff\xfe", b"\xed\xa0\x80", b"ladder ")) for _ in range(size)),
    ]
    return kinds[number % len(kinds)]()


@pytest.mark.parametrize("data", [b"", b"a", (PROSE * 2).encode(), bytes(range(256))], ids=["0", "1", "prose", "all"])
def test_network_round_trip(run, lettered, tmp_path, data):
    for index, one in enumerate((run, lettered)):
        folder = tmp_path / str(index)
        folder.mkdir()
        round_trip(network_codec(one), data, folder)


@pytest.mark.parametrize("name", ["ids", "side", "new.ids"])
def test_names_of_temporary_files(lettered, tmp_path, name):
    """Any name can be that of the new file."""
    codec, source, packed = network_codec(lettered), tmp_path / "source", tmp_path / "packed"
    source.write_text("ladder Ω")
    compress_file(source, packed, codec)
    decompress_file(packed, tmp_path / name, codec)
    assert (tmp_path / name).read_text() == "ladder Ω"
    (tmp_path / name).unlink()
    compress_file(source, tmp_path / name, codec)
    assert (tmp_path / name).read_bytes() == packed.read_bytes()


def test_an_alphabet_of_one_letter(tmp_path):
    codec = network_codec(make_run(tmp_path / "run", "a"))
    folder = tmp_path / "files"
    folder.mkdir()
    assert round_trip(codec, b"a" * 1000, folder) < 300
    round_trip(codec, b"aba", folder)


@pytest.mark.slow
def test_two_hundred_files_of_all_kinds(run, lettered, tmp_path):
    codecs = network_codec(run), network_codec(lettered)
    for number in range(210):
        round_trip(codecs[number // 7 % 2], make_file(number), tmp_path)
    for number in (0, 1, 5, 12):
        round_trip(online_codec(), make_file(number), tmp_path)
    round_trip(codecs[0], b"ab" * 10_000, tmp_path)
    round_trip(codecs[1], b"b\xff" * 5_000, tmp_path)


@pytest.mark.parametrize("symbols", [1, 2, 7, 64, 65, 1000])
def test_segments_cover_the_text_once(symbols):
    for segments in (Segments(symbols, min(symbols, count)) for count in (1, 2, 3, 64)):
        places = []
        for step in range(segments.steps):
            places += [segments.begin(segment) + step for segment in range(segments.rows(step))]
        assert sorted(places) == list(range(symbols))
        lengths = [segments.length(segment, 0, segments.steps) for segment in range(segments.count)]
        assert sum(lengths) == symbols and max(lengths) - min(lengths) <= 1
    assert choose_segments(0).steps == 0 and choose_segments(10**9).count == 64


def test_size_is_that_of_evaluate(run, tmp_path):
    """Also past the context, where the cache is filled again."""
    data = (PROSE * 8).encode() + random.Random(0).randbytes(200)
    size = round_trip(network_codec(run), data, tmp_path)
    ids, context = np.frombuffer(data, np.uint8), run.recipe.model.context
    score = evaluate(predictor(run.load_network()), ids, (0, len(ids)), context, context // 2, 256)
    assert abs(size - score.bits / 8) < 0.001 * score.bits / 8 + 100


@pytest.mark.parametrize("changes", [{}, {"ngrams": 3, "ngram_rows": 50}, {"block": "paper", "positions": "tables"}])
def test_several_segments_and_chunks(tmp_path, monkeypatch, changes):
    """Packed and batched runners, with short segments and short chunks; bits as of `evaluate` on each segment."""
    run = make_run(tmp_path / "run", **changes)
    monkeypatch.setattr("charladder.compression.codec.CHARACTERS_OF_A_SEGMENT", 40)
    monkeypatch.setattr("charladder.compression.symbol_coding._SYMBOLS_OF_A_CHUNK", 64)
    monkeypatch.setattr("charladder.compression.predictor._ROWS_OF_A_PASS", 20)
    (tmp_path / "files").mkdir()
    data = PROSE.encode()[:203]
    size = round_trip(network_codec(run), data, tmp_path / "files")
    segments, ids, bits = choose_segments(203, 40), np.frombuffer(data, np.uint8), 0.0
    assert segments.count == 5
    for segment in range(5):
        begin = segments.begin(segment)
        part = ids[begin : begin + segments.length(segment, 0, segments.steps)]
        bits += evaluate(predictor(run.load_network()), part, (0, len(part)), 16, 8, 256).bits
    chunks = -(-segments.steps // (64 // 5))
    assert 0 < size - bits / 8 < 110 + 12 * chunks


def test_damaged_files_are_refused(run, tmp_path):
    codec, data = network_codec(run), PROSE.encode()
    round_trip(codec, data, tmp_path)
    packed = (tmp_path / "packed").read_bytes()
    rng = random.Random(1)
    broken = [packed[:length] for length in (0, 3, 9, 40, len(packed) - 1)] + [packed + b"x"]
    for _ in range(40):
        place = rng.randrange(len(packed))
        broken.append(packed[:place] + bytes([packed[place] ^ 1 << rng.randrange(8)]) + packed[place + 1 :])
    for content in broken:
        (tmp_path / "broken").write_bytes(content)
        with pytest.raises(UserError, match="broken"):
            decompress_file(tmp_path / "broken", tmp_path / "new", codec)
        assert not list(tmp_path.glob("*new*")) + list(tmp_path.glob(".*"))


def test_another_network_or_numeric_path_is_refused(run, lettered, tmp_path, monkeypatch):
    codec = network_codec(run)
    round_trip(codec, b"ladder", tmp_path)
    packed, new = tmp_path / "packed", tmp_path / "new"
    header = read_file_header(packed)
    assert find_codec(header, run, "x").network == codec.network
    with pytest.raises(UserError, match="another network"):
        find_codec(header, lettered, "x")
    with pytest.raises(UserError, match="give its run directory"):
        find_codec(header, None, "x")
    here = torch.backends.cpu.get_cpu_capability()
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX9")
    with pytest.raises(UserError, match=f"was compressed with vectors '{here}', and here it is 'AVX9'"):
        decompress_file(packed, new, codec)
    assert not new.exists()


def test_a_predictor_that_differs_in_one_bit_is_noticed(run, tmp_path, monkeypatch):
    """If the numeric path does not show it, the checksum of the original does."""
    codec, data = network_codec(run), PROSE.encode()
    round_trip(codec, data, tmp_path)
    other = run.load_network()
    with torch.no_grad():
        other.output.weight[ord("e")] += 0.01
    monkeypatch.setattr(Run, "load_network", lambda self: other)
    with pytest.raises(UserError, match="machine that wrote it"):
        decompress_file(tmp_path / "packed", tmp_path / "new", network_codec(run))
    assert not (tmp_path / "new").exists()


def test_a_file_that_changes_meanwhile_is_refused(run, tmp_path):
    source, new = tmp_path / "source", tmp_path / "new"
    source.write_bytes(PROSE.encode())
    for change in (b"x", None):

        def overwrite(symbols: int, change: bytes | None = change) -> None:
            source.write_bytes(b"" if change is None else change + source.read_bytes()[1:])

        with pytest.raises(UserError, match="while it was compressed"):
            compress_file(source, new, network_codec(run), on_start=overwrite)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_another_file_that_takes_the_name_meanwhile(run, tmp_path):
    """As an editor saves: the file that was opened is compressed."""
    source, new = tmp_path / "source", tmp_path / "new"
    source.write_bytes(PROSE.encode())
    (tmp_path / "other").write_bytes(PROSE[::-1].encode())
    compress_file(source, new, network_codec(run), on_start=lambda symbols: (tmp_path / "other").replace(source))
    decompress_file(new, tmp_path / "back", network_codec(run))
    assert (tmp_path / "back").read_bytes() == PROSE.encode()


def test_nothing_is_overwritten(run, tmp_path):
    codec, source, taken = network_codec(run), tmp_path / "source", tmp_path / "taken"
    source.write_bytes(b"text")
    taken.write_bytes(b"mine")
    for new in (taken, source):
        with pytest.raises(UserError, match="exists and is not overwritten"):
            compress_file(source, new, codec)
    with pytest.raises(UserError, match=r"made by another process meanwhile .* the new file is .*new-2$"):
        compress_file(source, tmp_path / "new", codec, on_start=lambda symbols: (tmp_path / "new").write_bytes(b"mine"))
    decompress_file(tmp_path / "new-2", tmp_path / "back", codec)
    assert (tmp_path / "back").read_bytes() == b"text"
    assert taken.read_bytes() == (tmp_path / "new").read_bytes() == b"mine"
    with pytest.raises(UserError, match="not a regular file"):
        compress_file(tmp_path, tmp_path / "folder", codec)


def test_threads_are_those_of_the_encoder(run, tmp_path):
    before = torch.get_num_threads()
    seen = []
    codec = network_codec(run)
    round_trip(codec, b"ladder", tmp_path)
    try:
        torch.set_num_threads(before + 1)
        decompress_file(tmp_path / "packed", tmp_path / "new", codec, lambda n: seen.append(torch.get_num_threads()))
        assert seen[0] == before and torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)


def test_constriction_that_is_missing(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "constriction", None)
    with pytest.raises(UserError, match=r'install it with pip install "charladder\[compress\]"'):
        compress_file(tmp_path / "source", tmp_path / "new", network_codec(run))
