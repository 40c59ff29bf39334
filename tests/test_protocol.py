import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl_market.errors import MarketError
from fl_market.protocol import (
    Ask,
    Bid,
    DisclosedQuote,
    Offer,
    PublicPrice,
    QuoteRequest,
    Receipt,
    from_columns,
    to_columns,
)

texts, amounts, numbers = st.text(), st.integers(), st.floats(allow_nan=False)
MESSAGES = {
    Offer: st.builds(Offer, texts, texts, texts, numbers, numbers, numbers, texts),
    Bid: st.builds(Bid, texts, amounts),
    QuoteRequest: st.builds(QuoteRequest, texts, texts),
    DisclosedQuote: st.builds(DisclosedQuote, texts, texts, numbers, numbers, numbers),
    PublicPrice: st.builds(PublicPrice, amounts),
    Ask: st.builds(Ask, texts, amounts),
    Receipt: st.builds(Receipt, texts, texts, texts, amounts),
}


@pytest.mark.parametrize("kind", MESSAGES)
@given(data=st.data())
def test_columns_give_the_messages_back(kind, data):
    items = data.draw(st.lists(MESSAGES[kind], max_size=4))
    assert from_columns(kind, to_columns(items)) == items


@pytest.mark.parametrize(
    "columns",
    [
        {"offer": ["a"]},
        {"offer": ["a"], "amount": [1], "extra": [1]},
        {"offer": ["a", "b"], "amount": [1]},
        {"offer": "a", "amount": 1},
        {"offer": ["a"], "amount": [1.5]},
        {"offer": ["a"], "amount": [True]},
        {"offer": [1], "amount": [1]},
        {"offer": ["a"], "amount": [float("nan")]},
    ],
)
def test_columns_of_a_broken_or_hostile_sender_are_refused(columns):
    with pytest.raises(MarketError):
        from_columns(Bid, columns)
