"""The files of docker/ray: held against schemas, the Serve config that is tested, and each other."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from calibox_server.on_ray.proxy import CALLBACK
from calibox_server.on_ray.shares import read_settings
from tests.support.deployment import DOCKER, ROOT, arguments, read_yaml
from tests.support.kubernetes import check, written
from tests.support.ray_cluster import HAPROXY

SERVICE = read_yaml("ray/rayservice.yaml")
CLUSTER = SERVICE["spec"]["rayClusterConfig"]
GROUPS = [CLUSTER["headGroupSpec"], *CLUSTER["workerGroupSpecs"]]
DOCKERFILE = (DOCKER / "ray/Dockerfile").read_text()


def serve_config() -> dict[str, Any]:
    config: dict[str, Any] = read_yaml("ray/serve.yaml")
    return config


def test_the_manifest_serves_what_the_tested_config_serves() -> None:
    expected = serve_config()
    expected["http_options"]["host"] = "0.0.0.0"
    expected["applications"][0]["args"]["models"] = "/models"
    assert yaml.safe_load(SERVICE["spec"]["serveConfigV2"]) == expected


@pytest.mark.parametrize("group", GROUPS, ids=["head", "workers"])
def test_a_pod_of_the_cluster_is_what_the_api_takes_and_confined(group: dict[str, Any]) -> None:
    check([{"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "x"}, "template": group["template"]}])
    pod = group["template"]["spec"]
    (container,) = pod["containers"]
    assert container["image"] == f"calibox:{arguments()['VERSION']}-ray"
    assert container["resources"].keys() == {"requests", "limits"}
    assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    assert pod["enableServiceLinks"] is False  # CALIBOX_PORT=tcp://... is no port


def test_replicas_run_on_workers_that_have_their_models_and_their_cores() -> None:
    assert GROUPS[0]["rayStartParams"]["num-cpus"] == "0"
    (application,) = yaml.safe_load(SERVICE["spec"]["serveConfigV2"])["applications"]
    (deployment,) = application["deployments"]
    (workers,) = GROUPS[1:]
    pod = workers["template"]["spec"]
    (container,) = pod["containers"]
    assert container["volumeMounts"] == [
        {"name": "models", "mountPath": application["args"]["models"], "readOnly": True}
    ]
    (volume,) = pod["volumes"]
    assert volume["persistentVolumeClaim"]["claimName"] == written("base/models.yaml")[0]["metadata"]["name"]
    cores, wanted = int(container["resources"]["limits"]["cpu"]), deployment["ray_actor_options"]["num_cpus"]
    room = cores // wanted * workers["maxReplicas"]
    assert room >= deployment["autoscaling_config"]["max_replicas"]
    assert pod["terminationGracePeriodSeconds"] > deployment["graceful_shutdown_timeout_s"]


def test_a_replica_has_the_time_to_answer_what_it_took() -> None:
    (application,) = serve_config()["applications"]
    (deployment,) = application["deployments"]
    settings = read_settings(application["args"])
    assert deployment["graceful_shutdown_timeout_s"] >= settings.drain_s + 5
    assert deployment["max_ongoing_requests"] == settings.queue_size


def test_versions_are_those_that_the_tests_ran_with() -> None:
    (version,) = re.findall(r"^ray==(.*)$", (ROOT / "constraints.txt").read_text(), re.M)
    assert CLUSTER["rayVersion"] == version
    assert f"rayproject/ray:{version}-py" in DOCKERFILE


def test_the_image_is_linted_has_the_callback_and_copies_what_is_let_in() -> None:
    linter = Path(sys.executable).with_name("hadolint")
    linted = subprocess.run([linter, DOCKER / "ray/Dockerfile"], capture_output=True, text=True, check=False)
    assert linted.returncode == 0, linted.stdout + linted.stderr
    assert f"RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH={CALLBACK}" in DOCKERFILE
    assert "RAY_USAGE_STATS_ENABLED=0" in DOCKERFILE
    assert all(f"{name}={value}" in DOCKERFILE for name, value in HAPROXY.items())  # as it was tested
    copied = [s for line in re.findall(r"^COPY (?:--\S+ )?(.*)$", DOCKERFILE, re.M) for s in line.split()[:-1]]
    let_in = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    assert "docker/locks/cpu.txt" in copied
    assert [source for source in copied if not (ROOT / source).exists()] == []
    assert [s for s in copied if not any(s == path or s.startswith(f"{path}/") for path in let_in)] == []


def test_hashes_are_taken_off_the_locked_versions() -> None:
    (program,) = re.findall(r"RUN sed '([^']*)'", DOCKERFILE)
    plain = subprocess.run(
        ["sed", program, DOCKER / "locks/cpu.txt"], capture_output=True, text=True, check=True
    ).stdout
    lines = plain.splitlines()
    assert [line for line in lines if not re.fullmatch(r"[\w.-]+==[\w.]+(?: ; .*)?", line)] == []
    assert any(line.startswith("numpy==") for line in lines)
