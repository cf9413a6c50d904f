# SPDX-License-Identifier: Apache-2.0
"""
``docker-compose.yaml`` held against what it names: the cluster's commands, Airflow's settings, the emulator.

No engine is needed; where a ``docker-compose`` is installed, it reads the file too. What is Celery's is looked up where
that is installed: ``make test-cluster`` begins with these tests.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from demo import secrets
from demo.keeping import Ports
from demo.stack import EMULATOR_MODULE, MIGRATE, environment
from tests.system.cluster.stack import CLUSTER_COMPONENTS, REPLICAS, TIMES, celery_settings

pytestmark = pytest.mark.newest_airflow

OURS = {"AIRFLOW_CONN_GEMINI_BATCH_DEFAULT", "AIRFLOW_HOME"}
HAS_CELERY = importlib.util.find_spec("airflow.providers.celery") is not None


@pytest.fixture(scope="module")
def compose(root: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((root / "docker-compose.yaml").read_text())
    return loaded


@pytest.fixture(scope="module")
def services(compose: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = compose["services"]
    return found


def test_it_runs_the_commands_of_the_cluster(services: dict[str, Any]) -> None:
    airflow = {name: tuple(service["command"]) for name, service in services.items() if name.startswith("airflow-")}
    assert airflow.pop("airflow-init") == MIGRATE
    assert airflow == {f"airflow-{name}": command for name, command in CLUSTER_COMPONENTS.items()}
    assert services["emulator"]["entrypoint"] == ["python", "-m", EMULATOR_MODULE]


def test_there_are_two_workers_and_two_triggerers(services: dict[str, Any]) -> None:
    several = {name: service["deploy"]["replicas"] for name, service in services.items() if "deploy" in service}
    assert several == {f"airflow-{name}": count for name, count in REPLICAS.items()}
    assert set(REPLICAS.values()) == {2}
    # Containers of one service cannot share a port of this machine.
    assert not [name for name in several if "ports" in services[name]]


def test_scheduler_and_workers_meet_at_redis(services: dict[str, Any]) -> None:
    environment = services["airflow-worker"]["environment"]
    host, port = re.fullmatch(r"redis://(\w+):(\d+)/0", environment["AIRFLOW__CELERY__BROKER_URL"]).groups()  # type: ignore[union-attr]
    assert (services[host]["command"][0], port) == ("redis-server", "6379")
    database = environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"]
    assert environment["AIRFLOW__CELERY__RESULT_BACKEND"] == f"db+{database}"
    assert environment["AIRFLOW__CORE__EXECUTOR"] == celery_settings("", "")["CORE__EXECUTOR"]
    assert all("redis" in service["depends_on"] for name, service in services.items() if name == "airflow-worker")


def test_every_airflow_command_exists(services: dict[str, Any], tmp_path: Path) -> None:
    from airflow.cli import cli_parser

    parser = cli_parser.get_parser()
    for name, service in services.items():
        if name.startswith("airflow-") and (HAS_CELERY or service["command"][0] != "celery"):
            parser.parse_args(service["command"])
        check = service["healthcheck"]["test"] if "healthcheck" in service else []
        if check[:1] == ["CMD-SHELL"]:
            words = check[1].replace('"$${HOSTNAME}"', "some-host").split()
            assert words[0] == ("celery" if name == "airflow-worker" else "airflow")
            if words[0] == "airflow":
                parser.parse_args(words[1:])
            elif HAS_CELERY:
                command = importlib.import_module("celery.bin.celery").celery
                assert words[1:4] == ["--app", "airflow.providers.celery.executors.celery_executor.app", "inspect"]
                command.commands["inspect"].make_context("inspect", words[4:], resilient_parsing=True)


def test_every_setting_is_one_of_airflow(services: dict[str, Any], tmp_path: Path) -> None:
    from airflow.configuration import conf

    known = {
        f"AIRFLOW__{section}__{option}".upper()
        for section, content in conf.configuration_description.items()
        for option in content["options"]
    }
    named = {name for service in services.values() for name in service.get("environment", {})}
    named |= set(environment(tmp_path, tmp_path, tmp_path, Ports(1, 2, 3, 4))) - set(os.environ)
    named |= {f"AIRFLOW__{name}" for name in (*celery_settings("", ""), *TIMES)}
    ours = {name for name in named if name.startswith("AIRFLOW")}
    if not HAS_CELERY:
        ours = {name for name in ours if not name.startswith("AIRFLOW__CELERY_")}
    assert len(ours) > 10
    assert ours - known - OURS == set()


def test_the_connection_reaches_the_emulator_service(services: dict[str, Any]) -> None:
    text = services["airflow-scheduler"]["environment"]["AIRFLOW_CONN_GEMINI_BATCH_DEFAULT"]
    connection = json.loads(text)
    host, port = re.fullmatch(r"http://([\w-]+):(\d+)", connection["host"]).groups()  # type: ignore[union-attr]
    command = services[host]["command"]
    assert command[command.index("--port") + 1] == port
    assert connection["conn_type"] == "gemini_batch"
    assert connection["extra"]["allow_http"] is True


def test_emulator_answers_its_health_check_under_these_options(services: dict[str, Any]) -> None:
    import requests

    from demo.processes import free_ports

    (port,) = free_ports(1)
    service = services["emulator"]
    command = [sys.executable, *service["entrypoint"][1:], *service["command"]]
    command[command.index("--port") + 1] = str(port)
    command[command.index("--host") + 1] = "127.0.0.1"
    url = service["healthcheck"]["test"][-1].replace("8086", str(port)).replace("localhost", "127.0.0.1")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as emulator:
        try:
            assert emulator.stdout is not None
            assert str(port) in emulator.stdout.readline()
            assert requests.get(url, timeout=10).ok
        finally:
            emulator.terminate()


def test_no_secret_is_written_down_and_each_is_asked_for_by_name(root: Path, services: dict[str, Any]) -> None:
    text = (root / "docker-compose.yaml").read_text()
    asked = set(re.findall(r"\$\{([A-Z_]+):\?", text))
    assert asked == set(secrets.fresh())
    example = (root / ".env.example").read_text()
    assert asked == {line.removesuffix("=") for line in example.splitlines() if line.endswith("=")}
    for service in services.values():
        for name, value in service.get("environment", {}).items():
            if re.search("SECRET|FERNET|PASSWORD|SQL_ALCHEMY|RESULT_BACKEND", name):
                assert "${" in value, name


def test_ports_are_open_to_this_machine_alone(services: dict[str, Any]) -> None:
    published = [port for service in services.values() for port in service.get("ports", [])]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_every_long_running_service_has_a_health_check(services: dict[str, Any]) -> None:
    assert {name for name, service in services.items() if "healthcheck" not in service} == {"airflow-init"}


def test_mounted_and_copied_files_exist(root: Path, services: dict[str, Any], compose: dict[str, Any]) -> None:
    for service in services.values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert source in compose["volumes"] or (root / source).exists(), volume
    copied = re.findall(r"^COPY --chown=\S+ (.+) \S+$", (root / "Dockerfile").read_text(), flags=re.MULTILINE)
    sources = [word for line in copied for word in line.split()]
    assert "pyproject.toml" in sources
    let_in = (root / ".dockerignore").read_text().splitlines()
    for source in sources:
        assert (root / source).exists(), source
        assert f"!{source}" in let_in, source


def test_results_of_the_example_dags_lie_in_a_volume(root: Path, services: dict[str, Any]) -> None:
    sources = [path.read_text() for path in (root / "example_dags").glob("*.py")]
    folders = [re.findall(r'^FOLDER = .*"AIRFLOW_HOME".*"(\w+)"\)$', text, re.MULTILINE) for text in sources]
    assert folders == [["gemini_batch"]] * len(sources)
    place = "/opt/airflow/gemini_batch"  # the image's AIRFLOW_HOME is /opt/airflow
    for name, service in services.items():
        if name.startswith("airflow-"):
            assert f"results:{place}" in service["volumes"], name
            assert service["working_dir"] == place, name
    # A volume takes its owner from the image's folder.
    assert f"mkdir -p {place}" in (root / "Dockerfile").read_text()


def test_one_service_builds_the_image_and_the_others_use_it(services: dict[str, Any]) -> None:
    ours = {name: service for name, service in services.items() if name not in ("postgres", "redis")}
    assert [name for name, service in services.items() if "build" in service] == ["emulator"]
    assert len({service["image"] for service in ours.values()}) == 1
    assert {service["pull_policy"] for service in ours.values()} == {"never"}


def test_image_is_the_airflow_of_the_lock_file(root: Path) -> None:
    (locked,) = re.findall(r"^apache-airflow==(\S+)", (root / "requirements/airflow-3.3.txt").read_text(), re.MULTILINE)
    assert f"ARG AIRFLOW_VERSION={locked}\n" in (root / "Dockerfile").read_text()
    assert set(re.findall(r"AIRFLOW_VERSION:-([\d.]+)", (root / "docker-compose.yaml").read_text())) == {locked}


def test_secrets_file_is_for_its_owner_and_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    assert secrets.write_env(path)
    first = path.read_text()
    assert path.stat().st_mode & 0o077 == 0
    assert not secrets.write_env(path)
    assert path.read_text() == first
    assert len(set(secrets.fresh().values()) & set(secrets.fresh().values())) == 0


@pytest.mark.skipif(shutil.which("docker-compose") is None, reason="no docker-compose to ask")
def test_docker_compose_reads_it_and_names_what_is_missing(root: Path, tmp_path: Path) -> None:
    shutil.copy(root / "docker-compose.yaml", tmp_path)
    env = {name: value for name, value in os.environ.items() if name not in secrets.fresh()}

    def config() -> subprocess.CompletedProcess[str]:
        command = ["docker-compose", "config"]
        return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60, check=False)

    refused = config()
    assert refused.returncode != 0
    assert "make env" in refused.stderr
    secrets.write_env(tmp_path / ".env")
    read = config()
    assert read.returncode == 0, read.stderr
