"""Fetches one file from the first of several servers that has it; it is verified by its SHA-256.

What has come of it is kept beside its place, so that a download that broke off or was stopped goes
on where it was, from the same server or another one. Knows nothing of what is in the file.
"""

import errno
import hashlib
import os
import time
from collections.abc import Iterator, Sequence
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import IO
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from sfl.errors import Exit, UserError
from sfl.files import TEMPORARY, atomic_path, write_error
from sfl.locks import one_at_a_time
from sfl.progress import say, track
from sfl.units import bytes_text

MEGABYTE = 1_000_000
TIMEOUT = 30  # seconds without a byte from the server
TRIES = 3  # of one server, if it breaks off
PATIENCE, SLOW = 30.0, 50_000.0  # a server that has sent fewer bytes/s after so many s is left


class _Failed(Exception):
    """Why a server did not give the file."""


class _BrokeOff(_Failed):
    """It gave a part of it; it may go on."""


def download(sources: Sequence[str], path: Path, sha256: str, hint: str) -> None:
    """Saves the file of that SHA-256 as `path`, unless it is there, from the first URL that works.

    A slow server is left for the next one; the last one is not.
    hint: what else the user can do.

    Raises UserError (exit 3) if no source gives the file or its folder can't be written, (exit 6)
    if the disk is full. Whatever stops it, Ctrl-C too: the next call goes on with what has come.
    """
    _make_writable(path.parent)
    left_over = [f".{path.name}.*{TEMPORARY}"]
    with one_at_a_time(path.with_name(f".{path.name}.lock"), left_over):
        if path.exists():  # another process may have downloaded it meanwhile
            return
        failures = []
        partial = path.with_name(f".{path.name}.part")
        for place, url in enumerate(sources):
            try:
                _download(url, partial, sha256, hurry=place < len(sources) - 1)
            except _Failed as failed:
                failures.append(f"from {url}: {failed}")
                if place < len(sources) - 1:
                    say(f"{url}: {failed}; trying {sources[place + 1]}")
                continue
            with atomic_path(path) as temporary:
                os.replace(partial, temporary)
            say(f"{path.name}: downloaded from {url}, its SHA-256 is right")
            return
    message = f"{path.name} can't be downloaded {'; '.join(failures)}"
    if kept := _size(partial):
        hint = f"the next try goes on after {bytes_text(kept)}; or {hint}"
    raise UserError(message, hint, Exit.DATA)


def _download(url: str, partial: Path, sha256: str, *, hurry: bool) -> None:
    """Completes `partial` from one server, and verifies it. Raises _Failed if it can't be had."""
    for last in (*[False] * (TRIES - 1), True):
        kept = _size(partial)
        try:
            _fetch(url, partial, hurry)
        except _BrokeOff as failed:
            if last:
                raise
            say(f"{url}: {failed}; trying to go on")
            continue
        with partial.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found == sha256:
            return
        wrong = f"{_size(partial):,} bytes with SHA-256 {found}, expected SHA-256 {sha256}"
        partial.unlink()
        if last or not kept:
            raise _Failed(f"it is another file: {wrong}")
        say(f"{url}: with what was there before, {wrong}; downloading it from the start")


def _fetch(url: str, partial: Path, hurry: bool) -> None:
    """Adds what is missing in `partial`; begins anew if the server can't give a part."""
    kept = _size(partial)
    headers = {"User-Agent": "sfl"} | ({"Range": f"bytes={kept}-"} if kept else {})
    try:
        response = urlopen(Request(url, headers=headers), timeout=TIMEOUT)
    except HTTPError as error:
        error.close()
        if kept and error.code == 416:  # there is nothing after that: it may be complete
            return
        raise _Failed(f"HTTP {error.code} {error.reason}") from error
    except (OSError, HTTPException, ValueError) as error:  # ValueError: not a URL
        raise _Failed(_reason(error)) from error
    with response:
        kept = kept if response.status == 206 else 0
        missing = int(response.headers.get("Content-Length") or 0)
        more = f", going on after {bytes_text(kept)}" if kept else ""
        what, megabytes = f"Downloading {url}{more} (MB)", -(-missing // MEGABYTE) or None
        try:
            with partial.open("ab" if kept else "wb") as file:
                list(track(_copy(response, file, hurry), what, megabytes))
        except OSError as error:  # one of the network's is a _BrokeOff
            raise write_error(partial, error) from error
        except _BrokeOff as failed:
            raise _broke_off(partial, kept + missing, f": {failed}") from failed
    if _size(partial) < kept + missing:
        raise _broke_off(partial, kept + missing)


def _copy(response: HTTPResponse, file: IO[bytes], hurry: bool) -> Iterator[None]:
    """Writes the answer to the file, and yields for each megabyte that was begun."""
    start, size, told = time.monotonic(), 0, 0
    while chunk := _read(response):
        file.write(chunk)
        size += len(chunk)
        while told < size:
            told += MEGABYTE
            yield
        seconds = time.monotonic() - start
        if hurry and seconds > PATIENCE and size < SLOW * seconds:
            raise _Failed(f"too slow, {bytes_text(size / seconds)}/s")


def _read(response: HTTPResponse) -> bytes:
    try:
        return response.read1(MEGABYTE)
    except (OSError, HTTPException) as error:
        raise _BrokeOff(_reason(error)) from error


def _reason(error: Exception) -> str:
    return str(error.reason) if isinstance(error, URLError) else str(error)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _broke_off(partial: Path, total: int, reason: str = "") -> _BrokeOff:
    size = _size(partial)
    of_all = f" of {bytes_text(total)}" if total > size else ""
    return _BrokeOff(f"broke off after {bytes_text(size)}{of_all}{reason}")


def _make_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        message = f"{folder}: nothing can be saved there: {error.strerror}"
        raise UserError(message, "choose another folder with data.root", Exit.DATA) from error
