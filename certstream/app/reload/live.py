"""Which options take effect while the service runs. All others need a restart, and so does every new one at first."""

from __future__ import annotations

from typing import Final

from certstream.config.option import Option

_SECTIONS: Final = frozenset({"auth", "connection_limit", "rate_limit", "cors", "log_lists"})
_OPTIONS: Final = frozenset(
    {
        "log_level",
        "log_format",
        "trusted_proxies",
        "health.min_share",
        "ct_log.verification",
        "ct_log.verification_max_unproven_entries",
        "ct_log.batch_size",
        "ct_log.fetch_concurrency",
        "ct_log.poll_interval_ms",
        "ct_log.partial_tile_wait_secs",
        "ct_log.request_timeout_secs",
        "ct_log.retry_max_attempts",
        "ct_log.retry_initial_delay_ms",
        "ct_log.retry_max_delay_ms",
        "ct_log.healthy_threshold",
        "ct_log.unhealthy_threshold",
        "ct_log.health_check_interval_secs",
        "ct_log.rfc6962_enabled",
        "ct_log.static_ct_enabled",
        "ct_log.default_operator_rate_limit_ms",
        "ct_log.operator_rate_limits",
        "ct_log.user_agent",
        "custom_logs",
        "static_logs",
    }
)


def is_live(option: Option) -> bool:
    """Whether a change of the option is applied to the running service."""
    return not option.inert and (option.path.partition(".")[0] in _SECTIONS or option.path in _OPTIONS)


def is_taken_over(option: Option) -> bool:
    """Whether a change of the option leaves nothing to be done: it is applied, or has no meaning here."""
    return option.inert or is_live(option)
