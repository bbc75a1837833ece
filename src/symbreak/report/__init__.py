"""SHOW. report.py is the Report; terminal.py and json.py are readers of it."""

from .report import Report

__all__ = ["Report"]
