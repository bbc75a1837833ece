"""WHERE IT CAME FROM. Who wrote each tensor of a model last: a recorder around building and loading, and its report."""

from __future__ import annotations

from .recorder import Origin, provenance
from .report import OriginReport, Row
from .writers import Place, Writer

__all__ = ["Origin", "OriginReport", "Place", "Row", "Writer", "provenance"]
