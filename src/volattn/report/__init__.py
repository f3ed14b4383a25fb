"""Tables and self-contained pages."""

from volattn.report.pages import Column, Page, Result, Table

__all__ = ["Column", "Page", "Result", "Table"]
