"""A forger that writes to the database and seals its entries with valid hashes."""

import threading

import pytest
from sqlalchemy import delete, insert, text, update

from fl_market.errors import MarketError
from fl_market.ledger import ENDOWMENT, ESCROW, Deal, Entry, Ledger
from fl_market.ledger.journal import GENESIS
from fl_market.ledger.schema import accounts, entries
from fl_market.pricing.money import LIMIT

DEAL = Deal("d", 1, "A", "B", 40, 20, 30, 0.1, 0.05, 0.5)


def endowed(name, amount=100, payer=ENDOWMENT):
    return Entry(0, "endowed", "", payer, name, amount, "", 0.0, "")


def moved(step, payer, payee, amount, deal="d", memo=""):
    return Entry(0, step, deal, payer, payee, amount, memo, 0.0, "")


AGREED = moved("agreed", "A", "A", 0, memo=DEAL.terms())
ESCROWED, DELIVERED = moved("escrowed", "A", ESCROW, 30), moved("delivered", "A", "A", 0)
SETTLED, REFUNDED = moved("settled", ESCROW, "B", 30), moved("refunded", ESCROW, "A", 30)
ACCOUNTS = [endowed("A"), endowed("B"), endowed("C")]
HONEST = [*ACCOUNTS, AGREED, ESCROWED, DELIVERED, SETTLED]


def written(journal, unlinked=0):
    """Return a ledger with this journal, and with the balances that it adds up to.

    One entry may refer to none before it.
    """
    ledger = Ledger.open()
    for name in "ABC":
        ledger.open_account(name, 100)
    ledger.agree(DEAL)
    balances = dict.fromkeys([ENDOWMENT, ESCROW, "A", "B", "C"], 0)
    previous = GENESIS
    with ledger._engine.begin() as connection:
        connection.execute(delete(entries))
        connection.execute(text("PRAGMA ignore_check_constraints = ON"))
        for number, entry in enumerate(journal, start=1):
            placed = entry._replace(sequence=number, previous=GENESIS if number == unlinked else previous)
            previous = placed.seal()
            connection.execute(insert(entries).values(**placed._replace(hash=previous)._asdict()))
            for name, change in ((entry.payer, -entry.amount), (entry.payee, entry.amount)):
                balances[name] = balances.get(name, 0) + change
        connection.execute(delete(accounts))
        connection.execute(insert(accounts), [{"name": name, "balance": some} for name, some in balances.items()])
        steps = [entry.step for entry in journal if entry.deal == "d" and entry.step != "gift"]
        state = steps[-1] if steps else "agreed"
        connection.execute(text("UPDATE deals SET state = :state"), {"state": state})
        if not steps:
            connection.execute(text("DELETE FROM deals"))
    return ledger


def test_the_forger_writes_what_the_ledger_writes():
    assert written(HONEST).verify() == []
    assert written([*HONEST[:6], REFUNDED]).verify() == []
    assert written([*HONEST, moved("funded", ENDOWMENT, "A", 30, deal="", memo="why")]).verify() == []
    assert written([*HONEST[:4], moved("void", "A", "A", 0)]).verify() == []


