from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from fl_market.errors import MarketError
from fl_market.ledger import ENDOWMENT, ESCROW, Deal, DealState, Ledger
from fl_market.ledger.journal import GENESIS


def deal(identifier="d", buyer="A", seller="B", price=30, bid=40, ask=20):
    return Deal(identifier, 1, buyer, seller, bid, ask, price, 0.1, 0.05, 0.5)


@pytest.fixture
def ledger(ledger_url):
    with Ledger.open(ledger_url) as opened:
        for name in ("A", "B", "C"):
            opened.open_account(name, 100)
        yield opened


def execute(ledger, statement):
    with ledger._engine.begin() as connection:
        connection.execute(text(statement))


def test_a_deal_from_agreement_to_settlement(ledger):
    assert ledger.agree(deal()) is DealState.AGREED
    assert ledger.escrow("d") is DealState.ESCROWED
    assert ledger.balances() == {"A": 70, "B": 100, "C": 100, ENDOWMENT: -300, ESCROW: 30}
    assert ledger.deliver("d") is DealState.DELIVERED
    assert ledger.settle("d") is DealState.SETTLED
    assert ledger.balances() == {"A": 70, "B": 130, "C": 100, ENDOWMENT: -300, ESCROW: 0}
    assert ledger.verify() == []


@pytest.mark.parametrize("delivered", [False, True])
def test_a_refund(ledger, delivered):
    ledger.agree(deal())
    ledger.escrow("d")
    if delivered:
        ledger.deliver("d")
    assert ledger.refund("d") is DealState.REFUNDED
    assert ledger.balance("A") == 100
    assert ledger.settle("d") is DealState.REFUNDED, "a final state stays"
    assert ledger.verify() == []


def test_no_two_runs_have_one_name(ledger_url):
    """Not even if neither has traded yet when the other begins."""
    with Ledger.open(ledger_url) as one, Ledger.open(ledger_url) as other:
        begun = [ledger.begin_run(arm) for arm in ("market", "market-fine") for ledger in (one, other)]
        assert begun == ["market", "market~2", "market-fine", "market-fine~2"]
        assert one.begin_run("market") == "market~3"


def test_an_account_has_one_owner(ledger):
    assert ledger.open_account("D", 7, "node 1") == 7
    assert ledger.open_account("D", 9, "node 1") == 7
    for owner in ("node 2", ""):
        with pytest.raises(MarketError, match="the account 'D' belongs to another node"):
            ledger.open_account("D", 7, owner)
    with pytest.raises(MarketError, match="the account 'A' belongs to another node"):
        ledger.open_account("A", 7, "node 1")
    assert ledger.balance("D") == 7
    execute(ledger, "UPDATE entries SET memo = 'node 2' WHERE memo = 'node 1'")
    assert "was edited" in ledger.verify()[0], "the owner is in the journal"


def test_a_broke_buyer_buys_nothing(ledger):
    ledger.agree(deal(price=101, bid=200))
    assert ledger.escrow("d") is DealState.VOID
    assert ledger.balance("A") == 100
    assert ledger.settle("d") is DealState.VOID
    assert ledger.verify() == []


