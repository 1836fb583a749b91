"""The application: endpoints, and the page.

    app = create_app(served, info, limits, batching, comparison, key)

Not here: loading a model (`vqr1.cli.serve`), the process (`run.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST

import vqr1
from vqr1.config import BatchingConfig, ComparisonConfig, LimitsConfig
from vqr1.errors import ModelError
from vqr1.inference.compare import Comparison
from vqr1.inference.result import Result
from vqr1.inference.service import schemas
from vqr1.inference.service.errors import RefusedError, answer_model_error, answer_refusal
from vqr1.inference.service.limits import KEYED_PATHS, Gate
from vqr1.inference.service.pages import add_pages
from vqr1.inference.service.served import Served, ServiceInfo
from vqr1.inference.service.service import Service


def create_app(
    served: Served,
    info: ServiceInfo,
    limits: LimitsConfig,
    batching: BatchingConfig,
    comparison: ComparisonConfig,
    key: str | None,
    load: Callable[[], Served] | None = None,
) -> FastAPI:
    """The application; `app.state.service` is its `Service`.

    Args:
        served: the model.
        info: what answers state of the model.
        limits: what is taken on.
        batching: how requests share the model.
        comparison: how images are compared.
        key: API key that clients must send; None asks for none.
        load: loads the model again.
    """
    service = Service(served, limits, batching, comparison, load)
    app = FastAPI(
        title="vqr1",
        version=vqr1.__version__,
        description="Scores, comparisons and descriptions of images by their quality.",
        lifespan=service.running,
        # FastAPI's own pages load their viewer from elsewhere; ours are in `pages.py`.
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
    )
    app.state.service = service
    app.add_exception_handler(RefusedError, answer_refusal)
    app.add_exception_handler(ModelError, answer_model_error)
    _add_scoring(app, service, info, limits, keyed=key is not None)
    _add_health(app, service, info, limits, keyed=key is not None)
    add_pages(app)
    paths = frozenset(route.path for route in app.routes if hasattr(route, "path"))
    app.add_middleware(Gate, limits, key, service.measures, paths)
    if key is not None:
        _document_key(app)
    return app


def _add_scoring(
    app: FastAPI, service: Service, info: ServiceInfo, limits: LimitsConfig, *, keyed: bool
) -> None:
    answers = schemas.problems(keyed=keyed)
    most, shown = limits.max_images, service.shown
    some, several = (schemas.request_body(least, most, shown["score"]) for least in (1, 2))

    @app.post("/score", responses=answers, openapi_extra=some)
    async def score(request: Request) -> schemas.ScoreAnswer:
        """Score each image."""
        results = await service.results(request, "score")
        return schemas.ScoreAnswer(
            model=info.model,
            prompt=info.prompt,
            mode=info.mode,
            results=[
                schemas.ScoredImage(
                    name=str(r.path),
                    score=r.score,
                    std=r.std,
                    lost=r.lost,
                    valid=r.valid,
                    answers=r.answers,
                    valid_answers=r.valid_answers,
                    text=r.text,
                    reasoning=service.served.scorer.reasoning(r),
                    decoded_at=r.decoded_at,
                )
                for r in results
            ],
        )

    @app.post("/compare", responses=answers, openapi_extra=several)
    async def compare(request: Request) -> schemas.CompareAnswer:
        """Rank images, with the probability that each is better than each other."""
        results = await service.results(request, "score", least=2)
        return _compare_answer(await service.compared(results), results, info)

    if info.describe is None:
        _refuse_descriptions(app, info)
    else:
        body = schemas.request_body(1, most, shown["describe"])
        _add_descriptions(app, service, info.model, info.describe, answers, body)


def _add_descriptions(
    app: FastAPI, service: Service, model: str, prompt: str, answers: Any, body: dict[str, Any]
) -> None:
    @app.post("/describe", responses=answers, openapi_extra=body)
    async def describe(request: Request) -> schemas.DescribeAnswer:
        """Describe the quality of each image in words."""
        results = await service.results(request, "describe")
        return schemas.DescribeAnswer(
            model=model,
            prompt=prompt,
            results=[
                schemas.DescribedImage(
                    name=str(r.path), valid=r.valid, text=r.text, decoded_at=r.decoded_at
                )
                for r in results
            ],
        )


def _refuse_descriptions(app: FastAPI, info: ServiceInfo) -> None:
    @app.post("/describe", include_in_schema=False)
    async def describe() -> None:
        raise RefusedError(404, f"{info.model} gives scores and writes no text: see /score")


def _compare_answer(
    comparison: Comparison, results: Sequence[Result], info: ServiceInfo
) -> schemas.CompareAnswer:
    order = [ranked.position for ranked in comparison.ranking]
    # Names may repeat; the results themselves are what was compared.
    places = [next(i for i, r in enumerate(results) if r is c) for c in comparison.results]
    return schemas.CompareAnswer(
        model=info.model,
        prompt=info.prompt,
        mode=info.mode,
        ranking=[
            schemas.RankedImage(
                name=str(ranked.path),
                position=places[ranked.position],
                rank=ranked.rank,
                rank_low=ranked.rank_low,
                rank_high=ranked.rank_high,
                score=ranked.score,
                std=ranked.std,
                win_rate=ranked.win_rate,
                text=comparison.results[ranked.position].text,
                decoded_at=ranked.decoded_at,
            )
            for ranked in comparison.ranking
        ],
        probabilities=comparison.probabilities[order][:, order].tolist(),
        excluded=[str(result.path) for result in comparison.excluded],
    )


def _add_health(
    app: FastAPI, service: Service, info: ServiceInfo, limits: LimitsConfig, *, keyed: bool
) -> None:
    @app.get("/health")
    async def health() -> schemas.Health:
        """That the service runs, and with what."""
        return schemas.Health(
            status="ok",
            version=vqr1.__version__,
            model=info.model,
            prompt=info.prompt,
            mode=info.mode,
            describe=info.describe,
            images=service.shown["score"],
            max_images=limits.max_images,
            needs_key=keyed,
            loads=service.loads,
            scale=list(service.served.scorer.score_range),
            tested=service.served.tested,
        )

    @app.get("/live")
    async def live() -> schemas.State:
        """That the process answers; where it does not, start it again."""
        return schemas.State(status="ok")

    @app.get(
        "/ready",
        response_model=schemas.State,
        responses={503: {"description": "Not now: why.", "model": schemas.State}},
    )
    async def ready() -> Response:
        """Whether requests should be sent here now."""
        why = service.unready()
        return JSONResponse({"status": why or "ok"}, 200 if why is None else 503)

    denied: dict[int | str, dict[str, Any]] = (
        {401: {"description": "Wrong or missing API key.", "model": schemas.Problem}}
        if keyed
        else {}
    )

    @app.get(
        "/metrics",
        response_class=Response,
        responses={
            200: {"content": {"text/plain": {"schema": {"type": "string"}}}},
            **denied,
        },
    )
    async def metrics() -> Response:
        """Counters in Prometheus' text form."""
        return Response(service.measures.text(), media_type=CONTENT_TYPE_LATEST)


def _document_key(app: FastAPI) -> None:
    """State in the OpenAPI document which endpoints ask for the key."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = get_openapi(
                title=app.title,
                version=app.version,
                description=app.description,
                routes=app.routes,
            )
            document.setdefault("components", {})["securitySchemes"] = {
                "key": {"type": "http", "scheme": "bearer"}
            }
            for path in KEYED_PATHS & document["paths"].keys():
                for operation in document["paths"][path].values():
                    operation["security"] = [{"key": []}]
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
