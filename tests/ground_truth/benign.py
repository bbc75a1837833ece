"""Starts that look broken and are not: zeros that another factor feeds, gradients that are zero for a reason."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ground_truth.blocks import Attention, ConvNet, LoRALinear, Mixture, Pooled, ResidualBlock, linears, mlp
from ground_truth.case import (
    Case,
    binary_cross_entropy,
    classification,
    codes,
    cross_entropy,
    fill_,
    frozen,
    images,
    integers,
    mse,
    normal,
    regression,
    sequences,
    zero_,
)

# ---------------------------------------------------------------- adapters


def lora() -> nn.Module:
    return nn.Sequential(LoRALinear(6, 8), nn.Tanh(), LoRALinear(8, 2))


class AdaLoRALinear(nn.Module):
    """W x + P diag(E) Q x with E = 0."""

    def __init__(self, fan_in: int, fan_out: int, rank: int = 3) -> None:
        super().__init__()
        self.base = frozen(nn.Linear(fan_in, fan_out))
        self.A = nn.Parameter(0.02 * torch.randn(rank, fan_in))
        self.B = nn.Parameter(0.02 * torch.randn(fan_out, rank))
        self.E = nn.Parameter(torch.zeros(rank, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + F.linear(F.linear(x, self.A * self.E), self.B)


class VeRALinear(nn.Module):
    """W x + b * B (d * A x), with A and B random, shared and fixed; b = 0, d = 0.1."""

    def __init__(self, fan_in: int, fan_out: int, rank: int = 4) -> None:
        super().__init__()
        self.base = frozen(nn.Linear(fan_in, fan_out))
        self.register_buffer("A", torch.randn(rank, fan_in))
        self.register_buffer("B", torch.randn(fan_out, rank))
        self.d = nn.Parameter(torch.full((rank,), 0.1))
        self.b = nn.Parameter(torch.zeros(fan_out))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.b * F.linear(self.d * F.linear(x, self.A), self.B)


class LlamaAdapter(nn.Module):
    """Frozen attention that also looks at learnt prompts, through a tanh gate a head."""

    def __init__(self, width: int = 8, heads: int = 2, prompts: int = 3) -> None:
        super().__init__()
        self.attention = frozen(Attention(width, heads))
        self.prompts = nn.Parameter(torch.randn(prompts, width))
        self.gate = nn.Parameter(torch.zeros(1, heads, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        att = self.attention
        q, k, v = (att.split(layer(x)) for layer in (att.q, att.k, att.v))
        prompt_k, prompt_v = att.split(att.k(self.prompts)), att.split(att.v(self.prompts))
        scale = q.shape[-1] ** -0.5
        mixed = (q @ k.transpose(-2, -1) * scale).softmax(-1) @ v
        prompted = (q @ prompt_k.transpose(-2, -1) * scale).softmax(-1) @ prompt_v
        out = mixed + torch.tanh(self.gate) * prompted
        return x + att.o(out.transpose(-3, -2).flatten(-2))


def llama_adapter() -> nn.Module:
    model = Pooled(LlamaAdapter(), 8, 2)
    frozen(model.head)
    return model


class FlamingoBlock(nn.Module):
    """Cross attention to the media and a feed-forward, each behind tanh(0)."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.attention = Attention(width)
        self.mlp = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 16), nn.GELU(), nn.Linear(16, width))
        self.attention_gate = nn.Parameter(torch.zeros(1))
        self.mlp_gate = nn.Parameter(torch.zeros(1))
        self.head = frozen(nn.Linear(width, 2))

    def forward(self, x: Tensor, media: Tensor) -> Tensor:
        x = x + self.attention_gate.tanh() * self.attention(x, media)
        x = x + self.mlp_gate.tanh() * self.mlp(x)
        return self.head(x)


