"""The application: endpoints, and the page.

    app = create_app(scorer, describer, info, limits, batching, comparison, key)

Not here: loading a model (`vqr1.cli.serve`), the process (`run.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.openapi.utils import get_openapi
from prometheus_client import CONTENT_TYPE_LATEST
from torch import Tensor

import vqr1
from vqr1.config import BatchingConfig, ComparisonConfig, LimitsConfig
from vqr1.data.images import decoded_at
from vqr1.errors import DataError, ModelError
from vqr1.inference.compare import Comparison, compare
from vqr1.inference.images import decoded_sizes
from vqr1.inference.result import Result
from vqr1.inference.scorer import Scorer
from vqr1.inference.service import schemas
from vqr1.inference.service.batching import Batcher, Task
from vqr1.inference.service.errors import RefusedError, answer_model_error, answer_refusal
from vqr1.inference.service.limits import KEYED_PATHS, Admission, Gate
from vqr1.inference.service.measures import Measures
from vqr1.inference.service.pages import add_pages
from vqr1.inference.service.uploads import Upload, Uploads, decode, read_uploads
from vqr1.inference.tested_scores import TestedScores
from vqr1.row_names import row_name


@dataclass(frozen=True)
class ServiceInfo:
    """What answers state of the model.

    Attributes:
        model: its name.
        prompt: name of the prompt of scores.
        describe: name of the prompt of descriptions; None where the model writes no text.
        mode: how an answer becomes a score.
        tested: scores of the images that the model was tested on; None where unknown.
    """

    model: str
    prompt: str
    describe: str | None
    mode: str
    tested: TestedScores | None = None


class Service:
    """Everything at the endpoints.

    Args:
        scorer: gives scores.
        describer: gives descriptions, with the same model; None where it writes no text.
        limits: what is taken on.
        batching: how requests share the model.
        comparison: how images are compared.

    Attributes:
        shown: images of a prompt, by task that there is.
    """

    def __init__(
        self,
        scorer: Scorer,
        describer: Scorer | None,
        limits: LimitsConfig,
        batching: BatchingConfig,
        comparison: ComparisonConfig,
    ) -> None:
        self._scorer = scorer
        tasks: dict[Task, Scorer] = {"score": scorer}
        if describer is not None:
            tasks["describe"] = describer
        self.shown: dict[Task, int] = {task: own.images for task, own in tasks.items()}
        self._limits = limits
        self._comparison = comparison
        self.measures = Measures()
        self._batcher = Batcher(
            {task: own.score_resized for task, own in tasks.items()}, batching, self.measures
        )
        self._admission = Admission(limits.queue_size, self._batcher.retry_after_s)
        self.measures.under_way.set_function(lambda: self._admission.taken)
        self._decoders = ThreadPoolExecutor(limits.decode_threads, thread_name_prefix="decode")

    @asynccontextmanager
    async def running(self, _: FastAPI) -> AsyncIterator[None]:
        """Lifespan of the application."""
        self._batcher.start()
        yield
        await self._batcher.stop()
        await asyncio.to_thread(self._decoders.shutdown)

    async def results(self, request: Request, task: Task, least: int = 1) -> list[Result]:
        """Results of a request's images in their order, each named by its `path`.

        Raises:
            RefusedError: whatever is wrong with the request, or too much to do.
            ModelError: the server that holds the model cannot be used.
        """
        with self._admission.enter() as take:
            uploads = await self._in_time(
                read_uploads(request, least, self._limits.max_images, self.shown[task]),
                RefusedError(408, f"the body did not arrive within {self._limits.timeout_s:g} s"),
            )
            take(len(uploads.images) + len(uploads.references) - 1)
            late = RefusedError(
                503,
                f"no answer within {self._limits.timeout_s:g} s; try again later, or send fewer "
                "images",
                {"Retry-After": str(self._batcher.retry_after_s())},
            )
            results = await self._in_time(self._answered(uploads, task), late)
        for result in results:
            self.measures.images.labels("valid" if result.valid else "invalid").inc()
        return results

    async def compared(self, results: Sequence[Result]) -> Comparison:
        """A comparison of results.

        Raises:
            RefusedError: fewer than two can be compared.
        """
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._decoders, compare, results, self._comparison)
        except DataError as error:
            raise RefusedError(422, str(error)) from error

    async def _answered(self, uploads: Uploads, task: Task) -> list[Result]:
        loop = asyncio.get_running_loop()
        every = [*uploads.references, *uploads.images]
        decoded = await asyncio.gather(
            *(loop.run_in_executor(self._decoders, self._decoded, upload) for upload in every)
        )
        self._refuse([image for image in decoded if isinstance(image, str)])
        found = {
            id(upload): image
            for upload, image in zip(every, decoded, strict=True)
            if not isinstance(image, str)
        }
        prompts = [[found[id(upload)] for upload in prompt] for prompt in uploads.prompts]
        results = await asyncio.gather(
            *(self._batcher.submit(task, [pixels for pixels, _ in prompt]) for prompt in prompts)
        )
        names = [row_name([upload.name for upload in prompt]) for prompt in uploads.prompts]
        sizes = [decoded_sizes([size for _, size in prompt]) for prompt in prompts]
        self._refuse(
            [
                f"{name}: {result.error}"
                for name, result in zip(names, results, strict=True)
                if result.error is not None
            ]
        )
        return [
            replace(result, path=name, decoded_at=size)
            for name, result, size in zip(names, results, sizes, strict=True)
        ]

    def _decoded(self, upload: Upload) -> tuple[Tensor, str | None] | str:
        """Pixels as the model will see them with `Result.decoded_at`, or why there are none."""
        try:
            image = decode(upload, self._limits.max_pixels)
            return self._scorer.resize(image), decoded_at(image)
        except DataError as error:
            message = str(error)
            return message if message.startswith(upload.name) else f"{upload.name}: {message}"

    def _refuse(self, problems: Sequence[str]) -> None:
        if problems:
            self.measures.images.labels("refused").inc(len(problems))
            raise RefusedError(422, "\n".join(problems))

    async def _in_time(self, work: Any, late: RefusedError) -> Any:
        try:
            return await asyncio.wait_for(work, self._limits.timeout_s)
        except TimeoutError as error:
            raise late from error


def create_app(
    scorer: Scorer,
    describer: Scorer | None,
    info: ServiceInfo,
    limits: LimitsConfig,
    batching: BatchingConfig,
    comparison: ComparisonConfig,
    key: str | None,
) -> FastAPI:
    """The application.

    Args:
        scorer: gives scores.
        describer: gives descriptions, with the same model; None where it writes no text.
        info: what answers state of the model.
        limits: what is taken on.
        batching: how requests share the model.
        comparison: how images are compared.
        key: API key that clients must send; None asks for none.
    """
    service = Service(scorer, describer, limits, batching, comparison)
    app = FastAPI(
        title="vqr1",
        version=vqr1.__version__,
        description="Scores, comparisons and descriptions of images by their quality.",
        lifespan=service.running,
        # FastAPI's own pages load their viewer from elsewhere; ours is in `pages.py`.
        docs_url=None,
        redoc_url=None,
    )
    app.add_exception_handler(RefusedError, answer_refusal)
    app.add_exception_handler(ModelError, answer_model_error)
    _add_scoring(app, service, scorer, info, limits, keyed=key is not None)
    _add_health(app, service, scorer, info, limits, keyed=key is not None)
    add_pages(app)
    paths = frozenset(route.path for route in app.routes if hasattr(route, "path"))
    app.add_middleware(Gate, limits, key, service.measures, paths)
    if key is not None:
        _document_key(app)
    return app


def _add_scoring(
    app: FastAPI, service: Service, scorer: Scorer, info: ServiceInfo, limits: LimitsConfig, *,
    keyed: bool,
) -> None:  # fmt: skip
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
                    reasoning=scorer.reasoning(r),
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
    app: FastAPI, service: Service, scorer: Scorer, info: ServiceInfo, limits: LimitsConfig, *,
    keyed: bool,
) -> None:  # fmt: skip
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
            scale=list(scorer.score_range),
            tested=info.tested,
        )

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
