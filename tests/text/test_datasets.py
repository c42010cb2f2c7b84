"""Corpora by name, with small ones in the place of text8 and enwik8."""

import hashlib
import io
import json
import zipfile
from pathlib import Path

import pytest

from charladder.cli.main import main
from charladder.errors import UserError
from charladder.text import datasets, download, open_corpus, split
from charladder.text.cache import cache_folder
from charladder.text.ingest import ExpectedText
from web_server import serving

TEXT = b" the ladder leans on the wall" * 1000


def zipped(data: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("text8", data)
    return out.getvalue()


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.setenv("CHARLADDER_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(download, "RETRY_SECONDS", 0.001)


@pytest.fixture
def server(monkeypatch):
    with serving(zipped(TEXT)) as server:
        expected = ExpectedText(len(TEXT), {"md5": hashlib.md5(TEXT).hexdigest()})
        corpus = datasets.Dataset("small", "none", f"{server.address}/text8.zip", len(server.body), expected)
        monkeypatch.setitem(datasets.DOWNLOADS, "text8", corpus)
        yield server


def cached() -> list[str]:
    kept = [path for path in cache_folder().rglob("*") if path.is_file() and path.suffix not in (".lock", ".json")]
    return sorted(path.name for path in kept)


def test_corpus_is_downloaded_once_and_checked(server):
    corpus = open_corpus("text8")
    assert corpus.ids_N.tobytes() == TEXT
    assert corpus.sha256 == hashlib.sha256(TEXT).hexdigest()
    assert corpus.names == ("text8",)
    assert open_corpus("text8").sha256 == corpus.sha256
    assert len(server.requests) == 1
    Path(cached_zip()).unlink()
    assert open_corpus("text8").sha256 == corpus.sha256, "the archive is not needed any more"
    assert len(server.requests) == 1


def cached_zip() -> Path:
    return cache_folder() / "downloads" / "text8.zip"


def test_interrupted_corpus_download_is_resumed(server):
    server.cuts = [100, 0, 0, 0, 0]
    with pytest.raises(UserError, match=r"100 bytes are kept.*a copy put at .*text8\.zip .* by hand is used too"):
        open_corpus("text8")
    assert open_corpus("text8").ids_N.tobytes() == TEXT
    assert server.requests[-1]["Range"] == "bytes=100-"


@pytest.mark.parametrize("content", [TEXT[::-1], TEXT + b"x"])
def test_wrong_content_is_refused_and_removed(server, content):
    server.body = zipped(content)
    wrong = datasets.DOWNLOADS["text8"]
    datasets.DOWNLOADS["text8"] = datasets.Dataset(
        wrong.description, wrong.licence, wrong.url, len(server.body), wrong.expected
    )
    with pytest.raises(UserError, match=r"gave no text8: .*it is not the right file"):
        open_corpus("text8")
    assert cached() == []


def test_wrong_size_is_refused_before_the_download(server):
    server.body += b"x"
    with pytest.raises(UserError, match="so it is not the right file; a copy put at"):
        open_corpus("text8")
    assert cached() == []


@pytest.mark.parametrize("status", [404, 500])
def test_server_error_names_where_to_put_a_copy(server, status):
    server.status = status
    with pytest.raises(UserError, match=rf"answers {status} .*a copy put at .*downloads/text8\.zip"):
        open_corpus("text8")
    assert cached() == []


@pytest.mark.parametrize("name", ["text8", "text8.zip"])
def test_file_of_the_user_is_used_and_checked(server, name):
    folder = cache_folder() / "downloads"
    folder.mkdir(parents=True)
    (folder / name).write_bytes(TEXT[::-1] if name == "text8" else zipped(TEXT[::-1]))
    with pytest.raises(UserError, match=r"has the MD5 .*it is not the right file; remove it"):
        open_corpus("text8")
    assert (folder / name).exists(), "what a person put there is not removed"
    (folder / name).write_bytes(TEXT if name == "text8" else zipped(TEXT))
    assert open_corpus("text8").ids_N.tobytes() == TEXT
    assert server.requests == []


def test_the_standard_splits():
    assert split(100_000_000, 0.05, 0.05) == split(100_000_000, 5_000_000, 5_000_000)
    assert split(100_000_000, 0.05, 0.05).train == (0, 90_000_000)
    assert split(20_000_000_000, 0.05, 0.05).valid == (19_990_000_000, 19_995_000_000)


def test_published_sizes_and_digests():
    for corpus in datasets.DOWNLOADS.values():
        assert corpus.expected.bytes == 100_000_000
        assert all(len(digest) == {"md5": 32, "sha1": 40}[kind] for kind, digest in corpus.expected.digests.items())


def test_corpora_command_lists_and_downloads(server, capsys):
    assert main(["corpora"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in ("python", "text8", "enwik8", "licence", "cache:"))
    assert main(["corpora", "--json"]) == 0
    before = json.loads(capsys.readouterr().out)["corpora"]
    assert (before["text8"]["cached"], before["enwik8"]["download_bytes"]) == (False, 36_445_475)
    assert main(["corpora", "text8", "--download", "--json"]) == 0
    fact = json.loads(capsys.readouterr().out)["corpora"]["text8"]
    assert (fact["cached"], fact["sha256"]) == (True, hashlib.sha256(TEXT).hexdigest())
    assert main(["corpora", "text8"]) == 0
    assert "cached = True" in capsys.readouterr().out


def test_url_is_downloaded_once_and_again_with_download_option(server, capsys):
    url = f"{server.address}/some/text.zip?key=1"
    assert open_corpus(url).ids_N.tobytes() == TEXT
    server.body = zipped(b"another text")
    assert open_corpus(url).ids_N.tobytes() == TEXT
    assert main(["corpora", url, "--download", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["corpora"][url]["characters"] == 12
    assert open_corpus([url, url]).ids_N.tobytes() == b"another text" * 2
    assert open_corpus(url).names == (url,)
    with pytest.raises(UserError, match="address that can be downloaded"):
        open_corpus("http://[/x")
