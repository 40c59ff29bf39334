"""Signed heads: what an operator wrote anew does not fit the journal of one honest agent."""

import json
import stat
from dataclasses import asdict, replace
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl_market.cli import main
from fl_market.errors import MarketError
from fl_market.ledger import Deal, Head, Ledger, Signer, rewritten
from fl_market.ledger.heads import Tree
from fl_market.ledger.journal import GENESIS

# the test vectors of Certificate Transparency's reference implementation, for RFC 6962
LEAVES = [bytes.fromhex(text) for text in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657")]
LEAVES.append(bytes.fromhex("606162636465666768696a6b6c6d6e6f"))
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


def test_roots_are_those_of_certificate_transparency():
    tree = Tree()
    for leaf, root in zip(LEAVES, ROOTS, strict=True):
        tree.extend([leaf])
        assert tree.root().hex() == root
    assert Tree().root() == sha256().digest()


def recursive(leaves):
    """Return the root by RFC 6962's own definition."""
    if len(leaves) < 2:
        return sha256(b"\x00" + leaves[0]).digest() if leaves else sha256().digest()
    half = 1
    while 2 * half < len(leaves):
        half *= 2
    return sha256(b"\x01" + recursive(leaves[:half]) + recursive(leaves[half:])).digest()


@given(st.lists(st.binary(max_size=4), max_size=40), st.integers(0, 40))
def test_a_tree_that_grows_has_the_root_of_the_definition(leaves, cut):
    tree = Tree()
    tree.extend(leaves[:cut])
    tree.extend(leaves[cut:])
    assert tree.root() == recursive(leaves)
    assert len(tree.peaks) == tree.size.bit_count()


def traded(*prices):
    """Return a ledger with one settled deal for each price, in micro-credits."""
    ledger = Ledger.open()
    for name in "AB":
        ledger.open_account(name, 1000)
    for number, price in enumerate(prices, start=1):
        deal = Deal(f"run/{number}/A/B", number, "A", "B", 900, 0, price, 0.5, 0.1, 0.5)
        ledger.agree(deal)
        for step in (ledger.escrow, ledger.deliver, ledger.settle):
            step(deal.id)
    return ledger


@pytest.fixture
def signer():
    return Signer()


def test_the_head_of_a_growing_ledger_is_that_of_all_its_entries(signer):
    ledger = traded(10)
    first = signer.sign(ledger.head())
    deal = Deal("run/2/A/B", 2, "A", "B", 900, 0, 20, 0.5, 0.1, 0.5)
    ledger.agree(deal)
    second = signer.sign(ledger.head())
    assert second.size == first.size + 1 == len(ledger.entries())
    assert second.root == recursive([bytes.fromhex(entry.hash) for entry in ledger.entries()]).hex()
    assert rewritten([second, first, first], ledger.hashes(), signer.public_key) == []
    assert rewritten([], ledger.hashes()) == []


def test_a_price_that_is_changed_everywhere_is_found(signer):
    """The forged ledger is valid in itself: amounts, balances and the chain are all made anew."""
    honest, forged = traded(10, 20), traded(10, 21)
    assert forged.verify() == []
    (problem,) = rewritten([signer.sign(honest.head())], forged.hashes())
    assert (
        problem == f"the first {honest.head().size} entries are not those of a signed head: the history was rewritten"
    )


def test_entries_removed_from_the_end_are_found(signer):
    honest, shorter = traded(10, 20), traded(10)
    (problem,) = rewritten([signer.sign(honest.head())], shorter.hashes())
    assert problem == "the ledger has 6 entries, but a signed head has 10: entries were removed"


def test_two_histories_of_one_size_convict_their_signer(signer):
    ledger, fork = traded(10), traded(11)
    heads = [signer.sign(ledger.head()), signer.sign(fork.head())]
    assert "the operator signed 2 histories of 6 entries" in rewritten(heads, ledger.hashes())


def test_a_head_that_its_key_did_not_sign_proves_nothing(signer):
    ledger = traded(10)
    head = signer.sign(ledger.head())
    for forged in (replace(head, size=5), replace(head, signature="00" * 64), replace(head, signature="no digits")):
        assert not forged.valid
        assert f"the signature of the head of {forged.size} entries is invalid" in rewritten([forged], ledger.hashes())
    other = Signer().sign(ledger.head())
    assert rewritten([head, other], ledger.hashes()) == ["the heads are signed with different keys"]
    assert rewritten([other], ledger.hashes(), signer.public_key) == [
        f"a head has another key than {signer.public_key}"
    ]


def test_a_signature_is_good_for_nothing_else(signer):
    """It covers the purpose, the size and the root, with nothing that could be read in two ways."""
    assert Head(1, "23").text() != Head(12, "3").text()
    assert Head(1, GENESIS).text().startswith(b"fl-market ledger head\n")


def test_the_key_is_kept_for_its_owner_alone(tmp_path, signer):
    path = tmp_path / "ledger.key"
    first = Signer.at(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert Signer.at(path).public_key == first.public_key != signer.public_key
    path.write_text("no key")
    with pytest.raises(MarketError, match="must be an Ed25519 key in PEM without a password"):
        Signer.at(path)
    with pytest.raises(MarketError, match="cannot be read or written"):
        Signer.at(tmp_path / "missing" / "ledger.key")


def receipts(path, head):
    lines = [
        {"run": "7", "round": 1, "deal": "1/x", "side": "bought", "partner": "x", "price": 10, "head": head},
        {"run": "7", "round": 2, "deal": "2/x", "side": "bought", "partner": "x", "price": 20, "head": head},
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


@pytest.mark.parametrize(("prices", "code", "text"), [((10, 20), 0, "agree with"), ((20, 10), 1, "rewritten")])
def test_an_agent_s_journal_is_the_anchor_on_the_command_line(tmp_path, capsys, signer, prices, code, text):
    """The rewritten ledger has the same prices in another order: the receipts alone would agree."""
    url = f"sqlite:///{tmp_path}/ledger.db"
    with Ledger.open(url) as ledger:
        for name in "AB":
            ledger.open_account(name, 1000)
        for number, price in enumerate(prices, start=1):
            deal = Deal(f"run/{number}/A/B", 3 - number if code else number, "A", "B", 900, 0, price, 0.5, 0.1, 0.5)
            ledger.agree(deal)
            for step in (ledger.escrow, ledger.deliver, ledger.settle):
                step(deal.id)
        head = ledger.head()
    signed = signer.sign(Head(head.size, traded(10).head().root) if code else head)
    journal = receipts(tmp_path / "receipts.jsonl", asdict(signed))
    known = ["--db", url, "--key", signer.public_key]
    assert main(["ledger", "reconcile", "--account", "A", "--receipts", journal, *known]) == code
    assert text in capsys.readouterr().out
    assert main(["ledger", "verify", "--head", journal, *known]) == code
    assert ("rewritten" if code else f"1 signed heads of {journal} fit") in capsys.readouterr().out
    assert main(["ledger", "verify", "--head", journal, "--db", url, "--key", "00"]) == 1
    assert "a head has another key than 00" in capsys.readouterr().out
