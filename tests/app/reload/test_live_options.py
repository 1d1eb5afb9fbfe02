"""Every option of the model takes effect while the service runs, or is named as needing a restart."""

from __future__ import annotations

from base64 import b64encode
from pathlib import Path
from typing import Any, Final, Literal, get_args, get_origin

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from certstream.app.lists.listed_logs import asked_of, wish_of
from certstream.app.lists.sources import follows_lists
from certstream.app.reload.live import is_live, is_taken_over
from certstream.app.settings import configured_logs, live_settings
from certstream.config import Config, load_config
from certstream.config.changes import changes, value_of, with_options_of
from certstream.config.environment import OPTIONS
from certstream.config.logs import CustomLogConfig, LogConfig, StaticLogConfig
from certstream.config.option import Option, bounds, options_of

RFC6962: Final = {"name": "a", "url": "https://a.example/"}
STATIC: Final = {"name": "b", "url": "https://b.example/"}

# With all on that other options have a meaning for
BASE: Final[dict[str, Any]] = {
    "auth": {"enabled": True, "tokens": ["one"]},
    "connection_limit": {"enabled": True},
    "rate_limit": {"enabled": True},
    "delta_sink": {"enabled": True},
    "custom_logs": [RFC6962],
    "static_logs": [STATIC],
}
# Of options whose type says too little
OTHER: Final[dict[str, Any]] = {
    "host": "127.0.0.9",
    "log_level": "debug",
    "trusted_proxies": ["10.0.0.0/8"],
    "cors.allow_origins": ["https://example.com"],
    "monitoring.host": "127.0.0.9",
    "ct_log.operator_rate_limits": {"someone": 7},
    "backfill.max_share": 0.25,
    "log_lists.include_states": ["usable"],
    "log_lists.exclude_states": ["usable"],
    "log_lists.lists": [{"name": "ours", "location": "/logs.json", "unsigned": True}],
    "custom_logs": [{**RFC6962, "name": "c"}],
    "static_logs": [],
}
OTHER_OF_LOG: Final[dict[str, Any]] = {
    "name": "other",
    "url": "https://other.example/",
    "key": b64encode(
        generate_private_key(SECP256R1()).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    ).decode(),
    "expected_log_id": "dNudWPfUfp39eHoWKpkcGM9pjafHKZGMmhiwRQ26RLw=",
    "start": 7,
    "verification": "enforce",
}


def other_value(option: Option, value: Any) -> Any:
    """A valid value that is not `value`."""
    if option.annotation is bool:
        return not value
    if option.annotation in (int, float):
        low, high = bounds(option.field)
        return value + 1 if value is not None and value + 1 <= high else low if value != low else high
    if get_origin(option.annotation) is Literal:
        return next(each for each in get_args(option.annotation) if each != value)
    return ["another"] if get_origin(option.annotation) is tuple else "another"


def with_value(path: str, value: Any) -> dict[str, Any]:
    """The base as it would stand in a file, with one option changed."""
    document: dict[str, Any] = {
        name: dict(section) if isinstance(section, dict) else section for name, section in BASE.items()
    }
    section, _, name = path.rpartition(".")
    (document.setdefault(section, {}) if section else document)[name] = value
    return document


def taken_up(config: Config) -> tuple[object, ...]:
    """What the running parts are given."""
    live = live_settings(config, configured_logs(config), {})
    lists = follows_lists(config), asked_of(config), wish_of(config)
    return live.fetch, live.recipes, live.access, live.min_share, config.log_level, config.log_format, lists


@pytest.fixture(scope="module")
def base() -> Config:
    return Config.model_validate(BASE)


@pytest.mark.parametrize("path", list(OPTIONS))
def test_a_change_is_applied_or_needs_a_restart_or_has_no_meaning(tmp_path: Path, base: Config, path: str) -> None:
    option = OPTIONS[path]
    value = OTHER[path] if path in OTHER else other_value(option, value_of(base, path))
    if path == "auth.tokens_file":
        value = str(tmp_path / "tokens")
        Path(value).write_text("two\n")
        Path(value).chmod(0o600)
    file = tmp_path / "config.yaml"
    document = with_value(path, value)
    if path in ("tls_cert", "tls_key", "monitoring.tls"):
        document = {**document, "tls_cert": "cert.pem", "tls_key": "key.pem"}
    file.write_text(yaml.safe_dump(document))
    loaded = load_config(file, {})
    assert path in [change.path for change in changes(base, loaded.config)]
    effective = with_options_of(base, loaded.config, is_taken_over)
    waiting = [change.path for change in changes(effective, loaded.config)]
    if option.inert:
        assert path in loaded.ignored, "named as without meaning"
    elif is_live(option):
        assert waiting == []
        assert taken_up(effective) != taken_up(base), "a part is given something else"
    else:
        assert path in waiting, "named in log and health"
        assert effective == base


@pytest.mark.parametrize(
    ("section", "name"),
    [
        *(("custom_logs", option.path) for option in options_of(CustomLogConfig)),
        *(("static_logs", option.path) for option in options_of(StaticLogConfig)),
    ],
)
def test_each_option_of_a_log_changes_how_it_is_followed(base: Config, section: str, name: str) -> None:
    item: type[LogConfig] = CustomLogConfig if section == "custom_logs" else StaticLogConfig
    (log,) = BASE[section]
    option = next(option for option in options_of(item) if option.path == name)
    value = OTHER_OF_LOG[name] if name in OTHER_OF_LOG else other_value(option, log.get(name))
    changed = Config.model_validate({**BASE, section: [{**log, name: value}]})
    before, after = live_settings(base, configured_logs(base), {}), live_settings(changed, configured_logs(changed), {})
    assert len(set(before.recipes) - set(after.recipes)) == 1, "that log is followed otherwise, and no other"


def test_what_concerns_who_is_let_in_is_all_live() -> None:
    sections = {"auth", "connection_limit", "rate_limit", "cors"}
    assert all(is_live(option) for path, option in OPTIONS.items() if path.partition(".")[0] in sections)
    assert is_live(OPTIONS["trusted_proxies"])
