"""Real data for tests: found through `CALIBOX_DATA`, and skipped with a reason where they are absent."""

import os

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
