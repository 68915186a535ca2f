"""Evaluation of a live server, by stage: work, journal, asking, metrics (found, details), sweep, report."""
