import gzip
import hashlib
import lzma

import numpy as np
import pytest

from charladder.errors import UserError
from charladder.text import open_corpus


@pytest.mark.parametrize("suffix", [".txt", ".gz", ".xz"])
def test_plain_and_packed_files_hold_the_same_text(tmp_path, prose, suffix):
    pack = {".gz": gzip.compress, ".xz": lzma.compress}.get(suffix, bytes)
    path = tmp_path / f"text{suffix}"
    path.write_bytes(pack(prose))
    corpus = open_corpus(str(path))
    assert corpus.ids_N.tobytes() == prose
    assert corpus.sha256 == hashlib.sha256(prose).hexdigest()
    assert isinstance(corpus.ids_N, np.memmap)


def test_letters_are_learned_and_mapped(text_file, prose):
    corpus = open_corpus(str(text_file), "letters")
    assert isinstance(corpus.ids_N, np.memmap)
    assert corpus.alphabet.decode(corpus.ids_N) == prose
    assert corpus.alphabet.letters == "".join(sorted(set(prose.decode())))
    again = open_corpus(str(text_file), corpus.alphabet)
    assert np.array_equal(again.ids_N, corpus.ids_N)


def test_python_corpus_is_real_text_and_converted_once():
    first, second = open_corpus("python"), open_corpus("python")
    assert first.sha256 == second.sha256
    assert len(first.ids_N) > 1_000_000
    assert b"import" in first.ids_N[:100_000].tobytes()


@pytest.mark.parametrize("suffix", [".gz", ".xz"])
def test_a_packed_file_cut_short_is_refused_and_leaves_nothing(tmp_path, prose, suffix, monkeypatch):
    monkeypatch.setenv("CHARLADDER_CACHE", str(tmp_path / "cache"))
    path = tmp_path / f"text{suffix}"
    packed = {".gz": gzip.compress, ".xz": lzma.compress}[suffix](prose)
    path.write_bytes(packed[: len(packed) // 2])
    with pytest.raises(UserError, match="cannot be unpacked"):
        open_corpus(str(path))
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file() and path.suffix != ".lock"]


def test_missing_empty_and_folder(tmp_path):
    (tmp_path / "empty").touch()
    with pytest.raises(UserError, match="is empty"):
        open_corpus(str(tmp_path / "empty"))
    with pytest.raises(UserError, match="no file or corpus called 'pyton'; did you mean python"):
        open_corpus("pyton")
    with pytest.raises(UserError, match="is empty"):
        open_corpus(str(tmp_path))


def test_a_user_without_a_home_folder_is_told_to_name_a_cache(text_file, monkeypatch):
    def unknown(user):
        raise KeyError(user)

    for name in ("HOME", "CHARLADDER_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", unknown)
    with pytest.raises(UserError, match="this user has no home folder to keep the cache in; set CHARLADDER_CACHE"):
        open_corpus(str(text_file))