class GligenBlock(nn.Module):
    """Self attention over the visual and the grounding tokens together, of which only the visual ones are kept."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.ground = nn.Linear(4, width)
        self.norm = nn.LayerNorm(width)
        self.attention = Attention(width)
        self.alpha = nn.Parameter(torch.tensor(0.0))
        self.head = frozen(nn.Linear(width, 2))

    def forward(self, x: Tensor, boxes: Tensor) -> Tensor:
        both = self.norm(torch.cat([x, self.ground(boxes)], dim=1))
        return self.head(x + self.alpha.tanh() * self.attention(both)[:, : x.shape[1]])


class ControlNet(nn.Module):
    """A frozen encoder and decoder, and a trainable copy of the encoder that reads a hint through zero convolutions."""

    def __init__(self, channels: int = 6, levels: int = 2) -> None:
        super().__init__()
        self.base_in = frozen(nn.Conv2d(3, channels, 3, padding=1))
        self.base = frozen(nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(levels)))
        self.decoder = frozen(nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(levels)))
        self.out = frozen(nn.Conv2d(channels, 3, 3, padding=1))
        self.trunk = copy.deepcopy(self.base).requires_grad_(True)
        self.hint_inner = nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1), nn.SiLU(), nn.Conv2d(4, 4, 3, padding=1), nn.SiLU()
        )
        self.conv_out = nn.Conv2d(4, channels, 3, padding=1)
        self.zero_convs = nn.ModuleList(nn.Conv2d(channels, channels, 1) for _ in range(levels))
        zero_(self.conv_out, self.zero_convs)

    def forward(self, x: Tensor, hint: Tensor) -> Tensor:
        h = self.base_in(x)
        c = h + self.conv_out(self.hint_inner(hint))
        skips = []
        for base, trunk, zero_conv in zip(self.base, self.trunk, self.zero_convs, strict=True):
            h, c = F.silu(base(h)), F.silu(trunk(c))
            skips.append(h + zero_conv(c))
        for layer in self.decoder:
            h = F.silu(layer(h + skips.pop()))
        return self.out(h)


class DiTBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, elementwise_affine=False)
        self.attention = Attention(width, bias=True)
        self.norm2 = nn.LayerNorm(width, elementwise_affine=False)
        self.mlp = mlp(width, 2 * width, width, activation=nn.GELU)
        self.adaLN = nn.Linear(width, 6 * width)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN(F.silu(c)).unsqueeze(1).chunk(6, dim=-1)
        x = x + gate1 * self.attention(self.norm1(x) * (1 + scale1) + shift1)
        return x + gate2 * self.mlp(self.norm2(x) * (1 + scale2) + shift2)


class DiT(nn.Module):
    def __init__(self, width: int = 8, depth: int = 2) -> None:
        super().__init__()
        self.x_embed = nn.Linear(4, width)
        self.t_embed = nn.Sequential(nn.Linear(4, width), nn.SiLU(), nn.Linear(width, width))
        self.y_embed = nn.Embedding(3, width)
        self.blocks = nn.ModuleList(DiTBlock(width) for _ in range(depth))
        self.final_norm = nn.LayerNorm(width, elementwise_affine=False)
        self.final_adaLN = nn.Linear(width, 2 * width)
        self.final_linear = nn.Linear(width, 4)
        zero_(*(block.adaLN for block in self.blocks), self.final_adaLN, self.final_linear)

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        waves = t.unsqueeze(-1) * torch.arange(1, 3, dtype=t.dtype)
        c = self.t_embed(torch.cat([waves.sin(), waves.cos()], dim=-1)) + self.y_embed(y)
        h = self.x_embed(x)
        for block in self.blocks:
            h = block(h, c)
        shift, scale = self.final_adaLN(F.silu(c)).unsqueeze(1).chunk(2, dim=-1)
        return self.final_linear(self.final_norm(h) * (1 + scale) + shift)


ADAPTERS = (
    Case(
        "LoRA",
        lora,
        regression(6),
        mse,
        {"*.base.*": None, "*.B": 1, "*.A": 2},
        codes=codes("SB103"),
        absent=codes("SB104"),
    ),
    Case(
        "AdaLoRA",
        lambda: nn.Sequential(AdaLoRALinear(6, 8), nn.Tanh(), AdaLoRALinear(8, 2)),
        regression(6),
        mse,
        {"*.base.*": None, "*.E": 1, "*": 2},
        codes=codes("SB103"),
    ),
    Case(
        "VeRA",
        lambda: nn.Sequential(VeRALinear(6, 8), nn.Tanh(), VeRALinear(8, 2)),
        regression(6),
        mse,
        {"*.base.*": None, "*.b": 1, "*.d": 2},
        codes=codes("SB103"),
    ),
    Case(
        "LLaMA-Adapter",
        llama_adapter,
        sequences(8, 2),
        mse,
        {"*.gate": 1, "*.prompts": 2, "*": None},
        codes=codes("SB103"),
    ),
    Case(
        "Flamingo gates",
        FlamingoBlock,
        {"x": normal(16, 4, 8), "media": normal(16, 5, 8, seed=1)},
        None,
        {"head.*": None, "*gate": 1, "*": 2},
        codes=codes("SB103"),
    ),
    Case(
        "GLIGEN gate",
        GligenBlock,
        {"x": normal(16, 4, 8), "boxes": normal(16, 3, 4, seed=1)},
        None,
        {"head.*": None, "alpha": 1, "*": 2},
        codes=codes("SB103"),
    ),
    Case(
        "ControlNet",
        ControlNet,
        {"x": normal(8, 3, 5, 5), "hint": normal(8, 2, 5, 5, seed=1)},
        None,
        {"zero_convs.*": 1, "trunk.*": 2, "conv_out.*": 2, "hint_inner.*": 3, "*": None},
        codes=codes("SB103"),
        absent=codes("SB005"),
    ),
    Case(
        "DiT adaLN-Zero",
        DiT,
        {"x": normal(16, 5, 4), "t": normal(16, seed=1), "y": integers(3, 16, seed=2)},
        None,
        {"final_linear.*": 1, "x_embed.*": 2, "*adaLN.*": 2, "*.attention.k.bias": None, "*": 3},
        codes=codes("SB103", "SB105"),
    ),
)

# ---------------------------------------------------------------- residual branches


class GatedResidual(nn.Module):
    """x + alpha f(x), alpha a scalar that starts at zero."""

    def __init__(self, branch: nn.Module) -> None:
        super().__init__()
        self.branch = branch
        self.alpha = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.alpha * self.branch(x)


def rezero() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), *(GatedResidual(mlp(8, 8, 8)) for _ in range(3)), nn.Linear(8, 2))


def skip_init() -> nn.Module:
    branch = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 6, 3, padding=1))
    return ConvNet(GatedResidual(branch), 6, 2)


class Residual(nn.Module):
    def __init__(self, branch: nn.Module) -> None:
        super().__init__()
        self.branch = branch

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


def zero_last_of_branch() -> nn.Module:
    branches = [mlp(8, 8, 8) for _ in range(3)]
    zero_(*(branch[-1] for branch in branches))
    return nn.Sequential(nn.Linear(6, 8), *map(Residual, branches), nn.Linear(8, 2))


def zero_gamma() -> nn.Module:
    model = ConvNet(ResidualBlock(6), 6, 2)
    zero_(model.get_parameter("block.bn2.weight"))
    return model


class FixupBlock(nn.Module):
    def __init__(self, channels: int, blocks: int) -> None:
        super().__init__()
        self.bias1a, self.bias1b, self.bias2a, self.bias2b = (nn.Parameter(torch.zeros(1)) for _ in range(4))
        self.scale = nn.Parameter(torch.ones(1))
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        nn.init.normal_(self.conv1.weight, std=(2 / (9 * channels)) ** 0.5 * blocks**-0.5)
        zero_(self.conv2)

    def forward(self, x: Tensor) -> Tensor:
        inner = F.relu(self.conv1(x + self.bias1a) + self.bias1b)
        return F.relu(x + self.conv2(inner + self.bias2a) * self.scale + self.bias2b)


class Fixup(nn.Module):
    def __init__(self, channels: int = 6, blocks: int = 2) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 3, padding=1, bias=False)
        self.stem_bias = nn.Parameter(torch.zeros(1))
        self.blocks = nn.Sequential(*(FixupBlock(channels, blocks) for _ in range(blocks)))
        self.head_bias = nn.Parameter(torch.zeros(1))
        self.head = nn.Linear(channels, 3)
        zero_(self.head)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(F.relu(self.stem(x) + self.stem_bias))
        return self.head(x.mean(dim=(2, 3)) + self.head_bias)


RESIDUALS = (
    Case("ReZero", rezero, regression(6), mse, {"*.alpha": 1, "*.branch.*": 2, "*": 1}, codes=codes("SB103")),
    Case("SkipInit", skip_init, images(2), mse, {"*.alpha": 1, "*.branch.*": 2, "*": 1}, codes=codes("SB103")),
    Case(
        "zero last layer of each branch",
        zero_last_of_branch,
        regression(6),
        mse,
        {"*.branch.0.*": 2, "*": 1},
        codes=codes("SB103"),
    ),
    Case(
        "zero gamma of each branch",
        zero_gamma,
        images(2),
        mse,
        {"block.bn2.*": 1, "block.*": 2, "*": 1},
        codes=codes("SB103"),
    ),
    Case(
        "Fixup",
        Fixup,
        (images(2)[0], integers(3, 16, seed=2)),
        cross_entropy,
        {"head.*": 1, "*conv2.weight": 2, "*bias2b": 2, "stem*": 2, "head_bias": 2, "*": 3},
        codes=codes("SB103"),
    ),
)

# ---------------------------------------------------------------- transformers


class GPTBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, causal=True)
        self.fc = nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width)
        zero_(self.attention.o, self.down)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.ln1(x))
        return x + self.down(F.gelu(self.fc(self.ln2(x))))


class GPT(nn.Module):
    """Pre-norm blocks with zero output projections, and a zero head."""

    def __init__(self, tokens: int = 7, length: int = 6, width: int = 8, depth: int = 2) -> None:
        super().__init__()
        self.token = nn.Embedding(tokens, width)
        self.position = nn.Embedding(length, width)
        self.blocks = nn.ModuleList(GPTBlock(width) for _ in range(depth))
        self.ln_f = nn.LayerNorm(width)
        self.head = nn.Linear(width, tokens, bias=False)
        zero_(self.head)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.token(tokens) + self.position.weight
        for block in self.blocks:
            x = block(x)
        return self.head(self.ln_f(x)).transpose(1, 2)


class ViTBlock(nn.Module):
    def __init__(self, width: int, *, attention_bias: bool = True) -> None:
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, bias=attention_bias)
        self.mlp = mlp(width, 2 * width, width, activation=nn.GELU)

    def forward(self, x: Tensor, shift: Tensor | None = None) -> Tensor:
        x = x + self.attention(self.ln1(x), shift=shift)
        return x + self.mlp(self.ln2(x))


class ViT(nn.Module):
    """Class token and position embedding at zero; the head may start at zero too."""

    def __init__(self, *, zero_head: bool, width: int = 8) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, width, 3, stride=3)
        self.cls = nn.Parameter(torch.zeros(1, 1, width))
        self.position = nn.Parameter(torch.zeros(1, 5, width))
        self.blocks = nn.ModuleList(ViTBlock(width) for _ in range(2))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 3)
        if zero_head:
            zero_(self.head)

    def forward(self, x: Tensor) -> Tensor:
        patches = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(len(x), -1, -1), patches], dim=1) + self.position
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x[:, 0]))


class RelativePosition(nn.Module):
    """Swin's bias: one row a distance, one column a head, added to the attention scores."""

    def __init__(self, width: int = 8, heads: int = 2, length: int = 5) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(2 * length - 1, heads))
        place = torch.arange(length)
        self.register_buffer("distance", place[:, None] - place[None, :] + length - 1)
        self.block = ViTBlock(width, attention_bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x, shift=self.table[self.distance].permute(2, 0, 1))


