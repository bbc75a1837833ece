"""What an estimator complains with: an error scikit-learn knows as a ValueError, and a warning that is a lesson."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from symbreak.errors import SymbreakError


class NetError(SymbreakError, ValueError):
    """A mistake in what an estimator was given: data, a start, a knob, a file of weights.

    Also a ValueError, because that is what scikit-learn's tools (grid search, `check_estimator`) expect.
    """


class NetTypeError(NetError, TypeError):
    """The same where the kind of thing is wrong, such as text for a number: scikit-learn expects a TypeError there."""


class NetWarning(UserWarning):
    """The fit goes on and its numbers are right; they may not be what was hoped for. The text says why."""


@contextmanager
def front_door(who: object) -> Iterator[None]:
    """Deep code states the bare fact; here the estimator's name is put in front, once.

    Raises:
        NetError: in place of any SymbreakError, ValueError or TypeError raised inside, which stays its cause.
    Example:
        >>> with front_door("Perceptron"):
        ...     raise ValueError("eta is 0.")
        Traceback (most recent call last):
        symbreak.nets.errors.NetError: Perceptron: eta is 0.

    Source: the repo's own convention for errors. Only checks run inside, so that no bug of ours is renamed.
    """
    name = who if isinstance(who, str) else type(who).__name__
    try:
        yield
    except NetError as err:
        raise (err if str(err).startswith(f"{name}: ") else type(err)(f"{name}: {err}")) from err.__cause__
    except TypeError as err:
        raise NetTypeError(f"{name}: {err}") from err
    except (SymbreakError, ValueError) as err:
        raise NetError(f"{name}: {err}") from err
