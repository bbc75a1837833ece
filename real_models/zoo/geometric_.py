"""torch_geometric: convolutions on a random graph of 30 nodes and 90 edges, and point and molecule networks."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Generator, Tensor, nn

from real_models.zoo.case import add, load
from real_models.zoo.draw import Draw, fixed, integers, normal, positional

NODES, EDGES = 30, 90
NETWORKS: dict[str, tuple[str, int, dict[str, Any]]] = {
    "GCN": ("GCN", 3, {}),
    "GraphSAGE": ("GraphSAGE", 3, {}),
    "GIN": ("GIN", 3, {}),
    "GAT": ("GAT", 3, {"heads": 4}),
    "EdgeCNN": ("EdgeCNN", 3, {}),
    "GATv2": ("GAT", 2, {"heads": 4, "v2": True}),
    "GCN-jk-bn": ("GCN", 3, {"norm": "batch_norm", "jk": "cat"}),
}
CONVOLUTIONS: dict[str, tuple[str, tuple[Any, ...]]] = {
    "TransformerConv": ("TransformerConv", ()),
    "ChebConv": ("ChebConv", (3,)),
    "SGConv": ("SGConv", (2,)),
    "TAGConv": ("TAGConv", ()),
    "GraphConv": ("GraphConv", ()),
    "SuperGAT": ("SuperGATConv", ()),
    "FiLM": ("FiLMConv", ()),
    "GeneralConv": ("GeneralConv", ()),
    "ResGated": ("ResGatedGraphConv", ()),
    "GENConv": ("GENConv", ()),
    "FeaSt": ("FeaStConv", (2,)),
    "LEConv": ("LEConv", ()),
    "ClusterGCN": ("ClusterGCNConv", ()),
    "MFConv": ("MFConv", ()),
}


def geometric() -> Any:
    return load("torch_geometric.nn")


def network(cls: str, layers: int, options: dict[str, Any]) -> nn.Module:
    return getattr(geometric(), cls)(16, 32, layers, 7, **options)


def convolution(cls: str, arguments: tuple[Any, ...], fan_in: int, fan_out: int) -> nn.Module:
    return getattr(geometric(), cls)(fan_in, fan_out, *arguments)


class TwoLayers(nn.Module):
    """A convolution, a ReLU, a convolution; whatever follows the node features goes to both."""

    def __init__(self, layer: Callable[[int, int], nn.Module]) -> None:
        super().__init__()
        self.a = layer(16, 32)
        self.b = layer(32, 7)

    def forward(self, x: Tensor, *graph: Tensor) -> Tensor:
        return self.b(self.a(x, *graph).relu(), *graph)


class Pairs(nn.Module):
    """Every two atoms of one molecule are neighbours: SchNet's graph without a compiled neighbour search."""

    def forward(self, position: Tensor, molecule: Tensor) -> tuple[Tensor, Tensor]:
        atom = torch.arange(len(molecule))
        first, second = torch.meshgrid(atom, atom, indexing="ij")
        bound = (molecule[first] == molecule[second]) & (first != second)
        edges = torch.stack([first[bound], second[bound]])
        return edges, (position[edges[0]] - position[edges[1]]).norm(dim=-1)


class SetTransformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.m = load("torch_geometric.nn.aggr").SetTransformerAggregation(16, 2, heads=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.m(x, torch.arange(NODES) // 10)


def schnet() -> nn.Module:
    model = geometric().SchNet(32, 32, 2, 10, cutoff=5.0)
    model.interaction_graph = Pairs()
    return model


def edge_network(fan_in: int, fan_out: int) -> nn.Module:
    inner = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, fan_in * fan_out))
    return geometric().NNConv(fan_in, fan_out, inner)


def edge_isomorphism(fan_in: int, fan_out: int) -> nn.Module:
    inner = nn.Sequential(nn.Linear(fan_in, fan_out), nn.ReLU(), nn.Linear(fan_out, fan_out))
    return geometric().GINEConv(inner, edge_dim=4)


def graph(*extra: Draw) -> Draw:
    return positional(normal(NODES, 16), integers(NODES, 2, EDGES), *extra)


def molecules() -> Draw:
    """Two molecules of six atoms; atomic numbers start at one."""

    def numbers(generator: Generator) -> Tensor:
        return torch.randint(1, 10, (12,), generator=generator)

    return positional(numbers, normal(12, 3), fixed(torch.arange(12) // 6))


for name, arguments in NETWORKS.items():
    add(f"pyg.{name}", partial(network, *arguments), graph())
for name, (cls, arguments) in CONVOLUTIONS.items():
    add(f"pyg.{name}", partial(TwoLayers, partial(convolution, cls, arguments)), graph())
add("pyg.GraphUNet", lambda: geometric().GraphUNet(16, 32, 7, depth=2), graph())
add("pyg.RGCN", partial(TwoLayers, partial(convolution, "RGCNConv", (3,))), graph(integers(3, EDGES)))
add("pyg.NNConv", partial(TwoLayers, edge_network), graph(normal(EDGES, 4)))
add("pyg.GINE", partial(TwoLayers, edge_isomorphism), graph(normal(EDGES, 4)))
add(
    "pyg.AttentiveFP",
    lambda: geometric().AttentiveFP(16, 32, 7, 4, 2, 2),
    graph(normal(EDGES, 4), fixed(torch.arange(NODES) // 8)),
)
add("pyg.SchNet", schnet, molecules())
add("pyg.SetTransformer", SetTransformer, normal(NODES, 16))
