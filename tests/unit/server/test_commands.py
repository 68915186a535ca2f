"""`calibox serve`: every setting is an option, a variable and documented; errors are sentences."""

import re
import socket
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import calibox_server.serve
from calibox_core.errors import CaliboxError
from calibox_server.commands import serve
from calibox_server.greeting import welcome
from calibox_server.listener import bind
from calibox_server.options import ENV_PREFIX, Options
from calibox_server.serve import run
from calibox_server.service import Service
from calibox_server.settings import Settings
from tests.support.bundles import make_tiny_bundle

WIDE = {"COLUMNS": "300", "NO_COLOR": "1"}


def application() -> typer.Typer:
    app = typer.Typer()
    app.command("serve")(serve)
    return app


def test_help_shows_every_setting_with_its_variable() -> None:
    shown = CliRunner().invoke(application(), ["--help"], env=WIDE)
    assert shown.exit_code == 0, shown.output
    for name in Options.model_fields:
        assert f"--{name.replace('_', '-')} " in shown.output
        assert f"{ENV_PREFIX}{name.upper()}]" in shown.output


def test_every_setting_says_what_it_is() -> None:
    assert [name for name, field in Options.model_fields.items() if not field.description] == []


def test_options_go_before_variables_before_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Settings] = []
    monkeypatch.setattr(calibox_server.serve, "run", lambda settings, announce: seen.append(settings))
    environment = {"CALIBOX_PORT": "9001", "CALIBOX_QUEUE_SIZE": "7", "CALIBOX_MODELS": "elsewhere"}
    done = CliRunner().invoke(application(), ["--port", "9002", "--log-format", "json"], env=environment)
    assert done.exit_code == 0, done.output
    (settings,) = seen
    assert (settings.port, settings.queue_size, settings.models) == (9002, 7, Path("elsewhere"))
    assert (settings.log_format, settings.max_batch, settings.host) == ("json", None, "127.0.0.1")


@pytest.mark.parametrize("arguments", [["--port", "70000"], ["--queue-size", "0"], ["--log-level", "loud"]])
def test_a_setting_out_of_range_is_refused_with_its_name(arguments: list[str]) -> None:
    done = CliRunner().invoke(application(), arguments, env=WIDE)
    assert done.exit_code == 2
    assert arguments[0] in done.output


def test_settings_are_read_from_the_environment_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALIBOX_MAX_PIXELS", "1234")
    assert Settings().max_pixels == 1234


def test_a_port_in_use_is_one_sentence_that_names_the_option(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(
            CaliboxError, match=rf"^cannot listen on 127\.0\.0\.1 port {port} .* with --port or CALIBOX_PORT"
        ):
            run(Settings(models=tmp_path, port=port), announce=print)


@pytest.mark.parametrize("host", ["192.0.2.1", "no.such.host.invalid"])  # reserved by RFC 5737 and RFC 2606
def test_an_address_of_another_machine_is_one_sentence_that_names_the_option(host: str) -> None:
    with pytest.raises(
        CaliboxError, match=rf"^cannot listen on {re.escape(host)} port 0 .* with --host or CALIBOX_HOST$"
    ):
        bind(host, 0)


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8000"),
        ("0.0.0.0", "http://127.0.0.1:8000"),
        ("::", "http://[::1]:8000"),
        ("box.example", "http://box.example:8000"),
    ],
)
def test_the_welcome_names_the_documentation_and_a_request_to_try(tmp_path: Path, host: str, url: str) -> None:
    make_tiny_bundle(tmp_path)
    text = welcome(Service.load(Settings(models=tmp_path, instances=1)), host, 8000)
    assert "tiny/1" in text
    assert f"{url}/docs" in text
    assert re.search(rf"curl -F \S+ {re.escape(url)}/v1/detect$", text, re.MULTILINE)
    assert text.endswith(f"  look at it:    {url}/")
