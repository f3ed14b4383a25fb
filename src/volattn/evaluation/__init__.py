"""Scores of predictions against references: arrays in, numbers out, without torch."""

from volattn.evaluation.cases import CaseScore, score_case, score_volumes
from volattn.evaluation.lesionwise import LesionScore, LesionwiseScore, score_lesions
from volattn.evaluation.overlap import Overlap, dice
from volattn.evaluation.summary import Summary, summarise

__all__ = [
    "CaseScore",
    "LesionScore",
    "LesionwiseScore",
    "Overlap",
    "Summary",
    "dice",
    "score_case",
    "score_lesions",
    "score_volumes",
    "summarise",
]
