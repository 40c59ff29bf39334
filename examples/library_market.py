"""A complete market without Flower: two agents train on the MNIST sample, trade, and are paid."""

from clients.training import make_optimiser, train
from fl_market.broker import Broker, Terms
from fl_market.gains import split_in_halves
from fl_market.pricing import Exponential
from fl_market.tasks import TaskOptions, load_task
from fl_market.valuation import decide, proportional_to_gain, value

task = load_task("mnist-mlp", TaskOptions(agents=2, train_samples=2000))
models = {name: task.initial_model(seed=0, agent=name) for name in ("A", "B")}
for (name, model), data in zip(models.items(), task.agents, strict=True):
    sgd = make_optimiser(model, "sgd", learning_rate=0.1, momentum=0.9)
    train(model, sgd, task.criterion, data, epochs=5, batch_size=32, seed=0, purpose=(name,))

broker = Broker(task.build_model(), task.criterion, *split_in_halves(task.broker, seed=0), terms=Terms(pricing="nash"))
for name in models:
    broker.seat(name)
trading = broker.open_round({name: model.state_dict() for name, model in models.items()})
bidding = trading.accept_bids({name: decide(some, proportional_to_gain()) for name, some in trading.offers.items()})
bargain = bidding.accept_asks({name: value(some, Exponential(1000), 0, 1) for name, some in bidding.requests.items()})
deliveries = bargain.deliver()
broker.conclude(bargain.conclude({name: delivery.acknowledge() for name, delivery in deliveries.items()}))
print([(deal.buyer, deal.seller, deal.price, str(state)) for deal, state in broker.trades], broker.ledger.balances())
