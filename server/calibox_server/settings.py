"""Settings of the server: given, or else from the environment, or else the default."""

from pydantic_settings import BaseSettings, SettingsConfigDict

from calibox_server.options import ENV_PREFIX, Options


class Settings(BaseSettings, Options):
    """Each field of `Options`; what is not given is read from `CALIBOX_<NAME>`."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, frozen=True, extra="forbid")
