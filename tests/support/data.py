"""Real data for tests: found through `CALIBOX_DATA`, and skipped with a reason where they are absent."""

import json
import os
from pathlib import Path

import pytest

from calibox_core.dataset import CocoFolder, find_dataset
from calibox_core.errors import DatasetError

REQUIRE_VARIABLE = "CALIBOX_REQUIRE_DATA"  # "1" where the data must be there: want of them is then a failure


def dataset(name: str) -> CocoFolder:
    """The data set `name`; without it the calling test is skipped, or fails where data are required."""
    try:
        return find_dataset(name)
    except DatasetError as error:
        if os.environ.get(REQUIRE_VARIABLE) == "1":
            pytest.fail(f"{REQUIRE_VARIABLE}=1, but {error}", pytrace=False)
        pytest.skip(str(error))


def first_images(source: CocoFolder, root: Path, *, count: int, without: str) -> CocoFolder:
    """A data set below ``root`` whose two splits are the same images of ``source``.

    They are the first ``count`` training images by id that show nothing of the class ``without``.
    """
    document = source.annotations("train")
    (category,) = (row["id"] for row in document["categories"] if row["name"] == without)
    showing = {row["image_id"] for row in document["annotations"] if row["category_id"] == category}
    images = sorted(document["images"], key=lambda image: int(image["id"]))
    images = [image for image in images if image["id"] not in showing][:count]
    chosen = {image["id"] for image in images}
    annotations = [row for row in document["annotations"] if row["image_id"] in chosen]
    root.mkdir(parents=True)
    (root / "images").symlink_to(source.images.resolve(), target_is_directory=True)
    folder = CocoFolder(root)
    for path in folder.annotation_files("train") + folder.annotation_files("val"):
        path.write_text(json.dumps({**document, "images": images, "annotations": annotations}))
    return folder
