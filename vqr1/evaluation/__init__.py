"""Evaluation: scored images, metrics with intervals, reports and comparisons."""