class MuP(nn.Module):
    """One attention layer with zero queries."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.attention = Attention(width)
        zero_(self.attention.q)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.attention(x)


class LayerScale(nn.Module):
    def __init__(self, branch: nn.Module, width: int, start: float = 1e-6) -> None:
        super().__init__()
        self.branch = branch
        self.gamma = nn.Parameter(start * torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.gamma * self.branch(x)


class GRN(nn.Module):
    """ConvNeXt V2's global response normalisation."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(width))
        self.beta = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        energy = x.norm(dim=1, keepdim=True)
        return self.gamma * (x * energy / (energy.mean(dim=-1, keepdim=True) + 1e-6)) + self.beta + x


def convnext() -> nn.Module:
    branch = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 16), nn.GELU(), GRN(16), nn.Linear(16, 8))
    return Pooled(Residual(branch), 8, 2)


def transformer_encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(8, 2, dim_feedforward=16, dropout=0.0, batch_first=True)
    return Pooled(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), 8, 2)


def embedded(body: nn.Module, features: int = 4, width: int = 8) -> nn.Module:
    """A layer in front, so that the body is not the first to see the data."""
    return Pooled(nn.Sequential(nn.Linear(features, width), body), width, 2)


TRANSFORMERS = (
    Case(
        "GPT with zero c_proj and zero head",
        GPT,
        (integers(7, 16, 6), integers(7, 16, 6, seed=1)),
        cross_entropy,
        {
            "head.*": 1,
            "*.attention.o.weight": 2,
            "*.down.*": 2,
            "token.*": 2,
            "position.*": 2,
            "ln_f.*": 2,
            "*": 3,
        },
        codes=codes("SB103"),
        absent=codes("SB004", "SB405"),
    ),
    Case(
        "ViT with zero head",
        lambda: ViT(zero_head=True),
        (images(2)[0], integers(3, 16, seed=2)),
        cross_entropy,
        {"head.*": 1, "*.attention.k.bias": None, "*": 2},
        codes=codes("SB103", "SB105"),
        absent=codes("SB004"),
    ),
    Case(
        "class token and position embedding at zero",
        lambda: ViT(zero_head=False),
        (images(2)[0], integers(3, 16, seed=2)),
        cross_entropy,
        {"*.attention.k.bias": None, "*": 1},
        codes=codes("SB105"),
        absent=codes("SB004", "SB103"),
    ),
    Case(
        "relative position bias at zero",
        lambda: embedded(RelativePosition()),
        sequences(4, 2),
        mse,
        {"*": 1},
        absent=codes("SB004", "SB103"),
    ),
    Case(
        "muP zero query", lambda: embedded(MuP()), sequences(4, 2), mse, {"*.k.weight": 2, "*": 1}, codes=codes("SB103")
    ),
    Case(
        "LayerScale 1e-6",
        lambda: embedded(LayerScale(mlp(8, 16, 8, activation=nn.GELU), 8)),
        sequences(4, 2),
        mse,
        {"*": 1},
        absent=codes("SB103", "SB006"),
    ),
    Case("GRN at zero", convnext, sequences(8, 2), mse, {"*": 1}, absent=codes("SB103")),
    Case(
        "TransformerEncoder of deep copies",
        transformer_encoder,
        sequences(8, 2),
        mse,
        {"*": 1},
        codes=codes("SB406"),
        tied={"*.linear1.weight": 0},
        absent=codes("SB005", "SB405"),
    ),
    Case(
        "sparse upcycling, soft gates",
        lambda: Mixture(6, 2).upcycle_(),
        regression(6),
        mse,
        {"router.*": 2, "*": 1},
        codes=codes("SB103"),
        absent=codes("SB003", "SB005"),
        tied={"experts.*.0.weight": 0},
    ),
    Case(
        "sparse upcycling, top-2",
        lambda: Mixture(6, 2, top=2).upcycle_(),
        regression(6),
        mse,
        {"*": 1},
        absent=codes("SB003", "SB005"),
        tied={"experts.*.0.weight": 0},
    ),
    Case(
        "sparse upcycling, top-2 weights that sum to one",
        lambda: Mixture(6, 2, top=2, renormalised=True).upcycle_(),
        regression(6),
        mse,
        {"router.*": 2, "*": 1},
        codes=codes("SB103"),
        absent=codes("SB003", "SB005"),
        tied={"experts.*.0.weight": 0},
    ),
)

