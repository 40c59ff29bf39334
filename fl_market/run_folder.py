"""A run's folder: ``results.json``, the ledgers, the checkpoints and a picture."""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from fl_market.configuration import Configuration
from fl_market.errors import MarketError
from fl_market.files import create_folder, write_whole
from fl_market.ledger.heads import Signer
from fl_market.plugins import label
from fl_market.registry import Registry
from fl_market.reports.results import ArmResult
from fl_market.reports.rounds import AGENTS as PER_AGENT
from fl_market.reports.rounds import ROUNDS, agents_csv, rounds_csv

RESULTS = "results.json"
SUMMARY = "summary.json"
CONFIGURATION = "configuration.json"
SPLIT_SEED = "split-seed.json"
"""File of the broker alone: the random seed of its split in a deployment, for a resumption."""
LEDGER = "FL_MARKET_LEDGER"
"""Environment variable of the broker's machine: database URL of a ledger shared by runs."""

LEDGER_KEY = "FL_MARKET_LEDGER_KEY"
"""Environment variable of the broker's machine: file of the key that signs the ledger's heads."""

AGENTS = "FL_MARKET_AGENTS"
"""Environment variable of the broker's machine: file of the registry of agents."""


def ledger_path(out_dir: Path, arm: str) -> Path:
    """Return the path of an arm's ledger."""
    return out_dir / f"ledger-{label(arm)}.db"


def checkpoints_path(out_dir: Path, arm: str) -> Path:
    """Return the folder of an arm's checkpoints."""
    return out_dir / f"checkpoints-{label(arm)}"


def ledger_url(configuration: Configuration) -> str:
    """Return the database URL of a run's ledger.

    The environment variable comes first, then a file in the run's folder, then a ledger in memory.
    The URL is no option of a run: agents are told the options, and it may hold a password.
    """
    if LEDGER in os.environ:
        return os.environ[LEDGER]
    if not configuration.run.out_dir:
        return "sqlite://"
    folder = prepare_folder(Path(configuration.run.out_dir))
    return f"sqlite:///{ledger_path(folder, configuration.run.strategy)}"


def registry_of_agents() -> Registry | None:
    """Return the registry that the environment variable names, or None.

    Raises
    ------
    MarketError
        If it cannot be read.
    """
    return Registry.read(Path(os.environ[AGENTS])) if AGENTS in os.environ else None


def ledger_signer(configuration: Configuration) -> Signer:
    """Return the signer of the ledger's heads.

    Its key is in the file that the environment variable names, or else in the run's folder, where a
    new one is written if there is none. A run without a folder has a key for its own time.

    Raises
    ------
    MarketError
        If the key cannot be read or written.
    """
    if LEDGER_KEY in os.environ:
        return Signer.at(Path(os.environ[LEDGER_KEY]))
    if not configuration.run.out_dir:
        return Signer()
    folder = prepare_folder(Path(configuration.run.out_dir))
    return Signer.at(folder / f"ledger-{label(configuration.run.strategy)}.key")


def prepare_folder(folder: Path) -> Path:
    """Return the folder, created if it is missing.

    Raises
    ------
    MarketError
        If it cannot be created.
    """
    try:
        create_folder(folder)
    except OSError as error:
        raise MarketError(f"the folder {folder} cannot be created: {error.strerror}") from error
    return folder


def clear_folder(folder: Path, overwrite: bool) -> None:
    """Prepare the folder for a new run; ``overwrite`` removes the files of an earlier run.

    Raises
    ------
    MarketError
        If the folder holds a run and ``overwrite`` is False, the run is at work, or the folder
        cannot be read or written.
    """
    prepare_folder(folder)
    try:
        locks = [path for path in sorted(folder.iterdir()) if path.match(".*.lock")]
        for lock in locks:
            with at_work(folder, lock.name[1 : -len(".lock")]):
                pass
        left = [
            path
            for pattern in (
                RESULTS,
                SUMMARY,
                CONFIGURATION,
                "ledger-*.db*",
                "ledger-*.key",
                "learning_curves.png",
                ROUNDS,
                PER_AGENT,
                "checkpoints-*",
            )
            for path in sorted(folder.glob(pattern))
        ]
        if left and not overwrite:
            raise MarketError(
                f"{folder} already holds a run ({left[0].name}); choose another --out, or pass --overwrite"
            )
        for path in left:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        (folder / SPLIT_SEED).unlink(missing_ok=True)  # alone it is no run: a run that began writes it first
    except OSError as error:
        raise MarketError(f"the folder {folder} cannot be cleared: {error.strerror or error}") from error


