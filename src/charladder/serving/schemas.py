"""Requests and responses as pydantic models. The completions have OpenAI's fields and a few more."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, StrictBool, StrictFloat, StrictInt, StrictStr, Tag

from charladder.generation.speculative.factory import DrafterName
from charladder.serving.limits import Limits

_MAX_INTEGER = 1 << 31
Token = Annotated[StrictInt, Field(ge=0, lt=65536)]
Tokens = Annotated[list[Token], Field(fail_fast=True)]
Number = Annotated[StrictFloat, Field(allow_inf_nan=False)]


class RequestModel(BaseModel):
    model_config = ConfigDict(extra="forbid")


class StreamOptions(RequestModel):
    include_usage: StrictBool = False
    include_obfuscation: StrictBool = False  # OpenAI's padding of events: accepted and ignored


def prompt_kind(prompt: Any) -> str | None:
    """The type of a prompt, so that pydantic tries no other; None for a value that is not a prompt."""
    if isinstance(prompt, str):
        return "text"
    if not isinstance(prompt, list):
        return None
    first = prompt[0] if prompt else ""
    return "texts" if isinstance(first, str) else "lists" if isinstance(first, list) else "tokens"


Prompt = Annotated[
    Annotated[StrictStr, Tag("text")]
    | Annotated[Tokens, Tag("tokens")]
    | Annotated[list[StrictStr], Field(fail_fast=True, max_length=Limits.choices), Tag("texts")]
    | Annotated[list[Tokens], Field(fail_fast=True, max_length=Limits.choices), Tag("lists")],
    Discriminator(prompt_kind, "prompt_type", "input should be a text, a list of tokens, or a list of either"),
]


def stop_kind(stop: Any) -> str | None:
    """The type of a stop."""
    return "text" if isinstance(stop, str) else "texts" if isinstance(stop, list) else None


Stop = Annotated[
    Annotated[StrictStr, Tag("text")] | Annotated[list[StrictStr], Field(fail_fast=True, max_length=16), Tag("texts")],
    Discriminator(stop_kind, "stop_type", "input should be a text, or a list of texts"),
]


class CompletionRequest(RequestModel):
    """OpenAI's fields, and top_k, min_p and draft. A token is a symbol of the alphabet."""

    model: StrictStr | None = None
    prompt: Prompt | None = ""
    max_tokens: Annotated[StrictInt, Field(ge=0, le=_MAX_INTEGER)] | None = 16
    temperature: Annotated[Number, Field(ge=0)] | None = 1.0
    top_p: Annotated[Number, Field(gt=0, le=1)] | None = 1.0
    n: Annotated[StrictInt, Field(ge=1, le=_MAX_INTEGER)] | None = 1
    best_of: Annotated[StrictInt, Field(ge=1, le=_MAX_INTEGER)] | None = None
    echo: StrictBool | None = False
    logprobs: Annotated[StrictInt, Field(ge=0, le=20)] | None = None
    seed: Annotated[StrictInt, Field(ge=-(1 << 63), lt=1 << 63)] | None = None
    stop: Stop | None = None
    stream: StrictBool | None = False
    stream_options: StreamOptions | None = None
    user: StrictStr | None = None
    suffix: StrictStr | None = None
    presence_penalty: Number | None = 0
    frequency_penalty: Number | None = 0
    logit_bias: dict[str, Number] | None = None
    top_k: Annotated[StrictInt, Field(ge=0, le=_MAX_INTEGER)] | None = 0
    min_p: Annotated[Number, Field(ge=0, le=1)] | None = 0.0
    draft: DrafterName | None = "auto"


class TextRequest(RequestModel):
    """A text, or its symbols."""

    text: StrictStr | None = None
    ids: Tokens | None = None


class ScoreRequest(TextRequest):
    """begin, end: the range of symbols to score."""

    begin: Annotated[StrictInt, Field(ge=0, le=_MAX_INTEGER)] = 0
    end: Annotated[StrictInt, Field(ge=0, le=_MAX_INTEGER)] | None = None
    layers: StrictBool = False


class LayersRequest(TextRequest):
    """place: the position of a symbol, from 0; the number of symbols is the position after the text."""

    place: Annotated[StrictInt, Field(ge=0, le=_MAX_INTEGER)]


class TokenizeRequest(RequestModel):
    """vLLM's fields. add_special_tokens is accepted and ignored: the alphabet has no special tokens."""

    model: StrictStr | None = None
    prompt: StrictStr
    add_special_tokens: StrictBool | None = None
    return_token_strs: StrictBool | None = None


class DetokenizeRequest(RequestModel):
    model: StrictStr | None = None
    tokens: Tokens


class TokenizeResponse(BaseModel):
    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None = None


class DetokenizeResponse(BaseModel):
    prompt: str


class TokenizerInfo(BaseModel):
    """The special tokens are null: the alphabet has none."""

    tokenizer_class: str
    vocab_size: int
    model_max_length: int
    bos_token: str | None
    eos_token: str | None
    pad_token: str | None
    unk_token: str | None
    chat_template: str | None


class ErrorDetail(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorResponse(BaseModel):
    error: ErrorDetail


class Logprobs(BaseModel):
    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None] | None
    text_offset: list[int]


class Choice(BaseModel):
    index: int
    text: str
    logprobs: Logprobs | None
    finish_reason: str | None
    charladder: dict[str, Any]


class Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class CompletionResponse(BaseModel):
    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[Choice]
    usage: Usage | None = None


class ModelInfo(BaseModel):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(BaseModel):
    object: Literal["list"]
    data: list[ModelInfo]


class HeadScores(BaseModel):
    term: str
    layer: int
    target: int
    bits: list[float | None]


class ScoreResponse(BaseModel):
    """offsets: for a text, the index of the code point of each scored symbol."""

    characters: int
    begin: int
    bits: list[float]
    total_bits: float
    bits_per_character: float
    context: int
    stride: int
    seconds: float
    offsets: list[int] | None = None
    layers: list[HeadScores] | None = None


class Symbol(BaseModel):
    id: int
    text: str


class Candidate(Symbol):
    probability: float


class ActualSymbol(Candidate):
    """rank: the number of symbols that are more likely."""

    rank: int


class HeadPredictions(BaseModel):
    term: str
    target: int
    last_learned: dict[str, Any] | None
    actual: ActualSymbol | None
    likeliest: list[Candidate]


class LayerPredictions(BaseModel):
    layer: int
    heads: list[HeadPredictions]


class LayersResponse(BaseModel):
    place: int
    symbol: Symbol | None
    bits: float | None
    note: str | None
    rows: list[LayerPredictions]


class HealthResponse(BaseModel):
    status: Literal["ok"]
    model: str
    streams: dict[str, int]
    characters: int
    uptime_seconds: float


class ServiceInfo(BaseModel):
    model: str
    alphabet: dict[str, Any]
    layers: int
    width: int
    context: int
    targets: int
    drafters: list[str]
    limits: dict[str, int]
    token_required: bool
