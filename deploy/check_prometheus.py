"""A real Prometheus scrapes the demo and answers every query of the dashboard and of the alerts.

Called by check-prometheus.sh. Prints a line for each thing that holds; the first that does not makes the exit code 1.
"""

from __future__ import annotations

import json
import math
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import yaml

DEPLOY: Final = Path(__file__).resolve().parent
PATIENCE_S: Final = 90.0
VARIABLES: Final = {"$__rate_interval": "30s", "$instance": ".*", "$log": ".*"}
# What a demo that is well has nothing of: failures of logs, ends of jobs, TLS, log lists; and what is looked at slowly.
MAY_BE_EMPTY: Final = re.compile(
    r"certstream_log_errors_total|certstream_tls_|certstream_archive_|certstream_log_list_"
    r"|_last_success_timestamp_seconds\{[^}]*\} > 0|^changes\("
)
# Also there without any fault of ours.
MAY_HOLD: Final = {
    "CertstreamDiskNearlyFull",
    "CertstreamDiskFillsUp",
    "CertstreamLoopStalls",
    "CertstreamLoopOverloaded",
}


class CheckError(Exception):
    """Something does not hold."""


def passed(text: str) -> None:
    """Say that something holds."""
    print(f"ok   {text}", flush=True)


class Prometheus:
    """The HTTP API of a Prometheus on this machine."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"

    def ready(self) -> bool:
        """Whether it serves already."""
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def get(self, path: str, **fields: str) -> Any:
        """The data of an answer. Raises CheckError with what it says where that is an error."""
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(fields)}"
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as exc:
            raise CheckError(f"{fields or path}: {json.load(exc)['error']}") from exc

    def values(self, query: str) -> list[float]:
        """The values of an instant query that are numbers."""
        data = self.get("query", query=query)
        samples = [data] if data["resultType"] == "scalar" else data["result"]
        values = [float(sample["value"][1] if isinstance(sample, dict) else sample[1]) for sample in samples]
        return [value for value in values if not math.isnan(value)]

    def holds(self, query: str) -> bool:
        """Whether a query has a value that is not 0."""
        return any(self.values(query))


def wait(what: str, holds: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    """Ask until it holds. Raises CheckError when it takes too long, or the process ends before."""
    give_up_at = time.monotonic() + PATIENCE_S
    while not holds():
        if process.poll() is not None:
            raise CheckError(f"{what}: the process ended with {process.returncode}")
        if time.monotonic() > give_up_at:
            raise CheckError(f"{what}: not within {PATIENCE_S:.0f} s")
        time.sleep(0.2)


@contextmanager
def running(command: list[str], directory: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that ends with the context."""
    with log.open("wb") as stream:
        process = subprocess.Popen(command, cwd=directory, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def demo(directory: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """`certstream --demo` on a port that the kernel chose."""
    config, log = directory / "config.yaml", directory / "demo.log"
    config.write_text(yaml.safe_dump({"host": "127.0.0.1", "port": 0, "log_format": "json"}))
    command = [sys.executable, "-m", "certstream", "--config", str(config), "--demo"]
    with running(command, DEPLOY.parent, log) as process:
        wait(f"the demo serves ({log})", lambda: '"serving"' in log.read_text(), process)
        (line,) = [line for line in map(json.loads, log.read_text().splitlines()) if line["event"] == "serving"]
        yield process, line["port"]


@contextmanager
def prometheus(directory: Path, target: int) -> Iterator[tuple[subprocess.Popen[bytes], Prometheus]]:
    """Prometheus with our configuration and alerts, at a pace of one second, with the demo as target."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    config = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
    for job in config["scrape_configs"]:
        own = job["job_name"] == "prometheus"
        job["static_configs"] = [{"targets": [f"127.0.0.1:{port if own else target}"]}]
    (directory / "prometheus.yml").write_text(yaml.safe_dump(config))
    shutil.copy(DEPLOY / "alerts.yml", directory)
    command = ["prometheus", "--config.file=prometheus.yml", "--storage.tsdb.path=data"]
    log = directory / "prometheus.log"
    with running([*command, f"--web.listen-address=127.0.0.1:{port}"], directory, log) as process:
        server = Prometheus(port)
        wait(f"Prometheus serves ({log})", server.ready, process)
        yield process, server


def expressions() -> dict[str, str]:
    """The alerts' expressions by their names."""
    groups = yaml.safe_load((DEPLOY / "alerts.yml").read_text())["groups"]
    return {rule["alert"]: rule["expr"] for group in groups for rule in group["rules"]}


def dashboard() -> dict[str, Any]:
    """The dashboard."""
    document: dict[str, Any] = json.loads((DEPLOY / "grafana" / "dashboards" / "certstream.json").read_text())
    return document


def filled(query: str) -> str:
    """A query of the dashboard with its variables filled in."""
    for name, value in VARIABLES.items():
        query = query.replace(name, value)
    return query


def queries() -> Iterator[tuple[str, str]]:
    """Title and query of everything that the dashboard asks for."""
    document = dashboard()
    for panel in document["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], filled(target["expr"])
    for note in document["annotations"]["list"]:
        if "expr" in note:
            yield note["name"], filled(note["expr"])


def check_metrics(port: int) -> None:
    """Promtool finds nothing to say of the exposition."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        exposition = answer.read()
    linted = subprocess.run(["promtool", "check", "metrics"], input=exposition, capture_output=True, check=False)
    if linted.returncode or linted.stderr.strip():
        raise CheckError(f"promtool check metrics: {linted.stderr.decode()}{linted.stdout.decode()}")
    passed(f"promtool check metrics, {len(exposition.splitlines())} lines of /metrics")


def check_dashboard(server: Prometheus) -> None:
    """Every query is answered, and those that should have data have some."""
    asked = dict.fromkeys(queries())
    for title, query in asked:
        if not server.values(query) and not MAY_BE_EMPTY.search(query):
            raise CheckError(f"panel {title!r} has no data: {query}")
    for variable in dashboard()["templating"]["list"]:
        if variable["type"] == "query":
            found = re.fullmatch(r"label_values\((.+), (\w+)\)", filled(variable["definition"]))
            if found is None or not server.get(f"label/{found[2]}/values", **{"match[]": found[1]}):
                raise CheckError(f"variable {variable['name']!r} has no values: {variable['definition']}")
    passed(f"the dashboard's {len(asked)} queries have answers, and data")


def check_alerts(server: Prometheus) -> None:
    """Prometheus evaluates every alert, and a demo that is well raises none."""
    rules = [rule for group in server.get("rules")["groups"] for rule in group["rules"]]
    wrong = [f"{rule['name']}: {rule.get('lastError')}" for rule in rules if rule["health"] != "ok"]
    if wrong or {rule["name"] for rule in rules} != set(expressions()):
        raise CheckError(f"Prometheus does not evaluate all alerts: {wrong}")
    holding = {name for name, query in expressions().items() if server.get("query", query=query)["result"]}
    if holding - MAY_HOLD:
        raise CheckError(f"alerts of a demo that is well: {sorted(holding - MAY_HOLD)}")
    passed(f"{len(rules)} alerts are evaluated, none holds for a demo that is well")


def check(directory: Path) -> None:
    """All of it. Raises CheckError."""
    with ExitStack() as stack:
        service, port = stack.enter_context(demo(directory))
        process, server = stack.enter_context(prometheus(directory, port))
        passed(f"prometheus scrapes the demo on port {port}")
        for query in (
            'up{job="certstream"} == 1',
            "rate(certstream_log_entries_total[30s]) > 0",
            "rate(certstream_delta_flush_duration_seconds_count[30s]) > 0",
            "rate(certstream_decode_failures_total[30s]) >= 0",
        ):
            wait(f"series of {query}", lambda query=query: bool(server.values(query)), process)  # type: ignore[misc]
        wait(
            "alerts evaluated",
            lambda: all(r["health"] != "unknown" for g in server.get("rules")["groups"] for r in g["rules"]),
            process,
        )
        check_metrics(port)
        check_dashboard(server)
        check_alerts(server)
        service.send_signal(signal.SIGTERM)
        if service.wait(30) != 0:
            raise CheckError(f"the demo ended with {service.returncode}")
        wait("CertstreamDown", lambda: server.holds('ALERTS{alertname="CertstreamDown"}'), process)
        passed("CertstreamDown is raised when the demo ends")


def main() -> int:
    """Check, and say what does not hold."""
    with tempfile.TemporaryDirectory(prefix="certstream-prometheus-") as directory:
        try:
            check(Path(directory))
        except CheckError as exc:
            print(f"FAIL {exc}", file=sys.stderr)
            for log in sorted(Path(directory).glob("*.log")):
                print(f"--- {log.name}\n{log.read_text()[-2000:]}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