# ---------------------------------------------------------------- geometry and flows


class DeformableConv(nn.Module):
    """A 3 x 3 convolution whose nine taps read where a zero-started convolution tells them to."""

    def __init__(self, channels: int, filters: int) -> None:
        super().__init__()
        self.offset = nn.Conv2d(channels, 18, 3, padding=1)
        self.weight = nn.Parameter(torch.randn(filters, channels, 9) / (9 * channels) ** 0.5)
        zero_(self.offset)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        offsets = self.offset(x).unflatten(1, (9, 2)).movedim(2, -1)
        rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        here = torch.stack([columns, rows], dim=-1).to(x.dtype)
        size = torch.tensor([width - 1, height - 1], dtype=x.dtype)
        taps = []
        for tap in range(9):
            reach = torch.tensor([tap % 3 - 1, tap // 3 - 1], dtype=x.dtype)
            grid = 2 * (here + reach + offsets[:, tap]) / size - 1
            taps.append(F.grid_sample(x, grid, align_corners=True))
        return torch.einsum("oik,bihwk->bohw", self.weight, torch.stack(taps, dim=-1))


class MSDeformAttention(nn.Module):
    """Deformable DETR: queries choose sampling points (zero weight, a bias that spreads) and weights (all zero)."""

    def __init__(self, width: int = 8, points: int = 4) -> None:
        super().__init__()
        self.points = points
        self.reference = nn.Linear(width, 2)
        self.offsets = nn.Linear(width, 2 * points)
        self.weights = nn.Linear(width, points)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)
        zero_(self.offsets, self.weights)
        angle = torch.arange(points) * (2 * torch.pi / points) + 0.3
        with torch.no_grad():
            self.offsets.bias.copy_(0.3 * torch.stack([angle.cos(), angle.sin()], dim=-1).flatten())

    def forward(self, query: Tensor, memory: Tensor) -> Tensor:
        value = self.value(memory.movedim(1, -1)).movedim(-1, 1)
        where = 0.5 * self.reference(query).tanh().unsqueeze(2) + self.offsets(query).unflatten(-1, (self.points, 2))
        sampled = F.grid_sample(value, where, align_corners=False)
        return self.output((sampled * self.weights(query).softmax(-1).unsqueeze(1)).sum(-1).transpose(1, 2))


class SpatialTransformer(nn.Module):
    """Looks, decides on an affine map (the identity at first), resamples, classifies."""

    def __init__(self) -> None:
        super().__init__()
        self.localisation = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 8), nn.ReLU())
        self.last = nn.Linear(8, 6)
        self.classifier = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2))
        zero_(self.last.weight)
        with torch.no_grad():
            self.last.bias.copy_(torch.tensor([1.0, 0, 0, 0, 1, 0]))

    def forward(self, x: Tensor) -> Tensor:
        affine = self.last(self.localisation(x)).unflatten(-1, (2, 3))
        grid = F.affine_grid(affine, list(x.shape), align_corners=False)
        return self.classifier(F.grid_sample(x, grid, align_corners=False))


