"""Scores, comparisons and descriptions over HTTP, and a page to drop images on.

`app.py` has the endpoints and `service.py` what they share; `connections.py` and `limits.py` keep
bad connections and requests out, `admission.py` bounds what is under way; `uploads.py` reads
images, `decoding.py` decodes them; `batching.py` shares the model among requests, `fairness.py`
among clients; `schemas.py` is what goes in and out; `measures.py` counts; `pages.py` serves the
static files; `run.py` is the process.
"""
