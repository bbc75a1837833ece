"""A proof that classes stay classes, and the check of it, which shares no code with the search that found them.

For every class C, unit u of it and class D across a block: the sum over D of W[u, .] equals that of the first unit of
C, rows and columns alike. Both together are Pi W = W Pi. Differences are summed by math.fsum, which rounds the exact
sum once, so it is zero where the exact sum is zero and only there.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np

from symbreak.errors import nearest

from .units import Floats, Integers, Level, Network, Partition, SymmetryError

FORMAT = "symbreak-certificate-1"
Networks = tuple[tuple[str, ...], ...]
LEVELS: tuple[Level, ...] = get_args(Level)  # from the coarsest class to the finest

KEPT_FROM: Mapping[str, Level | None] = {
    **dict.fromkeys(
        [
            "sgd", "momentum", "nesterov", "adam", "amsgrad", "adamw", "rmsprop", "adagrad", "adadelta", "adamax",
            "nadam", "radam", "rprop", "asgd", "adafactor", "lbfgs", "lion", "shampoo", "muon",
            "l2", "droppath", "input-dropout", "clip-norm", "clip-value", "grad-centralization", "sam",
            "spectral-norm-penalty", "orthogonality-penalty", "spectral-normalize",
        ],
        "biequitable",
    ),
    **dict.fromkeys(
        ["adam+l2", "rmsprop+l2", "l1", "weight-clip", "row-maxnorm"],
        "elementwise",
    ),
    **dict.fromkeys(["dropout", "grad-noise"], None),
}  # fmt: skip
"""Update, or what modifies it -> the coarsest class it keeps, in exact arithmetic; None where it keeps none.

Buffers must start at zero. Round-off is another matter: Muon, Shampoo and L-BFGS amplify it."""


@dataclass(frozen=True)
class Certificate:
    """Classes of a network's units, what they keep equal, and the network they were proved of.

    Attributes:
        classes: space -> class of each unit.
        fingerprint: sha256 of spaces, weights and attributes.
        networks: groups of modules that may be exchanged, as long as they are equal; `verify_on` repeats their proof.
    """

    level: Level
    classes: Mapping[str, tuple[int, ...]]
    fingerprint: str
    networks: Networks = ()

    def keeps(self, *updates: str) -> bool:
        """True where every one of these updates keeps the classes for ever, in exact arithmetic.

        Raises:
            SymmetryError: an update that is not in the list; the nearest three are named.
        """
        return not self.breakers(updates)

    def breakers(self, updates: Iterable[str]) -> tuple[str, ...]:
        """Those among the updates that may tear the classes apart."""
        found = []
        for update in updates:
            name = update.lower()
            if name not in KEPT_FROM:
                raise SymmetryError(f"nothing is proved of the update {update!r}. {nearest(name, KEPT_FROM)}")
            needed = KEPT_FROM[name]
            if needed is None or LEVELS.index(self.level) < LEVELS.index(needed):
                found.append(update)
        return tuple(found)

    def in_words(self) -> str:
        """What is proved: how many of the units of each space are distinct, and what keeps and breaks that."""
        widths = {s: (len(set(c)), len(c)) for s, c in self.classes.items() if len(set(c)) < len(c)}
        spaces = ", ".join(f"{s} ({distinct} of {units} units distinct)" for s, (distinct, units) in widths.items())
        kept = [name for name in KEPT_FROM if self.keeps(name)]
        whole = "; ".join(f"{', '.join(group)} are one network" for group in self.networks)
        said = "; ".join(part for part in (spaces, whole) if part)
        return (
            f"proved: {said or 'no two units are one'}.\n"
            f"kept for ever by: {', '.join(kept)}.\n"
            f"may be broken by: {', '.join(self.breakers(KEPT_FROM))}."
        )

    def to_json(self) -> str:
        """The certificate as JSON, with a digest of its own text, against slips; a forgery is re-checked."""
        body = {"format": FORMAT, "level": self.level, "fingerprint": self.fingerprint,
                "classes": {s: list(c) for s, c in self.classes.items()},
                "networks": [list(group) for group in self.networks]}  # fmt: skip
        return json.dumps(body | {"digest": _digest(body)})


def certify(network: Network, partition: Partition, *, level: Level = "biequitable") -> Certificate:
    """A certificate for this partition, after checking it.

    Raises:
        SymmetryError: two units of one class differ; names them, the block and by how much.

    Example:
        >>> from symbreak.symmetry.units import chain
        >>> net = chain([[[1, 2], [1, 2]], [[3, 3]]])
        >>> proof = certify(net, {"0": [0, 1], "1": [0, 0], "2": [0]})
        >>> proof.keeps("adamw"), proof.breakers(["adam", "dropout"])
        (True, ('dropout',))

    Source: the commutator of equitable partitions; Paige & Tarjan 1987 for their coarsest one.
    """
    if level not in LEVELS:
        raise SymmetryError(f"no level {level!r} of a certificate. {nearest(str(level), LEVELS)}")
    _require(network, partition, level)
    classes = {s: tuple(int(c) for c in partition[s]) for s in network.sizes}
    return Certificate(level, classes, fingerprint(network))


def verify(text: str, network: Network) -> Certificate:
    """Read a stored certificate and prove its classes again on this network; nothing in the text is trusted.

    What it says of whole networks is left out: a network of units knows nothing of them (`verify_on`).

    Raises:
        SymmetryError: not a certificate, tampered with, made for other weights, or wrong.
    """
    body = _read(text)
    if body["fingerprint"] != fingerprint(network):
        raise SymmetryError(
            "the certificate was made for other weights, attributes or spaces than this network has. "
            "Certify the network as it is now."
        )
    return certify(network, {s: np.asarray(c) for s, c in body["classes"].items()}, level=body["level"])


def networks_of(text: str) -> Networks:
    """The groups of networks that a stored certificate speaks of; nothing is proved by this.

    Raises:
        SymmetryError: not a certificate, or tampered with.
    """
    return tuple(tuple(group) for group in _read(text)["networks"])


def fingerprint(network: Network) -> str:
    """sha256 of the network's spaces, which of them are told apart, its weights and attributes, bit for bit."""
    found = hashlib.sha256(json.dumps([dict(network.sizes), sorted(network.told_apart)]).encode())
    tables = [(f"{b.source}>{b.target}", b.weight) for b in network.blocks]
    for name, table in (*tables, *sorted(network.attributes.items())):
        found.update(json.dumps([name, list(table.shape)]).encode())
        found.update(np.ascontiguousarray(table, dtype="<f8").tobytes())
    return found.hexdigest()


