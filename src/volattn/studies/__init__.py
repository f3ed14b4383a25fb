"""Whole experiments: data, training, prediction, scores and a report."""
