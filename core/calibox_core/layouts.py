"""Which layout a data set has, as a setting, and opening it."""

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from calibox_core.coco2017 import Coco2017Folder, find_coco2017
from calibox_core.dataset import DataFolder, find_dataset, places_of
from calibox_core.errors import DatasetError
from calibox_core.kitti import WHERE_TO_GET as KITTI_SOURCE
from calibox_core.kitti import KittiFolder, KittiSplits, find_kitti
from calibox_core.voc import WHERE_TO_GET as VOC_SOURCE
from calibox_core.voc import VocFolder, VocSplits, find_voc

Format = Literal["coco", "voc", "kitti"]
_FINDERS = {"voc": find_voc, "kitti": find_kitti}


class DataLayout(BaseModel):
    """How the files of a data set lie."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Format = Field(
        default="coco",
        description="`coco` (flat, or COCO 2017's folders), `voc` (PASCAL VOC) or `kitti` (object, cars).",
    )
    voc: VocSplits | None = Field(default=None, description="Lists of the splits; 07+12 where absent.")
    kitti: KittiSplits | None = Field(default=None, description="Division into splits; the last half where absent.")

    @model_validator(mode="after")
    def _settings_fit_the_format(self) -> Self:
        for name, settings in (("voc", self.voc), ("kitti", self.kitti)):
            if settings is not None and self.format != name:
                raise ValueError(f"{name} is given, but format is {self.format}")
        return self


def layout_of_recipe(recipe: dict[str, Any]) -> DataLayout:
    """The layout that a stored recipe names; recipes older than the key are COCO."""
    data = recipe.get("data", {})
    return DataLayout.model_validate({key: data[key] for key in DataLayout.model_fields if key in data})


def open_dataset(name_or_path: str, layout: DataLayout) -> DataFolder:
    """A data set by its folder, or by its name below the folder that `CALIBOX_DATA` names.

    Raises:
        DatasetError: not found, or of another format; the text says where it was looked for and where to get it.
    """
    places = places_of(name_or_path)
    if layout.format == "coco":
        return _open_coco(name_or_path, places)
    for root in filter(None, map(_FINDERS[layout.format], places)):
        if layout.format == "voc":
            return VocFolder(root, layout.voc or VocSplits())
        return KittiFolder(root, layout.kitti or KittiSplits())
    looked = ", ".join(str(place) for place in places)
    if layout.format == "voc":
        raise DatasetError(f"no PASCAL VOC in {looked}: expected VOCdevkit/VOC2007 or VOC2012; {VOC_SOURCE}")
    raise DatasetError(f"no KITTI in {looked}: expected training/image_2 and training/label_2; {KITTI_SOURCE}")


def _open_coco(name_or_path: str, places: list[Path]) -> DataFolder:
    """COCO's own folders or the flat layout, whichever the first place holds."""
    _refuse_others(places)
    held = next((place for place in places if (place / "images").is_dir() or find_coco2017(place)), None)
    if held is not None and find_coco2017(held):
        return Coco2017Folder(held)
    return find_dataset(name_or_path)


def _refuse_others(places: list[Path]) -> None:
    """Says so where the folder is plainly of another format than the recipe's."""
    for name, find in _FINDERS.items():
        for place in places:
            if not (place / "images").is_dir() and find(place):
                raise DatasetError(
                    f"{place} is in the layout {name}: set `format: {name}` in the recipe's data section"
                )
