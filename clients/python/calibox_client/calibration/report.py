"""What is printed and written about a calibration."""

from collections.abc import Mapping
from dataclasses import asdict
from html import escape
from typing import Any

from calibox_client.calibration.calibrate import Outcome
from calibox_client.evaluation.html_report import page_of, table
from calibox_client.evaluation.plots import reliability_plot
from calibox_client.evaluation.rates import rates_text

_ERRORS = ("D_ECE", "LaECE", "LaECE0", "LaACE0", "all_D_ECE", "all_LaECE")


def outcome_document(outcome: Outcome) -> dict[str, Any]:
    """Everything as plain values."""
    calibrated, judged = outcome.calibrated, outcome.judged
    return {
        "model": outcome.bundle.manifest.name,
        "of_version": outcome.bundle.manifest.version,
        "version": outcome.written and outcome.written.name,
        "bundle": outcome.written and str(outcome.written),
        "calibration_images": int((~outcome.halves.test_I).sum()),
        "test_images": int(outcome.halves.test_I.sum()),
        "fusion": calibrated.fusion.model_dump(mode="json"),
        "score_threshold": calibrated.default_threshold,
        "score_map": calibrated.score_map.model_dump(mode="json"),
        "AP": {when: dict(zip(("calibration", "test"), pair, strict=True)) for when, pair in judged.ap.items()},
        "operating_points": [point.model_dump(mode="json") for point in calibrated.points],
        **calibrated.record.model_dump(mode="json", include={"notes", "dataset", "split", "created"}),
        "fusion_choice": calibrated.record.fusion and calibrated.record.fusion.model_dump(mode="json"),
        "map_choice": calibrated.record.score_map.model_dump(mode="json"),
        "reliability": {when: asdict(one) for when, one in judged.reports.items()},
    }


def outcome_text(document: Mapping[str, Any]) -> str:
    """The same for people."""
    chosen, told = document["fusion_choice"], document["map_choice"]
    lines = [
        f"{document['model']}/{document['of_version']}: chosen on {document['calibration_images']} images, told of "
        f"{document['test_images']} others",
        "ranking: " + (chosen["verdict"] if chosen else "kept, as asked."),
        f"score map: {told['verdict']}",
        f"AP on the test half: {document['AP']['before']['test']:.4f} before the map, "
        f"{document['AP']['after']['test']:.4f} with it",
        "",
        f"{'on the test half':22}" + "".join(f"{name:>15}" for name in _ERRORS[:4]),
        *(f"{name:22}" + "".join(f"{_shown(row[error]):>15}" for error in _ERRORS[:4]) for name, row in _rows(told)),
        "",
    ]
    for point in document["operating_points"]:
        by_class = ", ".join(f"{name} {value:g}" for name, value in point["class_thresholds"].items())
        lines += [
            f"{point['name']}: score at least {point['score_threshold']:g}" + (f" ({by_class})" if by_class else ""),
            f"  calibration half: {rates_text(point['calibration'])}",
            f"  test half:        {rates_text(point['test'])}",
        ]
    lines += [*document["notes"], ""]
    return "\n".join([*lines, written_text(document)])


def written_text(document: Mapping[str, Any]) -> str:
    """Where the new bundle is."""
    if document["bundle"] is None:
        return "Nothing changes, so nothing was written."
    return f"{document['bundle']} is the calibrated bundle; a server that watches the folder or reloads serves it."


def outcome_page(document: Mapping[str, Any]) -> str:
    """The same as one page."""
    chosen, told = document["fusion_choice"], document["map_choice"]
    title = f"{document['model']}/{document['of_version']} calibrated on {document['dataset']}"
    errors = [{"score": name, **row} for name, row in _rows(told)]
    points = [
        {"point": point["name"], "half": half, "threshold": point["score_threshold"], **_rates(point[half])}
        for point in document["operating_points"]
        for half in ("calibration", "test")
    ]
    diagrams = "\n".join(
        reliability_plot("score", one, title=f"score {when} the map") for when, one in document["reliability"].items()
    )
    held_out = told["cross_validation"]
    body = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="note">{escape(written_text(document))}</p>',
        "<h2>Ranking</h2>",
        f"<p>{escape(chosen['verdict'] if chosen else 'Kept, as asked.')}</p>",
        *([_candidates(chosen)] if chosen else []),
        "<h2>Score map</h2>",
        f"<p>{escape(told['verdict'])}</p>",
        table("Calibration errors on the test half: less is better", errors, ("score", *_ERRORS)),
        table("Error on held-out images of the calibration half", [{"": "error", **held_out}], ("", *held_out)),
        f'<div class="plots three">{diagrams}</div>',
        "<h2>Operating points</h2>",
        table("With 95 % intervals", points, ("point", "half", "threshold", "precision", "recall", "f1", "detections")),
        *(f"<p>{escape(note)}</p>" for note in document["notes"]),
    ]
    return page_of(title, "\n".join(body))


def _candidates(chosen: Mapping[str, Any]) -> str:
    rows = [{"ranking": name, **values} for name, values in chosen["candidates"].items()]
    return table(f"{chosen['metric']} of the server's own answers", rows, ("ranking", "calibration", "test"))


def _rows(told: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Errors by score, the mapped one once more."""
    before = told["before"]
    mapped = [("score, mapped", told["after"]["score"])]
    return [("score", before["score"]), *mapped, *((name, row) for name, row in before.items() if name != "score")]


def _rates(measure: Mapping[str, Any]) -> dict[str, Any]:
    told = {
        name: "-" if rate["value"] is None else f"{rate['value']:.3f} [{rate['low']:.3f}, {rate['high']:.3f}]"
        for name, rate in ((name, measure[name]) for name in ("precision", "recall", "f1"))
    }
    return {**told, "detections": measure["detections"]}


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
