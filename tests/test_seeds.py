import torch

from fl_market.seeds import derive_seed, reproducible, torch_generator


def test_each_purpose_has_its_own_stream():
    seeds = {
        derive_seed(0, "a"),
        derive_seed(0, "b"),
        derive_seed(1, "a"),
        derive_seed(0, "a", 1),
        derive_seed(0, "a", 2),
    }
    assert len(seeds) == 5
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert torch.equal(
        torch.rand(3, generator=torch_generator(4, "x")), torch.rand(3, generator=torch_generator(4, "x"))
    )


def test_the_global_generator_and_the_threads_are_restored():
    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    threads = torch.get_num_threads()
    with reproducible(0, "block"):
        assert torch.get_num_threads() == 1
        first = torch.rand(2)
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.rand(2), expected)
    with reproducible(0, "block"):
        assert torch.equal(torch.rand(2), first)
