"""Bundles served with Ray Serve: each replica is the whole server behind Ray's proxy instead of uvicorn.

``serve run docker/ray/serve.yaml``, or ``serve run calibox_server.on_ray.application:build models=/models``.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI
from ray import get_runtime_context, serve
from ray.serve import Application
from ray.serve.handle import DeploymentHandle

from calibox_server.app import build_app
from calibox_server.heap import settle
from calibox_server.logs import configure_logs, log_settings
from calibox_server.on_ray.replica_metrics import by_replica
from calibox_server.on_ray.shares import read_settings, settings_of_share
from calibox_server.service import Service

# As many as the queue takes of one model: what comes beyond is refused by the server, in its own words.
MOST_ONGOING = 128
# A replica of two cores runs two images at a time; with eight it has some to decode and some that wait, and latency
# is still a few times that of one image.
TARGET_ONGOING = 8
MORE_THAN_DRAIN_S = 10.0  # the process needs a moment after the drain
_PATIENCE_S = 3.0  # for the metrics of the other replicas; Prometheus gives up after 10


@dataclass(slots=True)
class ReplicaService(Service):
    """A service that tells the metrics of every replica of its deployment."""

    replica: str = field(default="")
    others: DeploymentHandle[Any] | None = field(default=None)

    async def exposition(self) -> bytes:
        """The text of all replicas; of those that do not answer in time, nothing."""
        own = (await asyncio.to_thread(self.metrics.exposition)).decode()
        texts = {self.replica: own}
        if self.others is not None:
            try:
                told = await self.others.broadcast("metrics").results_async(timeout_s=_PATIENCE_S)
            except Exception:  # a replica that ends meanwhile; Ray has no one class for what then happens
                told = []
            texts |= dict(told)
        return by_replica(texts).encode()


class Replica:
    """One replica.

    Args:
        options: names and values of settings, as `calibox serve` takes them.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        assigned: dict[str, float] = get_runtime_context().get_assigned_resources()  # type: ignore[no-untyped-call]
        settings = settings_of_share(options, assigned)
        configure_logs(settings)
        service = ReplicaService.load(settings)
        assert isinstance(service, ReplicaService)  # `load` makes what it is called on
        context = serve.get_replica_context()
        service.replica = context.replica_tag
        service.others = serve.get_deployment_handle(context.deployment, context.app_name)
        self._service = service
        log_settings(settings)

    def __serve_build_asgi_app__(self) -> FastAPI:
        """The same application as everywhere; its lifespan, which Ray begins and ends, closes the service."""
        app = build_app(self._service)
        settle()
        return app

    def check_health(self) -> None:
        """Asked by Ray every few seconds; a replica that raises is replaced."""
        self._service.check_ready()

    async def metrics(self) -> tuple[str, str]:
        """Its name, and the text of its own metrics."""
        return self._service.replica, (await asyncio.to_thread(self._service.metrics.exposition)).decode()


deployment = serve.deployment(
    name="calibox",
    max_ongoing_requests=MOST_ONGOING,
    autoscaling_config={"min_replicas": 1, "max_replicas": 4, "target_ongoing_requests": TARGET_ONGOING},
    ray_actor_options={"num_cpus": 2},
)(serve.ingress()(Replica))


def build(options: dict[str, Any]) -> Application:
    """The application of these settings; the section ``args`` of a Serve config, or words of ``serve run``.

    Raises:
        SettingsError: a setting is unknown, not accepted, or cannot hold under Ray.
    """
    drain_s = read_settings(options).drain_s
    stopping = deployment.options(graceful_shutdown_timeout_s=drain_s + MORE_THAN_DRAIN_S)
    application: Application = stopping.bind(options)
    return application
