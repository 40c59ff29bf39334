"""The kinds of plug-ins, and a line about each that the package ships.

Names stand here and objects in the registries, so that the command line can list them without
importing torch, Flower or scipy. Arms are Flower strategies: this room knows their names alone.
"""

from typing import Any

from fl_market.plugins import Kind, find, parse_call, registry_of

TASK = Kind(
    "task",
    "a function from TaskOptions to Task",
    "fl_market.tasks:TASKS",
    {
        "mnist-mlp": "MNIST, the published five-layer perceptron; by default on the sample that is shipped",
        "mnist-resnet8": "MNIST, a residual network of 8 layers",
        "digits-vit": "MNIST, a small vision transformer",
        "cifar10-resnet20": "CIFAR-10, a residual network of 20 layers; needs --data-dir",
        "tinyimagenet-resnet20": "TinyImageNet, a residual network of 20 layers; needs --data-dir",
    },
    "fl_market.tasks",
)
ARM = Kind(
    "arm",
    "a strategies.arms.Arm",
    "strategies.arms:ARMS",
    {
        "siloed": "each agent trains alone (the paper's out-of-market)",
        "fedavg": "federated averaging in each round",
        "fedavg-late": "federated averaging from the first round of trading on, as the paper publishes it",
        "fedavg-tuned": "federated averaging; the broker fine-tunes the average on its own data",
        "fedprox": "federated averaging with a proximal term in local training",
        "fedadam": "federated averaging with Adam on the server",
        "fedala": "federated averaging; each agent weighs the average against its own model, element by element",
        "fedfomo": "each agent moves towards the models that help it, weighted by first order",
        "market-unaligned": "the market without alignment",
        "market": "the market, free of charge: every certified gain is a purchase",
        "market-fine": "the free market with a purchased weight for each row",
        "market-priced": "the market with bids, asks and prices by --pricing",
        "ensemble": "the mean of all siloed models' outputs",
        "pooled": "one model, trained on all agents' data",
    },
    "fl_market.arms",
    requires=("title", "build", "exchanges_from"),
)
PRICING_RULE = Kind(
    "pricing rule",
    "a fl_market.pricing.PricingRule, or a function that returns one for some numbers",
    "fl_market.pricing.rules:PRICING_RULES",
    {
        "nash": "the midpoint of bid and ask (the paper's)",
        "ask": "the seller's ask: truthful for the buyer",
        "free": "no money moves",
        "split(share)": "the seller gets this share of the surplus above its ask; 0.5 is nash",
        "posted(credits)": "one price for all: truthful for both sides",
    },
    "fl_market.pricing_rules",
    requires=("name", "asks", "price"),
)
PRIOR = Kind(
    "prior",
    "an object with price(cost), or a function that returns one for some numbers",
    "fl_market.pricing.priors:PRIORS",
    {
        "uniform(low, high)": "gains spread evenly",
        "exponential(rate)": "many small gains, few large; 1/rate on average",
        "truncated-exponential(rate, low, high)": "the same within bounds",
        "pareto(shape, scale)": "a heavy tail",
        "truncated-pareto(shape, low, high)": "the same within bounds",
        "power(exponent, high)": "a power of the gain, up to a highest one",
        "truncated-normal(mean, std, low, high)": "a normal density within bounds",
        "empirical(value, …)": "observed gains",
    },
    "fl_market.priors",
    requires=("price",),
)
VALUATION = Kind(
    "valuation",
    "a function from an offer to credits",
    "fl_market.valuation:VALUATIONS",
    {"gain": "the certified gain-from-trade times --bid-scale"},
    "fl_market.valuations",
)
PARTITION = Kind(
    "partition",
    "a function (targets, agents, seed, …) that returns each agent's indices",
    "fl_market.tasks.partition:PARTITIONS",
    {
        "halves": "each agent keeps --scarce-share of half of the classes (the paper's)",
        "dirichlet(concentration)": "shares of each class drawn from a Dirichlet distribution",
        "shards(number)": "samples sorted by class, and so many pieces of that for each agent",
    },
    "fl_market.partitions",
    leading=3,
)
MERGE_METHOD = Kind(
    "merge method",
    "a function that merges a seller's model into a buyer's",
    "fl_market.merging.methods:MERGE_METHODS",
    {"interpolation": "(1 - α) · buyer + α · seller (the paper's)"},
    "fl_market.merge_methods",
)
ALIGNMENT_METHOD = Kind(
    "alignment method",
    "a function that permutes a seller's units",
    "fl_market.permutation.methods:ALIGNMENT_METHODS",
    {
        "weights": "match units by their weights",
        "activations": "match units by their outputs on the broker's data",
        "none": "leave the units as they are",
    },
    "fl_market.alignment_methods",
)
LOCAL_PRIVACY = Kind(
    "local privacy",
    "a mechanism of local differential privacy",
    "fl_market.local_privacy:MECHANISMS",
    {
        "gaussian(clipping_norm, sensitivity, epsilon, delta)": "clip the update and add Gaussian noise",
    },
    requires=("clipping_norm",),
)
KINDS = (TASK, ARM, PRICING_RULE, PRIOR, VALUATION, PARTITION, MERGE_METHOD, ALIGNMENT_METHOD, LOCAL_PRIVACY)
"""All kinds."""


def find_valuation(text: str, bid_scale: float) -> Any:
    """Return the function from an offer to credits that a text names.

    Parameters
    ----------
    text
        The option ``valuation``.
    bid_scale
        Credits that a gain of 1 is worth; what makes the shipped valuations takes it as its number.

    Raises
    ------
    OptionError
        If there is no such valuation, or its numbers do not fit.
    """
    call = parse_call(text)
    if call.name in VALUATION.shipped and call.numbers is None:
        return registry_of(VALUATION)[call.name](bid_scale)
    return find(VALUATION, text)
