"""What a run leaves behind: results, tables and pictures."""

from fl_market.reports.results import AgentResult, ArmResult, RoundReport, RoundResult

__all__ = ["AgentResult", "ArmResult", "RoundReport", "RoundResult"]
