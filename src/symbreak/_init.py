"""`init_`: start a model's weights, in place. The one function that the API calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from .schemes import Scheme
    from .starts import Start
    from .starts.kept import Keep


def init_(
    model: nn.Module,
    scheme: str | Scheme | Mapping[str, str | Scheme | None] = "auto",
    batch: Any = None,
    *,
    generator: torch.Generator | None = None,
    loss: Callable[..., Tensor] | None = None,
    keep: Keep = (),
) -> Start:
    """Start a model's weights in place, and return the plan that was carried out, tensor by tensor with reasons.

    Everything is done, or nothing: whatever fails, every tensor comes back bit for bit. Modes, buffers, hooks, `.grad`
    and the global random state stay as they are. Frozen tensors stay; tied ones are started once.

    Args:
        model: any torch.nn.Module with values in memory.
        scheme: one of

            - a scheme, by value or in the notation of `symbreak.schemes`: for every weight between units. Biases get
              what it says of biases, else zero; norms, gates, bare parameters and (unless the scheme is about tables)
              embeddings stay.
            - a mapping {"pattern": scheme}: globs on qualified names; the first pattern that matches a tensor decides,
              None keeps it, what no pattern matches stays. A pattern that catches weights between units treats the
              biases and norms it catches beside them as above; one that catches none of them gives its scheme to
              everything it catches.
            - "auto": by what the model does. With a batch it is run once: the activation that really follows a layer,
              residual branches and how many, norms, attention, tables, tied heads; zeros that are meant (LoRA's B,
              zero convolutions, gates) are told from zeros that do harm by a look at what wakes, and stay. Without
              one, moments are propagated through the graph of a made-up batch, as `analytic()`.
            - a scheme that looks at data ("lsuv", "krahenbuhl", "weight_norm_data", "metainit", "gradinit"), which
              needs a batch, or at the graph ("analytic").
        batch: as for `check`.
        generator: where the randomness comes from. Without one: as the global random state stands, which is read and
            not moved, so that after `torch.manual_seed` the same weights are drawn, and two models of one shape started
            one after the other are equal. Pass a generator to avoid that.
        loss: loss(output, target); with labels in the batch "auto" sets the output bias to the prior.
        keep: what stays as it is: globs of tensors' names; or a checkpoint, as a state_dict, the names in it
            (`set(state)`), or the path of a safetensors file: what it holds under the same name and shape is kept, and
            the plan says where the values of now are others. Which tensors were really loaded a checkpoint cannot say,
            only what it would have given; an Origin can (`with provenance() as origin:` around building and loading).

    Returns:
        A Start: `steps` with tensor, scheme, action, because; prints as a table; `to_json()`, `undo()`.

    Raises:
        SymbreakError: a mistake in what was given, or the model's forward raised. Nothing has changed then.

    Example:
        >>> import torch, symbreak as sb
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> start = sb.init_(net, "auto", torch.randn(16, 4), generator=torch.Generator().manual_seed(0))
        >>> start["0.weight"].scheme, start["2.weight"].scheme
        (kaiming_normal, lecun_normal)
    """
    from .starts import start

    return start(model, scheme, batch, generator=generator, loss=loss, keep=keep)
