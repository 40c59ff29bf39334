r"""Nash bargaining (paper, section 3.4, Eq. 1).

The paper's constraints have two bounds swapped; correct are :math:`P_a\in[v_a(\theta_a),
v_b(\theta_a)]` and :math:`P_b\in[v_b(\theta_b), v_a(\theta_b)]`. Eq. 1 determines only the
difference of the two prices, and two independent one-sided midpoints satisfy it exactly. A
direction without surplus (bid below ask) must not trade at all: Eq. 1 alone would let the other
direction subsidise it.
"""


def nash_price(bid: float, ask: float) -> float | None:
    """Return the price of a purchase: the midpoint of bid and ask; None for a bid below the ask.

    Examples
    --------
    >>> nash_price(bid=0.9, ask=0.5)
    0.7
    >>> nash_price(bid=0.4, ask=0.5) is None
    True
    """
    return (bid + ask) / 2 if bid >= ask else None


def nash_transfer(va_a: float, va_b: float, vb_a: float, vb_b: float) -> float:
    """Return the net payment of B to A if both buy from each other (Eq. 1).

    Parameters
    ----------
    va_a, va_b
        Agent A's valuation of its own parameters (its ask) and of B's (its bid).
    vb_a, vb_b
        Agent B's valuation of A's parameters (its bid) and of its own (its ask).

    Returns
    -------
    float
        ``(vb_a + va_a - va_b - vb_b) / 2``.

    Examples
    --------
    >>> nash_transfer(va_a=1.0, va_b=4.0, vb_a=3.0, vb_b=2.0)
    -1.0
    """
    return (vb_a + va_a - va_b - vb_b) / 2
