"""Lists of logs as their publishers write them: small ones made here, and the real ones."""

from __future__ import annotations

import base64
import json
from functools import cache
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256

from certstream.ct.log_list import LogList, parse_log_list
from certstream.ct.signatures import log_id, spki_of

DATA = Path(__file__).parents[1] / "data" / "log_list"
GOOGLE = (DATA / "all_logs_list.json").read_bytes()
GOOGLE_SIGNATURE = (DATA / "all_logs_list.sig").read_bytes()
APPLE = (DATA / "apple_current_log_list.json").read_bytes()
SIGNER = rsa.generate_private_key(65537, 2048)
Raw = dict[str, Any]


@cache
def spki(number: int) -> bytes:
    """The key of the log with that number."""
    return spki_of(ec.derive_private_key(number, ec.SECP256R1()))


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def classic(number: int, **changes: Any) -> Raw:
    """One log as it stands in `logs`; a change to None takes the member out."""
    entry = {
        "description": f"Log {number}",
        "log_id": text(log_id(spki(number))),
        "key": text(spki(number)),
        "url": f"https://ct.example.com/{number}/",
        "mmd": 86400,
        "state": {"usable": {"timestamp": "2026-01-01T00:00:00Z"}},
        **changes,
    }
    return {name: value for name, value in entry.items() if value is not None}


def tiled(number: int, **changes: Any) -> Raw:
    """One log as it stands in `tiled_logs`."""
    urls = {
        "submission_url": f"https://log.example.com/{number}/",
        "monitoring_url": f"https://mon.example.com/{number}/",
    }
    return classic(number, **{"url": None, **urls, **changes})


def document(*logs: Raw, operator: str = "Example", **members: Any) -> bytes:
    """A list with one operator."""
    entry = {
        "name": operator,
        "email": ["ct@example.com"],
        "logs": [log for log in logs if "url" in log],
        "tiled_logs": [log for log in logs if "url" not in log],
    }
    return json.dumps({"version": "1.0", "operators": [entry], **members}).encode()


def listed(*logs: Raw, operator: str = "Example") -> LogList:
    return parse_log_list(document(*logs, operator=operator))


def signed(body: bytes) -> bytes:
    """SIGNER's signature."""
    return SIGNER.sign(body, padding.PKCS1v15(), SHA256())
