"""The archive's options: where tables may be, and which numbers make sense."""

from __future__ import annotations

from pathlib import Path

import pytest

from certstream.config import BackfillConfig, DeltaSinkConfig, LoadedConfig, MaintenanceConfig, load_config
from certstream.errors import ConfigError

PLACES = ("delta_sink.table_path", "backfill.staging_path")


@pytest.fixture(autouse=True)
def _no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("certstream.config.file.SEARCHED", ())


def load(**environ: str) -> LoadedConfig:
    return load_config(None, environ)


def mistake(**environ: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(**environ)
    (line,) = caught.value.mistakes
    return line


def variable(path: str) -> str:
    return "CERTSTREAM_" + path.replace(".", "_").upper()


def test_the_archive_is_off_and_its_defaults_are_the_documented_ones() -> None:
    config = load().config
    assert config.delta_sink.model_dump() == {
        "enabled": False,
        "table_path": "./data/certstream",
        "batch_size": 10_000,
        "flush_interval_secs": 30,
        "compression_level": 3,
        "heavy_column_compression_level": 1,
        "buffer_bytes": 128 << 20,
    }
    assert config.backfill.model_dump() == {
        "staging_path": None,
        "from_index": None,
        "logs": None,
        "merge_after": True,
        "on_start": False,
        "interval_secs": None,
        "max_share": 0.5,
        "fetch_concurrency": 4,
    }
    assert config.maintenance.model_dump() == {
        "enabled": True,
        "quiet_secs": 3600,
        "interval_secs": 3600,
        "target_file_bytes": 128 << 20,
        "retention_hours": 168,
        "keep_days": None,
    }


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    "path",
    [
        "table",
        "./data/certstream",
        "/srv/a b",
        "../up",
        "/srv/a:b",
        "s3:",
        "Größe",
        "50%",
        "h#x?y[z]'\"",
        "file:///srv/t",
        "file:///srv/a%20b",
        "file://localhost/t",
    ],
)
def test_a_table_is_at_a_path_or_a_file_url(place: str, path: str) -> None:
    section, _, name = place.partition(".")
    assert getattr(getattr(load(**{variable(place): path}).config, section), name) == path


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    "path",
    [
        "s3://bucket/t",
        "S3://bucket/t",
        "s3:/bucket",
        "abfss://c@a.example/t",
        "memory://",
        "file:/srv/t",
        "FILE:///srv/t",
    ],
)
def test_another_scheme_is_refused_and_told_why(place: str, path: str) -> None:
    line = mistake(**{variable(place): path})
    assert line.startswith(f'{place}: "')
    assert line.endswith(
        f" is not allowed, must be a path or a file:// URL: tables are local in this version [{variable(place)}]"
    )


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    "path",
    ["file://srv/t", "file://", "file:///", "file://host/srv/t", "file:///t?x=1", "file:///t#part", "file:///t%00"],
)
def test_a_file_url_is_an_absolute_path_on_this_machine_and_no_more(place: str, path: str) -> None:
    line = mistake(**{variable(place): path})
    assert line.startswith(f'{place}: "{path}" is not allowed, must be a file:// URL with an absolute path')


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("path", ["we%20ird", "/srv/%41", "a\\b", "file:///srv/we%2520ird", "file:///srv/a%5Cb"])
def test_a_path_that_would_be_taken_for_another_one_is_a_mistake(place: str, path: str) -> None:
    line = mistake(**{variable(place): path})
    assert line.startswith(f"{place}: ")
    assert "its path without backslashes and % before two hexadecimal digits" in line


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("path", ["''", "' '", '"a\\0b"', '"a\\nb"'])
def test_a_path_that_is_none_is_a_mistake(place: str, path: str, tmp_path: Path) -> None:
    section, _, name = place.partition(".")
    file = tmp_path / "c.yaml"
    file.write_text(f"{section}: {{{name}: {path}}}\n")
    with pytest.raises(ConfigError) as caught:
        load_config(file, {})
    (line,) = caught.value.mistakes
    assert line.startswith(f"{place}: ")
    assert " is not allowed, must be a path or a file:// URL" in line
    assert line.isprintable()


def test_a_path_that_is_no_text_is_a_mistake() -> None:
    assert mistake(CERTSTREAM_DELTA_SINK_TABLE_PATH="caf\udce9").startswith("delta_sink.table_path: ")


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("delta_sink.compression_level", "0"),
        ("delta_sink.compression_level", "23"),
        ("delta_sink.heavy_column_compression_level", "23"),
        ("delta_sink.buffer_bytes", "1048575"),
        ("backfill.from_index", "-1"),
        ("backfill.from_index", "9223372036854775808"),
        ("backfill.interval_secs", "59"),
        ("backfill.max_share", "0"),
        ("backfill.max_share", "1.01"),
        ("backfill.fetch_concurrency", "0"),
        ("maintenance.quiet_secs", "-1"),
        ("maintenance.interval_secs", "9"),
        ("maintenance.target_file_bytes", "1048575"),
        ("maintenance.retention_hours", "167"),
        ("maintenance.keep_days", "0"),
    ],
)
def test_a_number_out_of_range_is_a_mistake_that_says_the_range(path: str, text: str) -> None:
    line = mistake(**{variable(path): text})
    assert line.startswith(f"{path}: {text} is not allowed, must be a")


def test_the_share_says_that_zero_is_none() -> None:
    assert mistake(CERTSTREAM_BACKFILL_MAX_SHARE="0") == (
        "backfill.max_share: 0 is not allowed, must be a number above 0, up to 1 [CERTSTREAM_BACKFILL_MAX_SHARE]"
    )


def test_the_least_numbers_are_allowed() -> None:
    assert BackfillConfig(from_index=0, interval_secs=60, max_share=0.001).from_index == 0
    assert DeltaSinkConfig(buffer_bytes=1 << 20, compression_level=22).compression_level == 22
    assert MaintenanceConfig(quiet_secs=0, interval_secs=10, keep_days=1, retention_hours=168).quiet_secs == 0


def test_logs_without_a_text_is_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("backfill: {logs: ''}\n")
    with pytest.raises(ConfigError, match="must be a part of a log's name or URL"):
        load_config(tmp_path / "c.yaml", {})


@pytest.mark.parametrize("name", ["CERTSTREAM_BACKFILL_ON_START", "CERTSTREAM_BACKFILL_INTERVAL_SECS"])
def test_a_backfill_that_never_starts_is_warned_of(name: str) -> None:
    value = {"CERTSTREAM_BACKFILL_ON_START": "true"}.get(name, "60")
    (warning,) = load(**{name: value}).warnings
    assert "delta_sink.enabled is off" in warning
    assert load(**{name: value, "CERTSTREAM_DELTA_SINK_ENABLED": "true"}).warnings == ()
