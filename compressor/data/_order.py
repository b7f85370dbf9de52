"""In which order images are visited: a function of (seed, epoch), whatever the loader does."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import Sampler

from compressor.seeding import generator


class EpochSampler(Sampler):
    """Yields (epoch, index) pairs; the order is a function of (seed, epoch).

    `set_epoch` is the hook that Lightning calls at the start of every epoch. With world > 1 every
    rank takes each world-th entry; `pad` repeats the first entries of the epoch until the ranks
    are equally long (training: nothing is dropped), without it no index is seen twice. With
    `classes` an epoch is as long, and every class comes equally often in it.
    """

    def __init__(
        self,
        indices: Tensor,
        *,
        seed: int = 0,
        shuffle: bool = False,
        pad: bool = False,
        classes: Tensor | None = None,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        """classes: (m,) int64, those of the indices; it shuffles by itself."""
        self.indices = indices
        self.members = None if classes is None else _by_class(indices, classes)
        self.seed = seed
        self.shuffle = shuffle
        self.pad = pad
        self.rank = rank
        self.world = world
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = int(epoch)

    def __len__(self) -> int:
        n = len(self.indices)
        return -(-n // self.world) if self.pad else len(range(self.rank, n, self.world))

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = self.indices
        if self.members is not None:
            order = _alike(self.members, generator(self.seed, "classes", self.epoch))
        elif self.shuffle:
            rng = generator(self.seed, "order", self.epoch)
            order = order[torch.randperm(len(order), generator=rng)]
        if self.pad and len(order):
            order = order[torch.arange(len(self) * self.world) % len(order)]
        for index in order[self.rank :: self.world].tolist():
            yield self.epoch, index


def spread_over_classes(classes: Tensor, rng: torch.Generator) -> Tensor:
    """(n,) positions in a random order of which any beginning holds the classes equally often.

    classes: (n,) int64. A class that has no image left is no longer among those that go on.
    """
    order = torch.randperm(len(classes), generator=rng)
    grouped = classes[order].argsort(stable=True)
    counts = torch.unique(classes, return_counts=True)[1]
    # how many of its class come before each image
    place = torch.arange(len(classes)) - (counts.cumsum(0) - counts).repeat_interleave(counts)
    turns = torch.empty(len(classes), dtype=torch.float64)
    turns[grouped] = place.double()
    lots = torch.rand(len(classes), generator=rng, dtype=torch.float64)
    return order[(turns + lots).argsort()]


def _by_class(indices: Tensor, classes: Tensor) -> list[Tensor]:
    counts = torch.unique(classes, return_counts=True)[1]
    return list(indices[classes.argsort(stable=True)].split(counts.tolist()))


def _alike(members: list[Tensor], rng: torch.Generator) -> Tensor:
    """As many indices as there are members, every class equally often, shuffled.

    A class with fewer images than its share comes again in a new order; a larger one gives another
    part of its images in every epoch. What cannot be shared out evenly goes to classes by lot.
    """
    share, rest = divmod(sum(map(len, members)), len(members))
    more = set(torch.randperm(len(members), generator=rng)[:rest].tolist())
    drawn = []
    for number, own in enumerate(members):
        count = share + (number in more)
        times = -(-count // len(own))
        turns = [own[torch.randperm(len(own), generator=rng)] for _ in range(times)]
        drawn.append(torch.cat(turns)[:count])
    every = torch.cat(drawn)
    return every[torch.randperm(len(every), generator=rng)]


class GroupedBatches(Sampler):
    """Batches of (epoch, index) pairs: some groups each, and some samples of each of these.

    The groups least drawn in the epoch come first, ties by lot, so that no two differ by more than
    one draw. A group's samples are gone through in a random order; one with fewer than are asked
    for gives some twice. The batches are a function of (seed, epoch); each rank has every world-th.
    """

    def __init__(
        self,
        groups: Tensor,
        batch_size: int,
        per_group: int,
        *,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        """groups: (n,) int64, that of each sample; a negative one is never drawn."""
        found = [int(g) for g in groups.unique() if g >= 0]
        self.members = [torch.nonzero(groups == g).flatten() for g in found]
        # with few groups a batch holds more of each, and is about as large as was asked for
        self.drawn = max(1, min(batch_size // per_group, len(found)))
        self.per_group = max(per_group, batch_size // self.drawn)
        samples = sum(map(len, self.members))
        self.count = max(1, samples // (self.drawn * self.per_group) // world)
        self.seed = seed
        self.rank = rank
        self.world = world
        self.epoch = 0
        self.sampler = self  # where Lightning looks for set_epoch

    def set_epoch(self, epoch: int) -> None:
        self.epoch = int(epoch)

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        rng = generator(self.seed, "groups", self.epoch)
        draws = torch.zeros(len(self.members))
        left = [members[:0] for members in self.members]
        for number in range(self.count * self.world):
            lots = draws + torch.rand(len(draws), generator=rng)
            chosen = lots.argsort()[: self.drawn]
            draws[chosen] += 1
            batch = []
            for group in chosen.tolist():
                members = self.members[group]
                if len(left[group]) < self.per_group:
                    left[group] = members[torch.randperm(len(members), generator=rng)]
                taken = left[group][: self.per_group]
                left[group] = left[group][self.per_group :]
                short = self.per_group - len(taken)
                if short:
                    again = torch.randint(len(members), (short,), generator=rng)
                    taken = torch.cat([taken, members[again]])
                batch += [(self.epoch, index) for index in taken.tolist()]
            if number % self.world == self.rank:
                yield batch
