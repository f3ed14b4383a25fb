"""Data sets of different layouts, all given as the same cases."""

from volattn.datasets.case import Case, Dataset, LabelScheme
from volattn.datasets.check import check_dataset
from volattn.datasets.issues import Issue
from volattn.datasets.open import open_dataset
from volattn.datasets.splits import Split, make_split

__all__ = ["Case", "Dataset", "Issue", "LabelScheme", "Split", "check_dataset", "make_split", "open_dataset"]
