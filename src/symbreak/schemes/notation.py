"""One notation for schemes everywhere: what `repr` prints, the command line takes."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable
from typing import Any

from symbreak.errors import SchemeError, nearest
from symbreak.schemes.catalogue import CATALOGUE, PROCEDURES
from symbreak.schemes.scheme import Scheme

ALIASES: dict[str, str] = {
    "torch": "torch_default",
    "torch default": "torch_default",
    "kaiming": "kaiming_normal",
    "he": "kaiming_normal",
    "xavier": "xavier_uniform",
    "glorot": "xavier_uniform",
    "lecun": "lecun_normal",
    "trunc_normal": "truncated_normal",
    "eye": "identity",
    "skipinit": "rezero",
    "layerscale": "layer_scale",
    "gpt2": "gpt2_residual",
    "ZerO": "zero_hadamard",
    "mu_p": "mup",
    "forget_bias": "lstm_forget_bias",
}


def find(name: str) -> Callable[..., Scheme]:
    """The catalogue's function of that name or short name.

    Example:
        >>> find("kaiming").__name__
        'kaiming_normal'

    Source: a short name means the form its paper gives: Kaiming and LeCun normal, Xavier uniform.
    """
    canonical = ALIASES.get(name, name)
    if canonical in PROCEDURES:
        raise SchemeError(f"{canonical} is a function on tensors, not a scheme: call symbreak.schemes.{canonical}().")
    if canonical not in CATALOGUE:
        raise SchemeError(f"no scheme is called {name!r}. {nearest(name, [*CATALOGUE, *ALIASES])}")
    return CATALOGUE[canonical]


def page(name: str) -> str:
    """The article of a scheme, or of a function on several tensors: how it is written, and its docstring.

    A scheme may be named with its arguments, as `parse` reads it.

    Raises:
        SchemeError: there is none of that name; the message has the nearest three.
    Example:
        >>> page("he").splitlines()[0]
        "kaiming_normal(gain=1.4142, mode='fan_in')"

    Source: the docstring.
    """
    canonical = parse(name).name if name.rstrip().endswith(")") else ALIASES.get(name, name)
    function = PROCEDURES.get(canonical)
    if function is None:
        known = [*CATALOGUE, *PROCEDURES, *ALIASES]
        if canonical not in CATALOGUE:
            raise SchemeError(f"no scheme is called {name!r}. {nearest(name, known)}")
        function = CATALOGUE[canonical]
    return f"{usage(function)}\n\n{inspect.getdoc(function)}"


def parse(text: str) -> Scheme:
    """The scheme a text names. Nothing is evaluated: arguments are literals.

    Example:
        >>> parse("normal(0.02)")
        normal(std=0.02)
        >>> parse("torch default")
        torch_default

    Source: the notation is Python's own call syntax.
    """
    stripped = text.strip()
    if stripped in ALIASES:
        return find(stripped)()
    name, args, kwargs = _call(stripped)
    function = find(name)
    try:
        inspect.signature(function).bind(*args, **kwargs)
        return function(*args, **kwargs)
    except (SchemeError, TypeError) as err:
        raise SchemeError(f"{stripped!r}: {err} It is written {usage(function)}.") from err


def usage(function: Callable[..., Any]) -> str:
    """How a scheme is written, with its defaults.

    Example:
        >>> usage(find("normal"))
        'normal(std=1.0, mean=0.0)'

    Source: the function's own signature.
    """
    shown = []
    for slot in inspect.signature(function).parameters.values():
        given = round(slot.default, 4) if isinstance(slot.default, float) else slot.default
        shown.append(slot.name if slot.default is slot.empty else f"{slot.name}={given!r}")
    return f"{function.__name__}({', '.join(shown)})" if shown else function.__name__


def _call(text: str) -> tuple[str, list[Any], dict[str, Any]]:
    malformed = f"{text!r} is not a scheme. Expected a name such as kaiming_normal, or a call such as normal(0.02)."
    try:
        node = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError) as err:
        raise SchemeError(malformed) from err
    if isinstance(node, ast.Name):
        return node.id, [], {}
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
        raise SchemeError(malformed)
    try:
        args = [ast.literal_eval(argument) for argument in node.args]
        kwargs = {keyword.arg: ast.literal_eval(keyword.value) for keyword in node.keywords if keyword.arg}
    except ValueError as err:
        raise SchemeError(f"{text!r}: arguments must be plain numbers or strings, such as normal(std=0.02).") from err
    if len(kwargs) != len(node.keywords):
        raise SchemeError(malformed)
    return node.func.id, args, kwargs
