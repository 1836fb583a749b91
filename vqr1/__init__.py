"""vqr1: train, evaluate and serve vision-language models that judge image quality."""

__version__ = "0.1.0"
