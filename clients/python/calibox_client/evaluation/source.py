"""Where the pictures and their annotations come from: two paths, or a data folder in a layout that training reads."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from calibox_client.evaluation.errors import EvaluationError
from calibox_core.dataset import Split, read_annotations
from calibox_core.layouts import DataLayout, open_dataset


@dataclass(frozen=True, slots=True)
class Source:
    """What to measure on."""

    images: Path  # folder that the file names are relative to
    annotations: Mapping[str, Any]  # a COCO document


def open_source(images: Path | None, annotations: Path | None, data: str | None, split: Split, layout: str) -> Source:
    """The source that the options name.

    Args:
        images: folder of pictures, together with ``annotations``.
        annotations: COCO annotation file.
        data: in place of both, a folder or a name below the folder of `CALIBOX_DATA`.
        split: of ``data``.
        layout: of ``data``, as `parse_layout` takes it.

    Raises:
        EvaluationError: neither way is named, or both are.
        DatasetError: the data are not there or malformed.
    """
    if data is not None and images is None and annotations is None:
        folder = open_dataset(data, parse_layout(layout))
        return Source(folder.images, folder.annotations(split))
    if data is None and images is not None and annotations is not None:
        return Source(images, read_annotations(annotations))
    raise EvaluationError("name the data by --data DIR, or by --images DIR and --annotations FILE together")


def parse_layout(text: str) -> DataLayout:
    """A layout from ``coco``, ``voc`` or ``kitti``, or from a JSON object with the keys of a recipe's data section.

    Raises:
        EvaluationError: it is neither.
    """
    try:
        return (
            DataLayout.model_validate_json(text)
            if text.startswith("{")
            else DataLayout.model_validate({"format": text})
        )
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'text'}: {e['msg']}" for e in error.errors())
        raise EvaluationError(
            f"--layout {text}: {wrong}; expected coco, voc, kitti, or a JSON object as in a recipe's data section, "
            'for example {"format": "kitti", "kitti": {"val_fraction": 0.25}}'
        ) from error
