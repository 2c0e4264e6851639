"""The errors that a user of the package can cause."""

from collections.abc import Iterable
from difflib import get_close_matches

__all__ = ["NothingObserved", "UserError", "unknown"]


class UserError(ValueError):
    r"""What a user asked for can't be done; the message says why, in one line, and what to do.

    The command line prints it without a traceback and exits with code 2.
    """


class NothingObserved(UserError):
    r"""A network observes nothing of the states that were asked for."""


def unknown(kind: str, name: str, known: Iterable[str]) -> UserError:
    r"""The error for a name that isn't there, with the nearest one and the list of all.

    Arguments:
        kind: What the name is of.
        name: The name that isn't there.
        known: The names that are.

    Example:
        >>> print(unknown("satellite", "noaa-2O", ["MetOp-A", "NOAA-20"]))
        unknown satellite "noaa-2O"; did you mean "NOAA-20"? There are: MetOp-A, NOAA-20
    """
    names = {str(k).lower(): str(k) for k in known}
    near = get_close_matches(str(name).lower(), names, n=1)
    hint = f'; did you mean "{names[near[0]]}"?' if near else "."
    return UserError(f'unknown {kind} "{name}"{hint} There are: {", ".join(names.values())}')
