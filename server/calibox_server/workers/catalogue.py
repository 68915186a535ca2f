"""What the engine process tells of its models, and how front ends read it. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from calibox_core.manifest import Manifest
from calibox_server.engine import EngineFacts, tells_candidates
from calibox_server.models import BrokenModel, Models


@dataclass(frozen=True, slots=True)
class FarEngine:
    """An engine of another process."""

    name: str
    max_batch: int
    instances: int
    in_flight: int
    tells_candidates: bool = False


@dataclass(frozen=True, slots=True)
class Offer:
    """One model that may be asked."""

    model: int  # the engine process's number for it
    manifest: Manifest
    engine: FarEngine


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Every model, loaded or not."""

    offers: tuple[Offer, ...]
    broken: tuple[BrokenModel, ...]
    index: tuple[dict[str, str], ...]  # as `Repository.index`


def facts_of(engine: EngineFacts, in_flight: int) -> FarEngine:
    """What other processes are told of an engine."""
    return FarEngine(engine.name, engine.max_batch, engine.instances, in_flight, tells_candidates(engine))


def write(offers: Iterable[Offer], models: Models, index: Iterable[Mapping[str, str]]) -> dict[str, Any]:
    """The document of a catalogue."""
    return {
        "offers": [
            {"model": o.model, "manifest": o.manifest.model_dump(mode="json"), "engine": asdict(o.engine)}
            for o in offers
        ],
        "broken": [asdict(broken) for broken in models.broken],
        "index": [dict(row) for row in index],
    }


def read(document: Mapping[str, Any]) -> Catalogue:
    """What `write` wrote."""
    return Catalogue(
        tuple(
            Offer(o["model"], Manifest.model_validate(o["manifest"]), FarEngine(**o["engine"]))
            for o in document["offers"]
        ),
        tuple(BrokenModel(**broken) for broken in document["broken"]),
        tuple(document["index"]),
    )
