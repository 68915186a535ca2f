"""The outcome of `calibox attach-quality` as Markdown."""

from collections.abc import Sequence

from calibox_export.attach.measure import Line, Outcome

COLUMNS = ("AP", "AP50", "AP75", "AP90")
DIFFERENCES = ("AP", "AP75", "AP90")


def markdown(outcome: Outcome, facts: Sequence[str]) -> str:
    """A page: what was run, before and after on the test half, correlations.

    Args:
        outcome: of the measurement.
        facts: sentences on detector, data and training.
    """
    head = ["ranking and boxes", *COLUMNS, *(f"d{name}" for name in DIFFERENCES), "Pearson of the score"]
    rows = [head, ["---"] * len(head), *(_cells(line) for line in outcome.lines)]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    refined = "with refinement" if outcome.refine else "without refinement"
    number, found = _number, outcome
    paragraphs = [
        "# A localization score for a foreign detector",
        "\n".join(f"- {fact}" for fact in facts),
        table,
        f"{found.test_images} images, the test half of the validation split. The fusion and whether to refine were "
        f"chosen by AP on the other {found.calibration_images}: {found.fusion.name.value}{_parameter(found)}, "
        f"{refined}.\n"
        "Differences are against the detector's own scores (`classification`), with 95 % intervals of a bootstrap over "
        "images, paired.\n`refined` boxes keep their scores.",
        f"Correlation with the true IoU over {found.pairs} pairs of box and class before suppression (p > 0.05, IoU > "
        f"0.5): the detector's score {number(found.pearson_classification)}, the predicted IoU "
        f"{number(found.pearson_localization)}.",
    ]
    return "\n\n".join(paragraphs) + "\n"


def _cells(line: Line) -> list[str]:
    values = [_number(line.metrics[name], digits=4) for name in COLUMNS]
    gaps = [f"{mean:+.4f} [{low:+.4f}, {high:+.4f}]" for mean, low, high in (line.delta[name] for name in DIFFERENCES)]
    return [line.name, *values, *gaps, _number(line.pearson)]


def _parameter(outcome: Outcome) -> str:
    alpha = outcome.fusion.name.value in ("geometric", "power")
    return f" with alpha {outcome.fusion.alpha:g}" if alpha else ""


def _number(value: float | None, *, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
