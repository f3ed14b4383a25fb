"""Tables and self-contained pages."""

from volattn.reporting.pages import Page, Result
from volattn.reporting.tables import Column, Table

__all__ = ["Column", "Page", "Result", "Table"]
