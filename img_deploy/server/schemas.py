"""Bodies of requests and answers. Rows are those of ``Answer.to_row``: the field's own keys."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from img_deploy.runtime.results import Answer

VideoId = Annotated[str, Field(min_length=1, max_length=256)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Token = Annotated[list[Number], Field(max_length=1 << 14, fail_fast=True)]  # of millions, one problem is enough


class Ground(BaseModel):
    """A question: a sentence (``query``), or the token features that stand for one (``tokens``)."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,  # "5" and true are no numbers
        json_schema_extra={
            "examples": [
                {"query": "a person opens the door.", "videos": ["3MSZA"], "top_k": 3},
                {"query": "a person opens the door.", "best": 10},
            ]
        },
    )

    query: str = Field("", max_length=4096, description="The sentence. Beside `tokens` it is for the answers alone.")
    tokens: Annotated[list[Token], Field(max_length=1024, fail_fast=True)] | None = Field(
        None, description="Token features [N, Dt], for bundles that take them."
    )
    qid: int | None = Field(None, ge=0, lt=1 << 53, description="An id for the answers.")
    videos: list[VideoId] | None = Field(
        None, min_length=1, max_length=100_000, fail_fast=True, description="Ask these; all by default."
    )
    top_k: int = Field(1, ge=1, le=1000, description="Most moments per answer, best first.")
    nms: float = Field(0.5, ge=0, le=1, description="Greatest overlap (IoU) of two moments of an answer.")
    best: int | None = Field(
        None, ge=1, le=1000, description="Give so many best moments over the videos, instead of an answer for each."
    )
    curves: bool = Field(False, description="Give also the saliency of each clip.")

    @model_validator(mode="after")
    def _asks(self) -> "Ground":
        if not self.query.strip() and self.tokens is None:
            raise ValueError("got no query, expected a sentence or tokens")
        return self


class Row(BaseModel):
    """One answer. ``pred_relevant_windows`` holds [start, end, score] in seconds, where the duration is known."""

    qid: int | None
    query: str
    vid: str
    rank: int | None = Field(None, description="Place among the best moments, in a ranking alone.")
    times_chance: float | None = Field(None, description="Score over that of a random span, in a ranking alone.")
    pred_relevant_windows: list[tuple[float, float, float]] | None = None
    duration: float | None
    clips: int
    head: str = Field(description="fused, or visual for a video without sound.")
    importance: float | None = Field(description="How much the answer weighs the sound, 0 to 1.")
    spans: list[tuple[int, int]]
    fractions: list[tuple[float, float, float]]


class Curves(BaseModel):
    """A value for each clip, of the stream that answered and of the visual and the audio head. Their scale is free."""

    saliency: list[float]
    saliency_visual: list[float] | None
    saliency_audio: list[float] | None


class Grounded(BaseModel):
    """Answers, in the rows of ``infer --format jsonl``; ``curves`` are those of the answers, in their order."""

    answers: list[Row]
    curves: list[Curves] | None = None
    skipped: list[str] = Field(description="Videos that could not be answered, a line each.")
    remarks: list[str] = Field(description="What should be known of the query and of odd features, a line each.")


class Video(BaseModel):
    """One video. ``duration`` is in seconds; ``media`` tells whether it can be played."""

    vid: str
    clips: int | None = None
    source_clips: int | None = Field(default=None, description="Clips before down-sampling.")
    has_audio: bool | None = None
    duration: float | None = None
    media: bool = False
    error: str | None = Field(default=None, description="Why it cannot be read.")


class Videos(BaseModel):
    """Some videos, by id; ``total`` counts all."""

    total: int
    videos: list[Video]


class BundleFacts(BaseModel):
    """What the server runs."""

    bundle: str
    network: str
    features: dict[str, Any]
    limits: dict[str, int]
    precision: str
    backend: str
    takes: str = Field(description="sentences, or token features.")
    videos: int
    media: bool
    versions: dict[str, str | None]


class Error(BaseModel):
    """What is wrong, in one line, and the request's id in the log."""

    error: str
    request: str


def curves_of(answer: Answer) -> dict[str, list[float] | None]:
    """:class:`Curves` of an answer."""
    curves = {name: getattr(answer, name) for name in Curves.model_fields}
    return {name: None if values is None else values.tolist() for name, values in curves.items()}
