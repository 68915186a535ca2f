"""A small whole certificate of `calibox verify --chain`."""

from datetime import UTC, datetime

from calibox_core.parity import Drift, Gap, Hop, Parity, Stop


def small_parity(bundle: str, *, holds: bool = True) -> Parity:
    """From PyTorch over the ONNX file, which holds or does not, to HTTP."""
    none = Gap(mean=0.0, largest=0.0)
    drift = Drift(
        same_images=1.0,
        different=0,
        excused=0,
        unpaired=0.0,
        box=none,
        score=none,
        classification_score=none,
        localization_score=none,
        metrics={"AP": None, "AP75": None},
    )
    hops = [
        Hop(
            name=name,
            version="1",
            metrics={"AP": None, "AP75": None},
            before=before,
            exact=True,
            holds=holds or before != "pytorch",
            from_before=drift,
            from_first=drift,
        )
        for before, name in (("pytorch", "onnxruntime/fp32"), ("onnxruntime/fp32", "http onnxruntime/fp32"))
    ]
    return Parity(
        bundle=bundle,
        model_sha256="0" * 64,
        dataset="rectangles val",
        data_sha256="0" * 64,
        images=4,
        limit=0.5,
        machine="a machine",
        calibox_version="0.1.0",
        created=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        first=Stop(name="pytorch", version="2.14.1", metrics={"AP": None, "AP75": None}),
        hops=tuple(hops),
    )
