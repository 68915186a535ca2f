"""One page with everything that an evaluation measured: no script, nothing from elsewhere, light and dark."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from calibox_client.evaluation import plots
from calibox_client.evaluation.rates import rates_text
from calibox_client.evaluation.sweep_formats import own_rows

_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
table { border-collapse: collapse; margin: .8rem 0; } caption { text-align: left; opacity: .75; }
th, td { padding: .2rem .7rem; text-align: right; border-bottom: 1px solid; border-color: rgb(128 128 128 / 40%); }
th:first-child, td:first-child { text-align: left; } thead th { border-bottom-width: 2px; }
.scroll { overflow-x: auto; } .plots { display: flex; flex-wrap: wrap; gap: 1rem; }
.plots svg { max-width: 100%; height: auto; } .three svg { width: 31%; min-width: 17rem; }
.big { display: flex; flex-wrap: wrap; gap: 2rem; }
.big div { font-size: 1.6rem; } .big span { display: block; font-size: .8rem; opacity: .75; }
p.note { opacity: .8; max-width: 60rem; }
"""
_CARDS = ("AP", "AP50", "AP75", "AP90", "oLRP")
_ERRORS = ("D_ECE", "LaECE", "LaECE0", "LaACE0", "all_D_ECE", "all_LaECE", "all_LaECE0", "all_LaACE0", "kept")
_CLASS = ("objects", "detections", "AP", "AP50", "AP75", "AP90", "AR100")
_CLASS_LRP = ("oLRP", "oLRP_localization", "oLRP_false_positive", "oLRP_false_negative", "threshold")
_SWEPT = ("calibration_AP", "test_AP", "delta_AP", "offline_test_AP", "images_that_differ")


def html_page(document: Mapping[str, Any]) -> str:
    """The page of a full document, as `report.full_document` makes it."""
    title = f"{document['model']}/{document['version']}: {document['images']} images, ranked by {document['rank_by']}"
    sections = [
        _heading(document, title),
        _accuracy(document),
        _calibration(document),
        *_calibrated(document),
        *_sweep(document),
    ]
    return page_of(title, "\n".join([*sections, _speed(document)]))


