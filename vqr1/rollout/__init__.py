"""Sampling responses from the policy."""
