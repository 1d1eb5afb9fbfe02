"""Where a log list comes from, and getting it from there, verified."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from certstream.client.disk import Disk
from certstream.client.http import HttpClient, Page, Validators
from certstream.ct.log_list import MAX_LIST_BYTES, LogList, load_list_key, parse_log_list, verify_log_list
from certstream.errors import FetchError, InvalidSignatureError

_SIGNATURE_CAP_BYTES: Final = 4_096  # 512 for the 4096 bits of Google's key
_PAUSES_S: Final = (5.0, 15.0)  # before a list that does not fit its signature is fetched again, and once more


@dataclass(frozen=True, slots=True)
class ListSource:
    """One list of logs: an http:// or https:// URL, or a path, and how it is known to be its publisher's.

    Raises ConfigError for a key that signs no lists, ValueError for a key without a signature or the reverse.
    """

    name: str  # among all sources: in log lines, health, and the name of its file
    location: str
    signature: str | None = None  # URL or path of the signature; None: the list is taken as it is
    key: bytes | None = None  # DER SubjectPublicKeyInfo of its signer
    needs: str | None = None  # name of a list without which this one is not used: it only adds to that one

    def __post_init__(self) -> None:
        if (self.signature is None) != (self.key is None):
            raise ValueError(f"log list {self.name}: signature and key go together")
        if self.key is not None:
            load_list_key(self.key)

    def verified(self, body: bytes, signature: bytes) -> LogList:
        """What the list says. Raises InvalidSignatureError, MalformedError."""
        if self.key is not None:
            verify_log_list(body, signature, self.key)
        return parse_log_list(body)


@dataclass(frozen=True, slots=True)
class FetchedList:
    """A verified list as it came."""

    logs: LogList
    body: bytes
    signature: bytes  # empty where the source is not signed
    validators: Validators


async def fetch_list(http: HttpClient, source: ListSource, known: Validators, disk: Disk) -> FetchedList | None:
    """The list as it is now, None where it is the version `known` still.

    A list that does not fit its signature is fetched again with it after a moment: it may be in the middle of being
    published. Raises InvalidSignatureError where that lasts, FetchError, or MalformedError for what is no list.
    """
    for pause_s in _PAUSES_S:
        try:
            return await _fetch_once(http, source, known, disk)
        except InvalidSignatureError:
            await http.clock.sleep(pause_s)
    try:
        return await _fetch_once(http, source, known, disk)
    except InvalidSignatureError as exc:
        raise InvalidSignatureError(f"{source.location}: {exc}, fetched {len(_PAUSES_S) + 1} times") from exc


async def _fetch_once(http: HttpClient, source: ListSource, known: Validators, disk: Disk) -> FetchedList | None:
    page = await _fetch(http, source.location, MAX_LIST_BYTES, known, disk)
    if page is None:
        return None
    signature = b""
    if source.signature is not None:
        signed = await _fetch(http, source.signature, _SIGNATURE_CAP_BYTES, Validators(), disk)
        signature = b"" if signed is None else signed.body
    logs = await asyncio.to_thread(source.verified, page.body, signature)  # 20 ms for Google's, and no hurry
    return FetchedList(logs, page.body, signature, page.validators)


async def _fetch(http: HttpClient, location: str, cap_bytes: int, known: Validators, disk: Disk) -> Page | None:
    if "://" in location:
        return await http.get_page(location, cap_bytes=cap_bytes, known=known)
    try:
        body = await disk.run(partial(_read_file, Path(location), cap_bytes))
    except TimeoutError as exc:
        raise FetchError(f"{location}: {exc}", status="timeout") from exc
    return Page(body, Validators())


def _read_file(path: Path, cap_bytes: int) -> bytes:
    try:
        with path.open("rb") as file:
            body = file.read(cap_bytes + 1)
    except OSError as exc:
        raise FetchError(f"{path}: cannot be read: {exc.strerror or exc}", status="file") from exc
    if len(body) > cap_bytes:
        raise FetchError(f"{path}: larger than {cap_bytes} bytes", status="too_large")
    return body
