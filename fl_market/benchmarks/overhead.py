"""``fl-market bench overhead``: a market's wall time relative to FedAvg's."""

from pathlib import Path
from statistics import median

from fl_market.configuration import Configuration
from fl_market.reports.table import summary_table
from fl_market.run_folder import claim_file, write_json
from fl_market.runner.engines import Engine

REPETITIONS = 3


def overhead(configuration: Configuration, engine: Engine, *, overwrite: bool = False) -> str:
    """Measure the wall time of a market and of FedAvg with the same rounds and agents.

    Writes ``overhead.json``.

    The two alternate, so that a slow moment of the machine affects both. One unmeasured run of
    FedAvg comes first, in which data and code are loaded.

    Parameters
    ----------
    configuration
        Options of both runs; its folder receives the file.
    engine
        One of ``ENGINES``.
    overwrite
        Whether an earlier file may be overwritten.

    Returns
    -------
    str
        A table of the medians, and their ratio.

    Raises
    ------
    MarketError
        If the file exists and may not be overwritten, or a run fails.
    """
    folder = claim_file(Path(configuration.run.out_dir), "overhead.json", overwrite)
    arms = [configuration.with_options(strategy=arm, out_dir="") for arm in ("fedavg", "market")]
    engine(arms[0].with_options(num_server_rounds=1), None)
    seconds: dict[str, list[float]] = {arm.run.strategy: [] for arm in arms}
    for _ in range(REPETITIONS):
        for arm in arms:
            seconds[arm.run.strategy].append(engine(arm, None).seconds)
    medians = {name: median(times) for name, times in seconds.items()}
    ratio = medians["market"] / medians["fedavg"]
    write_json(folder / "overhead.json", {"seconds": seconds, "market / fedavg": ratio})
    rows = [(name, f"{value:.2f}") for name, value in medians.items()] + [("market / fedavg", f"{ratio:.2f}")]
    return summary_table(
        f"Wall time of {configuration.run.num_server_rounds} rounds, median of {REPETITIONS}", ("", "seconds"), rows
    )