def test_the_same_deal_twice_is_one(ledger):
    ledger.agree(deal())
    assert ledger.agree(deal()) is DealState.AGREED
    with pytest.raises(MarketError, match="other terms"):
        ledger.agree(deal(price=31))
    assert len(ledger.deals()) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda ledger: ledger.agree(deal(buyer="B")), "two agents"),
        (lambda ledger: ledger.agree(deal(price=41)), r"a price in \[0, bid\]; got 'A', 'B'"),
        (lambda ledger: ledger.agree(deal(price=-1)), r"a price in \[0, bid\]; got 'A', 'B'"),
        (lambda ledger: ledger.agree(deal(seller="Z")), "no account 'Z'"),
        (lambda ledger: ledger.escrow("x"), "no deal 'x'"),
        (lambda ledger: ledger.agree(deal()) and ledger.settle("d"), "cannot become settled yet: it is agreed"),
        (lambda ledger: ledger.open_account("market/escrow", 1), "an agent's name must be"),
        (lambda ledger: ledger.open_account("Z", -1), "at least 0"),
        (lambda ledger: ledger.balance("Z"), "no account"),
    ],
)
def test_an_invalid_change_is_refused_and_changes_no_balance(ledger, change, message):
    before = ledger.balances()
    with pytest.raises(MarketError, match=message):
        change(ledger)
    assert ledger.balances() == before
    assert ledger.verify() == []


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["agree", "escrow", "deliver", "settle", "refund", "abandon"]),
        st.integers(0, 4),
        st.integers(0, 90),
    ),
    max_size=40,
)
PAIRS = [("A", "B"), ("B", "A"), ("A", "C"), ("C", "B"), ("B", "C")]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_any_interleaving_keeps_the_sum_and_no_balance_below_zero(new_ledger, steps):
    prices = {}
    with Ledger.open(new_ledger()) as ledger:
        for name in ("A", "B", "C"):
            ledger.open_account(name, 100)
        for step, index, price in steps:
            buyer, seller = PAIRS[index]
            prices.setdefault(index, price)
            before = ledger.balances()
            try:
                if step == "agree":
                    ledger.agree(deal(f"d{index}", buyer, seller, prices[index], bid=100))
                else:
                    getattr(ledger, step)(f"d{index}")
                    after = ledger.balances()
                    getattr(ledger, step)(f"d{index}")
                    assert ledger.balances() == after, "a step replayed changes nothing"
            except MarketError:
                assert ledger.balances() == before
            balances = ledger.balances()
            assert sum(balances.values()) == 0
            assert all(balance >= 0 for name, balance in balances.items() if name != ENDOWMENT)
        assert ledger.verify() == []


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        ("UPDATE entries SET amount = 31 WHERE step = 'escrowed'", "entry 5 was edited"),
        ("DELETE FROM entries WHERE sequence = 2", "entry 2 is missing"),
        ("DELETE FROM entries WHERE step = 'settled'", "differs from its entries"),
        (
            "UPDATE accounts SET balance = balance + 1 WHERE name = 'B'",
            "the balance of 'B' is 131 micro-credits, but its entries add up to 130",
        ),
        ("UPDATE entries SET step = 'refund' WHERE step = 'settled'", "has an invalid step: must be one of agreed, "),
        ("UPDATE deals SET price = 1", "the deal 'd' differs"),
        ("UPDATE deals SET state = 'refunded'", "the deal 'd' differs"),
        ("DELETE FROM deals", "the deal 'd' differs"),
    ],
)
def test_tampering_is_detected(ledger, damage, complaint):
    ledger.agree(deal())
    for step in (ledger.escrow, ledger.deliver, ledger.settle):
        step("d")
    assert ledger.verify() == []
    execute(ledger, damage)
    assert any(complaint in problem for problem in ledger.verify()), ledger.verify()


def test_an_invalid_state_is_named(ledger):
    ledger.agree(deal())
    execute(ledger, "UPDATE deals SET state = 'gone'")
    with pytest.raises(MarketError, match=r"the state of the deal 'd' must be one of agreed, .*; got 'gone'"):
        ledger.verify()


def test_a_position_belongs_to_one_ledger(ledger):
    begin, here = (0, GENESIS), ledger.position()
    assert ledger.holds(begin)
    assert ledger.holds(here)
    assert not ledger.holds((here[0] + 1, here[1]))
    with Ledger.open() as other:
        assert not other.holds(here)


@pytest.mark.filterwarnings("ignore:Query string")
def test_no_message_shows_a_password(tmp_path):
    with pytest.raises(MarketError) as error:
        Ledger.open(f"sqlite:///{tmp_path}/none/ledger.db?password=hunter2")
    assert "hunter2" not in str(error.value)


def test_reordered_entries_are_detected(ledger):
    execute(ledger, "UPDATE entries SET sequence = 99 WHERE sequence = 1")
    execute(ledger, "UPDATE entries SET sequence = 1 WHERE sequence = 2")
    execute(ledger, "UPDATE entries SET sequence = 2 WHERE sequence = 99")
    assert any("entry 1" in problem for problem in ledger.verify())


def test_the_database_itself_refuses_a_balance_below_zero(ledger):
    with pytest.raises(Exception, match="no_balance_below_zero"):
        execute(ledger, "UPDATE accounts SET balance = -1 WHERE name = 'A'")


def test_a_ledger_keeps_its_accounts_after_reopening(ledger_url):
    url = ledger_url
    with Ledger.open(url) as ledger:
        ledger.open_account("A", 5)
    with Ledger.open(url) as ledger:
        assert ledger.open_account("A", 100) == 5, "an endowment is given once"
        assert ledger.verify() == []


