"""Downloads against a server on this machine that misbehaves as real ones do."""

import os
import random
import threading
import time

import pytest

from charladder.errors import UserError
from charladder.text import download as downloads
from charladder.text.download import download
from web_server import serving

BODY = random.Random(0).randbytes(300_000)


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    monkeypatch.setattr(downloads, "RETRY_SECONDS", 0.001)


@pytest.fixture
def server():
    with serving(BODY) as server:
        yield server


@pytest.fixture
def target(tmp_path):
    return tmp_path / "file"


def left(target):
    return sorted(path.name for path in target.parent.iterdir() if path.suffix != ".lock")


def test_download_is_complete_and_leaves_no_other_file(server, target):
    seen = []
    download(f"{server.address}/x", target, len(BODY), lambda what, done, total: seen.append((done, total)))
    assert target.read_bytes() == BODY
    assert left(target) == ["file"]
    assert seen[-1] == (len(BODY), len(BODY))


def test_download_is_flushed_before_it_is_renamed(server, target, monkeypatch):
    flushed, flush = set(), os.fsync

    def fsync(handle):
        flushed.add(os.fstat(handle).st_ino)
        flush(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    download(f"{server.address}/x", target)
    assert {target.stat().st_ino, target.parent.stat().st_ino} <= flushed


def test_interrupted_download_is_resumed(server, target):
    server.cuts = [100_000, 50_000]
    download(f"{server.address}/x", target)
    assert target.read_bytes() == BODY
    assert [request.get("Range") for request in server.requests] == [None, "bytes=100000-", "bytes=150000-"]


def test_failed_download_is_resumed_by_the_next_call(server, target):
    server.cuts = [100_000, 0, 0, 0, 0]
    with pytest.raises(UserError, match=r"cut after 100,000 of 300,000 bytes; 100,000 bytes are kept, and the next"):
        download(f"{server.address}/x", target)
    assert not target.exists()
    download(f"{server.address}/x", target)
    assert target.read_bytes() == BODY
    assert server.requests[-1]["Range"] == "bytes=100000-"
    assert left(target) == ["file"]


def test_server_without_ranges_restarts_the_download(server, target):
    server.ranges, server.cuts = False, [100_000]
    download(f"{server.address}/x", target)
    assert target.read_bytes() == BODY


def test_changed_file_restarts_the_download(server, target):
    server.cuts = [100_000, 0, 0, 0, 0]
    with pytest.raises(UserError):
        download(f"{server.address}/x", target)
    server.body, server.version = BODY[::-1], '"two"'
    download(f"{server.address}/x", target)
    assert target.read_bytes() == BODY[::-1]


def test_partial_file_longer_than_the_file_restarts_the_download(server, target):
    server.cuts = [200_000, 0, 0, 0, 0]
    with pytest.raises(UserError):
        download(f"{server.address}/x", target)
    server.body = BODY[:1000]
    download(f"{server.address}/x", target)
    assert target.read_bytes() == BODY[:1000]


def test_partial_file_of_another_url_is_not_used(server, target):
    server.cuts = [200_000, 0, 0, 0, 0]
    with pytest.raises(UserError):
        download(f"{server.address}/x", target)
    download(f"{server.address}/y", target)
    assert target.read_bytes() == BODY
    assert "Range" not in server.requests[-1]


def test_a_file_of_unknown_length(server, target):
    server.length = False
    download(f"{server.address}/x", target)
    assert target.read_bytes() == BODY


def test_wrong_size_is_refused_before_the_transfer(server, target):
    with pytest.raises(UserError, match=r"has 300,000 bytes and not 5, so it is not the right file; put it there"):
        download(f"{server.address}/x", target, 5, advice="; put it there")
    assert left(target) == []
    server.length = False
    with pytest.raises(UserError, match="has more than 5 bytes"):
        download(f"{server.address}/x", target, 5)
    assert not target.exists()
    with pytest.raises(UserError, match=r"cut after 300,000 of 300,001 bytes"):
        download(f"{server.address}/x", target, 300_001)
    assert not target.exists()


@pytest.mark.parametrize(("status", "sentence"), [(404, "answers 404 Not Found"), (403, "403"), (503, "503")])
def test_server_error_is_reported(server, target, status, sentence):
    server.status = status
    with pytest.raises(UserError, match=sentence):
        download(f"{server.address}/x", target)
    assert left(target) == []
    assert len(server.requests) == (5 if status == 503 else 1)


def test_redirects(server, target):
    server.moved = f"{server.address}/there"
    download(f"{server.address}/moved", target)
    assert target.read_bytes() == BODY
    target.unlink()
    server.moved = "file:///etc/passwd"
    with pytest.raises(UserError, match="the server redirects to an address that is not allowed"):
        download(f"{server.address}/moved", target)
    server.moved = f"{server.address}/moved"
    with pytest.raises(UserError, match="the server redirects to an address that is not allowed"):
        download(f"{server.address}/moved", target)
    assert left(target) == []


def test_no_network(target):
    with serving(b"") as gone:
        address = gone.address
    for url in (f"{address}/x", "http://no-such-host.invalid/x"):
        with pytest.raises(UserError, match=r"cannot be downloaded: no connection \(.+\); try again; a copy"):
            download(url, target, advice="; a copy")
    with pytest.raises(UserError, match="cannot be downloaded"):
        download("http://", target)
    with pytest.raises(UserError, match="cannot be downloaded"):
        download("http://[/x", target)
    assert left(target) == []


def test_full_disk_is_reported_before_the_transfer(server, target, monkeypatch):
    monkeypatch.setattr(downloads.shutil, "disk_usage", lambda path: downloads.shutil._ntuple_diskusage(9, 9, 0))
    with pytest.raises(UserError, match="no room left"):
        download(f"{server.address}/x", target)
    assert not target.exists()


def test_concurrent_downloads_give_one_complete_file(server, target):
    server.slow = 0.02
    threads = [threading.Thread(target=download, args=(f"{server.address}/x", target)) for _ in range(3)]
    for thread in threads:
        thread.start()
        time.sleep(0.05)
    for thread in threads:
        thread.join()
    assert target.read_bytes() == BODY
    assert len(server.requests) == 1
    assert left(target) == ["file"]


def test_compressed_response_is_refused(server, target):
    server.coding = "gzip"
    with pytest.raises(UserError, match=r"the server compresses it \(gzip\) against the request"):
        download(f"{server.address}/x", target)
    assert not target.exists()


def test_error_does_not_promise_to_resume_without_a_version(server, target):
    server.version, server.cuts = "", [100_000] * 5
    with pytest.raises(UserError, match=r"cut after 100,000 of 300,000 bytes; try again"):
        download(f"{server.address}/x", target)
