import torch

from fl_market.merging.first_order import merge_first_order


def state(*values):
    return {"w": torch.tensor(values), "count": torch.tensor(3)}


def loss(model):
    return float((model["w"] - torch.tensor([1.0, 0.0])).square().sum())


def test_models_count_by_their_improvement_per_distance():
    start, own, other = state(0.0, 0.0), state(0.5, 0.0), state(1.0, 1.0)
    # gains 0.75 over a distance of 0.5, and none: the other model is as bad as the start
    assert merge_first_order(start, own, [own, other], loss)["w"].tolist() == [0.5, 0.0]
    better = state(2.0, 0.0)  # as far from the best as the start is
    both = merge_first_order(start, own, [own, state(1.0, 0.0), better], loss)["w"]
    torch.testing.assert_close(both, torch.tensor([(1.5 * 0.5 + 1.0 * 1.0) / 2.5, 0.0]))


def test_an_agent_keeps_its_own_model_if_no_other_is_better():
    start, own = state(1.0, 0.0), state(0.9, 0.0)
    assert merge_first_order(start, own, [own, state(5.0, 5.0)], loss)["w"] is own["w"]
