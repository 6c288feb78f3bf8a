"""Checks of what a program passes, for every layer: what is wrong is said by name, before anything is done with it."""

from __future__ import annotations


def check_type(given: object, name: str, types: type | tuple[type, ...], give: str) -> None:
    """Refuse an argument of another type; it may hold a secret, and is not shown.

    Args:
        name: what the argument is called, for the error.
        types: what it may be an instance of.
        give: what to give instead, for the error.

    Raises:
        TypeError: it is something else.
    """
    if not isinstance(given, types):
        raise _wrong_type(given, name, give)


def check_callable(given: object, name: str, give: str) -> None:
    """Refuse what cannot be called; None stands for an argument that was left out.

    Args:
        name: what the argument is called, for the error.
        give: what to give instead, for the error.

    Raises:
        TypeError: it cannot be called.
    """
    if given is not None and not callable(given):
        raise _wrong_type(given, name, give)


def check_flags(**flags: object) -> None:
    """Refuse what is neither True nor False: the text "no" would count as True.

    Args:
        flags: what was given for each argument; None for one that was left out.

    Raises:
        TypeError: one of them is something else.
    """
    for name, flag in flags.items():
        if flag is not None and not isinstance(flag, bool):
            raise TypeError(f"{name} is {flag!r:.80}: give True or False")


def check_count(number: object, name: str, *, least: int) -> None:
    """Refuse what is no whole number, such as the 5 of NumPy, which a driver could not store, or too small a one.

    Args:
        name: what the argument is called, for the error.
        least: the smallest number that is taken.

    Raises:
        ValueError: it is not an integer, or less than `least`.
    """
    if isinstance(number, bool) or not isinstance(number, int) or number < least:
        kind = "" if type(number) in (int, str) else ", as an int"
        raise ValueError(f"{name} is {number!r:.80}: give {least} or more{kind}")


def _wrong_type(given: object, name: str, give: str) -> TypeError:
    if given is None:
        kind = "None"
    elif isinstance(given, type):
        kind = f"the class {given.__qualname__}"
    else:
        kind = f"of type {type(given).__qualname__}"
    return TypeError(f"{name} is {kind}: give {give}")
