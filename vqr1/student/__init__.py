"""Students: scorers without a language model, distilled from a policy's answers (`stage=distill`).

A student is an image encoder, a projection and a head that gives a score (RALI, arXiv 2510.11369).
It reads the images as its teacher does, resized by the same rule.

Not here: its training (`vqr1.training.stages.distill`), scoring by it
(`vqr1.inference.backends.student`).
"""
