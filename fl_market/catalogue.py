"""The kinds of plug-ins, with a description of each plug-in that the package ships.

This module holds names only; the objects are in the registries. The command line can therefore list
them without importing torch, Flower or scipy. Arms are Flower strategies, known here by name only.
"""

from typing import Any

from fl_market.plugins import Kind, find, parse_call, registry_of

TASK = Kind(
    "task",
    "a function from TaskOptions to Task",
    "fl_market.tasks:TASKS",
    {
        "mnist-mlp": "MNIST, the published five-layer perceptron; by default on the sample in the package",
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
        "fedavg-local": "federated averaging; after the last round, each agent trains the average on its own data",
        "fedavg-late": "federated averaging that starts in the first round of trading (the paper's)",
        "fedavg-tuned": "federated averaging, fine-tuned by the broker on its validation data",
        "fedprox": "federated averaging with a proximal term in local training",
        "fedadam": "federated averaging with Adam on the server",
        "fedala": "federated averaging; each agent mixes the average with its own model, parameter by parameter",
        "fedfomo": "each agent moves towards the models that reduce its loss (a first-order rule)",
        "market-unaligned": "the market without alignment",
        "market": "the market without prices: every certified gain leads to a purchase",
        "market-fine": "the market without prices, with a purchased weight for each row",
        "market-priced": "the market with bids, asks and the pricing rule of --pricing",
        "market-placebo": "the market, with an untrained network as the last agent's offer",
        "siloed-tuned": "each agent trains alone; the broker fine-tunes its model on the broker's data",
        "broker-only": "one model, fine-tuned on the broker's data alone",
        "fedavg-matched": "averages of independent models, aligned and repaired, without labels",
        "krum": "Flower's Krum, for one malicious agent",
        "fedmedian": "Flower's FedMedian: the median of each parameter",
        "fedtrimmedavg": "Flower's FedTrimmedAvg: a trimmed mean of each parameter",
        "ensemble": "the mean of the predictions of all siloed models",
        "pooled": "one model trained on the data of all agents",
    },
    "fl_market.arms",
    requires=("title", "build", "exchanges_from"),
)
PRICING_RULE = Kind(
    "pricing rule",
    "a fl_market.pricing.PricingRule, or a function from numbers to one",
    "fl_market.pricing.rules:PRICING_RULES",
    {
        "nash": "the midpoint of bid and ask (the paper's)",
        "ask": "the seller's ask: truthful for the buyer",
        "free": "no money moves",
        "split(share)": "the ask plus this share of bid minus ask; 0.5 is nash",
        "posted(credits)": "one fixed price: truthful for both sides",
    },
    "fl_market.pricing_rules",
    requires=("name", "asks", "price"),
)
PRIOR = Kind(
    "prior",
    "an object with a method price(cost), or a function from numbers to one",
    "fl_market.pricing.priors:PRIORS",
    {
        "uniform(low, high)": "every gain from low to high is equally likely",
        "exponential(rate)": "many small gains, few large ones; the mean is 1/rate",
        "truncated-exponential(rate, low, high)": "the exponential prior within bounds",
        "pareto(shape, scale)": "a heavy tail above scale",
        "truncated-pareto(shape, low, high)": "the Pareto prior within bounds",
        "power(exponent, high)": "F(gain) = (gain / high) ** exponent, up to high",
        "truncated-normal(mean, std, low, high)": "a normal distribution within bounds",
        "empirical(value, …)": "observed gains",
    },
    "fl_market.priors",
    requires=("price",),
)
VALUATION = Kind(
    "valuation",
    "a function from an offer to credits",
    "fl_market.valuation:VALUATIONS",
    {
        "gain": "the certified gain-from-trade times --bid-scale",
        "points(credits, until=1, rounds=0)": "credits for each point of accuracy, up to an accuracy and a round",
        "curve(accuracy, credits, …, rounds=0)": "what each accuracy is worth in all, linear in between",
    },
    "fl_market.valuations",
)
PARTITION = Kind(
    "partition",
    "a function (targets, agents, seed, …) that returns each agent's indices",
    "fl_market.tasks.partition:PARTITIONS",
    {
        "halves": "each agent has few samples (--scarce-share) of half of the classes (the paper's)",
        "dirichlet(concentration)": "shares of each class drawn from a Dirichlet distribution",
        "shards(number)": "samples are sorted by class and cut; each agent gets this number of pieces",
        "even": "equal parts with the same mix of classes",
        "shares(share, …)": "parts of these sizes, one for each agent, with the same mix of classes",
        "classes(number)": "this number of neighbouring classes for each agent, of equal parts",
    },
    "fl_market.partitions",
    leading=3,
)
MERGE_METHOD = Kind(
    "merge method",
    "a function that merges a seller's model into a buyer's",
    "fl_market.merging.methods:MERGE_METHODS",
    {
        "interpolation": "(1 - α) · buyer + α · seller, with the purchased weight α (the paper's)",
        "regression-mean": "layers that answer as both models do on the inputs that each sees (RegMean)",
    },
    "fl_market.merge_methods",
)
ALIGNMENT_METHOD = Kind(
    "alignment method",
    "a function that returns a permutation of the seller's units",
    "fl_market.permutation.methods:ALIGNMENT_METHODS",
    {
        "weights": "match units by their weights",
        "activations": "match units by their activations on the broker's data",
        "none": "keep the seller's order of units",
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
        Credits that a gain of 1 is worth; a shipped valuation takes it as its number.

    Raises
    ------
    OptionError
        If the valuation is unknown, or its numbers are invalid.
    """
    call = parse_call(text)
    if call.name in VALUATION.shipped and call.numbers is None:
        return registry_of(VALUATION)[call.name](bid_scale)
    return find(VALUATION, text)