def page_of(title: str, body: str) -> str:
    """A page that stands alone."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _heading(document: Mapping[str, Any], title: str) -> str:
    cards = "".join(f"<div>{_cell(document[name])}<span>{escape(name)}</span></div>" for name in _CARDS)
    facts = ", ".join(f"{name} {value}" for name, value in document["parameters"].items())
    return f'<h1>{escape(title)}</h1>\n<div class="big">{cards}</div>\n<p class="note">{escape(facts)}</p>'


def _accuracy(document: Mapping[str, Any]) -> str:
    sizes = {name: document[name] for name in ("APs", "APm", "APl", "AR1", "AR10", "AR100")}
    own = {name: value for name, value in document.items() if name.startswith(("VOC", "KITTI"))}
    lrp = {name: document[name] for name in ("oLRP", "oLRP_localization", "oLRP_false_positive", "oLRP_false_negative")}
    rows = [{"class": row["name"], **row} for row in document["per_class"]]
    return "\n".join(
        [
            "<h2>Accuracy</h2>",
            f'<div class="plots">{plots.by_threshold(document)}</div>',
            table("By size, and recall", [{"": "value", **sizes}], ("", *sizes)),
            *([table("The data format's own", [{"": "value", **own}], ("", *own))] if own else []),
            table("LRP error: less is better", [{"": "mean over classes", **lrp}], ("", *lrp)),
            table("Each class; the threshold is that of least LRP", rows, ("class", *_CLASS, *_CLASS_LRP)),
        ]
    )


def _calibration(document: Mapping[str, Any]) -> str:
    reports = document["calibration"]
    rows = [{"score": name.replace("_", " "), **one["errors"], "kept": one["kept"]} for name, one in reports.items()]
    diagrams = "\n".join(plots.reliability_plot(name, one) for name, one in reports.items())
    maps = "\n".join(plots.score_iou_map(name, one["score_iou_counts"]) for name, one in reports.items())
    errors = {name: one["errors"]["LaECE0"] for name, one in reports.items() if one["errors"]["LaECE0"] is not None}
    least = min(errors, key=lambda name: errors[name]).replace("_", " ") if errors else "none of them"
    correlations = {name: value for name, value in document["correlations"].items() if name != "pearson_n"}
    return "\n".join(
        [
            "<h2>What the scores announce</h2>",
            '<p class="note">Operating thresholds are those of least LRP, chosen on every other image; the errors are '
            "of the other images, of detections at these thresholds, and (all_) of every detection. "
            f"As an announced IoU the nearest to the truth (LaECE0): {escape(least)}.</p>",
            table("Calibration errors: less is better", rows, ("score", *_ERRORS)),
            table(
                f"Correlation with the IoU, {document['correlations']['pearson_n']:g} detections with IoU above 0.5",
                [{"": "Pearson", **correlations}],
                ("", *correlations),
            ),
            f'<div class="plots three">{diagrams}</div>\n<div class="plots three">{maps}</div>',
        ]
    )


def _calibrated(document: Mapping[str, Any]) -> list[str]:
    """What the score map does, and the operating point that was asked for."""
    parts = []
    if (told := document.get("calibrated")) is not None:
        rows = [
            {"score": f"score {how}", **told[key]}
            for how, key in (("as reported", "with_map"), ("of the graph", "without_map"))
        ]
        parts += ["<h2>The score map</h2>", f'<p class="note">{escape(told["verdict"])}</p>']
        parts.append(table("Calibration errors: less is better", rows, ("score", *_ERRORS)))
    if (point := document.get("operating_point")) is not None:
        parts += [f"<h2>At {escape(point['name'])}</h2>", f"<p>{escape(rates_text(point))}</p>"]
    return parts


def _sweep(document: Mapping[str, Any]) -> list[str]:
    if "sweep" not in document:
        return []
    swept = document["sweep"]
    rows = [{"ranking": one["name"], **one} for one in swept["confirmed"]]
    columns, by_name = own_rows(swept)
    own = [{"ranking": name, **metrics} for name, metrics in by_name.items()]
    return [
        "<h2>Which ranking</h2>",
        f'<p class="note">{escape(verdict(swept))}</p>',
        table("Asked for live; delta against `classification` on the test half, 95 %", rows, ("ranking", *_SWEPT)),
        *([table("By the data format's own, test half", own, ("ranking", *columns))] if own else []),
        f'<div class="plots">{plots.sweep_plot(swept)}</div>',
    ]


def verdict(swept: Mapping[str, Any]) -> str:
    """What the sweep says, no more."""
    best = next(one for one in swept["confirmed"] if one["name"] == swept["chosen"])
    gain, low, high = best["delta_AP"]
    told = "more than chance" if low > 0 or high < 0 else "which may be chance"
    differing = max(one["images_that_differ"] for one in swept["confirmed"])
    same = (
        f"up to {differing} of {swept['images']} live answers differ from those made offline"
        if differing
        else "every live answer was the one made offline"
    )
    return (
        f"{len(swept['points'])} rankings were tried offline, the best of them live; {best['name']} was best on the "
        f"calibration half. On the test half its AP is {best['test_AP']:.3f}, {gain:+.3f} against `classification` "
        f"(95 %: {low:+.3f} to {high:+.3f}), {told}. Of the live ones {same}."
    )


def _speed(document: Mapping[str, Any]) -> str:
    per_second = document["images_per_second"]
    row = {"": "ms", **document["latency_ms"]}
    return (
        "<h2>Speed</h2>\n"
        f"<p>{'-' if per_second is None else format(per_second, '.1f')} images/s, {document['concurrency']} at a time, "
        f"{document['retries']} repeats.</p>\n{table('Latency as the client saw it', [row], tuple(row), digits=1)}"
    )


def table(caption: str, rows: Sequence[Mapping[str, Any]], columns: Sequence[str], *, digits: int = 3) -> str:
    """Rows under a caption; a column that a row lacks is empty."""
    head = "".join(f"<th>{escape(column.replace('_', ' '))}</th>" for column in columns)
    lines = "\n".join(
        f"<tr>{''.join(f'<td>{_cell(row.get(column), digits)}</td>' for column in columns)}</tr>" for row in rows
    )
    return (
        f'<div class="scroll"><table><caption>{escape(caption)}</caption>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>{lines}</tbody></table></div>"
    )


def _cell(value: Any, digits: int = 3) -> str:
    if value is None:
        return "-"
    if isinstance(value, list | tuple):
        return "{:+.3f} [{:+.3f}, {:+.3f}]".format(*value)
    return escape(format(value, f".{digits}f") if isinstance(value, float) else str(value))
