from pathlib import Path

import pytest
import torch

from calibox_core.manifest import InputSpec
from calibox_training.data.coco import CocoImages, read_classes, read_records
from calibox_training.data.sampling import EpochBatches, ResumableLoader, SampleKey, SeededImages, step_seed
from calibox_training.data.transforms import TrainTransform
from calibox_training.training_spec import Augmentation
from tests.support.coco import make_coco_folder

SIZES = ((96, 128), (64, 96), (128, 160))


def _epoch(batches: EpochBatches, number: int) -> list[list[SampleKey]]:
    batches.epoch, batches.position = number, 0
    return list(batches)


@pytest.mark.parametrize("world", [1, 2, 3])
def test_processes_share_an_epoch_without_meeting(world: int) -> None:
    ranks = [EpochBatches(20, batch_size=3, seed=1, sizes=SIZES, rank=r, world=world) for r in range(world)]
    shares = [_epoch(rank, 0) for rank in ranks]
    assert {len(share) for share in shares} == {20 // (3 * world)} == {len(rank) for rank in ranks}
    images = [key.image for share in shares for batch in share for key in batch]
    assert len(images) == len(set(images)) == 20 // (3 * world) * 3 * world
    for at_once in zip(*shares, strict=True):  # every process has the same input size at the same time
        assert len({key.size for batch in at_once for key in batch}) == 1


def test_epochs_and_seeds_differ_and_repeat() -> None:
    batches = EpochBatches(40, batch_size=4, seed=1, sizes=SIZES)
    assert _epoch(batches, 0) == _epoch(batches, 0)
    orders = [[key.image for batch in _epoch(batches, e) for key in batch] for e in (0, 1)]
    other = [key.image for batch in _epoch(EpochBatches(40, batch_size=4, seed=2, sizes=SIZES), 0) for key in batch]
    assert orders[0] != orders[1]
    assert orders[0] != other
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(40))


def test_an_epoch_goes_on_from_any_position() -> None:
    batches = EpochBatches(40, batch_size=4, seed=1, sizes=SIZES)
    whole = _epoch(batches, 3)
    batches.position = 7
    assert list(batches) == whole[7:]


def test_every_size_of_the_list_is_drawn() -> None:
    batches = EpochBatches(60, batch_size=1, seed=1, sizes=SIZES)
    assert {key.size for batch in batches for key in batch} == set(SIZES)


@pytest.mark.parametrize(("images", "world", "shares"), [(3, 1, [3]), (3, 2, [2, 1]), (1, 2, [1, 1])])
def test_a_split_smaller_than_a_batch_is_one_batch_with_something_for_everybody(
    images: int, world: int, shares: list[int]
) -> None:
    ranks = [EpochBatches(images, batch_size=4, seed=1, sizes=SIZES, rank=r, world=world) for r in range(world)]
    assert [[len(batch) for batch in rank] for rank in ranks] == [[share] for share in shares]


def test_the_randomness_of_a_step_depends_on_seed_step_and_process() -> None:
    seeds = {step_seed(s, step=t, rank=r) for s in range(3) for t in range(50) for r in range(4)}
    assert len(seeds) == 600


@pytest.fixture
def loader(tmp_path: Path) -> ResumableLoader:
    folder = make_coco_folder(tmp_path / "rectangles", train=12)
    annotations = folder.annotations("train")
    records = read_records(annotations, read_classes(annotations))
    augmentation = Augmentation(zoom_out=0.5, crop=0.5, colour=0.5, photometric=0.5)
    by_size = {
        (h, w): CocoImages(folder, records, TrainTransform(augmentation, InputSpec(height=h, width=w)))
        for h, w in SIZES
    }
    batches = EpochBatches(len(records), batch_size=4, seed=5, sizes=SIZES)
    return ResumableLoader(SeededImages(by_size, seed=5), batches, workers=0)


def test_augmentation_leaves_the_global_generator_alone_and_does_not_depend_on_it(loader: ResumableLoader) -> None:
    images = loader.dataset
    keys = [SampleKey(1, index, SIZES[1]) for index in range(6)]
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = [images[key].image for key in keys]
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert all(torch.equal(image, images[key].image) for image, key in zip(first, keys, strict=True))


def test_an_image_is_augmented_anew_in_each_epoch(loader: ResumableLoader) -> None:
    images = loader.dataset
    samples = [images[SampleKey(epoch, 0, SIZES[0])].image for epoch in range(8)]
    assert not all(torch.equal(samples[0], other) for other in samples[1:])


@pytest.mark.parametrize("given", range(4))
def test_a_loader_goes_on_after_the_batches_that_it_gave_out(loader: ResumableLoader, given: int) -> None:
    both = [batch.images for _ in range(2) for batch in loader]
    assert loader.batches_given == 6
    loader.load_state_dict({"epoch": 0, "given": given})
    rest = [batch.images for batch in loader]
    if given < 3:  # after the last batch of an epoch comes the next epoch
        rest += [batch.images for batch in loader]
    assert len(rest) == 6 - given
    assert all(torch.equal(a, b) for a, b in zip(rest, both[given:], strict=True))
