"""Configuration: defaults < file < environment, every mistake at once, and nothing unknown accepted."""

from certstream.config.access import (
    AuthConfig,
    ConnectionLimitConfig,
    CorsConfig,
    MonitoringConfig,
    RateLimitConfig,
)
from certstream.config.archive import BackfillConfig, DeltaSinkConfig, MaintenanceConfig
from certstream.config.load import LoadedConfig, load_config
from certstream.config.logs import CustomLogConfig, LogConfig, StaticLogConfig
from certstream.config.model import (
    ApiConfig,
    Config,
    CtLogConfig,
    DedupConfig,
    HotReloadConfig,
    ProtocolsConfig,
    StreamsConfig,
)
from certstream.config.render import effective_yaml, shipped_yaml

__all__ = [
    "ApiConfig",
    "AuthConfig",
    "BackfillConfig",
    "Config",
    "ConnectionLimitConfig",
    "CorsConfig",
    "CtLogConfig",
    "CustomLogConfig",
    "DedupConfig",
    "DeltaSinkConfig",
    "HotReloadConfig",
    "LoadedConfig",
    "LogConfig",
    "MaintenanceConfig",
    "MonitoringConfig",
    "ProtocolsConfig",
    "RateLimitConfig",
    "StaticLogConfig",
    "StreamsConfig",
    "effective_yaml",
    "load_config",
    "shipped_yaml",
]
