"""TEMPORARY: flat access to nested options, until every room reads them by group.

To remove: this file, ``FlatAccess`` and ``accept_flat_options`` in ``configuration.py``.
"""

from typing import Any, TypeVar

T = TypeVar("T")


class FlatAccess:
    """``configuration.seed`` for ``configuration.run.seed``."""

    def __getattr__(self, name: str) -> Any:
        """Return an option by its flat name."""
        from fl_market.configuration import GROUPS, OPTIONS

        if name in GROUPS or name.replace("_", "-") not in OPTIONS:
            raise AttributeError(name)
        group, declared = OPTIONS[name.replace("_", "-")]
        return getattr(getattr(self, group), declared.name)


def accept_flat_options(cls: type[T]) -> type[T]:
    """Let ``Configuration(seed=3)`` and ``dataclasses.replace(configuration, seed=3)`` take flat names."""
    make = cls.__init__

    def __init__(self: Any, **given: Any) -> None:  # noqa: N807
        from fl_market.configuration import GROUPS

        groups = {name: value for name, value in given.items() if isinstance(value, GROUPS.get(name, ()))}
        flat = {name: value for name, value in given.items() if name not in groups}
        make(self, **groups)
        if flat:
            nested = self.with_options(**flat)
            make(self, **{name: getattr(nested, name) for name in GROUPS})

    cls.__init__ = __init__  # type: ignore[method-assign]
    return cls
