"""Answers other than 200, each with one clear line."""

from __future__ import annotations

from fastapi import Request
from fastapi.responses import JSONResponse

from vqr1.errors import ModelError, NonFiniteError


class RefusedError(Exception):
    """A request that is not served.

    Attributes:
        status: HTTP status, 4xx, or 503 where it took too long.
        detail: why, and what to do about it.
        headers: further headers, such as Retry-After.
    """

    def __init__(self, status: int, detail: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = headers or {}

    def response(self) -> JSONResponse:
        """The answer to the client."""
        return JSONResponse({"detail": self.detail}, self.status, headers=self.headers)


async def answer_refusal(_: Request, refusal: Exception) -> JSONResponse:
    """Exception handler for `RefusedError`."""
    assert isinstance(refusal, RefusedError)
    return refusal.response()


async def answer_model_error(_: Request, error: Exception) -> JSONResponse:
    """Exception handler for `ModelError`: the server that answers for us does not (502).

    500 where the model is in this process and computes NaN or infinity.
    """
    assert isinstance(error, ModelError)
    status = 500 if isinstance(error, NonFiniteError) else 502
    return JSONResponse({"detail": str(error)}, status)
