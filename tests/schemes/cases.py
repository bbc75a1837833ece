"""One place or more for every scheme of the catalogue: what the laws are tried on."""

from __future__ import annotations

from dataclasses import dataclass

from symbreak.schemes import Fans, Layout, Place, Scheme, parse

SQUARE, WIDE, CONV = (160, 160), (300, 200), (48, 32, 3, 3)
LSTM = Layout(parts=4)


@dataclass(frozen=True)
class Case:
    """A scheme at a place, big enough for its moments to be seen."""

    text: str
    place: Place

    @property
    def scheme(self) -> Scheme:
        return parse(self.text)

    def __str__(self) -> str:
        return f"{self.text}-{self.place.role}-{'x'.join(map(str, self.place.shape))}-{self.place.position}"


def _at(text: str, *shapes: tuple[int, ...], **facts: object) -> list[Case]:
    return [Case(text, Place(shape=shape, **facts)) for shape in shapes or (WIDE, CONV)]  # type: ignore[arg-type]


BIAS = {"role": "bias", "fans": Fans(200, 4000)}
CASES = [
    *_at("zeros"), *_at("ones", (50,)), *_at("constant(0.3)", (50,)), *_at("uniform(-0.1, 0.3)"),
    *_at("normal(std=0.02)"),
    *_at("normal(mean=0.5)"), *_at("truncated_normal(std=0.02)"), *_at("truncated_normal(std=0.02, corrected=False)"),
    *_at("truncated_normal(mean=1.0, cut=0.5)"), *_at("truncated_normal(cut=4.0)"),
    *_at("torch_default"), *_at("torch_default", (4000,), **BIAS),
    *_at("lecun_normal"), *_at("lecun_uniform"), *_at("xavier_normal"), *_at("xavier_uniform(gain=2.0)"),
    *_at("kaiming_normal"), *_at("kaiming_normal(mode='fan_out')"), *_at("kaiming_uniform"),
    *_at("kaiming_normal(mode='fan_out')", (64, 8, 3, 3), layout=Layout(groups=8)),
    *_at("kaiming_normal(mode='fan_out')", (64, 32, 3, 3), layout=Layout(transposed=True)),
    *_at("kaiming_normal", (8, 64, 48), layout=Layout(stack=1)),
    *_at("variance_scaling"), *_at("variance_scaling(scale=2.0, mode='fan_out', distribution='normal')"),
    *_at("variance_scaling(mode='fan_avg', distribution='uniform')"), *_at("variance_scaling(mode='fan_geo_avg')"),
    *_at("edge_of_chaos"), *_at("edge_of_chaos", (4000,), **BIAS), *_at("edge_of_chaos(phi='gelu', q=0.5)"),
    *_at("siren"), *_at("siren(frequency=10.0)", position="first"), *_at("siren", (4000,), **BIAS),
    *_at("orthogonal"), *_at("orthogonal(gain=1.5)", (200, 300)), *_at("orthogonal", (640, 160), layout=LSTM),
    *_at("orthogonal", (96, 12, 3, 3), layout=Layout(groups=4)),
    *_at("orthogonal", (4, 80, 60), layout=Layout(stack=1)),
    *_at("delta_orthogonal", CONV, (64, 16, 5)), *_at("identity", WIDE, SQUARE), *_at("identity(gain=0.5)", (200, 300)),
    *_at("dirac", CONV, (32, 48, 3)), *_at("dirac", (48, 12, 3), layout=Layout(groups=4)),
    *_at("sparse"), *_at("sparse(connections=3, std=2.0)"), *_at("sparse", (2000, 5)),
    *_at("zero_hadamard", WIDE, (200, 300), CONV, (64, 16)), *_at("zero_hadamard", branch_end=True),
    *_at("idinit", WIDE, (200, 300), CONV), *_at("idinit(gain=2.0, noise=0.1)"), *_at("idinit", branch_end=True),
    *_at("idinit(kernel='channel')", CONV), *_at("ds_init(power=0.25)", layer=3),
    *_at("unit_scaling(constrained=True)"),
    *_at("rnn_default", (640, 90), layout=LSTM),
    *_at("rnn_default", (640,), role="bias", fans=Fans(90, 160), layout=LSTM),
    *_at("irnn", WIDE), *_at("irnn(scale=0.5)", SQUARE, role="recurrent"), *_at("irnn", (50,), **BIAS),
    *_at("lstm_forget_bias", (640,), role="bias", layout=LSTM),
    *_at("lstm_forget_bias(value=2.0)", (640,), role="recurrent_bias", layout=LSTM),
    *_at("chrono(100.0)", (40_000,), role="bias", layout=LSTM),
    *_at("chrono(100.0)", (30_000,), role="bias", layout=Layout(parts=3)),
    *_at("nguyen_widrow"), *_at("nguyen_widrow(active=2.0)", (4000,), **BIAS),
    *_at("hippo_legs", (30, 30)), *_at("mamba_decay", (50, 16)), *_at("mamba_step", (4000,), role="bias"),
    *_at("mamba_step(low=0.01, high=1.0)", (4000,), role="bias"),
    *_at("fixup", in_branch=True, branches=16, branch_layers=2), *_at("fixup", in_branch=True, branch_end=True),
    *_at("fixup(branches=16, branch_layers=3, mode='fan_in')", in_branch=True), *_at("fixup"),
    *_at("fixup", (1,), role="gate"), *_at("rezero", (1,), role="gate"), *_at("rezero(alpha=0.1)", (1,), role="gate"),
    *_at("zero_gamma", (50,), role="gain"), *_at("zero_gamma", (50,), role="gain", branch_end=True),
    *_at("layer_scale", (50,), role="gate", depth=24), *_at("layer_scale(epsilon=0.001)", (50,), role="gate"),
    *_at("gpt2_residual", branch_end=True, branches=24), *_at("gpt2_residual(branches=24)"),
    *_at("ds_init", layer=3), *_at("ds_init(alpha=0.5, layer=2)"),
    *_at("t_fixup", role="value", depth=6), *_at("t_fixup", role="feed_forward", depth=6, side="decoder"),
    *_at("t_fixup(query_gain=0.5)", role="query_key"), *_at("t_fixup", (400, 64), role="embedding", depth=6),
    *_at("t_fixup", (480, 160), role="query_key_value", depth=6, layout=Layout(parts=3)),
    *_at("deepnorm", role="feed_forward", depth=6), *_at("deepnorm", role="query_key", depth=6),
    *_at("deepnorm(encoder_layers=12, decoder_layers=6, side='encoder')", role="value"),
    *_at("deepnorm", (480, 160), role="query_key_value", depth=6, layout=Layout(parts=3)),
    *_at("mup"), *_at("mup", position="first"), *_at("mup(optimizer='sgd')", position="last", base=Fans(50, 10)),
    *_at("mup", (400, 64), role="embedding"), *_at("ntk"), *_at("ntk", (4000,), **BIAS), *_at("mean_field"),
    *_at("mean_field", position="last"), *_at("spectral"), *_at("spectral(distribution='normal')"),
    *_at("unit_scaling"),
    *_at("lsuv"), *_at("lsuv(tol=0.1)", (50,), **BIAS), *_at("krahenbuhl"), *_at("krahenbuhl(between=False)"),
    *_at("weight_norm_data"), *_at("weight_norm_data(std=0.1)"), *_at("analytic"), *_at("metainit"),
    *_at("metainit(steps=50, start='lecun_normal')"), *_at("gradinit"), *_at("gradinit(optimizer='adam')"),
    *_at("embedding_normal", (400, 64), role="embedding"), *_at("word2vec", (400, 64), role="embedding"),
    *_at("prior_bias(0.01)", (50,), role="bias"), *_at("prior_bias((0.2, 0.3, 0.5))", (3,), role="bias"),
    *_at("lora", (64, 300), role="adapter_in"), *_at("lora", (300, 64), role="adapter_out"),
    *_at("lora(first='normal')", (64, 300), role="adapter_in"),
    *_at("lora(first='normal', zero='in')", (300, 64), role="adapter_out"),
]  # fmt: skip
