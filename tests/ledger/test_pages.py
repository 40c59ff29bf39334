"""Steps of one transaction are written together, and are the same as one by one."""

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import event, text

from fl_market.errors import MarketError
from fl_market.ledger import Deal, DealState, Ledger
from fl_market.ledger.journal import Entry
from fl_market.market import settlement
from fl_market.market.outcome import Outcome
from fl_market.market.state import MarketState


def deals(number):
    return [Deal(f"market/{i}", 1, "AB"[i % 2], "BA"[i % 2], 40, 20, 30, 0.1, 0.05, 0.5) for i in range(number)]


@pytest.fixture
def ledger():
    with Ledger.open() as opened:
        for name in "AB":
            opened.open_account(name, 1000)
        yield opened


@given(
    st.builds(
        Entry,
        *(st.integers(), st.text(), st.text(), st.text(), st.text(), st.integers(), st.text()),
        st.floats(0, 1e12),
        st.text(),
    )
)
def test_an_entry_is_sealed_as_json_would_write_it(entry):
    content = {name: value for name, value in sorted(entry._asdict().items()) if name != "hash"}
    assert entry._replace(hash="x").seal() == entry.seal() == hashlib.sha256(json.dumps(content).encode()).hexdigest()


def booked(ledger, some):
    """Take deals through a round, as the market does; return the number of statements."""
    ids, statements = [deal.id for deal in some], []

    def listen(*arguments):
        statements.append(arguments[2])

    event.listen(ledger._engine, "before_cursor_execute", listen)
    with ledger.together(ids):
        for deal in some:
            ledger.agree(deal)
            assert ledger.escrow(deal.id) is DealState.ESCROWED
    for step in (ledger.deliver, ledger.settle):
        with ledger.together(ids):
            for name in ids:
                step(name)
    event.remove(ledger._engine, "before_cursor_execute", listen)
    return len(statements)


def test_the_statements_of_a_round_do_not_grow_with_its_deals(ledger):
    rounds = [[deal._replace(id=f"{number}/{deal.id}") for deal in deals(number)] for number in (4, 40)]
    counts = [booked(ledger, some) for some in rounds]
    assert counts[0] == counts[1] < 30
    assert ledger.verify() == []
    assert ledger.balances() == {"A": 1000, "B": 1000, "market/endowment": -2000, "market/escrow": 0}


def test_a_round_sees_its_own_steps(ledger):
    first, second = deals(2)
    with ledger.together():
        ledger.agree(first)
        assert ledger.deals() == [(first, DealState.AGREED)]
        ledger.escrow(first.id)
        assert (ledger.balance("A"), ledger.state(first.id)) == (970, DealState.ESCROWED)
        assert ledger.verify() == []
        ledger.agree(second)
    assert ledger.deals() == [(first, DealState.ESCROWED), (second, DealState.AGREED)]


def test_a_buyer_pays_with_what_it_has_after_the_steps_before(ledger):
    """Not with the balance of the transaction's begin."""
    some = [deal._replace(buyer="A", seller="B", price=400, bid=400) for deal in deals(3)]
    with ledger.together():
        for deal in some:
            ledger.agree(deal)
        assert [str(ledger.escrow(deal.id)) for deal in some] == ["escrowed", "escrowed", "void"]
    assert ledger.verify() == []


def test_a_block_inside_another_belongs_to_its_transaction(ledger):
    first, second = deals(2)
    with pytest.raises(MarketError, match="no deal 'x'"), ledger.together():
        with ledger.together():
            ledger.agree(first)
        ledger.agree(second)
        ledger.escrow("x")
    assert ledger.deals() == []


def test_a_deal_that_changed_under_the_transaction_changes_nothing(ledger):
    (deal,) = deals(1)
    ledger.agree(deal)
    before = ledger.balances()
    with pytest.raises(MarketError, match="another process changed a deal"), ledger.together():
        ledger.escrow(deal.id)
        with ledger._change() as pages:
            pages.connection.execute(text("UPDATE deals SET state = 'void'"))
    assert ledger.balances() == before


def test_no_key_is_released_for_a_deal_that_the_operator_refunded(ledger):
    """`fl-market ledger abandon` during a round: the round must not end as if it were paid."""
    first, second = deals(2)
    for deal in (first, second):
        ledger.agree(deal)
        ledger.escrow(deal.id)
        ledger.deliver(deal.id)
    ledger.abandon(second.id)
    outcome = Outcome((first.id, second.id), (), MarketState())
    with pytest.raises(MarketError, match="'market/1' was refunded by the ledger's operator"):
        settlement.apply(ledger, outcome)
    assert ledger.state(first.id) is DealState.DELIVERED, "all of the round or nothing"