def _digest(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _read(text: str) -> dict[str, Any]:
    try:
        body = json.loads(text)
    except ValueError as err:
        raise SymmetryError(f"the certificate is no JSON: {err}.") from err
    if not isinstance(body, dict) or body.get("format") != FORMAT:
        raise SymmetryError(f"this is no certificate of format {FORMAT!r}.")
    digest = body.pop("digest", None)
    if digest != _digest(body):
        raise SymmetryError(
            "the certificate was changed after it was written: its digest does not fit. Make a new one."
        )
    classes, networks = body.get("classes"), body.setdefault("networks", [])
    named = isinstance(networks, list) and all(
        isinstance(g, list) and len(g) > 1 and all(type(n) is str for n in g) for g in networks
    )
    if set(body) != {"format", "level", "fingerprint", "classes", "networks"} or not isinstance(classes, dict):
        raise SymmetryError("the certificate lacks its level, fingerprint or classes. Make a new one.")
    if not named:
        raise SymmetryError("the networks of the certificate are no lists of two names or more. Make a new one.")
    return body


def _require(network: Network, partition: Mapping[str, Any], level: Level) -> None:
    if set(partition) != set(network.sizes):
        odd = sorted(set(partition) ^ set(network.sizes))
        raise SymmetryError(f"the classes and the network do not have the same spaces: {', '.join(odd)}.")
    classes = {s: _integers(s, partition[s], size) for s, size in network.sizes.items()}
    for space in network.told_apart:
        if len(set(classes[space].tolist())) < len(classes[space]):
            raise SymmetryError(
                f"units of {space!r} are told apart by inputs, labels or noise, and share a class here."
            )
    for space, table in network.attributes.items():
        for v, u in _pairs(classes[space]):
            if not np.array_equal(table[u], table[v]):
                raise SymmetryError(f"units {v} and {u} of {space!r} share a class and differ in bias or attributes.")
    for b in network.blocks:
        taps = b.weight[..., None] if b.weight.ndim == 2 else b.weight
        for k in range(taps.shape[-1]):
            w = taps[..., k]
            _require_rows(w, classes[b.target], classes[b.source], level, f"{b.target!r}, weights from {b.source!r}")
            _require_rows(w.T, classes[b.source], classes[b.target], level, f"{b.source!r}, weights to {b.target!r}")


def _integers(space: str, given: Any, size: int) -> Integers:
    colours = np.asarray(given)
    if colours.shape != (size,) or (size and colours.dtype.kind not in "iu"):
        raise SymmetryError(f"the classes of {space!r} need to be {size} integers; got {given!r}.")
    return colours.astype(np.int64)


def _pairs(colours: Integers) -> Iterable[tuple[int, int]]:
    """Every unit with the first of its class."""
    first: dict[int, int] = {}
    for u, c in enumerate(colours.tolist()):
        if first.setdefault(c, u) != u:
            yield first[c], u


def _require_rows(w: Floats, rows: Integers, columns: Integers, level: Level, where: str) -> None:
    groups = [np.flatnonzero(columns == d) for d in np.unique(columns)]
    for v, u in _pairs(rows):
        if np.array_equal(w[v], w[u]):
            continue  # equal weight by weight: so is every sum
        for group in groups:
            if not _agree(w[v, group], w[u, group], level):
                raise SymmetryError(
                    f"units {v} and {u} of {where}, do not have equal sums over units {group[:8].tolist()}: "
                    f"they are not one class ({level})."
                )


def _agree(one: Floats, other: Floats, level: Level) -> bool:
    if level == "biequitable":
        try:
            return math.fsum([*one.tolist(), *(-other).tolist()]) == 0.0
        except OverflowError as err:
            raise SymmetryError("sums of these weights leave the range of float64; nothing can be proved.") from err
    if level == "elementwise":
        return bool(np.array_equal(np.sort(one), np.sort(other)))
    return bool(np.array_equal(one, other))
