"""Scores of predictions against references: arrays and files in, numbers out, without torch."""

from volattn.scoring.cases import CaseScore, Summary, score_case, score_volumes, summarise
from volattn.scoring.lesions import LesionScore, LesionwiseScore, score_lesions
from volattn.scoring.lits import LitsCase, lits_scheme, score_lits, score_lits_files
from volattn.scoring.lits_folders import LitsScores, score_lits_folders, summarise_lits
from volattn.scoring.overlap import Overlap, dice

__all__ = [
    "CaseScore",
    "LesionScore",
    "LesionwiseScore",
    "LitsCase",
    "LitsScores",
    "Overlap",
    "Summary",
    "dice",
    "lits_scheme",
    "score_case",
    "score_lesions",
    "score_lits",
    "score_lits_files",
    "score_lits_folders",
    "score_volumes",
    "summarise",
    "summarise_lits",
]
