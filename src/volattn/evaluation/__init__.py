"""Scores of predictions against references: arrays and files in, numbers out, without torch."""

from volattn.evaluation.cases import CaseScore, score_case, score_volumes
from volattn.evaluation.lesionwise import LesionScore, LesionwiseScore, score_lesions
from volattn.evaluation.lits import LitsCase, lits_scheme, score_lits, score_lits_files
from volattn.evaluation.lits_folders import score_lits_folders
from volattn.evaluation.lits_summary import LitsScores, summarise_lits
from volattn.evaluation.overlap import Overlap, dice
from volattn.evaluation.summary import Summary, summarise

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
