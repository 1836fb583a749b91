"""Labelled image sets: label formats, splits, decoding, prompts and ranking batches."""
