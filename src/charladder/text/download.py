"""Downloads: one file over HTTP, gone on with when it was cut, renamed into place only when it is all there."""

import errno
import hashlib
import http.client
import shutil
import time
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

from filelock import FileLock

from charladder.atomic_io import move_into_place
from charladder.errors import UserError
from charladder.text.cache import Report, read_json, silent, write_json, writing

CHUNK = 1 << 18
SECONDS = 30.0  # without a byte
ATTEMPTS = 5
WAIT = 0.5  # before the second attempt; doubled before each further one


class Cut(Exception):
    """The connection broke after some bytes, or could not be made just now."""


def download(
    url: str, target: Path, size: int | None = None, report: Report = silent, advice: str = "", anew: bool = False
) -> None:
    """Fetches `url` to `target`, unless it is there already and not wanted `anew`.

    size: how many bytes it must be, if known. One process at a time fetches to a target; others wait for it. What came
    before a cut is kept beside and gone on from, now and in the next call. `advice` ends the sentence about what cannot
    be fetched. Raises UserError; the target is then as it was.
    """
    if target.exists() and not anew:
        return
    with writing():
        lock = FileLock(target.with_name(target.name + ".lock"))
        lock.acquire()
    try:
        if anew or not target.exists():
            attempts(url, target, size, report, advice)
    finally:
        lock.release()


def attempts(url: str, target: Path, size: int | None, report: Report, advice: str) -> None:
    """Several, each from where the one before was cut."""
    part, facts = target.with_name(target.name + ".part"), target.with_name(target.name + ".part.json")
    for attempt in range(ATTEMPTS):
        had = part.stat().st_size if part.exists() else 0
        try:
            fetch(url, part, facts, size, report, advice)
            with writing():
                move_into_place(part, target)
            facts.unlink(missing_ok=True)
            return
        except Cut as cut:
            came = part.stat().st_size if part.exists() else 0
            if attempt + 1 == ATTEMPTS:
                known = read_json(facts, url=str, version=str)
                goes_on = came and known and known["version"]
                kept = f" {came:,} bytes are kept, and the next attempt goes on from there" if goes_on else ""
                raise UserError(f"{url} cannot be fetched: {cut};{kept or ' try again'}{advice}") from None
            time.sleep(WAIT * 2**attempt if came == had else 0)


def fetch(url: str, part: Path, facts: Path, size: int | None, report: Report, advice: str) -> None:
    """One attempt. Raises Cut where another may go on."""
    known = read_json(facts, url=str, version=str) or {"url": "", "version": ""}
    had = part.stat().st_size if part.exists() and known["url"] == url and known["version"] else 0
    headers = {"User-Agent": "charladder", "Accept-Encoding": "identity"}
    if had:  # with If-Range another version of the file comes whole
        headers |= {"Range": f"bytes={had}-", "If-Range": known["version"]}
    try:
        request = urllib.request.Request(url, headers=headers)
        answer = urllib.request.urlopen(request, timeout=SECONDS)
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 416:  # the part is not a beginning of what is there
                part.unlink(missing_ok=True)
                raise Cut("the server has not what was begun") from None
            if error.code >= 500 or error.code == 429:
                raise Cut(f"the server answers {error.code} {error.reason}") from None
            answer = "redirects, but to no file it may" if error.code < 400 else f"answers {error.code} {error.reason}"
            raise UserError(f"{url} cannot be fetched: the server {answer}{advice}") from None
    except (http.client.HTTPException, ValueError) as error:
        raise UserError(f"{url} cannot be fetched: {str(error) or type(error).__name__}{advice}") from None
    except OSError as error:  # urllib.error.URLError is one
        raise Cut(f"no connection ({why(error)})") from None
    with answer:
        coding = answer.headers.get("Content-Encoding", "identity")
        if coding != "identity":
            raise UserError(f"{url} cannot be fetched: the server packs it ({coding}), though asked not to{advice}")
        begin = had if answer.status == 206 and starts_at(answer.headers.get("Content-Range"), had) else 0
        length = answer.headers.get("Content-Length")
        whole = begin + int(length) if length and length.isdigit() else None
        if answer.status == 206 and begin != had:
            part.unlink(missing_ok=True)
            raise Cut("the server answers with another part than was asked for")
        if size is not None and whole is not None and whole != size:
            raise UserError(f"{url} has {whole:,} bytes and not {size:,}, so it is not the right file{advice}")
        if whole is not None and whole - begin > shutil.disk_usage(part.parent).free:
            with writing():
                raise OSError(errno.ENOSPC, "no room")
        version = answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""
        write_json(facts, {"url": url, "version": "" if version.startswith("W/") else version})
        with writing():
            file = part.open("ab" if begin else "wb")
        with file:
            done = begin
            while chunk := receive(answer):
                with writing():
                    file.write(chunk)
                    file.flush()
                done += len(chunk)
                if size is not None and done > size:
                    file.truncate(0)
                    raise UserError(f"{url} has more than {size:,} bytes, so it is not the right file{advice}")
                report("downloading", done, whole or size)
    if whole is not None and done < whole:
        raise Cut(f"the connection was cut after {done:,} of {whole:,} bytes")
    if size is not None and done < size:
        raise Cut(f"the connection was cut after {done:,} of {size:,} bytes")


def receive(answer: http.client.HTTPResponse) -> bytes:
    try:
        return answer.read1(CHUNK)
    except (OSError, http.client.HTTPException) as error:
        raise Cut(f"the connection was cut ({why(error)})") from None


def why(error: Exception) -> str:
    reason = getattr(error, "reason", error)
    return str(getattr(reason, "strerror", None) or reason or type(error).__name__)


def starts_at(content_range: str | None, begin: int) -> bool:
    return (content_range or "").startswith(f"bytes {begin}-")


def place_of(url: str, folder: Path) -> Path:
    """Where a URL's file is kept: under its own name, after a mark of the whole address."""
    try:
        name = Path(urlsplit(url).path).name or "text"
    except ValueError:
        raise UserError(f"{url!r} is not an address that can be fetched from") from None
    return folder / f"{hashlib.sha256(url.encode('utf-8', 'surrogateescape')).hexdigest()[:16]}-{name[-80:]}"
