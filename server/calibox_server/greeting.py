"""What is printed when the server is ready."""

from calibox_server.page.examples import find_example
from calibox_server.service import Service


def welcome(service: Service, host: str, port: int) -> str:
    """The lines: what is served, and where."""
    shown = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)
    scheme = "https" if service.settings.tls_certificate else "http"
    url = f"{scheme}://[{shown}]:{port}" if ":" in shown else f"{scheme}://{shown}:{port}"
    names = ", ".join(f"{p.manifest.name}/{p.manifest.version}" for p in service.models)
    engine = next(iter(service.models)).engine
    page = f"\n  look at it:    {url}/" if service.settings.page else ""
    return (
        f"calibox serves {names} with {engine.name}, {engine.instances} at a time\n"
        f"  documentation: {url}/docs\n"
        f"  try it:        curl -F file=@{picture_to_try(service)} {url}/v1/detect{page}"
    )


def picture_to_try(service: Service) -> str:
    """The example of the first model's bundle; a name that explains itself where it has none."""
    first = next(iter(service.models)).manifest
    return str(find_example(service.settings.models, first) or "photo.jpg")