class Conv2dZeros(nn.Module):
    """Glow's last convolution of a coupling: zero weight and bias, times exp(3 logs) with logs = 0."""

    def __init__(self, fan_in: int, fan_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(fan_in, fan_out, 3, padding=1)
        self.logs = nn.Parameter(torch.zeros(fan_out, 1, 1))
        zero_(self.conv)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) * (3 * self.logs).exp()


class GlowCoupling(nn.Module):
    """The negative log-likelihood under a standard normal of an affine coupling, up to a constant."""

    def __init__(self, channels: int = 4) -> None:
        super().__init__()
        half = channels // 2
        self.net = nn.Sequential(nn.Conv2d(half, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.ReLU())
        self.last = Conv2dZeros(8, channels)

    def forward(self, x: Tensor) -> Tensor:
        kept, changed = x.chunk(2, dim=1)
        shift, scale = self.last(self.net(kept)).chunk(2, dim=1)
        scale = torch.sigmoid(scale + 2)
        latent = (changed + shift) * scale
        return (latent.square() / 2 - scale.log()).flatten(1).sum(1)


GEOMETRY = (
    Case(
        "deformable convolution, offsets at zero",
        lambda: nn.Sequential(DeformableConv(3, 6), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 2)),
        images(2),
        mse,
        {"*": 1},
        absent=codes("SB103"),
    ),
    Case(
        "multi-scale deformable attention",
        MSDeformAttention,
        {"query": normal(8, 5, 8), "memory": normal(8, 8, 6, 6, seed=1)},
        None,
        {"*": 1},
        absent=codes("SB103"),
    ),
    Case(
        "spatial transformer",
        SpatialTransformer,
        images(2, channels=2),
        mse,
        {"localisation.*": 2, "*": 1},
        codes=codes("SB103"),
    ),
    Case("Glow coupling", GlowCoupling, normal(16, 4, 4, 4), None, {"last.conv.*": 1, "*": 2}, codes=codes("SB103")),
)

