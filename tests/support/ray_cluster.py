"""A Ray cluster of this machine that serves with the file of docker/ray, and its processes, which tests kill."""

import copy
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml

from calibox_server.on_ray.proxy import CALLBACK
from tests.support.deployment import ROOT, read_yaml
from tests.support.gated_engine import PATIENCE_S

START_LIMIT_S = 200  # a dozen processes of Python on a loaded machine
END_LIMIT_S = 90  # with HAProxy it takes half a minute on an idle one
REPLICAS = 2
# Nothing is sent to Ray's makers. The token is that of this process's clusters, which Ray reads once, and no file of it
# is left in the home folder.
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
# Ray's ports are on 127.0.0.1, as they are where Ray does not support clusters of several machines.
LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
# On a machine with other work. Ray has its processes give way (nice 15), and a proxy that takes more than 15 s to start
# is killed and started anew.
PATIENT = {
    "RAY_worker_niceness": "0",
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
    "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "60",
}

_HAPROXY_FILES = {
    "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": "haproxy.cfg",
    "RAY_SERVE_HAPROXY_SOCKET_PATH": "admin.sock",
    "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": "",
    "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": "server-state",
}
# HAProxy, which Ray brings, in place of the proxy in Python.
HAPROXY = {"RAY_SERVE_ENABLE_HA_PROXY": "1"}


@dataclass(frozen=True)
class Cluster:
    """A cluster that serves."""

    url: str  # of its HTTP proxy
    environment: dict[str, str]  # of programs that use it

    def replicas(self) -> set[int]:
        """Ids of the replicas' processes."""
        return self.processes("ray::ServeReplica:calibox:calibox")

    def processes(self, title: str) -> set[int]:
        """Ids of the cluster's processes that call themselves so."""
        numbered = (folder for folder in Path("/proc").iterdir() if folder.name.isdecimal())
        return {int(folder.name) for folder in numbered if _title(folder).startswith(title) and self._owns(folder)}

    def _owns(self, process: Path) -> bool:
        """Whether it is of this cluster: others may run beside it."""
        try:
            variables = (process / "environ").read_bytes().split(b"\0")
        except OSError:
            return False
        return f"RAY_AUTH_TOKEN={QUIET['RAY_AUTH_TOKEN']}".encode() in variables


def adapted(models: Path, port: int, **scaling: Any) -> dict[str, Any]:
    """The shipped Serve config for a test: its own port and models, replicas of one core, health that is asked often.

    Args:
        models: folder of bundles.
        port: that nobody listens on.
        scaling: fields of ``autoscaling_config``; two replicas where none is given.
    """
    config: dict[str, Any] = copy.deepcopy(read_yaml("ray/serve.yaml"))
    config["http_options"]["port"] = port
    (application,) = config["applications"]
    application["args"] = {"models": str(models), "log_level": "warning"}
    (deployment,) = application["deployments"]
    deployment["autoscaling_config"] |= scaling or {"min_replicas": REPLICAS, "max_replicas": REPLICAS}
    deployment |= {"ray_actor_options": {"num_cpus": 1}, "health_check_period_s": 0.5}
    return config


@contextmanager
def ray_cluster(config: Mapping[str, Any], *, cores: int, **variables: str) -> Iterator[Cluster]:
    """A cluster that serves a Serve config on this machine; ended with the block.

    Args:
        config: as `adapted` makes it.
        cores: that the cluster is told to have.
        variables: of the environment of its processes.
    """
    # A short name: sockets in it may have paths of 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="ray-"))
    callback = {"RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": CALLBACK}
    own = {name: f"{folder}/{file}" for name, file in _HAPROXY_FILES.items()}
    environment = os.environ | QUIET | LOOPBACK | PATIENT | callback | own | variables | {"PYTHONPATH": str(ROOT)}
    path = folder / "serve.yaml"
    path.write_text(yaml.safe_dump(dict(config)))
    command = [sys.executable, "-m", "tests.support.ray_driver", str(folder), str(cores), str(path)]
    (deployment,) = config["applications"][0]["deployments"]
    wanted = deployment["autoscaling_config"]["min_replicas"]
    log = (folder / "driver.log").open("w+")
    driver = subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        with driver, log:
            assert driver.stdout is not None
            used = environment | {"RAY_ADDRESS": driver.stdout.readline().strip()}
            cluster = Cluster(f"http://127.0.0.1:{config['http_options']['port']}", used)
            try:
                _wait(driver, cluster, wanted, folder)
                yield cluster
            finally:
                _end(driver, cluster)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _wait(driver: subprocess.Popen[str], cluster: Cluster, wanted: int, folder: Path) -> None:
    until = time.monotonic() + START_LIMIT_S
    with httpx2.Client(base_url=cluster.url, timeout=PATIENCE_S) as client:
        while time.monotonic() < until:
            if driver.poll() is not None:
                break
            try:
                # Each series of any replica's answer tells of one that serves.
                if client.get("/metrics").text.count("\ncalibox_uptime_seconds{") >= wanted:
                    return
            except httpx2.TransportError:
                pass
            time.sleep(0.1)
    logs = [folder / "driver.log", *folder.glob("session_latest/logs/serve/*.log")]
    told = "\n".join(f"{log.name}: {log.read_text()[-2000:]}" for log in logs)
    pytest.fail(f"the Ray cluster did not serve. {told}", pytrace=False)


def _end(driver: subprocess.Popen[str], cluster: Cluster) -> None:
    """Ctrl-C, after which the cluster ends by itself; what is left after a while is killed."""
    driver.send_signal(signal.SIGINT)
    until = time.monotonic() + END_LIMIT_S
    while cluster.processes("") and time.monotonic() < until:
        driver.poll()
        time.sleep(0.1)
    for left in cluster.processes(""):
        with suppress(ProcessLookupError):
            os.kill(left, signal.SIGKILL)


def _title(process: Path) -> str:
    try:
        return (process / "cmdline").read_bytes().split(b"\0")[0].decode(errors="replace")
    except OSError:  # it ended meanwhile
        return ""
