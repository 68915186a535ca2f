"""Settings of the server: an option goes before a variable, before the file, before the default."""

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import PrivateAttr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from calibox_core.errors import CaliboxError
from calibox_server.options import ENV_PREFIX, Options

Source = Literal["option", "environment", "file", "default"]
_SECRET = "***"


class SettingsError(CaliboxError):
    """A setting is unknown or its value is not accepted; the text says which and where it stands."""


class Settings(BaseSettings, Options):
    """Each field of `Options`; what is not given is read from `CALIBOX_<NAME>`."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, frozen=True, extra="forbid", env_ignore_empty=True)
    _sources: dict[str, Source] = PrivateAttr(default_factory=dict)  # of what was not read from the environment

    def source(self, name: str) -> Source:
        """Where a setting's value comes from."""
        return self._sources.get(name, "environment" if name in self.model_fields_set else "default")

    def shown(self) -> dict[Source, dict[str, str]]:
        """Every setting as text by its source, secrets as stars."""
        texts: dict[Source, dict[str, str]] = {}
        for name, field in Options.model_fields.items():
            value = getattr(self, name)
            texts.setdefault(self.source(name), {})[name] = _SECRET if value and not field.repr else str(value)
        return texts


def load_settings(options: Mapping[str, Any]) -> Settings:
    """The settings of options that were given, of the environment and of the file that ``config`` names in either.

    Raises:
        SettingsError: the file cannot be read; a name in it is unknown; a value is not accepted.
    """
    named = options.get("config") or os.environ.get(f"{ENV_PREFIX}CONFIG")
    read = read_file(Path(named)) if named else {}
    from_file = {name: value for name, value in read.items() if name not in options and not _is_in_environment(name)}
    try:
        settings = Settings(**from_file, **options)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        where = f"in {named}" if name in from_file else "of an option or variable"
        got = "" if _is_secret(name) else f", got {str(first['input'])[:60]!r}"
        raise SettingsError(
            f"the setting {name} {where} is not accepted ({first['msg']}{got}); calibox serve --help lists them all"
        ) from error
    settings._sources.update(dict.fromkeys(from_file, "file"))
    settings._sources.update(dict.fromkeys(options, "option"))
    return settings


def read_file(path: Path) -> dict[str, Any]:
    """Names and values of a TOML file.

    Raises:
        SettingsError: there is none, or it is not TOML; the text names the line.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"the settings file {path} cannot be read ({error.strerror}); see --config") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"the settings file {path} is not TOML: {error}") from error
    if "config" in values:
        raise SettingsError(f"the settings file {path} names another one; only --config and {ENV_PREFIX}CONFIG can")
    return values


def _is_in_environment(name: str) -> bool:
    return bool(os.environ.get(f"{ENV_PREFIX}{name.upper()}"))


def _is_secret(name: str) -> bool:
    return name in Options.model_fields and not Options.model_fields[name].repr
