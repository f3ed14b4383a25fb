"""Scores of predictions against references: arrays and files in, numbers out, without torch."""

from volattn.scoring.cases import CaseScore, Summary, score_case, score_volumes, summarise
from volattn.scoring.lesions import LesionScore, LesionwiseScore, score_lesions
from volattn.scoring.lits import LitsCase, lits_scheme, score_lits, score_lits_files
from volattn.scoring.lits_folders import pool_lits, score_lits_folders
from volattn.scoring.metrics import METRICS, Metric
from volattn.scoring.overlap import Overlap, dice
from volattn.scoring.pairing import Evaluation

__all__ = [
    "METRICS",
    "CaseScore",
    "Evaluation",
    "LesionScore",
    "LesionwiseScore",
    "LitsCase",
    "Metric",
    "Overlap",
    "Summary",
    "dice",
    "lits_scheme",
    "pool_lits",
    "score_case",
    "score_lesions",
    "score_lits",
    "score_lits_files",
    "score_lits_folders",
    "score_volumes",
    "summarise",
]
