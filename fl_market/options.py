"""Options, each declared in one place: a field of a frozen dataclass, made by :func:`option`.

Command line, validation, help and Flower's run configuration are derived from the declarations.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cache
from importlib import import_module
from math import isfinite
from typing import Any, Literal

from fl_market.errors import MarketError, OptionError
from fl_market.plugins import Kind

Owner = Literal["broker", "agent", "both"]
"""The party that sets an option: the broker's operator, each agent alone, or both.

With ``"both"``, an agent's own value replaces the operator's.
"""


@dataclass(frozen=True)
class Option:
    """The declaration of one option.

    Attributes
    ----------
    name
        Attribute of its group.
    default
        Value if the option is not given; its type is the option's type.
    help
        One line for the help text.
    owner
        See :data:`Owner`.
    key
        Name in Flower's run configuration.
    flags
        Names on the command line, without the two dashes; the first is shown.
    choices
        The valid values; empty if every value of the type and range is valid.
    minimum, above, maximum, below
        Bounds of a number. ``minimum`` and ``maximum`` are valid themselves; ``above`` and
        ``below`` are not.
    kind
        Kind of plug-in, if the text names one. The value may also be the plug-in itself.
    check
        ``module:function`` that raises MarketError on an invalid value.
    changeable
        Whether a resumed run may have another value.
    metavar
        Placeholder for its value in the help text.
    """

    name: str
    default: bool | int | float | str
    help: str
    owner: Owner = "broker"
    key: str = ""
    flags: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    minimum: float | None = None
    above: float | None = None
    maximum: float | None = None
    below: float | None = None
    kind: Kind | None = None
    check: str = ""
    changeable: bool = False
    metavar: str = ""

    @property
    def type(self) -> type:
        """``bool``, ``int``, ``float`` or ``str``."""
        return type(self.default)

    @property
    def limits(self) -> str:
        """The range as text, such as ``"at least 1"`` or ``"in [0, 1)"``; empty if unbounded."""
        lower = (
            f"[{self.minimum:g}" if self.minimum is not None else f"({self.above:g}" if self.above is not None else ""
        )
        upper = (
            f"{self.maximum:g}]" if self.maximum is not None else f"{self.below:g})" if self.below is not None else ""
        )
        if lower and upper:
            return f"in {lower}, {upper}"
        return f"{'at least' if self.minimum is not None else 'above'} {lower[1:]}" if lower else ""

    def convert(self, value: Any) -> Any:
        """Return a value from Flower's run configuration in the option's type.

        Whole numbers are valid values of a float.

        Raises
        ------
        OptionError
            If it is of another type.
        """
        self._require_type(value)
        return float(value) if self.type is float else value

    def validate(self, value: Any) -> None:
        """Raise OptionError unless the value is valid in type, choices and range."""
        if self.kind is not None:
            if value or self.default:  # a text that is empty by default may be empty
                self.kind.check(value)
            return
        self._require_type(value)
        if self.choices and value not in self.choices:
            raise OptionError(f"{self.key} must be one of {', '.join(self.choices)}; got {value!r}")
        if self.type in (int, float) and not self._in_range(value):
            raise OptionError(f"{self.key} must be {self.limits or 'finite'}; got {value!r}")
        if self.check:
            module, _, function = self.check.partition(":")
            try:
                getattr(import_module(module), function)(value)
            except MarketError as error:
                raise OptionError(f"{self.key} is invalid: {error}") from error

    def _require_type(self, value: Any) -> None:
        accepted = (int, float) if self.type is float else self.type
        if not isinstance(value, accepted) or (isinstance(value, bool) and self.type is not bool):
            raise OptionError(f"{self.key} must be of type {self.type.__name__}; got {value!r}")

    def _in_range(self, value: float) -> bool:
        return isfinite(value) and not (
            (self.minimum is not None and value < self.minimum)
            or (self.above is not None and value <= self.above)
            or (self.maximum is not None and value > self.maximum)
            or (self.below is not None and value >= self.below)
        )


def option(
    default: bool | int | float | str,
    text: str,
    *,
    owner: Owner = "broker",
    key: str = "",
    flag: str | Sequence[str] = (),
    choices: Sequence[str] = (),
    minimum: float | None = None,
    above: float | None = None,
    maximum: float | None = None,
    below: float | None = None,
    kind: Kind | None = None,
    check: str = "",
    changeable: bool = False,
    metavar: str = "",
) -> Any:
    """Return a dataclass field that declares an option; :class:`Option` explains the arguments.

    Examples
    --------
    >>> @dataclass(frozen=True)
    ... class Group:
    ...     momentum: float = option(0.0, "of SGD", minimum=0, below=1)
    >>> options_of(Group)[0].limits
    'in [0, 1)'
    """
    flags = (flag,) if isinstance(flag, str) else tuple(flag)
    declared = Option(
        "",
        default,
        text,
        owner,
        key,
        flags,
        tuple(choices),
        minimum,
        above,
        maximum,
        below,
        kind,
        check,
        changeable,
        metavar,
    )
    return field(default=default, metadata={"option": declared})


@cache  # an agent reads its configuration anew for each message
def options_of(group: type) -> tuple[Option, ...]:
    """Return the options that a dataclass declares, in order."""
    return tuple(_named(each.metadata["option"], each.name) for each in fields(group) if "option" in each.metadata)


def check_options(group: Any) -> None:
    """Raise OptionError if a field of a group is outside its declared range or choices."""
    for declared in options_of(group.__class__):
        declared.validate(getattr(group, declared.name))


def _named(declared: Option, name: str) -> Option:
    key = declared.key or name.replace("_", "-")
    return replace(declared, name=name, key=key, flags=declared.flags or (key,))