# ---------------------------------------------------------------- textbook starts


def zeros(model: nn.Module) -> nn.Module:
    zero_(model)
    return model


def zero_weights_random_biases() -> nn.Module:
    model = mlp(6, 8, 2)
    for layer in linears(model):
        zero_(layer.weight)
        nn.init.normal_(layer.bias)
    return model


def constant_weights_random_biases() -> nn.Module:
    model = mlp(6, 8, 2)
    for layer in linears(model):
        fill_(0.3, layer.weight)
    return model


def zero_biases() -> nn.Module:
    model = mlp(6, 8, 8, 2)
    for layer in linears(model):
        nn.init.xavier_normal_(layer.weight)
        zero_(layer.bias)
    return model


class LSTMReader(nn.Module):
    """Biases zero, but one for the forget gate."""

    def __init__(self, features: int = 4, hidden: int = 6) -> None:
        super().__init__()
        self.lstm = nn.LSTM(features, hidden, batch_first=True)
        self.head = nn.Linear(hidden, 2)
        zero_(self.lstm.bias_ih_l0, self.lstm.bias_hh_l0)
        fill_(1.0, self.lstm.bias_ih_l0[hidden : 2 * hidden])

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1])


def prior_bias() -> nn.Module:
    """RetinaNet: the classifier starts by believing in one object in a hundred."""
    model = mlp(6, 8, 2)
    fill_(-4.6, linears(model)[-1].bias)
    return model


