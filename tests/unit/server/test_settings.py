"""Settings: an option goes before a variable, before the file, before the default; each says where it came from."""

from pathlib import Path

import pytest

from calibox_server.options import items
from calibox_server.settings import Settings, SettingsError, load_settings


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "calibox.toml"
    path.write_text(
        'port = 1\nmax_bytes = 2\nmax_images = 3\ncors_origins = ["https://a.example", "https://b.example"]\n'
    )
    return path


def test_an_option_goes_before_a_variable_before_the_file_before_the_default(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CALIBOX_PORT", "11")
    monkeypatch.setenv("CALIBOX_MAX_BYTES", "12")
    settings = load_settings({"config": file, "port": 21})
    assert (settings.port, settings.max_bytes, settings.max_images, settings.queue_size) == (21, 12, 3, 128)
    sources = [settings.source(name) for name in ("port", "max_bytes", "max_images", "queue_size")]
    assert sources == ["option", "environment", "file", "default"]


def test_the_file_may_be_named_by_the_environment(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALIBOX_CONFIG", str(file))
    assert load_settings({}).port == 1


def test_an_empty_variable_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALIBOX_PORT", "")
    settings = load_settings({})
    assert (settings.port, settings.source("port")) == (8000, "default")


def test_a_list_in_the_file_is_what_commas_are_elsewhere(file: Path) -> None:
    given = load_settings({"cors_origins": "https://a.example, https://b.example,"})
    both = [items(settings.cors_origins) for settings in (load_settings({"config": file}), given)]
    assert both == [("https://a.example", "https://b.example")] * 2


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("port = 70000", r"the setting port in .*toml is not accepted \(.*65535, got '70000'\); calibox serve --help"),
        ("potr = 1", r"the setting potr in .*toml is not accepted \(Extra inputs are not permitted"),
        ("rate_images = 0", r"the setting rate_images in .*toml is not accepted \(.*greater than 0"),
        ("port = ", r"toml is not TOML: Invalid value"),
        ('config = "other.toml"', r"toml names another one; only --config and CALIBOX_CONFIG can"),
    ],
)
def test_what_is_wrong_in_the_file_is_a_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "calibox.toml"
    path.write_text(text)
    with pytest.raises(SettingsError, match=sentence):
        load_settings({"config": path})


def test_a_missing_file_and_a_bad_option_are_sentences(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"cannot be read \(No such file or directory\); see --config"):
        load_settings({"config": tmp_path / "none.toml"})
    with pytest.raises(SettingsError, match=r"the setting rate_requests of an option or variable is not accepted"):
        load_settings({"rate_requests": -1.0})


def test_every_setting_is_shown_once_and_secrets_are_stars(file: Path) -> None:
    settings = load_settings({"config": file, "api_keys": "secret-thing"})
    shown = settings.shown()
    names = [name for values in shown.values() for name in values]
    assert sorted(names) == sorted(Settings.model_fields)
    assert shown["option"]["api_keys"] == "***"
    assert "secret-thing" not in str(shown) + repr(settings)


def test_a_secret_that_is_not_accepted_is_not_repeated(tmp_path: Path) -> None:
    path = tmp_path / "calibox.toml"
    path.write_text("api_keys = 4711\n")
    with pytest.raises(SettingsError, match="the setting api_keys in ") as caught:
        load_settings({"config": path})
    assert "4711" not in str(caught.value)
