"""The log list (v3) of the logs of one server, and its signature."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import orjson
import pybase64
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from certstream.simulator.content import Answer, RefusedError
from certstream.simulator.log import OPERATOR, SimulatedLog

_MMD_S = 86_400
_TIMESTAMP = "2026-01-01T00:00:00Z"
PATHS = ("/log_list.json", "/log_list.sig", "/log_list_pubkey.pem")


class LogList:
    """The list, its detached signature (RSA PKCS#1 v1.5, SHA-256, over the raw JSON), and the key.

    The key is made when it is first needed and is another one in each run.
    """

    def __init__(self, logs: Sequence[SimulatedLog]) -> None:
        self._logs = logs

    @cached_property
    def body(self) -> bytes:
        """The list as JSON; a log that serves both protocols stands in it twice."""
        operator = {
            "name": OPERATOR,
            "email": ["ctlog@example.com"],
            "logs": [_classic(log) for log in self._logs if "rfc6962" in log.kinds],
            "tiled_logs": [_tiled(log) for log in self._logs if "static" in log.kinds],
        }
        lists = {"version": "1.0", "log_list_timestamp": _TIMESTAMP, "operators": [operator]}
        return orjson.dumps(lists, option=orjson.OPT_INDENT_2)

    @cached_property
    def _key(self) -> rsa.RSAPrivateKey:
        return rsa.generate_private_key(65537, 2048)

    def answer(self, path: str) -> Answer:
        """Answer one of PATHS."""
        if path == "/log_list.json":
            return Answer(200, self.body, "application/json")
        if path == "/log_list.sig":
            return Answer(200, self._key.sign(self.body, padding.PKCS1v15(), SHA256()), "application/octet-stream")
        if path == "/log_list_pubkey.pem":
            pem = self._key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
            return Answer(200, pem, "application/x-pem-file")
        raise RefusedError(404, f"no such path: {path}")


def _described(log: SimulatedLog) -> dict[str, object]:
    return {
        "description": log.name,
        "log_id": pybase64.b64encode(log.log_id).decode(),
        "key": pybase64.b64encode(log.spki).decode(),
        "mmd": _MMD_S,
        "state": {"usable": {"timestamp": _TIMESTAMP}},
        "log_type": "test",
    }


def _classic(log: SimulatedLog) -> dict[str, object]:
    return {**_described(log), "url": log.url("rfc6962")}


def _tiled(log: SimulatedLog) -> dict[str, object]:
    monitoring_url = log.url("static")
    # the origin is the submission prefix without its scheme (static-ct-api, "Checkpoints")
    return {**_described(log), "submission_url": f"https://{log.origin}/", "monitoring_url": monitoring_url}
