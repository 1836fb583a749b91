"""A small vision-language model from two pretrained halves (`tools/assemble_small_vlm.py`)."""
