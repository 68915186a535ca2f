"""Instead of a server: the model is read from its bundle, and the images are looked at by actors of a Ray cluster."""

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from calibox_client.errors import CaliboxClientError
from calibox_client.evaluation.asking import Tally
from calibox_client.evaluation.errors import EvaluationError
from calibox_client.evaluation.journal import Answer, Journal
from calibox_client.evaluation.served import Served
from calibox_client.evaluation.work import WorkItem
from calibox_client.offline import Offline
from calibox_client.progress import progress_bar
from calibox_client.results import Detections
from calibox_core.bundle import read_bundle


def served_by(bundle: Path) -> Served:
    """What a server of this bundle would say of it.

    Raises:
        BundleError: it is not whole.
    """
    manifest = read_bundle(bundle).manifest
    labels = {one.category_id: one.name for one in manifest.classes}
    document = json.loads(manifest.model_dump_json())
    return Served(manifest.name, manifest.version, labels, manifest.nms.max_detections, dict(manifest.files), document)


def collect_offline(
    offline: Offline, work: Sequence[WorkItem], journal: Journal[Answer], parameters: Mapping[str, Any]
) -> Tally:
    """Looks at every image that is not in the journal yet.

    Args:
        offline: the actors.
        work: images, all of them in the journal at the end.
        journal: of earlier answers; new ones are added.
        parameters: of `Client.detect`.

    Raises:
        EvaluationError: the first failure; answers so far are kept.
    """
    tally = Tally()
    missing = [item for item in work if item.image_id not in journal.answers]
    start = time.perf_counter()
    found = offline.detect([item.path for item in missing], parameters)
    with closing(found), progress_bar("images", len(work), done=len(work) - len(missing), prints=False) as advance:
        for item, result in zip(missing, found, strict=True):
            journal.add(_answer(item, result, len(journal.answers), len(work)))
            tally.asked += 1
            advance()
    tally.seconds = time.perf_counter() - start
    return tally


def _answer(item: WorkItem, result: Detections | CaliboxClientError, kept: int, of: int) -> Answer:
    if isinstance(result, CaliboxClientError):
        raise EvaluationError(
            f"image {item.image_id} ({item.path}): {result}. {kept} of {of} answers are kept; the same command goes on "
            "from there"
        ) from result
    return Answer(item.image_id, result.timing["total"], [one.as_coco() for one in result])
