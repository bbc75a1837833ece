"""WHAT IT MEANS. One small function a rule, reading the Trace, yielding claims; RULES lists them in order.

Importing this package does not import torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from symbreak.errors import ConfigError, nearest
from symbreak.records import Finding, Trace, Verdict

from . import batch, copies, signal, wakeup, weights
from .rule import Rule

RULES: tuple[Rule, ...] = (
    copies.tied_units,
    copies.tied_heads,
    copies.tied_experts,
    copies.tied_tokens,
    copies.tied_networks,
    copies.nearly_tied,
    copies.separating_copies,
    wakeup.never_wakes,
    wakeup.dead_units,
    wakeup.late_waker,
    wakeup.unused_parameter,
    wakeup.shadowed_bias,
    wakeup.unseen_rows,
    signal.exploding_forward,
    signal.vanishing_forward,
    signal.exploding_gradient,
    signal.vanishing_gradient,
    signal.saturated_units,
    signal.purely_linear,
    signal.update_ratio,
    signal.input_collapse,
    batch.unnormalised_input,
    batch.constant_feature,
    batch.output_bias_off_prior,
    batch.target_out_of_range,
    weights.non_finite,
    weights.identical_draws,
    weights.depth_copies,
    weights.wrong_fan,
    weights.not_checked,
)
_RANK: tuple[Verdict, ...] = ("unknown", "stuck", "redundant", "degraded", "healthy")
_SEVERITIES = ("error", "warning", "info")


def find(code_or_slug: str) -> Rule:
    """The rule of a code or slug.

    Raises:
        ConfigError: no such rule; the message names the nearest three.

    Example:
        >>> find("SB101").slug, find("tied-units").code
        ('never-wakes', 'SB001')
    """
    for rule in RULES:
        if code_or_slug.upper() == rule.code or code_or_slug.lower() == rule.slug:
            return rule
    names = [r.code for r in RULES] if code_or_slug.upper().startswith("SB") else [r.slug for r in RULES]
    raise ConfigError(f"no rule {code_or_slug!r}. {nearest(code_or_slug, names)} `symbreak rule` lists them all.")


def judge(
    trace: Trace, *, select: Iterable[str] = (), ignore: Iterable[str] = ()
) -> tuple[tuple[Finding, ...], Verdict]:
    """Every finding of the chosen rules, worst first, and the verdict they lead to.

    Args:
        select: codes or prefixes ("SB1") to run; empty means all.
        ignore: codes or prefixes to leave out.

    Raises:
        ConfigError: a code or prefix that matches no rule.
    """
    chosen = [r for r in RULES if _chosen(r.code, _codes(select), _codes(ignore))]
    found = [(r, f) for r in chosen for f in r.findings(trace)]
    found.sort(key=lambda pair: _SEVERITIES.index(pair[1].severity))
    return tuple(f for _, f in found), _verdict(trace, found)


def validate_codes(*selections: Iterable[str]) -> None:
    """Raise ConfigError for a code or prefix that matches no rule, before any work is done."""
    for codes in selections:
        _codes(codes)


def _verdict(trace: Trace, found: Sequence[tuple[Rule, Finding]]) -> Verdict:
    verdicts: set[Verdict] = {"healthy"}
    if trace.nonfinite or trace.steps == 0:
        verdicts.add("unknown")
    for rule, finding in found:
        if rule.verdict is not None and finding.severity != "info" and finding.decisive:
            softened = rule.severity == "error" and finding.severity == "warning"
            verdicts.add("degraded" if softened else rule.verdict)
    return min(verdicts, key=_RANK.index)


def _codes(codes: Iterable[str]) -> tuple[str, ...]:
    known = [r.code for r in RULES]
    upper = tuple(c.strip().upper() for c in ([codes] if isinstance(codes, str) else codes))
    for code in upper:
        if not code or not any(k.startswith(code) for k in known):
            raise ConfigError(f"no rule code starts with {code!r}. {nearest(code, known)}")
    return upper


def _chosen(code: str, select: tuple[str, ...], ignore: tuple[str, ...]) -> bool:
    return (not select or code.startswith(select)) and not (ignore and code.startswith(ignore))
