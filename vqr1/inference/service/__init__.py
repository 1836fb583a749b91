"""Scores, comparisons and descriptions over HTTP, and a page to drop images on.

`app.py` wires; `batching.py` shares the model among requests; `limits.py` keeps bad requests out;
`uploads.py` reads images; `schemas.py` is what goes in and out; `measures.py` counts; `pages.py`
serves the static files; `run.py` is the process.
"""
