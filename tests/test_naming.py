import pytest

from fl_market.errors import MarketError
from fl_market.naming import Pseudonyms, agent_name, check_agent_name


def test_agents_are_numbered_by_letters():
    assert [agent_name(index) for index in (0, 25, 26, 51, 52, 701, 702)] == ["A", "Z", "AA", "AZ", "BA", "ZZ", "AAA"]


def test_a_pseudonym_is_kept_for_a_run_and_differs_between_agents_and_runs():
    names = Pseudonyms()
    assert names.of("A") == names.of("A") != names.of("B")
    assert names.of("A") != Pseudonyms().of("A")


def test_a_name_that_could_not_be_part_of_an_id_is_refused():
    check_agent_name("clinic-7.berlin_A")
    for name in ("", "a/b", "a~2", "two words", "x" * 61):
        with pytest.raises(MarketError, match="an agent's name must be"):
            check_agent_name(name)
