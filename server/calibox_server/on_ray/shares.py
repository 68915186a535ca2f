"""The settings of a process that Ray started: as anywhere, with its share of the machine where nothing else was said.

Ray counts cores and confines nobody to them, so that every replica would start a run of the engine per core of the
machine.
"""

import math
from collections.abc import Mapping
from typing import Any

from calibox_server.settings import Settings, SettingsError, load_settings

# What belongs to a web server of our own, or to a single process; silently without effect here.
_NOT_HERE = {
    "grpc_port": "Ray's proxy speaks HTTP alone",
    "tls_certificate": "Ray's proxy has the connections; end TLS in front of it",
    "tls_client_ca": "Ray's proxy has the connections; end TLS in front of it",
    "trusted_proxies": "Ray's proxy has the connections, and hands on the address that it sees",
    "admin": "a request reaches one of several replicas, and would change the models of that one; see watch_s",
}


def read_settings(options: Mapping[str, Any]) -> Settings:
    """The settings of options, of the environment and of a file.

    Raises:
        SettingsError: as `load_settings`, or one of them cannot hold under Ray.
    """
    settings = load_settings(options)
    if settings.http_workers > 1:
        raise SettingsError("http_workers cannot be set under Ray, whose replicas are processes; leave it out")
    for name, reason in _NOT_HERE.items():
        value = getattr(settings, name)
        if value is not False and value not in (None, ""):  # port 0 is a port
            raise SettingsError(f"{name} cannot be set under Ray: {reason}")
    return settings


def settings_of_share(options: Mapping[str, Any], assigned: Mapping[str, float]) -> Settings:
    """The settings of one process.

    Args:
        options: as `load_settings` takes them.
        assigned: what Ray gave to it: ``CPU``, ``GPU``.

    Raises:
        SettingsError: as `read_settings`.
    """
    settings = read_settings(options)
    cores = max(1, math.ceil(assigned.get("CPU", 1.0)))
    share: dict[str, Any] = {"decode_threads": cores}
    if not assigned.get("GPU"):  # on a GPU, cores say nothing about runs side by side
        share |= {"instances": cores, "tune": False}
    unsaid = {name: value for name, value in share.items() if settings.source(name) == "default"}
    return load_settings({**unsaid, **options})
