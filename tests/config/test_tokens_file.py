"""The file of tokens: its lines, who may write it, and systemd's credentials."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from certstream.config.tokens import read_tokens, tokens_path
from certstream.errors import ConfigError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    path.touch(mode=0o600)
    return path


def mistakes(path: Path) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        read_tokens(path)
    assert all(mistake.startswith("auth.tokens_file: ") for mistake in caught.value.mistakes)
    return caught.value.mistakes


def test_each_line_is_a_token_with_its_tier(file: Path) -> None:
    file.write_text("# of the team\n\n  plain#1  \nstandard s1\r\npremium\tp1\n#premium p2\n")
    assert read_tokens(file) == (("plain#1", "free"), ("s1", "standard"), ("p1", "premium"))


@pytest.mark.parametrize("line", ["premium", "standard "])
def test_a_tier_without_a_token_lets_nobody_in_with_its_name(file: Path, line: str) -> None:
    file.write_text(f"good\n{line}\n")
    assert mistakes(file)[0].startswith(f"auth.tokens_file: {file}, line 2: must be a token")


@pytest.mark.parametrize("line", ["golden hunter2", "a hunter b", "hunterü", "hunter2" * 200, "standard hünter"])
def test_a_line_that_is_no_token_is_named_by_its_number_and_not_shown(file: Path, line: str) -> None:
    file.write_text(f"good\n{line}\n\n{line}\n")
    first, second = mistakes(file)
    assert "tokens, line 2: must be a token of printable ASCII characters" in first
    assert "tokens, line 4: " in second
    assert "hunter" not in first + second


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert mistakes(tmp_path / "no") == (
        f"auth.tokens_file: {tmp_path / 'no'}: cannot be read: No such file or directory",
    )


def test_what_is_no_file_is_a_mistake(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "is no regular file" in mistakes(tmp_path / "pipe")[0]
    assert "is no regular file" in mistakes(tmp_path)[0] or "Is a directory" in mistakes(tmp_path)[0]


@pytest.mark.parametrize(
    ("mode", "good"), [(0o600, True), (0o400, True), (0o644, True), (0o660, False), (0o602, False)]
)
def test_a_file_that_others_may_write_is_refused(file: Path, mode: int, good: bool) -> None:
    file.write_text("a\n")
    file.chmod(mode)
    if good:
        assert read_tokens(file) == (("a", "free"),)
    else:
        assert f"others than its owner may write it (mode {mode:04o})" in mistakes(file)[0]


def test_a_link_is_followed_as_mounted_secrets_are_links(file: Path, tmp_path: Path) -> None:
    file.write_text("a\n")
    (tmp_path / "link").symlink_to(file)
    assert read_tokens(tmp_path / "link") == (("a", "free"),)


def test_a_file_that_is_not_text_or_far_too_large_is_refused(file: Path) -> None:
    file.write_bytes(b"hunter\xff\n")
    assert mistakes(file) == (f"auth.tokens_file: {file}: is not UTF-8",)
    file.write_bytes(b"#" * ((1 << 20) + 1))
    assert mistakes(file) == (f"auth.tokens_file: {file}: larger than 1048576 bytes",)


def test_a_credential_is_found_where_systemd_put_it(file: Path) -> None:
    environ = {"CREDENTIALS_DIRECTORY": str(file.parent)}
    assert tokens_path("${CREDENTIALS_DIRECTORY}/tokens", environ) == file
    assert tokens_path("/etc/${CREDENTIALS_DIRECTORY}/x", environ) == Path("/etc/${CREDENTIALS_DIRECTORY}/x")


@pytest.mark.parametrize("environ", [{}, {"CREDENTIALS_DIRECTORY": ""}])
def test_a_credential_without_systemd_is_a_mistake_that_names_the_setting(environ: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=r"CREDENTIALS_DIRECTORY is not set; systemd sets it .* LoadCredential="):
        tokens_path("${CREDENTIALS_DIRECTORY}/tokens", environ)