FORGED = {
    "a settlement paid to the wrong seller": (
        [*HONEST[:6], moved("settled", ESCROW, "C", 30)],
        ["entry 7 moves 30 from 'market/escrow' to 'C', but the step settled of the deal 'd' moves 30 from"],
    ),
    "a refund to a stranger": (
        [*HONEST[:6], moved("refunded", ESCROW, "C", 30)],
        ["entry 7 moves 30 from 'market/escrow' to 'C', but the step refunded"],
    ),
    "a payment after a refund": (
        [*HONEST[:6], REFUNDED, moved("settled", "A", "B", 30)],
        ["entry 8 moves the deal 'd' from refunded to settled"],
    ),
    "a funding by another agent": (
        [*ACCOUNTS, moved("funded", "A", "B", 30, deal="")],
        ["entry 4 funds from 'A'; it must be from 'market/endowment'"],
    ),
    "a funding of a stranger": (
        [*ACCOUNTS, moved("funded", ENDOWMENT, "Z", 30, deal="")],
        ["entry 4 funds 'Z', which has no account yet"],
    ),
    "an escrow at another price": (
        [*HONEST[:4], moved("escrowed", "A", ESCROW, 29)],
        ["entry 5 moves 29"],
    ),
    "an escrow paid by the seller": (
        [*HONEST[:4], moved("escrowed", "B", ESCROW, 30)],
        ["entry 5 moves 30 from 'B'"],
    ),
    "money that moves with a delivery": (
        [*HONEST[:5], moved("delivered", "A", "B", 1)],
        ["entry 6 moves 1 from 'A' to 'B', but the step delivered"],
    ),
    "money that moves with an agreement": (
        [*ACCOUNTS, AGREED._replace(payee="C", amount=7)],
        ["entry 4 moves 7 from 'A' to 'C', but the step agreed"],
    ),
    "an endowment between agents": (
        [*ACCOUNTS, endowed("D", 5, payer="A")],
        ["entry 4 endows from 'A'; it must be from 'market/endowment'"],
    ),
    "a second endowment": ([*ACCOUNTS, endowed("A", 7)], ["entry 4 endows 'A' a second time"]),
    "an endowment of the escrow": (
        [*ACCOUNTS, endowed(ESCROW, 7)],
        ["entry 4 endows 'market/escrow', which is no agent's name"],
    ),
    "a gift without a deal": (
        [*ACCOUNTS, moved("gift", "A", "B", 7, deal="")],
        ["entry 4 has no deal, so its step must be endowed or funded; got 'gift'"],
    ),
    "a gift with a deal": (
        [*HONEST, moved("gift", "A", "B", 7)],
        ["entry 8 has an invalid step"],
    ),
    "a deal with a stranger": (
        [endowed("A"), endowed("C"), AGREED],
        ["entry 3 agrees on a deal with 'B', which has no account yet"],
    ),
    "terms of another deal": (
        [*ACCOUNTS, AGREED._replace(memo=DEAL._replace(id="e").terms())],
        ["entry 4 has the terms of another deal, 'e'"],
    ),
    "a price above the bid": (
        [*ACCOUNTS, AGREED._replace(memo=DEAL._replace(price=41).terms())],
        ["entry 4 the deal 'd' must have two agents"],
    ),
    "a price that is no whole number": (
        [*ACCOUNTS, AGREED._replace(memo=DEAL._replace(price=30.5).terms())],
        ["entry 4 the deal 'd' must have two agents, and whole"],
    ),
    "terms that are no JSON": ([*ACCOUNTS, AGREED._replace(memo="30")], ["entry 4 has terms that cannot be read"]),
    "a memo in a later step": (
        [*HONEST[:6], SETTLED._replace(memo="x")],
        ["entry 7 has a memo, which only the steps endowed and agreed have"],
    ),
    "a settlement without a delivery": (
        [*HONEST[:5], SETTLED],
        ["entry 6 moves the deal 'd' from escrowed to settled"],
    ),
    "two settlements": ([*HONEST, SETTLED], ["entry 8 moves the deal 'd' from settled to settled"]),
    "a deal without an agreement": (
        [*ACCOUNTS, ESCROWED],
        ["entry 4 moves the deal 'd', which has no entry agreed"],
    ),
    "an overdraft": (
        [endowed("A", 10), endowed("B"), endowed("C"), AGREED, ESCROWED],
        ["entry 5 takes more from 'A' than its balance"],
    ),
    "a negative amount": (
        [endowed("A", -5), endowed("B"), endowed("C")],
        [f"entry 1 has an invalid amount: must be a whole number from 0 to {LIMIT}; got -5"],
    ),
    "an amount out of bounds": ([endowed("A", LIMIT + 1)], ["entry 1 has an invalid amount"]),
}


@pytest.mark.parametrize("name", FORGED)
def test_entries_with_valid_hashes_are_replayed_by_the_terms_of_their_deals(name):
    journal, complaints = FORGED[name]
    found = written(journal).verify()
    for complaint in complaints:
        assert any(problem.startswith(complaint) for problem in found), found


def test_an_entry_that_was_replaced_with_all_before_it_is_found():
    assert written(HONEST, unlinked=4).verify() == [
        "entry 4 does not refer to the entry before it: one was removed, replaced or reordered"
    ]


@pytest.mark.parametrize("account", ["A", ESCROW, ENDOWMENT])
def test_a_balance_beside_the_journal_is_found(account):
    ledger = written(HONEST)
    with ledger._engine.begin() as connection:
        connection.execute(update(accounts).where(accounts.c.name == account).values(balance=accounts.c.balance + 1))
    assert [problem for problem in ledger.verify() if f"the balance of {account!r}" in problem]


def test_an_account_beside_the_journal_is_found():
    ledger = written(HONEST)
    with ledger._engine.begin() as connection:
        connection.execute(insert(accounts).values(name="Z", balance=0))
    assert ledger.verify() == ["the account 'Z' has no entry endowed"]


@pytest.mark.parametrize("amount", [LIMIT + 1, -1])
def test_no_endowment_out_of_bounds(amount):
    with Ledger.open() as ledger, pytest.raises(MarketError, match="an endowment must be at least 0 and at most"):
        ledger.open_account("A", amount)


def test_a_reader_blocks_no_writer(ledger_url):
    """The reader's transaction stays open while another connection trades, and sees none of it."""
    with Ledger.open(ledger_url) as reader, Ledger.open(ledger_url) as writer:
        for name in "AB":
            writer.open_account(name, 100)
        with reader._snapshot() as connection:
            before = connection.execute(text("SELECT count(*) FROM entries")).scalar_one()
            agreed = threading.Thread(target=writer.agree, args=(DEAL,))
            agreed.start()
            agreed.join(timeout=5)
            assert not agreed.is_alive(), "the writer waits for the reader"
            assert connection.execute(text("SELECT count(*) FROM entries")).scalar_one() == before
        assert len(reader.deals()) == 1
        assert reader.verify() == []


@pytest.mark.parametrize("name", ["Ä", ".hidden", "А", "a b", "", "x" * 61])
def test_names_are_ascii_and_no_hidden_files(name):
    with Ledger.open() as ledger, pytest.raises(MarketError, match="ASCII letters"):
        ledger.open_account(name, 1)
