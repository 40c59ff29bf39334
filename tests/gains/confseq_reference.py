"""Make ``confseq_reference.json``: bounds of the authors' package ``confseq`` 0.0.11, as an oracle.

It is no dependency of the tests, because it needs numpy 1, and its C++ part does not build with
Python 3.11. Its betting is pure Python, and suffices. In a folder of its own::

    python -m venv old && old/bin/pip install "numpy<2" scipy matplotlib multiprocess pandas
    git clone https://github.com/gostevehoward/confseq
    PYTHONPATH=confseq/src old/bin/python confseq_reference.py
"""

import json
from pathlib import Path

import numpy as np

ERRORS = (0.05, 1e-3, 1e-5)
PRIOR_VARIANCE, CAP = 0.05, 0.95


def samples():
    """Return name -> values in [0, 1], rounded so that they read the same everywhere."""
    generator = np.random.default_rng(0)
    made = {}
    for size in (3, 40, 250):
        made[f"uniform-{size}"] = generator.random(size)
        made[f"bernoulli-{size}"] = generator.random(size) < 0.7
        made[f"sparse-{size}"] = 0.5 + 0.2 * generator.choice([-1, 0, 0, 0, 0, 1, 1], size)
        made[f"skewed-{size}"] = generator.beta(0.3, 2.0, size)
    made["zeros"], made["ones"] = np.zeros(20), np.ones(20)
    return {name: np.round(np.asarray(values, dtype=float), 4) for name, values in made.items()}


def reference_bound(values, error):
    """Return the greatest mean at which confseq's capital reaches 1 / error, by bisection."""
    from confseq.betting import betting_mart
    from confseq.predmix import lambda_predmix_eb

    def bets(x, _):
        return lambda_predmix_eb(x, alpha=error, fixed_n=len(x), prior_variance=PRIOR_VARIANCE)

    def reached(mean):
        capital = betting_mart(values, mean, error, bets, theta=1, trunc_scale=CAP)
        return capital.max() >= 1 / error

    low, high = 0.0, 1.0
    while high - low > 1e-13:
        middle = (low + high) / 2
        low, high = (middle, high) if reached(middle) else (low, middle)
    return low


def main():
    """Write the table beside this file, the values of each sample in one line."""
    table = []
    for name, values in samples().items():
        bounds = {str(error): reference_bound(values, error) for error in ERRORS}
        table.append({"name": name, "values": values.tolist(), "bounds": bounds})
    text = json.dumps(table, indent=1).replace(",\n   ", ", ")
    Path(__file__).with_suffix(".json").write_text(text + "\n")


if __name__ == "__main__":
    main()
