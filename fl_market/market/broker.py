"""The broker: the trusted third party (paper, section 3.1, and Algorithm 1).

It holds the architecture, the validation data, the ledger and the state of one market.
:meth:`Broker.open_round` begins a round, :class:`fl_market.market.round.TradingRound` has its
further steps, and :meth:`Broker.conclude` ends it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import nn

from fl_market.data import Batch
from fl_market.errors import MarketError
from fl_market.gains import ErrorBudget, Objective, Profile
from fl_market.hardware import CPU, Hardware
from fl_market.ledger import Deal, DealState, Ledger
from fl_market.market import settlement
from fl_market.market.alignment import Aligner
from fl_market.market.averaging import average_matched
from fl_market.market.buyers import Buyers
from fl_market.market.executors import Executor, serial
from fl_market.market.outcome import Notice, Outcome
from fl_market.market.purchases import Evaluation, Evaluator
from fl_market.market.round import TradingRound
from fl_market.market.state import MarketState
from fl_market.market.terms import Terms
from fl_market.market.trials import Trial
from fl_market.merging import select_layers
from fl_market.model_files import Keep, in_memory
from fl_market.parameters import StateDict
from fl_market.permutation import PermutationSpec, derive_spec
from fl_market.pricing.money import micro_credits
from fl_market.seeds import reproducible


class Broker:
    """The trusted third party of one market.

    Parameters
    ----------
    model
        The architecture; its parameters have no effect.
    criterion
        Losses of (outputs, targets), one for each sample.
    fit, certify
        Disjoint parts of the broker's validation data: the first chooses α, the second certifies
        the gain.
    ledger
        Records deals and moves money; by default a new one in memory.
    terms
        Terms of the market.
    run
        Prefix of each deal's id, so that runs can share a ledger.
    seed
        Seed of alignment and trials.
    build
        Makes the architecture for a number of classes; required if agents have their own label
        spaces.
    hardware
        Device and precision of evaluations.
    spec
        The architecture's permutable units; derived from it by default.
    execute
        Where trials run; results do not depend on it.
    keep
        Puts models where they stay, such as :meth:`fl_market.model_files.ModelFiles.keep`.

    Attributes
    ----------
    state
        State of the market between two rounds.
    keep
        As the parameter.
    """

    def __init__(
        self,
        model: nn.Module,
        criterion: nn.Module,
        fit: Batch,
        certify: Batch,
        *,
        ledger: Ledger | None = None,
        terms: Terms | None = None,
        run: str = "run",
        seed: int = 0,
        build: Callable[[int], nn.Module] | None = None,
        hardware: Hardware = CPU,
        spec: PermutationSpec | None = None,
        execute: Executor = serial,
        keep: Keep = in_memory,
    ) -> None:
        self.terms = terms or Terms()
        self.ledger = ledger if ledger is not None else Ledger.open()
        self.spec = derive_spec(model, fit[0][:2]) if spec is None else spec
        self.state = MarketState(runs=(run,), budget=ErrorBudget(1 - self.terms.confidence))
        self._run, self._seed, self.hardware = run, seed, hardware

        def architecture(classes: int | None) -> nn.Module:
            if classes is None:
                return model
            if build is None:
                raise MarketError("a profile with labels needs a broker with the argument build")
            return build(classes)

        repaired = self.terms.repair
        self._buyers = Buyers(architecture, criterion, fit, certify, repaired=repaired, hardware=hardware, seed=seed)
        self._aligner = Aligner(self.spec, self._buyers, self.terms.alignment_method, seed)
        for_sale = frozenset(select_layers(model, self.terms.layers))
        self.keep = keep
        self._evaluator = Evaluator(self._buyers, self._aligner, self.terms, for_sale, hardware, seed, execute, keep)

    # -- agents -----------------------------------------------------------------------------------

    def seat(self, agent: str, owner: str = "", *, endowed: bool = True) -> int:
        """Open an agent's account with its endowment, unless it has one; return its balance.

        Parameters
        ----------
        agent
            Name of the agent.
        owner
            Owner of the account; empty for an account without an owner.
        endowed
            Whether a new account has an endowment; otherwise the operator funds it.

        Returns
        -------
        int
            Micro-credits.

        Raises
        ------
        MarketError
            If the account belongs to another owner.
        """
        endowment = micro_credits(self.terms.endowment) if endowed else 0
        balance = self.ledger.open_account(agent, endowment, owner)
        self.state = self.state.with_pseudonyms([agent])
        return balance

    def register(self, agent: str, profile: Profile) -> None:
        """Register the description of an agent's objective, replacing an earlier one.

        Raises
        ------
        MarketError
            If the profile does not fit the broker's data or the agent's model.
        """
        self._buyers.of(profile)
        self.state = replace(self.state, profiles={**self.state.profiles, agent: profile})

    def template(self, agent: str, profile: Profile | None = None) -> StateDict:
        """Return a state dict with the names, shapes and dtypes that the agent's model must have.

        Parameters
        ----------
        agent
            Name of the agent.
        profile
            The profile that the agent is about to register; by default the registered one, if any.

        Raises
        ------
        MarketError
            If the profile's labels are not a subset of the broker's classes.
        """
        if profile is not None:
            return self._buyers.of_labels(profile.labels).template
        return self._buyers.of(self.state.profiles.get(agent)).template

    def objective_of(self, agent: str | None = None) -> Objective:
        """Return an agent's objective; without an agent, the common one."""
        return self._buyers.of(self.state.profiles.get(agent) if agent is not None else None).objective

    def matched_average(self, models: Mapping[str, StateDict]) -> StateDict:
        """Return the average of all models in the order of the first one's units, repaired."""
        return average_matched(models, self._buyers.common, self._aligner, self._seed, self.hardware)

    def loss_of(self, agent: str) -> Callable[[StateDict], float]:
        """Return the function from a model to its mean loss under an agent's objective.

        The loss is on the fit and the certify split together.
        """
        objective = self.objective_of(agent)
        data = tuple(torch.cat(parts) for parts in zip(objective.fit, objective.certify, strict=True))

        def mean_loss(state: StateDict) -> float:
            placed = self.hardware.place_state(state)
            with reproducible(self._seed, "loss"), torch.no_grad():
                return float(objective.loss(placed, data).mean())

        return mean_loss

    # -- rounds -----------------------------------------------------------------------------------

    def open_round(
        self, models: Mapping[str, StateDict], number: int | None = None, *, trades: bool = True, last: bool = False
    ) -> TradingRound:
        """Try the purchases among the agents, and return the round.

        Parameters
        ----------
        models
            Agent -> its parameters after local training.
        number
            Number of the round; by default, the number after the last one.
        trades
            Whether agents may trade in this round.
        last
            Whether it is the last round: a buyer then gets its best certified model back if its own
            is certified to be worse.
        """
        number = self.state.round + 1 if number is None else number
        found = Evaluation(permutations=self.state.permutations, fruitless=self.state.fruitless)
        if trades and models:
            found = self._evaluator.evaluate(self.state, models, number)
        state = replace(
            self.state.with_models(models),
            permutations=found.permutations,
            fruitless=found.fruitless,
        )
        restores = self.terms.restore == "always" or (last and self.terms.restore == "last")
        return TradingRound(
            number=number,
            run=self._run,
            terms=self.terms,
            ledger=self.ledger,
            state=state,
            agents=tuple(sorted(models)),
            trials=found.trials,
            notices=_notices(found),
            served=found.served,
            restored=found.restored if restores else {},
            restores=restores,
        )

    def try_before_purchase(self, models: Mapping[str, StateDict]) -> Sequence[Trial]:
        """Return the trials of a round: one for each buyer and candidate, certified or not.

        Parameters
        ----------
        models
            Agent -> its parameters after local training.

        Returns
        -------
        list of Trial
            In the order of names. With ``max_purchases`` above 1, incremental purchases after each
            buyer's best one follow.
        """
        return self.open_round(models).trials

    def conclude(self, outcome: Outcome) -> None:
        """Replace the state of the market by that of an outcome, then book its deals.

        A market that must survive a crash writes a checkpoint between the two; see
        :class:`strategies.ParameterMarket`.
        """
        self.state = outcome.state
        settlement.apply(self.ledger, outcome)

    @property
    def trades(self) -> list[tuple[Deal, DealState]]:
        """The deals of this market with their states, in the order of rounds and ids."""
        return settlement.trades(self.ledger, self.state.runs)

    def restore(self, state: MarketState) -> None:
        """Continue from another broker's state of the same market.

        Raises
        ------
        MarketError
            If a registered profile does not fit the broker's data.
        """
        for profile in state.profiles.values():
            self._buyers.of(profile)
        self.state = replace(state, runs=[*(run for run in state.runs if run != self._run), self._run])


def _notices(found: Evaluation) -> tuple[Notice, ...]:
    resale = "its model is a copy of one that was delivered, sold or offered, so it has nothing to sell"
    trigger = "a small trigger decides what its model answers, so nobody may buy it"
    notices = [Notice(agent, resale) for agent in sorted(found.resellers)]
    notices += [Notice(agent, trigger) for agent in sorted(found.suspects)]
    for trial in found.trials:
        if trial.certificate.harmed and trial.certificate.lower_bound > 0:
            classes = ", ".join(map(str, trial.certificate.harmed))
            notices.append(Notice(trial.seller, f"its parameters would harm a buyer in class {classes}"))
    return tuple(notices)
