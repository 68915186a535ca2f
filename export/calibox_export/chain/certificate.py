"""Keeping a certificate in the manifest, and showing it."""

from typing import TYPE_CHECKING

from calibox_core.bundle import Bundle, read_manifest, write_manifest
from calibox_core.manifest import Manifest
from calibox_core.parity import Difference, Parity
from calibox_export.errors import ExportError

if TYPE_CHECKING:
    from rich.table import Table


def keep(bundle: Bundle, parity: Parity) -> Manifest:
    """Writes the certificate into the bundle's manifest, whole or not at all; an older one is replaced.

    Raises:
        ExportError: the bundle was changed while it was measured, or cannot be written.
    """
    now = read_manifest(bundle.folder)
    if now.files != bundle.manifest.files:
        raise ExportError(f"{bundle.folder} was changed while it was measured, so nothing was written; verify it again")
    try:
        return write_manifest(bundle.folder, now.model_copy(update={"schema_version": 2, "parity": parity}))
    except OSError as error:
        raise ExportError(
            f"the certificate cannot be written into {bundle.folder} ({error.strerror}); leave it out with --no-store"
        ) from error


def verdict(parity: Parity) -> str:
    """One sentence."""
    hop = parity.broken
    if hop is not None:
        return f"the chain breaks at {hop.name}: {hop.reason}"
    places = " -> ".join((parity.first.name, *(hop.name for hop in parity.hops)))
    return f"the chain holds: {places}"


def show(parity: Parity, *, title: str) -> None:
    """Tables: each place against the one before it and against the first, and AP."""
    from rich.console import Console

    console = Console()
    console.print(_drifts(parity, f"{title}: each place against the one before it", first=False))
    if any(hop.before != parity.first.name for hop in parity.hops):
        console.print(_drifts(parity, f"{title}: each place against {parity.first.name}", first=True))
    console.print(_precision(parity, f"{title}: AP, and the difference from the place before in points"))
    console.print(
        f"{parity.dataset}, {parity.images} images. same: images whose kept sets are the same wherever no near tie "
        "decides; alone: detections without a partner. Gaps are the largest among pairs: boxes in pixels of the input, "
        "then the scores: reported, of classification, of localization. Intervals are of 95 %, over resampled images."
    )
    for line in parity.left_out:
        console.print(f"left out: {line}")


def _drifts(parity: Parity, title: str, *, first: bool) -> "Table":
    table = _table(title, "same", "alone", "box", "score", "class.", "local.")
    for hop in parity.hops:
        drift = hop.from_first if first else hop.from_before
        gaps = (drift.box, drift.score, drift.classification_score, drift.localization_score)
        table.add_row(
            hop.name,
            f"{drift.same_images:.1%}",
            f"{drift.unpaired:.1%}",
            *(f"{gap.largest:.1e}" for gap in gaps),
            style="" if first or hop.holds else "red",
        )
    return table


def _precision(parity: Parity, title: str) -> "Table":
    table = _table(title, "", "AP", "difference")
    table.add_row(parity.first.name, "AP", _value(parity.first.metrics["AP"]))
    table.add_row("", "AP75", _value(parity.first.metrics["AP75"]))
    for hop in parity.hops:
        for number, (name, value) in enumerate(hop.metrics.items()):
            cells = (name, _value(value), _points(hop.from_before.metrics[name]))
            table.add_row("" if number else hop.name, *cells, style="" if hop.holds else "red")
    return table


def _table(title: str, *columns: str) -> "Table":
    from rich import box
    from rich.table import Table

    table = Table(title=title, box=box.SIMPLE, pad_edge=False)  # without inner lines it fits into 80 columns
    table.add_column("place", no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _points(gap: Difference | None) -> str:
    return "-" if gap is None else f"{gap.value * 100:+.2f} [{gap.low * 100:+.2f}, {gap.high * 100:+.2f}]"


def _value(metric: float | None) -> str:
    return "-" if metric is None else f"{metric:.4f}"
