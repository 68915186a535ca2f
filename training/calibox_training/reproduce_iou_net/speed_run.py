"""Table 4 in a process of its own: `python -m calibox_training.reproduce_iou_net.speed_run RESULT CELL...`.

CELL are the folders of trained cells of one data set, timed together on one thread of a CPU.
"""

import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from calibox_core.layouts import open_dataset
from calibox_training.checkpoint import current_commit
from calibox_training.machine import device_type
from calibox_training.reproduce.cell_run import CELL_FILE, CellOrder, machine_name
from calibox_training.reproduce.results import write_text
from calibox_training.reproduce_iou_net.cell_recipe import parse_cell
from calibox_training.reproduce_iou_net.cell_run import open_cell
from calibox_training.reproduce_iou_net.results import SpeedResult
from calibox_training.reproduce_iou_net.speed import interleaved

IMAGES = 100


def main() -> None:
    """Times the cells on the command line."""
    result, *folders = (Path(word) for word in sys.argv[1:])
    torch.set_num_threads(1)
    write_text(result, time_cells(folders, images=IMAGES).model_dump_json(indent=2))


def time_cells(folders: Sequence[Path], *, images: int) -> SpeedResult:
    """Speeds of trained cells of one data set and accelerator."""
    orders = [CellOrder.model_validate_json((folder / CELL_FILE).read_bytes()) for folder in folders]
    first = orders[0]
    judges = {order.system: open_cell(folder, order).judge for folder, order in zip(folders, orders, strict=True)}
    data = open_dataset(first.folder, parse_cell(first.recipe, source=str(folders[0])).data)
    device = torch.device(device_type(first.accelerator))
    return SpeedResult(
        data=first.data,
        machine=machine_name(first.accelerator),
        torch=torch.__version__,
        commit=current_commit(),
        accelerator=first.accelerator,
        images=images,
        recipe_hashes={order.system: order.recipe_hash for order in orders},
        milliseconds=interleaved(judges, data, images=images, device=device),
        finished=time.strftime("%Y-%m-%dT%H:%MZ", time.gmtime()),
    )


if __name__ == "__main__":
    main()
