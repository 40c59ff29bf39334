"""The options of a run that goes on after its last checkpoint."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fl_market.configuration import Configuration
from fl_market.errors import OptionError
from fl_market.run_folder import checkpoints_path, read_configuration
from strategies.checkpoints import Checkpoints


def resumed_configuration(folder: Path, given: Mapping[str, Any]) -> Configuration:
    """Return the options to resume a run with.

    Parameters
    ----------
    folder
        The folder of the run.
    given
        Options that the user gave, by flat name: more rounds extend the run.

    Raises
    ------
    OptionError
        If an option is given that must not change, or fewer rounds than the run has finished.
    MarketError
        If there is no run, or its last checkpoint cannot be read.
    """
    if "out_dir" in given and Path(given["out_dir"]).absolute() != folder:
        raise OptionError(f"out-dir must be the folder of the resumed run, {folder}; got {given['out_dir']!r}")
    known = read_configuration(folder)
    configuration = known.with_options(**{**given, "resume": str(folder), "out_dir": str(folder)})
    known.check_resumable(configuration)
    checkpoint = Checkpoints(checkpoints_path(folder, known.run.strategy)).last()
    finished = checkpoint.round if checkpoint is not None else 0
    if configuration.run.num_server_rounds < finished:
        raise OptionError(
            f"num-server-rounds must be at least {finished}, the finished rounds of the run in {folder}; "
            f"got {configuration.run.num_server_rounds}"
        )
    return configuration
