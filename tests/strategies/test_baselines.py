import pytest
import torch
from flwr.app import ArrayRecord
from flwr.serverapp.strategy import FedAdam, FedAvg

from clients.client_app import app
from fl_market.configuration import Configuration
from fl_market.errors import MarketError
from fl_market.runner.engines import run_inline
from fl_market.runner.inline_grid import InlineGrid
from strategies.arms import ARMS, arm_named
from tests.played import EVALUATE, TRAIN, SpiedGrid, configured
from tests.terms import PUBLISHED

pytestmark = pytest.mark.flower


def run(strategy, **options):
    return run_inline(Configuration.of(strategy=strategy, num_server_rounds=options.pop("rounds", 3), **options))


def curves(result):
    return {name: [entry.test_loss for entry in agent.rounds] for name, agent in result.agents.items()}


def test_fedavg_equals_flowers_strategy():
    """Flower's unchanged strategy over the same agents ends with the same model."""
    configuration = Configuration.of(num_server_rounds=3)
    common = ArrayRecord(configuration.load_task().initial_model(0).state_dict())
    grid = InlineGrid(app, 2, configuration.to_mapping())
    metrics = FedAvg().start(grid=grid, initial_arrays=common, num_rounds=3).evaluate_metrics_clientapp
    ours = curves(run("fedavg"))
    assert ours["A"] == ours["B"] == pytest.approx([metrics[index]["test-loss"] for index in (1, 2, 3)])


def test_siloed_agents_exchange_no_parameters():
    alone, together = run("siloed"), run("market", first_round=4)
    assert curves(alone) == curves(together)
    assert alone.agents["A"].rounds != alone.agents["B"].rounds
    assert (alone.initialisation, alone.trading_from) == ("independent", None)


def test_late_fedavg_is_siloed_first_and_one_model_later():
    late, siloed = curves(run("fedavg-late", first_round=3, rounds=4)), curves(run("siloed", rounds=4))
    for agent in "AB":
        assert late[agent][:2] == siloed[agent][:2]
        assert late[agent][2] != siloed[agent][2]
    assert late["A"][2:] == late["B"][2:]


def test_late_fedavg_averages_the_trained_models_by_number_of_samples():
    configuration = Configuration.of(strategy="fedavg-late", num_server_rounds=1, first_round=1)
    task = configuration.load_task()
    siloed = InlineGrid(app, 2, configuration.to_mapping())
    run_arm_over(siloed, configuration, "siloed")
    late = InlineGrid(app, 2, configuration.to_mapping())
    run_arm_over(late, configuration, "fedavg-late")
    own = [context.state["model"].to_torch_state_dict() for context in siloed.contexts.values()]
    weights = [len(part[0]) for part in task.agents]
    average = late.contexts[1000].state["model"].to_torch_state_dict()
    for name, tensor in average.items():
        expected = (weights[0] * own[0][name] + weights[1] * own[1][name]) / sum(weights)
        torch.testing.assert_close(tensor, expected)


def run_arm_over(grid, configuration, strategy):

    from strategies.server_app import run_arm

    return run_arm(grid, configuration.with_options(strategy=strategy))


def test_fedavg_with_local_fine_tuning_is_fedavg_before_its_last_step():
    plain, local = run("fedavg"), run("fedavg-local")
    for name in "AB":
        assert curves(local)[name][:-1] == curves(plain)[name][:-1]
        assert curves(local)[name][-1] != curves(plain)[name][-1]
    assert local.agents["A"].rounds[-1] != local.agents["B"].rounds[-1]


def test_the_last_step_of_fedavg_local_is_the_next_round_s_training():
    options = {"train_samples": 600, "broker_samples": 200}
    local = configured(strategy="fedavg-local", num_server_rounds=2, **options)
    longer = configured(strategy="fedavg", num_server_rounds=3, **options)
    grids = [SpiedGrid(configuration) for configuration in (local, longer)]
    for grid, configuration in zip(grids, (local, longer), strict=True):
        run_arm_over(grid, configuration, configuration.run.strategy)
    for name in "AB":
        returned = replies_of(grids[0], EVALUATE, name)[-1].to_torch_state_dict()
        trained = replies_of(grids[1], TRAIN, name)[-1].to_torch_state_dict()
        assert all(torch.equal(tensor, trained[key]) for key, tensor in returned.items())


def replies_of(grid, message_type, name):
    return [
        reply.content["arrays"]
        for agent, message, reply in grid.seen
        if (agent, message.metadata.message_type) == (name, message_type) and "arrays" in reply.content
    ]


def test_tuned_fedavg_uses_the_broker_s_data():
    plain, tuned = run("fedavg"), run("fedavg-tuned", tuning_learning_rate=0.01)
    assert curves(tuned)["A"][-1] < curves(plain)["A"][-1]
    assert curves(run("fedavg-tuned", fit_steps=0)) == curves(plain)


