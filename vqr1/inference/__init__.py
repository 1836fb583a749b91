"""One stack that answers "score these images by this backend in this mode".

`score.py`, `eval.py`, the service, the Python metric and a training's validation use it; it knows
no MOS, which `vqr1.evaluation` joins.

    backend = LocalBackend(load_policy(model), model)    # or another of vqr1.inference.backends
    scorer = Scorer(backend, prompt, answer, mode)       # any number of scorers share a backend
    results = scorer.score(images)                       # score, std, valid, text, error
    compare(results)                                     # probabilities of pairs, and a ranking

An answer form without a score (`conf/answer/free.yaml`) makes a scorer that describes: the
results hold `text` and no score.
"""
