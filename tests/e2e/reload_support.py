"""Changes of the configuration file while a service runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.e2e.e2e_support import Service

ON = {"hot_reload": {"enabled": True}}
READ = "configuration read again"


def write(file: Path, text: str) -> None:
    file.write_text(text)


def rename_over(file: Path, text: str) -> None:
    """As editors do."""
    new = file.with_suffix(".new")
    new.write_text(text)
    new.replace(file)


async def edit(
    service: Service, options: Mapping[str, Any], *, until: str = READ, by: Callable[[Path, str], None] = rename_over
) -> list[dict[str, Any]]:
    """Change the file, wait until the service says that, and return what it said from then on."""
    before = len(service.lines)
    text = yaml.safe_dump({"host": "127.0.0.1", "port": 0, "log_format": "json", **options})
    by(service.directory / "config.yaml", text)
    await service.until(lambda line: any(line is new and line["event"] == until for new in service.lines[before:]))
    return service.lines[before:]