@pytest.mark.parametrize("arm", ARMS)
def test_every_arm_runs_and_reports_its_initialisation(arm):
    result = run(arm, rounds=2, first_round=2, fit_steps=2, prior="exponential(1000)", **PUBLISHED)
    assert result.initialisation in ("common", "independent")
    assert {len(agent.rounds) for agent in result.agents.values()} == {2}
    assert (result.deals > 0) == arm.startswith("market")


def test_fedprox_equals_flowers_strategy_and_keeps_agents_near_the_average():
    plain, near = curves(run("fedavg")), curves(run("fedprox", proximal_mu=10.0))
    assert near["A"][-1] > plain["A"][-1], "it moves less"
    assert curves(run("fedprox", proximal_mu=1e-12))["A"] == pytest.approx(plain["A"], rel=1e-4)


def test_fedadam_equals_flowers_strategy():
    configuration = Configuration.of(num_server_rounds=2)
    common = ArrayRecord(configuration.load_task().initial_model(0).state_dict())
    grid = InlineGrid(app, 2, configuration.to_mapping())
    metrics = FedAdam(eta=0.02).start(grid=grid, initial_arrays=common, num_rounds=2).evaluate_metrics_clientapp
    ours = curves(run("fedadam", rounds=2, server_learning_rate=0.02))
    assert ours["A"] == ours["B"] == pytest.approx([metrics[index]["test-loss"] for index in (1, 2)])


def test_an_ensemble_is_tested_by_the_mean_of_its_probabilities():
    configuration = Configuration.of(strategy="siloed", num_server_rounds=1)
    task, siloed = configuration.load_task(), InlineGrid(app, 2, configuration.to_mapping())
    run_arm_over(siloed, configuration, "siloed")
    probabilities = []
    for context in siloed.contexts.values():
        model = task.build_model()
        model.load_state_dict(context.state["model"].to_torch_state_dict())
        probabilities.append(model(task.test[0]).softmax(1))
    mean = torch.stack(probabilities).mean(0)
    expected = -mean.log()[torch.arange(len(mean)), task.test[1]].mean()
    ours = curves(run("ensemble", rounds=1))
    assert ours["A"] == ours["B"] == pytest.approx([float(expected)], rel=1e-5)


def test_the_pooled_model_trains_on_all_data():
    seen = {}

    class Grid(InlineGrid):
        def answer(self, message):
            reply = super().answer(message)
            if message.metadata.message_type == "train":
                seen[message.metadata.dst_node_id] = reply.content["metrics"]["num-examples"]
            return reply

    configuration = Configuration.of(num_server_rounds=1)
    run_arm_over(Grid(app, 2, configuration.to_mapping()), configuration, "pooled")
    total = sum(len(part[0]) for part in configuration.load_task().agents)
    assert set(seen.values()) == {total}


def test_fedala_starts_from_the_common_model_and_becomes_personal():
    fedala, fedavg = (run(arm, rounds=2, learning_rate=0.05) for arm in ("fedala", "fedavg"))
    assert fedala.agents["A"].rounds[-1] != fedala.agents["B"].rounds[-1]
    assert curves(fedavg)["A"] == curves(fedavg)["B"]


def test_fedfomo_follows_its_formula():
    configuration = Configuration.of(strategy="fedfomo", num_server_rounds=1)
    task = configuration.load_task()
    models, delivered = {}, {}

    class Grid(InlineGrid):
        def answer(self, message):
            reply = super().answer(message)
            name = "AB"[message.metadata.dst_node_id - 1000]
            if message.metadata.message_type == "train":
                models[name] = reply.content["arrays"].to_torch_state_dict()
            else:
                delivered[name] = message.content["arrays"].to_torch_state_dict()
            return reply

    run_arm_over(Grid(app, 2, configuration.to_mapping()), configuration, "fedfomo")
    start = task.initial_model(0).state_dict()

    def loss(state):
        model = task.build_model().eval()
        model.load_state_dict(state)
        with torch.no_grad():
            return float(task.criterion(model(task.broker[0]), task.broker[1]).mean())

    weights = {
        name: max(0, loss(start) - loss(state))
        / sum(float((state[key] - start[key]).square().sum()) for key in start) ** 0.5
        for name, state in models.items()
    }
    for key, tensor in start.items():
        step = sum(weights[name] * (models[name][key] - tensor) for name in models) / sum(weights.values())
        torch.testing.assert_close(delivered["A"][key], tensor + step, rtol=1e-3, atol=1e-5)


def test_agents_test_their_models_every_test_every_rounds():
    for arm in ("fedavg", "siloed", "market", "fedala"):
        often, seldom = (run(arm, rounds=3, first_round=2, test_every=every) for every in (1, 2))
        for name in "AB":
            kept = [entry for entry in often.agents[name].rounds if entry.round in (2, 3)]
            assert list(seldom.agents[name].rounds) == kept


def test_an_unknown_arm_is_named():
    with pytest.raises(MarketError, match=r"unknown arm 'gossip'; known are siloed, fedavg"):
        arm_named("gossip")
