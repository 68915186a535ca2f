"""Which images make which batch, as a function of the seed and the place in the run, so that a run can go on anywhere.

Nothing here draws from a global generator: a batch, its input size and the augmentation of each image in it are the
same whether the run was interrupted or not, and whatever the number of workers.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from calibox_training.data.coco import Batch, CocoImages, Sample, collate

# Streams of random numbers that must not meet: the order of images, the input size of a batch, an image's augmentation.
_ORDER, _SIZE, _SAMPLE, _STEP = range(4)

Size = tuple[int, int]  # height, width


class SampleKey(NamedTuple):
    """One image of one batch."""

    epoch: int
    image: int  # position in its split
    size: Size  # of the batch


def step_seed(seed: int, *, step: int, rank: int) -> int:
    """Seed of whatever a model draws in a training step (32 bits)."""
    return _draw(seed, _STEP, step, rank)


def _draw(*words: int) -> int:
    return int(np.random.SeedSequence(words).generate_state(1)[0])


class EpochBatches(Sampler[list[SampleKey]]):
    """Batches of one epoch for one process, from any position on.

    All processes share one permutation, of which each takes its part of every batch; the images that do not fill a
    last batch are left out. A split smaller than one batch is one batch, in which an image appears twice only where
    there are fewer images than processes.
    """

    def __init__(
        self, images: int, *, batch_size: int, seed: int, sizes: Sequence[Size], rank: int = 0, world: int = 1
    ) -> None:
        self.images = images
        self.batch_size = batch_size
        self.seed = seed
        self.sizes = tuple(sizes)
        self.rank = rank
        self.world = world
        self.epoch = 0
        self.position = 0

    def __len__(self) -> int:
        """Batches of a whole epoch, wherever `position` is."""
        return max(1, self.images // (self.batch_size * self.world))

    def __iter__(self) -> Iterator[list[SampleKey]]:
        order = np.random.default_rng((self.seed, _ORDER, self.epoch)).permutation(self.images)
        whole = self.batch_size * self.world
        if self.images < whole:
            whole = max(self.images, self.world)
            order = np.resize(order, whole)
        for position in range(self.position, len(self)):
            batch = order[position * whole : (position + 1) * whole]
            size = self._size(position)
            yield [SampleKey(self.epoch, int(index), size) for index in batch[self.rank :: self.world]]

    def _size(self, position: int) -> Size:
        return self.sizes[_draw(self.seed, _SIZE, self.epoch, position) % len(self.sizes)]


class SeededImages(Dataset[Sample]):
    """Images at several input sizes, each augmented by a generator of its own place in the run."""

    def __init__(self, by_size: Mapping[Size, CocoImages], *, seed: int) -> None:
        self.by_size = by_size
        self.seed = seed

    def __getitem__(self, key: SampleKey) -> Sample:
        # torchvision draws from torch's global generator only; the state of it is not this sample's to change.
        before = torch.get_rng_state()
        torch.default_generator.manual_seed(_draw(self.seed, _SAMPLE, key.epoch, key.image))
        try:
            return self.by_size[key.size][key.image]
        finally:
            torch.set_rng_state(before)


class ResumableLoader(DataLoader[Sample]):
    """A loader that knows how many batches it gave out, and goes on from there when its state is loaded.

    Each iteration is one epoch, counted by the loader itself. Batches that workers prepared but nobody took do not
    count, so a checkpoint written after a training step resumes with the next batch.
    """

    batch_sampler: EpochBatches

    def __init__(
        self,
        images: SeededImages,
        batches: EpochBatches,
        *,
        workers: int,
        join: Callable[[Sequence[Any]], Any] = collate,
    ) -> None:
        super().__init__(
            images, batch_sampler=batches, num_workers=workers, collate_fn=join, persistent_workers=workers > 0
        )
        self.epoch = 0
        self.given = 0

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        if self.given >= len(self):
            self.epoch, self.given = self.epoch + 1, 0
        self.batch_sampler.epoch, self.batch_sampler.position = self.epoch, self.given
        for batch in super().__iter__():
            self.given += 1
            yield batch

    @property
    def batches_given(self) -> int:
        """Batches given out since the run began."""
        return self.epoch * len(self) + self.given

    def state_dict(self) -> dict[str, Any]:
        """Epoch and batches given out in it."""
        return {"epoch": self.epoch, "given": self.given}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The next iteration starts after the batches given out before."""
        self.epoch, self.given = int(state["epoch"]), int(state["given"])
