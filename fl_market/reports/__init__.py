"""Results, tables and pictures of a run."""

from fl_market.reports.results import AgentResult, ArmResult, RoundReport, RoundResult, UnfinishedRunError

__all__ = ["AgentResult", "ArmResult", "RoundReport", "RoundResult", "UnfinishedRunError"]
