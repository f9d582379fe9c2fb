"""What comes for containers: that it can be read, and says what the daemon needs."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from broker.config.options import options_of
from broker.config.settings import Settings
from broker.observe.lag import TOLD
from tests.image import ignored_patterns, instructions, left_out

CONTRIB = Path(__file__).parent.parent.parent / "contrib"
DOCKER, KUBERNETES = CONTRIB / "docker", CONTRIB / "kubernetes"
COMPOSE = ("compose.yml", "compose.redis.yml")
MANIFESTS = ("txbroker.yaml", "single.yaml")
VARIABLES = {f"TXBROKER_{name.upper()}" for name in options_of(Settings)}


def said(word: str) -> str:
    """Return what the last instruction *word* says."""
    return [rest for found, rest in instructions() if found == word][-1]


def test_the_image_is_slim_and_runs_as_an_ordinary_user() -> None:
    words = [word for word, _ in instructions()]
    assert said("FROM").endswith("-slim")
    assert said("USER") == "1000:1000"
    assert words.index("USER") < words.index("ENTRYPOINT")
    assert "--uid 1000" in said("RUN")


def test_the_image_ends_by_the_signal_that_the_daemon_hears() -> None:
    assert json.loads(said("ENTRYPOINT")) == ["twistd", "-n", "--pidfile=", "broker"]  # no shell between
    assert said("STOPSIGNAL") == "SIGTERM"


def test_the_image_keeps_its_state_on_a_volume() -> None:
    environ = dict(pair.split("=", 1) for pair in shlex.split(said("ENV")))
    assert environ["STATE_DIRECTORY"] == said("VOLUME") == said("WORKDIR") == "/var/lib/txbroker"
    assert not [name for name in environ if name.startswith("TXBROKER")]


def test_the_image_asks_for_its_own_health() -> None:
    command = json.loads(said("HEALTHCHECK").partition("CMD ")[2])
    assert command[:2] == ["python", "-c"]
    compile(command[2], "HEALTHCHECK", "exec")
    assert f":{said('EXPOSE')}/health" in command[2]


def test_what_an_image_of_the_repository_does_not_need_is_left_out() -> None:
    patterns = ignored_patterns()
    for path in (".git", ".venv", ".env", "txbroker.db-wal", "docs/_build", "broker/core/__pycache__", ".mypy_cache"):
        assert left_out(path, patterns), path
    for path in ("broker", "twisted", "protocols", "setup.cfg", "README.rst"):
        assert not left_out(path, patterns), path


def test_the_secret_of_compose_is_in_no_image_and_in_no_commit() -> None:
    paths = {
        str((DOCKER / secret["file"]).relative_to(CONTRIB.parent))
        for name in COMPOSE
        for secret in yaml.safe_load((DOCKER / name).read_text())["secrets"].values()
    }
    assert paths == {"contrib/docker/api_secret"}
    for file in (DOCKER / "Dockerfile.dockerignore", CONTRIB.parent / ".gitignore"):
        assert paths <= set(file.read_text().split())


def test_ports_of_compose_are_not_those_of_the_daemon_inside() -> None:
    services = yaml.safe_load((DOCKER / "compose.redis.yml").read_text())["services"]
    ports = {port for one in services.values() for port in one.get("ports", ())}
    assert ports == {"8081:8000", "8082:8000"}  # 8001 is the admin port


@pytest.mark.parametrize("path", sorted([*DOCKER.iterdir(), *KUBERNETES.iterdir()]), ids=lambda path: path.name)
def test_there_is_no_secret_in_any_file(path: Path) -> None:
    text = path.read_text()
    assert not re.search(r"TXBROKER_(API_SECRET|ADMIN_SECRET|JWT_SECRET|API_KEYS)\b(?!_FILE)", text)
    assert {name.removesuffix("_FILE") for name in re.findall(r"TXBROKER_[A-Z_]+", text)} <= VARIABLES


@pytest.mark.parametrize("name", COMPOSE)
def test_services_of_compose_are_hardened_and_have_time_to_stop(name: str) -> None:
    content = yaml.safe_load((DOCKER / name).read_text())
    services = {key: one for key, one in content["services"].items() if "build" in one}
    assert services
    for service in services.values():
        place = (DOCKER / service["build"]["context"] / service["build"]["dockerfile"]).resolve()
        assert place == DOCKER / "Dockerfile"
        assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])
        assert service["environment"]["TXBROKER_API_SECRET_FILE"] == "/run/secrets/api_secret"
        assert service["secrets"] == ["api_secret"]
        assert service["mem_limit"] == "1g"  # else the broker would take half of the machine for itself
        shared = "TXBROKER_STORE" in service["environment"]
        assert int(service["stop_grace_period"].rstrip("s")) > (10 if shared else 2)
    volumes = {text.partition(":")[0] for one in content["services"].values() for text in one.get("volumes", ())}
    assert volumes == set(content["volumes"])


def test_nodes_of_compose_have_names_of_their_own() -> None:
    services = yaml.safe_load((DOCKER / "compose.redis.yml").read_text())["services"]
    names = {name: one["environment"]["TXBROKER_NODE"] for name, one in services.items() if "build" in one}
    assert names == {"node1": "node1", "node2": "node2"}
    assert services["redis"]["command"][1:5] == ["--appendonly", "yes", "--appendfsync", "always"]


def objects(name: str) -> dict[str, Any]:
    """Return the objects of a manifest by their kind."""
    return {one["kind"]: one for one in yaml.safe_load_all((KUBERNETES / name).read_text())}


def pods() -> Iterator[tuple[str, Any]]:
    for name in MANIFESTS:
        for kind in ("Deployment", "StatefulSet"):
            if kind in objects(name):
                yield name, objects(name)[kind]["spec"]["template"]["spec"]


@pytest.mark.parametrize(("name", "pod"), list(pods()))
def test_pods_are_probed_at_the_pages_for_that(name: str, pod: dict[str, Any]) -> None:
    (container,) = pod["containers"]
    port = container["ports"][0]
    for probe, path in (("startupProbe", "/health"), ("livenessProbe", "/health"), ("readinessProbe", "/ready")):
        assert container[probe]["httpGet"] == {"path": path, "port": port["name"]}
    assert port["containerPort"] == int(said("EXPOSE"))


@pytest.mark.parametrize(("name", "pod"), list(pods()))
def test_pods_are_hardened_and_get_no_variables_of_services(name: str, pod: dict[str, Any]) -> None:
    (container,) = pod["containers"]
    assert (pod["enableServiceLinks"], pod["automountServiceAccountToken"]) == (False, False)
    assert (pod["securityContext"]["runAsNonRoot"], pod["securityContext"]["runAsUser"]) == (True, 1000)
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert said("VOLUME") in mounted


def test_a_node_has_time_to_drain_after_nobody_sends_it_clients() -> None:
    pod = objects("txbroker.yaml")["Deployment"]["spec"]["template"]["spec"]
    command = pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    assert command[0] == "sleep"
    assert pod["terminationGracePeriodSeconds"] > int(command[1]) + 10


@pytest.mark.parametrize(("name", "pod"), list(pods()))
def test_a_loop_that_was_blocked_for_a_moment_takes_no_node_away(name: str, pod: Any) -> None:
    probe = pod["containers"][0]["readinessProbe"]
    assert probe["periodSeconds"] * (probe["failureThreshold"] - 1) > TOLD


def test_a_disruption_leaves_a_node() -> None:
    found = objects("txbroker.yaml")
    spec = found["Deployment"]["spec"]
    assert found["PodDisruptionBudget"]["spec"] == {"minAvailable": 1, "selector": spec["selector"]}
    assert spec["replicas"] > 1
    assert spec["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    assert found["Service"]["spec"]["selector"] == spec["selector"]["matchLabels"]
