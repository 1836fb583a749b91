"""Scoring images with a policy, from the command line and from Python."""
