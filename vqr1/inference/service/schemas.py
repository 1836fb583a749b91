"""What goes in and out, as the OpenAPI page shows it."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from vqr1.inference.tested_scores import TestedScores

FIELD = "images"
"""Name of the form's files and of the JSON's list."""

REFERENCES = "references"
"""Likewise of the undistorted images, where the prompt compares with them."""

MAX_NAME = 255
"""Longest name of an image; longer ones of files are cut."""


class ImageBody(BaseModel):
    """One image in JSON."""

    model_config = ConfigDict(extra="forbid", strict=True)

    data: str = Field(
        min_length=1,
        description="The image file in base64.",
        json_schema_extra={"format": "image-base64", "contentEncoding": "base64"},
    )
    name: str | None = Field(
        default=None, max_length=MAX_NAME, description="What the answer calls it."
    )


class ImagesBody(BaseModel):
    """Images in JSON."""

    model_config = ConfigDict(extra="forbid", strict=True)

    images: list[ImageBody]
    references: list[ImageBody] | None = None


DECODED_AT = Field(
    default=None,
    description="Width and height, as 6000x5000, that a JPEG of too many pixels was decoded at; "
    "null of an image that was decoded whole.",
)


class ScoredImage(BaseModel):
    """One image's score."""

    name: str
    score: float | None = Field(
        description="Normally on the scale that the prompt asks for; null where the answer is "
        "invalid."
    )
    std: float | None = Field(
        description="Standard deviation of the score; null where the mode has none."
    )
    lost: float | None = Field(
        description="Modes expected and levels: probability of answers that are no number or word, "
        "which the score excludes; null where the mode has none."
    )
    valid: bool = Field(description="Whether the answer holds a score.")
    answers: int | None = Field(
        default=None, description="Answers sampled; null where the score is no mean of answers."
    )
    valid_answers: int | None = Field(
        default=None, description="Answers that hold a score: those that score and std are over."
    )
    text: str | None = Field(description="The model's answer with its reasoning, where it has one.")
    reasoning: str | None = Field(
        default=None, description="The reasoning alone; null where the answer has none."
    )
    decoded_at: str | None = DECODED_AT


class ScoreAnswer(BaseModel):
    """Scores in the order of the images."""

    model: str
    prompt: str
    mode: str
    results: list[ScoredImage]


class RankedImage(BaseModel):
    """One image's place."""

    name: str
    position: int = Field(description="Which image of the request, from 0.")
    rank: int = Field(description="1 is the best; equal scores share the better rank.")
    rank_low: int = Field(description="Best rank that it may have.")
    rank_high: int = Field(description="Worst rank that it may have.")
    score: float
    std: float
    win_rate: float = Field(description="Probability that it is better than another one of these.")
    text: str | None
    decoded_at: str | None = DECODED_AT


class CompareAnswer(BaseModel):
    """Images from the best to the worst."""

    model: str
    prompt: str
    mode: str
    ranking: list[RankedImage]
    probabilities: list[list[float]] = Field(
        description="P(row better than column), rows and columns in the order of the ranking."
    )
    excluded: list[str] = Field(description="Names of images whose answer holds no score.")


class DescribedImage(BaseModel):
    """One image in words."""

    name: str
    valid: bool = Field(description="Whether there is a text.")
    text: str | None
    decoded_at: str | None = DECODED_AT


class DescribeAnswer(BaseModel):
    """Descriptions in the order of the images."""

    model: str
    prompt: str
    results: list[DescribedImage]


class Health(BaseModel):
    """That the service runs, and with what."""

    status: str
    version: str
    model: str
    prompt: str
    mode: str
    describe: str | None = Field(
        description="Prompt of descriptions; null where the model writes no text."
    )
    images: int = Field(description="Images of a prompt of scores: 2 with a reference.")
    max_images: int = Field(description="Most images of a request, references included.")
    needs_key: bool
    loads: int = Field(description="How often a model was loaded: 1, and 1 more after a reload.")
    scale: list[float] = Field(
        min_length=2,
        max_length=2,
        description="Lowest and highest score that the prompt asks for.",
    )
    tested: TestedScores | None = Field(
        description="Scores of the images that the model was tested on; null where unknown."
    )


class State(BaseModel):
    """One word, or why not."""

    status: str = Field(description="`ok`, or why no request should be sent now.")


class Problem(BaseModel):
    """Why a request was not served."""

    detail: str


def request_body(least: int, most: int, shown: int = 1) -> dict[str, Any]:
    """OpenAPI of a body that holds `least` to `most` images, in both forms.

    Args:
        least: fewest images.
        most: most images, references included.
        shown: images of a prompt: 2 with a reference.
    """
    count = {"minItems": least, "maxItems": most}
    image = ImageBody.model_json_schema()
    form: dict[str, Any] = {
        "type": "object",
        "required": [FIELD],
        "additionalProperties": False,
        "properties": {
            FIELD: {
                "type": "array",
                "items": {"type": "string", "format": "binary"},
                "description": "Image files.",
                **count,
            }
        },
    }
    json: dict[str, Any] = {
        "type": "object",
        "required": [FIELD],
        "additionalProperties": False,
        "properties": {FIELD: {"type": "array", "items": image, **count}},
    }
    if shown > 1:
        note = "The undistorted image: one for all images, or one for each in their order."
        for body, items in ((form, {"type": "string", "format": "binary"}), (json, image)):
            body["properties"][REFERENCES] = {
                "type": "array", "items": items, "minItems": 1, "description": note
            }  # fmt: skip
            body["required"].append(REFERENCES)
    return {
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": {"schema": form},
                "application/json": {"schema": json},
            },
        }
    }


def problems(*, keyed: bool) -> dict[int | str, dict[str, Any]]:
    """OpenAPI of the answers other than 200."""
    retry = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}}
    answers: dict[int | str, dict[str, Any]] = {
        408: {"description": "The body did not arrive in time."},
        413: {"description": "The body is too large."},
        415: {"description": "The body is neither a form nor JSON."},
        422: {"description": "The body or an image is not as it should be."},
        429: {"description": "Too many images are waiting.", "headers": retry},
        500: {"description": "The model computes NaN or infinity."},
        502: {"description": "The server that holds the model does not answer."},
        503: {"description": "The answer did not come in time.", "headers": retry},
    }
    if keyed:
        answers[401] = {"description": "Wrong or missing API key."}
    return {status: {"model": Problem, **answer} for status, answer in answers.items()}
