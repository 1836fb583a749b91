"""Evaluation: scored images, figures with intervals, reports and comparisons."""
