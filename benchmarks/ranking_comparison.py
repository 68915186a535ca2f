"""What ranking by each fusion does to the same weights: AP at high IoU, and how well the scores say the IoU.

The whole post-processing is redone per ranking on the same outputs, as `calibox reproduce papers` does it.
Differences to ranking by the classification score carry 95 % intervals of a bootstrap over images (paired).

    python benchmarks/ranking_comparison.py runs/bccd/checkpoints/last.ckpt [--data DIR] [--draws 1000]
"""

import argparse
import tempfile
from pathlib import Path

from calibox_core.layouts import open_dataset
from calibox_training.checkpoint import load_checkpoint
from calibox_training.reproduce.analysis import DRAWS, open_ground, rank_all
from calibox_training.reproduce.rankings import own_ranking
from calibox_training.reproduce.raw import evaluate_raw
from calibox_training.reproduce.results import RankingResult

COLUMNS = ("AP", "AP50", "AP75", "AP90")


def main() -> None:
    """Prints the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--data", help="folder or name; the recipe's own by default")
    parser.add_argument("--draws", type=int, default=DRAWS, help="bootstrap samples")
    options = parser.parse_args()
    model = load_checkpoint(options.checkpoint)
    recipe = model.recipe
    data = open_dataset(options.data or recipe.data.name, recipe.data)
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "raw.npz"
        evaluate_raw(model, data, raw, accelerator="cpu")
        ground = open_ground(model, data, raw)
    own = own_ranking(recipe.fusion, recipe.nms.out_score)
    print_table(rank_all(ground, own=own, draws=options.draws).results, len(ground.objects))


def print_table(rows: dict[str, RankingResult], images: int) -> None:
    """AP per ranking, differences with intervals, correlation and calibration error."""
    names = [*COLUMNS, *(f"d{name}" for name in COLUMNS), "Pearson", "Spearman", "LaECE0"]
    print(f"| ranking and reported score | {' | '.join(names)} |")
    print("|---" * (1 + len(names)) + "|")
    for name, row in rows.items():
        cells = [f"{row.metrics[c] or 0:.4f}" for c in COLUMNS]
        cells += [f"{mean:+.4f} [{low:+.4f}, {high:+.4f}]" for mean, low, high in (row.delta[c] for c in COLUMNS)]
        values = (row.correlation["pearson_score"], row.correlation["spearman_score"], row.laece0)
        cells += ["-" if value is None else f"{value:.3f}" for value in values]
        print(f"| {name} | {' | '.join(cells)} |")
    print(f"\n{images} images; intervals: 95 %, paired bootstrap over images.")


if __name__ == "__main__":
    main()
