import torch

from compressor.seeding import derive, generator, uniforms


def test_a_derived_seed_depends_on_every_name_of_its_path():
    assert derive(0, "train", 1) == derive(0, "train", 1)
    assert (
        len({derive(s, n, o) for s in (0, 1) for n in ("train", "finetune") for o in (1, 2)}) == 8
    )
    assert 0 <= derive(0) < 2**63


def test_a_generator_does_not_touch_the_global_state():
    before = torch.get_rng_state()
    generator(0, "a").initial_seed()
    torch.rand(3, generator=generator(0, "a"))
    assert torch.equal(before, torch.get_rng_state())


def test_uniforms_are_a_function_of_the_sample_not_of_its_batch():
    index = torch.tensor([7, 3, 100000])
    together = uniforms(1, 2, index, 4)
    alone = torch.cat([uniforms(1, 2, i[None], 4) for i in index])
    assert torch.equal(together, alone)
    assert not torch.equal(together, uniforms(1, 3, index, 4))
    assert not torch.equal(together, uniforms(2, 2, index, 4))


def test_uniforms_are_uniform_and_uncorrelated():
    u = uniforms(3, 0, torch.arange(50_000), 3).double()
    assert u.min() >= 0 and u.max() < 1
    # mean of n uniforms: sd 1/sqrt(12 n) = 0.0013; 4 sd
    torch.testing.assert_close(u.mean(0), torch.full((3,), 0.5).double(), atol=0.0052, rtol=0)
    # each of 16 bins holds n/16 = 3125, sd 54; 4.5 sd
    counts = torch.histc(u[:, 0], bins=16, min=0, max=1)
    assert (counts - 3125).abs().max() < 245
    off_diagonal = torch.corrcoef(u.T) - torch.eye(3)
    assert off_diagonal.abs().max() < 4 / 50_000**0.5
