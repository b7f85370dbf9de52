from collections import Counter

import torch

from compressor.data._order import GroupedBatches
from compressor.data.digits import Digits

GROUPS = torch.arange(10).repeat_interleave(20)  # 10 groups of 20


def batches(epoch=0, **options):
    made = GroupedBatches(GROUPS, 16, 4, **options)
    made.set_epoch(epoch)
    return made, [[index for _, index in batch] for batch in made]


def test_a_batch_holds_so_many_samples_of_each_of_some_groups():
    made, found = batches()
    assert len(found) == len(made) == 200 // 16
    for batch in found:
        counts = Counter(GROUPS[batch].tolist())
        assert len(batch) == len(set(batch)) == 16
        assert list(counts.values()) == [4] * 4


def test_groups_of_an_epoch_differ_by_one_draw_at_most():
    draws = Counter()
    for batch in batches()[1]:
        draws.update(set(GROUPS[batch].tolist()))
    assert max(draws.values()) - min(draws[group] for group in range(10)) <= 1


def test_batches_follow_seed_and_epoch():
    assert batches(1)[1] == batches(1)[1]
    assert batches(1)[1] != batches(2)[1] and batches(1)[1] != batches(1, seed=3)[1]


def test_a_small_group_gives_some_samples_twice_and_few_groups_give_more_each():
    made = GroupedBatches(torch.tensor([0] * 30 + [1, 1]), 16, 4)
    for batch in made:
        rows = [index for _, index in batch]
        assert len(rows) == 16 and sum(row >= 30 for row in rows) == 8


def test_ranks_share_the_batches_and_negative_groups_are_left_out():
    whole = batches()[1]
    ranks = [batches(rank=rank, world=2)[1] for rank in (0, 1)]
    assert whole[:12:2] == ranks[0] and whole[1:12:2] == ranks[1]
    groups = GROUPS.clone()
    groups[100:] = -1
    assert all(index < 100 for batch in GroupedBatches(groups, 16, 4) for _, index in batch)


def test_the_loader_draws_from_groups():
    data = Digits(image_size=8)
    loader = data.loader("train", 40, groups=data.labels("train"), per_group=8)
    loader.batch_sampler.set_epoch(1)
    images, targets, index = next(iter(loader))
    assert len(images) == 40 and set(Counter(targets.tolist()).values()) == {8}
    assert torch.equal(targets, data.labels("train")[index])