@contextmanager
def at_work(folder: Path, arm: str) -> Iterator[None]:
    """Lock the folder, so that no other process runs the arm in it.

    Two processes would end each other's open deals. A crash of the process releases the lock.

    Raises
    ------
    MarketError
        If another process is at work, or the folder cannot be written.
    """
    lock = FileLock(prepare_folder(folder) / f".{label(arm)}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise MarketError(f"another process is running {label(arm)} in {folder}; end it, or wait for it") from None
    except OSError as error:
        raise MarketError(f"the folder {folder} cannot be written: {error.strerror or error}") from error
    try:
        yield
    finally:
        lock.release()


def claim_file(folder: Path, name: str, overwrite: bool) -> Path:
    """Return the folder, created if it is missing, in which a file of this name may be written.

    Raises
    ------
    MarketError
        If the file exists and ``overwrite`` is False, or the folder cannot be read or written.
    """
    prepare_folder(folder)
    try:
        exists = (folder / name).exists()
    except OSError as error:
        raise MarketError(f"the folder {folder} cannot be read: {error.strerror or error}") from error
    if exists and not overwrite:
        raise MarketError(f"{folder} already holds {name}; choose another --out, or pass --overwrite")
    return folder


def write_configuration(configuration: Configuration) -> Path:
    """Write the options that a run was started with, so that it can be resumed."""
    return write_json(prepare_folder(Path(configuration.run.out_dir)) / CONFIGURATION, configuration.to_mapping())


def read_configuration(folder: Path) -> Configuration:
    """Return the options that the run in a folder was started with.

    Raises
    ------
    MarketError
        If there is no run, or its options cannot be read.
    """
    path = folder / CONFIGURATION
    try:
        return Configuration.from_mapping(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise MarketError(f"there is no run to resume in {folder}: {CONFIGURATION} is missing") from None
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise MarketError(f"the run in {folder} cannot be resumed: {CONFIGURATION} cannot be read: {error}") from error


def write_split_seed(folder: Path, seed: int) -> Path:
    """Keep the random seed of the broker's split, for a resumption of the run."""
    return write_json(prepare_folder(folder) / SPLIT_SEED, {"split-seed": seed})


def read_split_seed(folder: Path) -> int | None:
    """Return the seed that :func:`write_split_seed` kept in a run's folder; None if there is none.

    Raises
    ------
    MarketError
        If it cannot be read.
    """
    path = folder / SPLIT_SEED
    try:
        return int(json.loads(path.read_text(encoding="utf-8"))["split-seed"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MarketError(f"the run in {folder} cannot be resumed: {SPLIT_SEED} cannot be read: {error}") from error


def as_document(configuration: Configuration, arms: Mapping[str, ArmResult]) -> dict[str, Any]:
    """Return the content of ``results.json``."""
    return {
        "task": configuration.task.name,
        "seed": configuration.run.seed,
        "rounds": configuration.run.num_server_rounds,
        "flwr": version("flwr"),
        "torch": version("torch"),
        "arms": {name: result.as_json() for name, result in arms.items()},
    }


def write_results(configuration: Configuration, arms: Mapping[str, ArmResult]) -> Path:
    """Write ``results.json``, ``rounds.csv`` and ``agents.csv``; return the path of the first.

    Each is written whole or not at all, into the configuration's folder.
    """
    folder = prepare_folder(Path(configuration.run.out_dir))
    for name, text in ((ROUNDS, rounds_csv(arms)), (PER_AGENT, agents_csv(arms))):
        write_file(folder / name, text.encode())
    return write_json(folder / RESULTS, as_document(configuration, arms))


def write_json(path: Path, document: Any) -> Path:
    """Write a JSON file, whole or not at all.

    Raises
    ------
    MarketError
        If it cannot be written.
    """
    return write_file(path, (json.dumps(document, indent=1) + "\n").encode())


def write_file(path: Path, content: bytes) -> Path:
    """Write a file of a run, whole or not at all.

    Raises
    ------
    MarketError
        If it cannot be written.
    """
    try:
        write_whole(path, content)
    except OSError as error:
        raise MarketError(f"{path} cannot be written: {error.strerror or error}") from error
    return path