def test_two_threads_cannot_spend_the_same_money(ledger_url):
    url = ledger_url
    with Ledger.open(url) as ledger:
        ledger.open_account("A", 100)
        ledger.open_account("B", 0)
        for index in range(8):
            ledger.agree(deal(f"d{index}", price=30))
    ledgers = [Ledger.open(url) for _ in range(4)]
    with ThreadPoolExecutor(4) as threads:
        states = list(threads.map(lambda opened: [opened.escrow(f"d{index}") for index in range(8)], ledgers))
    assert all(found == states[0] for found in states)
    assert ledgers[0].balance("A") == 10
    assert ledgers[0].balance(ESCROW) == 90
    assert ledgers[0].verify() == []
    for opened in ledgers:
        opened.close()


@pytest.mark.parametrize("url", ["nonsense", "sqlite:////nowhere/at/all.db"])
def test_a_ledger_that_cannot_be_opened(url):
    with pytest.raises(MarketError, match=r"must be a database URL|cannot be opened"):
        Ledger.open(url)


def test_reading_creates_nothing(tmp_path):
    with pytest.raises(MarketError, match="no ledger"):
        Ledger.open_existing(f"sqlite:///{tmp_path / 'none.db'}")
    assert not (tmp_path / "none.db").exists()


def test_a_read_only_ledger_refuses_and_loses_nothing(tmp_path):
    url = f"sqlite:///{tmp_path / 'market.db'}"
    with Ledger.open(url) as ledger:
        ledger.open_account("A", 100)
        execute(ledger, "CREATE TRIGGER full BEFORE INSERT ON entries BEGIN SELECT RAISE(ABORT, 'disk is full'); END")
        with pytest.raises(MarketError, match="nothing has changed: disk is full"):
            ledger.open_account("B", 100)
        assert set(ledger.balances()) == {"A", ENDOWMENT, ESCROW}
        assert ledger.verify() == []


def test_steps_together_take_place_all_or_none(ledger):
    with ledger.together():
        ledger.agree(deal())
        assert ledger.escrow("d") is DealState.ESCROWED
        assert ledger.balance("A") == 70, "a step sees those before it"
    before = ledger.balances(), ledger.position()
    with pytest.raises(MarketError, match="no deal 'x'"), ledger.together():
        ledger.deliver("d")
        ledger.settle("d")
        ledger.deliver("x")
    assert (ledger.balances(), ledger.position()) == before
    assert ledger.state("d") is DealState.ESCROWED
    assert ledger.verify() == []
    assert ledger.size() == (5, 1)


def test_together_holds_for_one_thread_only(ledger):
    """Another thread's read is no part of the transaction, and sees nothing of it."""
    with ThreadPoolExecutor(1) as threads, ledger.together():
        ledger.open_account("D", 5)
        assert "D" not in threads.submit(ledger.balances).result(timeout=5)
    assert ledger.balance("D") == 5


def test_a_broken_commit_changes_nothing(tmp_path):
    with Ledger.open(f"sqlite:///{tmp_path / 'market.db'}") as ledger:
        ledger.open_account("A", 100)
        execute(ledger, "CREATE TRIGGER full BEFORE INSERT ON entries BEGIN SELECT RAISE(ABORT, 'disk is full'); END")
        with pytest.raises(MarketError, match="nothing has changed: disk is full"), ledger.together():
            ledger.open_account("B", 100)
        assert set(ledger.balances()) == {"A", ENDOWMENT, ESCROW}


def test_the_last_paid_deals_are_those_of_the_given_runs():
    names = ("market", "market", "market~2", "market0", "market", "market")
    with Ledger.open() as ledger:
        for name in "AB":
            ledger.open_account(name, 1000)
        for number, run in enumerate(names, start=1):
            deal = Deal(f"{run}/{number}/A/B", number, "A", "B", 40, 20, 30, 0.1, 0.05, 0.5)
            ledger.agree(deal)
            ledger.escrow(deal.id)
            ledger.deliver(deal.id)
            (ledger.refund if number == 5 else ledger.settle)(deal.id)
        assert [deal.round for deal in ledger.last_paid(["market"], 10)] == [6, 2, 1]
        assert [deal.round for deal in ledger.last_paid(["market", "market~2"], 2)] == [6, 3]
        assert ledger.last_paid([], 10) == []
