"""The file of tokens: `auth.tokens_file`."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, Literal, TypeAlias

from certstream.config.access import is_token
from certstream.errors import ConfigError

TokenTier: TypeAlias = Literal["free", "standard", "premium"]

_MOST_BYTES: Final = 1 << 20
_CREDENTIALS: Final = "${CREDENTIALS_DIRECTORY}/"  # systemd.exec(5), "Credentials"
_TIERS: Final[Mapping[str, TokenTier]] = {"standard": "standard", "premium": "premium"}


def tokens_path(text: str, environ: Mapping[str, str]) -> Path:
    """Return the path that `auth.tokens_file` names. ConfigError where it names a credential and there are none."""
    if not text.startswith(_CREDENTIALS):
        return Path(text)
    directory = environ.get("CREDENTIALS_DIRECTORY")
    if not directory:
        raise ConfigError(
            f"auth.tokens_file: {text}: CREDENTIALS_DIRECTORY is not set; systemd sets it for a unit that has "
            "LoadCredential="
        )
    return Path(directory) / text.removeprefix(_CREDENTIALS)


def read_tokens(path: Path) -> tuple[tuple[str, TokenTier], ...]:
    """Return each token of the file with its tier.

    Raises ConfigError with one line per mistake, none of which shows a token: for a file that cannot be read, that
    others than its owner may write, and for each line that is no token.
    """
    lines = _read(path).splitlines()
    mistakes: list[str] = []
    tokens = tuple(_parsed(lines, path, mistakes))
    if mistakes:
        raise ConfigError(mistakes)
    return tokens


def _read(path: Path) -> str:
    try:
        # O_NONBLOCK: a pipe that nobody writes to must not hold the start
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            _check(path, os.fstat(file.fileno()))
            content = file.read(_MOST_BYTES + 1)
    except OSError as exc:
        raise ConfigError(f"auth.tokens_file: {path}: cannot be read: {exc.strerror or exc}") from exc
    if len(content) > _MOST_BYTES:
        raise ConfigError(f"auth.tokens_file: {path}: larger than {_MOST_BYTES} bytes")
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise ConfigError(f"auth.tokens_file: {path}: is not UTF-8") from None  # its words would show the content


def _check(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise ConfigError(f"auth.tokens_file: {path}: is no regular file")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        mode = stat.S_IMODE(status.st_mode)
        raise ConfigError(
            f"auth.tokens_file: {path}: others than its owner may write it (mode {mode:04o}); chmod go-w it"
        )


def _parsed(lines: list[str], path: Path, mistakes: list[str]) -> Iterator[tuple[str, TokenTier]]:
    for number, line in enumerate(lines, start=1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        tier = _tier(words)
        if tier is None or not is_token(words[-1]):
            mistakes.append(
                f"auth.tokens_file: {path}, line {number}: must be a token of printable ASCII characters, alone or "
                "after `standard` or `premium`"
            )
        else:
            yield words[-1], tier


def _tier(words: list[str]) -> TokenTier | None:
    """The tier that a line's token has, None where there is no token: a tier without one must not become one itself."""
    if len(words) == 2:
        return _TIERS.get(words[0])
    return "free" if len(words) == 1 and words[0] not in _TIERS else None
