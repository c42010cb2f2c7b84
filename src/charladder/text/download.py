"""Download of one file over HTTP. An interrupted transfer is resumed; the target appears only when it is complete.

Only the size is checked here; the SHA-256 is checked by ingest.py.
"""

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
from charladder.text.cache import ProgressCallback, cache_write_errors, no_progress, read_record, write_record

CHUNK_BYTES = 1 << 18
TIMEOUT_SECONDS = 30.0  # without a byte
MAX_ATTEMPTS = 5
RETRY_SECONDS = 0.5  # before the second attempt; doubled before each further one


class _RetryableError(Exception):
    """The connection broke or could not be made; another attempt may succeed."""


def download(
    url: str,
    target: Path,
    size: int | None = None,
    on_progress: ProgressCallback = no_progress,
    advice: str = "",
    force: bool = False,
) -> None:
    """Downloads `url` to `target`, unless it exists. With `force`, replaces it.

    size: the number of bytes that the file must have, if known. advice: the end of error messages. Only one process
    downloads to a target at a time; others wait for it. After an interruption, the received bytes stay in a partial
    file, and later attempts or calls resume from it. Raises UserError; the target is then unchanged.
    """
    if target.exists() and not force:
        return
    with cache_write_errors():
        lock = FileLock(target.with_name(target.name + ".lock"))
        lock.acquire()
    try:
        if force or not target.exists():
            _download_with_retries(url, target, size, on_progress, advice)
    finally:
        lock.release()


def _download_with_retries(
    url: str, target: Path, size: int | None, on_progress: ProgressCallback, advice: str
) -> None:
    """Makes up to MAX_ATTEMPTS attempts, each resuming from the partial file of the one before."""
    part, record = target.with_name(target.name + ".part"), target.with_name(target.name + ".part.json")
    for attempt in range(MAX_ATTEMPTS):
        before = part.stat().st_size if part.exists() else 0
        try:
            _fetch(url, part, record, size, on_progress, advice)
            with cache_write_errors():
                move_into_place(part, target)
            record.unlink(missing_ok=True)
            return
        except _RetryableError as error:
            received = part.stat().st_size if part.exists() else 0
            if attempt + 1 == MAX_ATTEMPTS:
                known = read_record(record, url=str, version=str)
                can_resume = received and known and known["version"]
                hint = f" {received:,} bytes are kept, and the next attempt resumes from them" if can_resume else ""
                raise UserError(f"{url} cannot be downloaded: {error};{hint or ' try again'}{advice}") from None
            time.sleep(RETRY_SECONDS * 2**attempt if received == before else 0)


def _fetch(url: str, part: Path, record: Path, size: int | None, on_progress: ProgressCallback, advice: str) -> None:
    """Makes one attempt. Raises _RetryableError if another one may succeed."""
    known = read_record(record, url=str, version=str) or {"url": "", "version": ""}
    before = part.stat().st_size if part.exists() and known["url"] == url and known["version"] else 0
    headers = {"User-Agent": "charladder", "Accept-Encoding": "identity"}
    if before:  # with If-Range, the server sends another version of the file from its start
        headers |= {"Range": f"bytes={before}-", "If-Range": known["version"]}
    try:
        request = urllib.request.Request(url, headers=headers)
        response = urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 416:  # the partial file is longer than the file
                part.unlink(missing_ok=True)
                raise _RetryableError("the server does not have the range that was requested") from None
            if error.code >= 500 or error.code == 429:
                raise _RetryableError(f"the server answers {error.code} {error.reason}") from None
            answer = f"answers {error.code} {error.reason}"
            answer = "redirects to an address that is not allowed" if error.code < 400 else answer
            raise UserError(f"{url} cannot be downloaded: the server {answer}{advice}") from None
    except (http.client.HTTPException, ValueError) as error:
        raise UserError(f"{url} cannot be downloaded: {str(error) or type(error).__name__}{advice}") from None
    except OSError as error:  # urllib.error.URLError is one
        raise _RetryableError(f"no connection ({_error_reason(error)})") from None
    with response:
        encoding = response.headers.get("Content-Encoding", "identity")
        if encoding != "identity":
            raise UserError(
                f"{url} cannot be downloaded: the server compresses it ({encoding}) against the request{advice}"
            )
        begin = before if response.status == 206 and _starts_at(response.headers.get("Content-Range"), before) else 0
        length = response.headers.get("Content-Length")
        total = begin + int(length) if length and length.isdigit() else None
        if response.status == 206 and begin != before:
            part.unlink(missing_ok=True)
            raise _RetryableError("the server answers with another range than the requested one")
        if size is not None and total is not None and total != size:
            raise UserError(f"{url} has {total:,} bytes and not {size:,}, so it is not the right file{advice}")
        if total is not None and total - begin > shutil.disk_usage(part.parent).free:
            with cache_write_errors():
                raise OSError(errno.ENOSPC, "no room")
        version = response.headers.get("ETag") or response.headers.get("Last-Modified") or ""
        write_record(record, {"url": url, "version": "" if version.startswith("W/") else version})
        with cache_write_errors():
            file = part.open("ab" if begin else "wb")
        with file:
            done = begin
            while chunk := _receive(response):
                with cache_write_errors():
                    file.write(chunk)
                    file.flush()
                done += len(chunk)
                if size is not None and done > size:
                    file.truncate(0)
                    raise UserError(f"{url} has more than {size:,} bytes, so it is not the right file{advice}")
                on_progress("downloading", done, total or size)
    expected = size if total is None else total
    if expected is not None and done < expected:
        raise _RetryableError(f"the connection was cut after {done:,} of {expected:,} bytes")


def _receive(response: http.client.HTTPResponse) -> bytes:
    try:
        return response.read1(CHUNK_BYTES)
    except (OSError, http.client.HTTPException) as error:
        raise _RetryableError(f"the connection was cut ({_error_reason(error)})") from None


def _error_reason(error: Exception) -> str:
    reason = getattr(error, "reason", error)
    return str(getattr(reason, "strerror", None) or reason or type(error).__name__)


def _starts_at(content_range: str | None, begin: int) -> bool:
    return (content_range or "").startswith(f"bytes {begin}-")


def download_path(url: str, folder: Path) -> Path:
    """The path of a URL's file in `folder`: a digest of the URL, then the name of the file."""
    try:
        name = Path(urlsplit(url).path).name or "text"
    except ValueError:
        raise UserError(f"{url!r} is not an address that can be downloaded from") from None
    return folder / f"{hashlib.sha256(url.encode('utf-8', 'surrogateescape')).hexdigest()[:16]}-{name[-80:]}"