RARE = (normal(32, 6, seed=1), (normal(32, 2, seed=2) > 1.0).float())
LOGISTIC = (normal(32, 6, seed=1), (normal(32, 1, seed=2) > 0).float())

TEXTBOOK = (
    Case(
        "linear regression at zero",
        lambda: zeros(nn.Linear(6, 1)),
        regression(6, 1),
        mse,
        {"*": 1},
        absent=codes("SB001"),
    ),
    Case(
        "logistic regression at zero",
        lambda: zeros(nn.Linear(6, 1)),
        LOGISTIC,
        binary_cross_entropy,
        {"*": 1},
        absent=codes("SB001"),
    ),
    Case(
        "softmax regression at zero",
        lambda: zeros(nn.Linear(6, 3)),
        classification(6),
        cross_entropy,
        {"*": 1},
        absent=codes("SB001"),
    ),
    Case(
        "zero weights, random biases",
        zero_weights_random_biases,
        regression(6),
        mse,
        {"2.*": 1, "0.*": 2},
        codes=codes("SB103"),
        absent=codes("SB001"),
        widths={"0": (8, 8)},
    ),
    Case(
        "constant weights, default biases",
        constant_weights_random_biases,
        regression(6),
        mse,
        {"*": 1},
        absent=codes("SB001"),
        widths={"0": (8, 8)},
    ),
    Case("zero biases everywhere", zero_biases, regression(6), mse, {"*": 1}, absent=codes("SB001", "SB103")),
    Case("LSTM forget bias one", LSTMReader, sequences(4, 2), mse, {"*": 1}, absent=codes("SB001", "SB103")),
    Case("prior bias", prior_bias, RARE, binary_cross_entropy, {"*": 1}, absent=codes("SB001", "SB103")),
)

