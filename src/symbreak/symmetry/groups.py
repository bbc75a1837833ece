"""Groups of channels or heads in a network with one unit a class: which of them become one, and who is in them.

Statistics of a group, scores of a head, sums of a convolution in groups: each is of the units of one group. Where two
groups hold the same classes equally often, it is one number; classes that are proved lie in such groups alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Groups:
    """Groups of the full network, in classes.

    Attributes:
        of: [g] which class each group of the full network is in, numbered in order of appearance.
        counts: one an axis: [classes of groups, m] how many units of each class on that axis are in one such group.
    """

    of: Tensor
    counts: tuple[Tensor, ...]

    @classmethod
    def found(cls, axes: Sequence[Tensor], number: int) -> Groups | None:
        """Groups of equal length along some axes, whose entries say where in the small axis each unit goes.

        None where a class lies in groups that are not alike: then no small network has these groups.

        Example:
            >>> Groups.found([torch.tensor([0, 1, 1, 0, 2, 2])], 3).of.tolist()
            [0, 0, 1]
            >>> Groups.found([torch.tensor([0, 1, 1, 1])], 2) is None
            True
        """
        tables = [_counted(at, number) for at in axes]
        rows, of = torch.unique(torch.cat(tables, 1), dim=0, return_inverse=True)
        firsts = torch.full((len(rows),), number).scatter_reduce(0, of, torch.arange(number), "amin")
        order = firsts.argsort()
        groups = cls(order.argsort()[of], tuple(table[firsts[order]] for table in tables))
        alone = all(bool(((counts > 0).sum(0) == 1).all()) for counts in groups.counts)
        return groups if alone else None

    def __len__(self) -> int:
        """Groups of the small network."""
        return len(self.counts[0])

    def group(self, axis: int) -> Tensor:
        """[m] which group each small unit of this axis is in."""
        return (self.counts[axis] > 0).long().argmax(0)

    def members(self, axis: int) -> Tensor:
        """[groups, longest] the small units of each group of this axis; short rows are filled with its first."""
        rows = [counts.nonzero()[:, 0] for counts in self.counts[axis]]
        longest = max(len(row) for row in rows)
        return torch.stack([torch.cat([row, row[:1].expand(longest - len(row))]) for row in rows])

    def weights(self, axis: int) -> Tensor:
        """[groups, longest] how many full units each of the members stands for; 0 where it fills a short row."""
        sizes = (self.counts[axis] > 0).sum(1)
        members = self.members(axis)
        filled = torch.arange(members.shape[1]) < sizes[:, None]
        return self.counts[axis].gather(1, members) * filled

    def even(self, axis: int) -> bool:
        """True where the small units of the groups lie one group behind the other, and are equally many."""
        of = self.group(axis)
        each = len(of) // len(self)
        return len(of) == each * len(self) and torch.equal(of, torch.arange(len(self)).repeat_interleave(each))


def _counted(at: Tensor, number: int) -> Tensor:
    """[number, m] how often each group has each position of the small axis."""
    small = int(at.max()) + 1
    found = torch.zeros(number, small, dtype=torch.float64)
    group = torch.arange(number).repeat_interleave(len(at) // number)
    return found.index_put((group, at), torch.ones(len(at), dtype=torch.float64), accumulate=True)
