"""What the image is built from and how compose runs it: the files agree with each other and with the program."""

from __future__ import annotations

import re
import subprocess
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import yaml

from certstream.config import load_config
from certstream.healthcheck import TIMEOUT_S

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
DOCKERFILE = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]


def instructions(name: str, stage: int = -1) -> list[str]:
    """The arguments of an instruction in a stage of the Dockerfile; by default the last, which is the image."""
    stages = re.split(r"^FROM .*$", DOCKERFILE, flags=re.MULTILINE)[1:]
    return [" ".join(found.split()) for found in re.findall(rf"^{name} (.*)$", stages[stage], re.MULTILINE)]


def copied() -> list[str]:
    """Everything that the build takes from this directory."""
    lines = [line.split() for stage in (0, 1) for line in instructions("COPY", stage) if "--from=" not in line]
    return [source for line in lines for source in line[:-1]]


def interpolated(text: str) -> str:
    """As compose does it with an empty environment."""
    return re.sub(r"\$\{[A-Z_]+:?-([^}]*)\}", r"\1", text)


def mounts(service: str) -> dict[str, str]:
    """What a service has mounted, by place: a volume's name or a path beside compose.yaml."""
    parts = [interpolated(volume).split(":") for volume in SERVICES[service]["volumes"]]
    return {part[1]: part[0] for part in parts}


@pytest.mark.parametrize("source", copied())
def test_the_build_finds_what_it_copies(source: str) -> None:
    assert (ROOT / source).exists()
    kept = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    assert source in kept


def test_the_build_is_sent_nothing_else() -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] not in "#"]
    assert lines[0] == "*"
    assert sorted(line[1:] for line in lines if line.startswith("!")) == sorted(copied())
    assert "**/__pycache__" in lines


def test_wheels_are_installed_by_their_hashes_and_the_tools_of_development_are_not() -> None:
    runs = instructions("RUN", 0)
    downloads = [run for run in runs if "pip download" in run]
    assert len(downloads) == 1
    assert "--require-hashes" in downloads[0]
    assert "--requirement requirements.lock" in downloads[0]
    installs = [run for run in runs if re.search(r"pip .*install ", run)]
    assert len(installs) == 1
    assert installs[0].startswith("PIP_NO_INDEX=1 PIP_FIND_LINKS=/build/wheels ")
    assert installs[0].endswith(" ./source")


def test_the_image_runs_as_one_fixed_user_on_one_volume() -> None:
    (user,) = instructions("USER")
    assert user == "10001:10001"
    assert instructions("VOLUME") == instructions("WORKDIR") == ["/data"]
    assert f"certstream:x:{user}::/data:" in instructions("RUN")[0]
    assert f"chown {user} /data" in instructions("RUN")[0]


def test_the_engine_waits_longer_for_a_health_check_than_the_check_for_its_answer() -> None:
    (check,) = instructions("HEALTHCHECK")
    timeout = re.search(r"--timeout=(\d+)s", check)
    assert timeout is not None
    assert int(timeout[1]) > 2 * TIMEOUT_S  # connecting and answering
    assert check.endswith('CMD ["certstream", "--healthcheck"]')


def test_all_that_the_images_configuration_names_lies_on_the_volume() -> None:
    loaded = load_config(DEPLOY / "etc" / "config.yaml", {})
    config = loaded.config
    assert (loaded.warnings, loaded.ignored) == ((), ())
    paths = [config.ct_log.state_file, config.delta_sink.table_path, config.backfill.staging_path]
    assert all(fnmatch(str(path), "/data/?*") for path in paths)
    assert f"EXPOSE {config.port}" in DOCKERFILE


def test_compose_runs_the_image_without_privileges_on_a_volume_of_its_own() -> None:
    service = SERVICES["certstream"]
    assert mounts("certstream") == {"/data": "data", "/etc/certstream": "./etc"}
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["build"]["context"] == ".."
    assert "data" in COMPOSE["volumes"]


@pytest.mark.parametrize(("flags", "run"), [(None, ["--demo"]), ("", [])])
def test_compose_runs_the_demo_unless_told_otherwise(flags: str | None, run: list[str]) -> None:
    template = SERVICES["certstream"]["command"]
    command = interpolated(template) if flags is None else re.sub(r"\$\{SERVICE_FLAGS-.*\}", flags, template)
    assert command.split() == run


@pytest.mark.parametrize("service", SERVICES)
def test_what_compose_mounts_is_there(service: str) -> None:
    for place, source in mounts(service).items():
        if source.startswith("."):
            assert (DEPLOY / source).exists(), place
        else:
            assert source in COMPOSE["volumes"]


def test_prometheus_scrapes_the_service_of_compose() -> None:
    prometheus = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())
    targets = [
        target
        for job in prometheus["scrape_configs"]
        for static in job["static_configs"]
        for target in static["targets"]
        if job["job_name"] == "certstream"
    ]
    assert targets == ["certstream:8080"]
    rules = PurePosixPath(mounts("prometheus").get("/etc/prometheus/alerts.yml", ""))
    assert [rules.name] == prometheus["rule_files"]


def test_grafana_finds_its_data_source_and_its_dashboard() -> None:
    folder = DEPLOY / "grafana" / "provisioning"
    (source,) = yaml.safe_load((folder / "datasources" / "prometheus.yml").read_text())["datasources"]
    host, port = source["url"].removeprefix("http://").split(":")
    assert f"127.0.0.1:{port}:{port}" in SERVICES[host]["ports"]
    (provider,) = yaml.safe_load((folder / "dashboards" / "certstream.yml").read_text())["providers"]
    places = mounts("grafana")
    assert places[provider["options"]["path"]] == "./grafana/dashboards"
    assert places["/etc/grafana/provisioning/datasources"] == "./grafana/provisioning/datasources"
    assert places["/etc/grafana/provisioning/dashboards"] == "./grafana/provisioning/dashboards"
    home = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert (DEPLOY / "grafana" / "dashboards" / PurePosixPath(home).name).is_file()


@pytest.mark.parametrize("service", ["prometheus", "grafana"])
def test_what_others_make_has_a_version_and_is_published_on_this_machine_alone(service: str) -> None:
    assert re.search(r":v?\d+\.\d+\.\d+$", SERVICES[service]["image"])
    assert all(port.startswith("127.0.0.1:") for port in SERVICES[service]["ports"])


def test_what_the_documents_say_of_compose_is_what_it_reads() -> None:
    document = (ROOT / "docs" / "deployment-container.md").read_text()
    rows = dict(re.findall(r"^\| `([A-Z_]+)` \| `([^`]*)` \|", document, re.MULTILINE))
    read = dict(re.findall(r"\$\{([A-Z_]+):?-([^}]*)\}", (DEPLOY / "compose.yaml").read_text()))
    assert rows == {**read, "SERVICE_ETC": "deploy/etc"}
    assert DOCKERFILE.splitlines().count(f"ARG BASE={rows['BASE']}") == 1


def test_the_check_of_the_image_is_a_script_that_bash_reads() -> None:
    script = DEPLOY / "check-image.sh"
    assert script.stat().st_mode & 0o111
    subprocess.run(["bash", "-n", str(script)], check=True, timeout=30)
