"""Both clients offer the same: names, parameters, defaults, what comes back."""

import inspect
from collections.abc import AsyncGenerator, Generator
from typing import Any

import pytest

from calibox_client import AsyncClient, Client

# Closing and entering are named as Python's own protocols ask.
_PROTOCOL = {"close": "aclose", "__enter__": "__aenter__", "__exit__": "__aexit__"}


def methods(kind: type) -> dict[str, Any]:
    members = inspect.getmembers(kind, inspect.isfunction)
    return {name: member for name, member in members if not name.startswith("_") or name in _names()}


def _names() -> set[str]:
    return {"__init__", *_PROTOCOL, *_PROTOCOL.values()}


def parameters(method: Any) -> list[tuple[str, Any, Any]]:
    """Name, kind and default of each; the kinds of transports and of what sleeps differ."""
    listed = inspect.signature(method).parameters.values()
    return [(one.name, one.kind, None if one.name in ("transport", "sleep") else one.default) for one in listed]


def test_the_two_have_the_same_methods() -> None:
    assert {_PROTOCOL.get(name, name) for name in methods(Client)} == set(methods(AsyncClient))
    assert {"detect", "detect_many", "stream", "models", "model", "manifest", "ready"} <= set(methods(Client))


@pytest.mark.parametrize("name", sorted(methods(Client)))
def test_a_method_takes_the_same_arguments(name: str) -> None:
    assert parameters(methods(Client)[name]) == parameters(methods(AsyncClient)[_PROTOCOL.get(name, name)])


@pytest.mark.parametrize("name", sorted(set(methods(Client)) - set(_PROTOCOL) - {"__init__"}))
def test_a_method_gives_the_same_now_and_later(name: str) -> None:
    blocking, waiting = methods(Client)[name], methods(AsyncClient)[name]
    given, promised = (inspect.signature(method).return_annotation for method in (blocking, waiting))
    if getattr(given, "__origin__", None) is Generator:
        assert promised.__origin__ is AsyncGenerator
        assert promised.__args__[0] == given.__args__[0]
    else:
        assert inspect.iscoroutinefunction(waiting)
        assert promised == given


@pytest.mark.parametrize("name", sorted(set(methods(Client)) - set(_PROTOCOL)))
def test_every_method_says_what_it_does(name: str) -> None:
    for kind in (Client, AsyncClient):
        assert inspect.getdoc(methods(kind)[name])