# ---------------------------------------------------------------- never a gradient, and no fault


class FusedAttention(nn.Module):
    """torch's own attention; a third of `in_proj_bias` is the key bias."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.attention(x, x, x, need_weights=False)[0]


class KeyBias(nn.Module):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.attention = Attention(width, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.attention(x)


class Reader(nn.Module):
    """The mean of token embeddings through a hidden layer."""

    def __init__(self, tokens: int = 8, padding: int | None = None) -> None:
        super().__init__()
        self.table = nn.Embedding(tokens, 6, padding_idx=padding)
        self.net = mlp(6, 8, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.net(self.table(tokens).mean(dim=1))


def frozen_backbone() -> nn.Module:
    return nn.Sequential(frozen(mlp(6, 8, 8)), nn.Tanh(), nn.Linear(8, 2))


TARGETS = normal(16, 2, seed=2)

NEVER_AND_NO_FAULT = (
    Case(
        "key bias of a fused attention",
        lambda: embedded(FusedAttention()),
        sequences(4, 2),
        mse,
        {"*": 1},
        codes=codes("SB105"),
    ),
    Case(
        "key bias",
        lambda: embedded(KeyBias()),
        sequences(4, 2),
        mse,
        {"*.k.bias": None, "*": 1},
        codes=codes("SB105"),
    ),
    Case(
        "bias in front of batch norm",
        lambda: nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 2)),
        regression(6),
        mse,
        {"0.bias": None, "*": 1},
        codes=codes("SB105"),
    ),
    Case(
        "convolution bias in front of batch norm",
        lambda: ConvNet(nn.Sequential(nn.BatchNorm2d(6), nn.ReLU()), 6, 2),
        images(2),
        mse,
        {"stem.bias": None, "*": 1},
        codes=codes("SB105"),
    ),
    Case(
        "convolution bias in front of instance norm",
        lambda: ConvNet(nn.Sequential(nn.InstanceNorm2d(6, affine=True), nn.ReLU()), 6, 2),
        images(2),
        mse,
        {"stem.bias": None, "*": 1},
        codes=codes("SB105"),
    ),
    Case(
        "padding row",
        lambda: Reader(padding=0),
        (integers(8, 16, 6), TARGETS),
        mse,
        {"*": 1},
        codes=codes("SB106"),
        absent=codes("SB004"),
    ),
    Case(
        "tokens absent from the batch",
        lambda: Reader(tokens=20),
        (integers(8, 16, 6), TARGETS),
        mse,
        {"*": 1},
        codes=codes("SB106"),
        absent=codes("SB004"),
    ),
    Case(
        "frozen backbone",
        frozen_backbone,
        regression(6),
        mse,
        {"0.*": None, "*": 1},
        absent=codes("SB101", "SB104", "SB103"),
    ),
)

CASES = (*ADAPTERS, *RESIDUALS, *TRANSFORMERS, *GEOMETRY, *TEXTBOOK, *NEVER_AND_NO_FAULT)
