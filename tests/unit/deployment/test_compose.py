"""compose.yaml: against the schema of the Compose specification, and for what the schema does not know."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer.main

from calibox_client.evaluation.commands import evaluate
from calibox_server.options import ENV_PREFIX, Options
from calibox_server.settings import load_settings
from tests.support.deployment import DOCKER, ROOT, filled, read_yaml, stages

COMPOSE = read_yaml("compose.yaml")
KEYS = read_yaml("compose.keys.yaml")
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
SERVERS = ("serve", "serve-gpu", "replica")
OURS = {"DATA", "MODELS"}  # folders that whoever starts it names


def test_both_files_are_what_the_specification_says() -> None:
    checker = Path(sys.executable).with_name("check-jsonschema")
    files = [DOCKER / "compose.yaml", DOCKER / "compose.keys.yaml"]
    command = [checker, "--builtin-schema", "vendor.compose-spec", *files]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def resolved(*words: str) -> dict[str, Any]:
    """The services as Compose itself understands them; the test is skipped where it is not installed."""
    found = next((c for c in (["docker", "compose"], ["docker-compose"]) if shutil.which(c[0]) and works(c)), None)
    if found is None:
        pytest.skip("neither `docker compose` nor docker-compose runs here")
    command = [*found, "-f", str(DOCKER / "compose.yaml"), *words, "config", "--format", "json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    services: dict[str, Any] = json.loads(done.stdout)["services"]
    return services


def works(command: list[str]) -> bool:
    return subprocess.run([*command, "version"], capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize(
    ("words", "services"),
    [
        ([], {"serve"}),
        (["--profile", "gpu"], {"serve-gpu"}),
        (["--profile", "proxy"], {"replica", "proxy"}),
        (["--profile", "cpu", "--profile", "monitoring"], {"serve", "prometheus", "grafana"}),
        (["--profile", "gpu", "--profile", "eval"], {"serve-gpu", "eval"}),
    ],
)
def test_compose_starts_what_a_profile_names(words: list[str], services: set[str]) -> None:
    assert resolved(*words).keys() == services


def test_compose_adds_keys_and_keeps_what_a_server_had() -> None:
    plain = resolved()["serve"]
    keyed = resolved("-f", str(DOCKER / "compose.keys.yaml"))["serve"]
    assert keyed.pop("secrets")[0]["source"] == "api-keys"
    assert keyed["environment"].pop("CALIBOX_API_KEYS_FILE") == "/run/secrets/api-keys"
    assert keyed == plain


@pytest.mark.parametrize("name", SERVICES)
def test_every_container_is_confined(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["deploy"]["resources"]["limits"].keys() == {"cpus", "memory", "pids"}
    assert "privileged" not in service
    assert not any("docker.sock" in str(volume) for volume in service.get("volumes", []))


@pytest.mark.parametrize("name", SERVICES)
def test_every_container_has_a_health_check_or_ends_by_itself(name: str) -> None:
    service = SERVICES[name]
    image_checks = "build" in service and stages()[service["build"]["target"]].last("HEALTHCHECK") != "NONE"
    assert image_checks or "healthcheck" in service or service["restart"] == "no"


@pytest.mark.parametrize("name", SERVICES)
def test_images_are_built_from_a_stage_or_have_an_exact_version(name: str) -> None:
    service = SERVICES[name]
    assert re.search(r":v?\d+\.\d+\.\d+(-\w+)?$", filled(service["image"]))
    if "build" in service:
        assert service["build"]["target"] in stages()
        assert filled(service["image"]).endswith(f"-{service['build']['target']}")
        assert (DOCKER / service["build"]["context"]).resolve() == ROOT


def test_each_service_has_one_profile_and_the_cpu_is_the_default() -> None:
    profiles = {name: service["profiles"] for name, service in SERVICES.items()}
    assert profiles == {
        "serve": ["cpu"],
        "serve-gpu": ["gpu"],
        "replica": ["proxy"],
        "proxy": ["proxy"],
        "eval": ["eval"],
        "prometheus": ["monitoring"],
        "grafana": ["monitoring"],
    }
    assert "COMPOSE_PROFILES=cpu\n" in (DOCKER / ".env").read_text()


def test_a_gpu_is_asked_for_by_its_own_profile_alone() -> None:
    asking = {name for name, service in SERVICES.items() if "reservations" in service["deploy"]["resources"]}
    assert asking == {"serve-gpu"}


@pytest.mark.parametrize("name", SERVERS)
def test_variables_of_the_servers_are_settings_with_values_that_are_taken(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = SERVICES[name]["environment"] | KEYS["services"][name]["environment"]
    for variable, value in environment.items():
        assert variable.startswith(ENV_PREFIX)
        assert variable.removeprefix(ENV_PREFIX).lower() in Options.model_fields
        monkeypatch.setenv(variable, filled(value))
    settings = load_settings({})
    assert all(settings.source(v.removeprefix(ENV_PREFIX).lower()) == "environment" for v in environment)
    grace = SERVICES[name]["stop_grace_period"]
    assert grace.endswith("s")
    assert int(grace[:-1]) >= settings.drain_s + 5  # the process needs a moment after the drain


def test_replicas_believe_the_proxy_and_nobody_else_has_its_addresses() -> None:
    (network,) = COMPOSE["networks"]["default"]["ipam"]["config"]
    assert SERVICES["replica"]["environment"]["CALIBOX_TRUSTED_PROXIES"] == network["subnet"]
    assert "ports" not in SERVICES["replica"]


def test_all_that_serve_have_the_name_that_others_ask_for() -> None:
    aliases = {name: s["networks"]["default"]["aliases"] for name, s in SERVICES.items() if "networks" in s}
    assert aliases == {name: ["calibox"] for name in SERVERS}


@pytest.mark.parametrize("document", [COMPOSE, KEYS], ids=["compose", "keys"])
def test_what_is_mounted_from_the_checkout_exists(document: dict[str, Any]) -> None:
    for service in document["services"].values():
        for volume in service.get("volumes", []):
            if volume["type"] == "volume":
                assert volume["source"] in COMPOSE["volumes"]
                continue
            named = re.match(r"\$\{(\w+):-", volume["source"])
            assert volume["read_only"] is True
            if named is None or named[1] == "MODELS":
                assert (DOCKER / filled(volume["source"])).exists()
            assert named is None or (named[1] in OURS and volume["bind"] == {"create_host_path": False})


def test_ports_are_published_to_this_machine_alone_unless_told_otherwise() -> None:
    published = [filled(port) for service in SERVICES.values() for port in service.get("ports", [])]
    assert len(published) == 5
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_the_eval_service_says_what_the_command_understands() -> None:
    app = typer.Typer()
    app.command()(evaluate)
    command = typer.main.get_command(app)
    name, *words = SERVICES["eval"]["command"]
    assert name == "eval"
    known = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= known


def test_the_file_with_keys_adds_to_services_that_exist_and_declares_its_secrets() -> None:
    assert KEYS["services"].keys() == {*SERVERS, "prometheus"}
    used = {secret for service in KEYS["services"].values() for secret in service["secrets"]}
    assert used == KEYS["secrets"].keys()
    configured = KEYS["services"]["prometheus"]["command"][0].removeprefix("--config.file=/etc/prometheus/")
    (scrape,) = read_yaml(f"prometheus/{configured}")["scrape_configs"]
    assert scrape["authorization"]["credentials_file"] == "/run/secrets/metrics-key"
    assert KEYS["services"]["prometheus"]["command"][1:] == SERVICES["prometheus"]["command"][1:]
