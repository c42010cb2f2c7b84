"""OpenAI's own Python client, unchanged, against a service."""

import math

import httpx2
import openai
import pytest

from charladder.generation.distribution import SamplingParams
from charladder.generation.text_generator import GenerationConfig, TextGenerator
from charladder.run import open_run
from serving.served import serving, until

PROMPT = "A lädder "


@pytest.fixture
def client(served):
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as openai_client:
        yield openai_client


def score(served, **body):
    return httpx2.post(f"{served.url}/score", json=body).raise_for_status().json()


def write(client, prompt=PROMPT, **options):
    return client.completions.create(**({"model": "run", "prompt": prompt, "max_tokens": 40, "seed": 5} | options))


def test_models(client):
    (model,) = client.models.list().data
    assert model.id == "run" == client.models.retrieve("run").id


def test_completion_equals_generate_with_the_same_seed(client, runs):
    for seed, temperature, top_p in ((5, 1.0, 1.0), (6, 0.7, 0.9), (7, 0.0, 1.0)):
        settings = GenerationConfig(40, SamplingParams(temperature, top_p=top_p), seed, draft="none")
        expected = "".join(TextGenerator(open_run(runs / "run"), settings).stream(PROMPT.encode()))
        response = write(client, seed=seed, temperature=temperature, top_p=top_p)
        assert response.choices[0].text == expected
        assert response.choices[0].finish_reason == "length"
        assert response.usage.prompt_tokens == len(PROMPT.encode())
        assert (response.usage.completion_tokens, response.usage.total_tokens) == (40, 50)


def test_several_prompts_equal_generate(client, runs):
    prompts = [PROMPT, "Another", PROMPT]
    model = TextGenerator(open_run(runs / "run"), GenerationConfig(40, seed=5, draft="none"))
    expected = [text.text for text in model.generate([prompt.encode() for prompt in prompts for _ in range(2)])]
    assert [choice.text for choice in write(client, prompts, n=2).choices] == expected
    assert len(set(expected)) == 6


@pytest.mark.parametrize("draft", ["auto", "none", "targets", "ngram"])
def test_text_does_not_depend_on_the_drafter(client, draft):
    assert write(client, extra_body={"draft": draft}).choices[0].text == write(client).choices[0].text


def test_stream_equals_the_whole_answer(client):
    complete = write(client, max_tokens=200)
    chunks = list(write(client, max_tokens=200, stream=True, stream_options={"include_usage": True}))
    assert "".join(c.choices[0].text for c in chunks if c.choices) == complete.choices[0].text
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "length"
    assert chunks[-1].choices == [] and chunks[-1].usage == complete.usage
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert len({chunk.id for chunk in chunks}) == 1


def test_stream_never_splits_a_character(client):
    """A character has four bytes; a chunk ends with a character."""
    chunks = list(
        write(client, prompt="∑ 😀. A lädder has rüngs; größer → ∑ ", max_tokens=300, temperature=0.3, stream=True)
    )
    text = "".join(c.choices[0].text for c in chunks)
    complete = write(client, prompt="∑ 😀. A lädder has rüngs; größer → ∑ ", max_tokens=300, temperature=0.3)
    assert text == complete.choices[0].text


def test_logprobs_agree_with_score(client, served):
    """The text is longer than the context of 16."""
    response = write(client, max_tokens=60, logprobs=3, echo=True, temperature=0.8)
    choice = response.choices[0]
    logprobs = choice.logprobs
    ids = [*PROMPT.encode(), *symbols(logprobs.tokens[len(PROMPT.encode()) :])]
    scored = score(served, ids=ids)
    assert logprobs.token_logprobs[0] is None and logprobs.top_logprobs[0] is None
    bits = [-nats / math.log(2) for nats in logprobs.token_logprobs[1:]]
    assert bits == pytest.approx(scored["bits"][1:], abs=1e-4)
    assert sum(bits) == pytest.approx(scored["total_bits"] - 8.0, rel=1e-5)
    assert list(logprobs.tokens) == [token_of(symbol) for symbol in ids]
    assert all(len(best) in (3, 4) for best in logprobs.top_logprobs[1:])
    for token, nats, best in zip(
        logprobs.tokens[1:], logprobs.token_logprobs[1:], logprobs.top_logprobs[1:], strict=True
    ):
        assert best[token] == pytest.approx(nats, abs=1e-9)
        assert nats <= max(best.values()) + 1e-9


def test_offsets_point_into_the_text(client):
    choice = write(client, max_tokens=20, logprobs=0, echo=True).choices[0]
    for token, offset in zip(choice.logprobs.tokens, choice.logprobs.text_offset, strict=True):
        if len(token) == 1:
            assert choice.text[offset] == token
    assert choice.logprobs.top_logprobs is None


@pytest.mark.parametrize("prompt", [PROMPT, list(PROMPT.encode())])
def test_offsets_without_echo_begin_after_the_prompt(client, prompt):
    """Offsets count characters; the prompt has one byte more than characters."""
    offsets = write(client, prompt, max_tokens=20, logprobs=0).choices[0].logprobs.text_offset
    echoed = write(client, prompt, max_tokens=20, logprobs=0, echo=True).choices[0].logprobs.text_offset
    assert offsets[0] == len(PROMPT)
    assert offsets == echoed[len(PROMPT.encode()) :]
    chunks = list(write(client, prompt, max_tokens=20, logprobs=0, stream=True))
    assert [offset for c in chunks for offset in c.choices[0].logprobs.text_offset] == offsets


def test_echo_without_completion_scores_the_prompt(client, served):
    choice = write(client, max_tokens=0, logprobs=1, echo=True).choices[0]
    assert choice.text == PROMPT and choice.finish_reason == "length"
    bits = [-nats / math.log(2) for nats in choice.logprobs.token_logprobs[1:]]
    assert bits == pytest.approx(score(served, text=PROMPT)["bits"][1:], abs=1e-4)


def test_stop_strings_end_a_text_and_are_removed(client):
    free = write(client, max_tokens=200).choices[0].text
    stop = next(free[n : n + 2] for n in range(10, 190) if free[n : n + 2].isascii())
    choice = write(client, max_tokens=200, stop=[stop, "never"]).choices[0]
    assert (choice.text, choice.finish_reason) == (free[: free.index(stop)], "stop")
    streamed = "".join(c.choices[0].text for c in write(client, max_tokens=200, stop=stop, stream=True))
    assert streamed == choice.text


@pytest.mark.parametrize("name", ["lettered", "dropping"])
def test_stop_with_unknown_letters_is_ignored(runs, name):
    """Without the unknown letters the rest would match."""
    with (
        serving(runs / name) as served,
        openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as client,
    ):
        free = write(client, model=name, max_tokens=100).choices[0].text
        cut = free[30:32]
        for stop in (f"{cut[0]}q{cut[1]}", "q", ["q", "qq"]):
            choice = write(client, model=name, max_tokens=100, stop=stop).choices[0]
            assert (choice.text, choice.finish_reason) == (free, "length")
        choice = write(client, model=name, max_tokens=100, stop=["q", cut]).choices[0]
        assert (choice.text, choice.finish_reason) == (free[: free.index(cut)], "stop")


def test_token_prompts_and_several_prompts(client):
    ids = list(PROMPT.encode())
    single = write(client).choices[0].text
    assert write(client, prompt=ids).choices[0].text == single
    several = write(client, prompt=[PROMPT, "rüngs"], n=2)
    assert [choice.index for choice in several.choices] == [0, 1, 2, 3]
    assert several.choices[0].text == single
    assert len({choice.text for choice in several.choices}) == 4
    assert several.usage.prompt_tokens == len(ids) + len("rüngs".encode())
    assert [c.text for c in write(client, prompt=[ids, list("rüngs".encode())], n=2).choices] == [
        choice.text for choice in several.choices
    ]
    streamed: dict[int, str] = {}
    for chunk in write(client, prompt=[PROMPT, "rüngs"], n=2, stream=True):
        choice = chunk.choices[0]
        streamed[choice.index] = streamed.get(choice.index, "") + choice.text
    assert [streamed[n] for n in range(4)] == [choice.text for choice in several.choices]


def test_empty_prompt_equals_generate(client, runs):
    expected = "".join(TextGenerator(open_run(runs / "run"), GenerationConfig(40, seed=5, draft="none")).stream(b""))
    for prompt in ("", None):
        answer = write(client, prompt=prompt, echo=True, logprobs=1)
        (choice,) = answer.choices
        assert choice.text == expected and len(choice.logprobs.tokens) == 40
        assert choice.logprobs.text_offset[0] == 0
        assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (0, 40)


def test_accepted_drafts_are_marked_by_character(client):
    choice = write(
        client, prompt="ababababab" * 10, extra_body={"draft": "ngram"}, temperature=0, max_tokens=60
    ).choices[0]
    details = choice.model_extra["charladder"]
    assert len(details["drafted"]) == len(choice.text) and set(details["drafted"]) <= {"0", "1"}
    assert details["ended_by"] == "length" and details["characters_per_second"] > 0


@pytest.mark.parametrize(
    ("wrong", "kind", "message"),
    [
        ({"model": "gpt"}, openai.NotFoundError, "there is no model 'gpt' here; it is called 'run'"),
        ({"max_tokens": -1}, openai.BadRequestError, "max_tokens"),
        ({"max_tokens": 10**9}, openai.BadRequestError, "it must be at most 20,000"),
        ({"temperature": -1.0}, openai.BadRequestError, "temperature"),
        ({"temperature": 1e-9}, openai.BadRequestError, "give 0, which is greedy"),
        ({"top_p": 0.0}, openai.BadRequestError, "top_p"),
        ({"n": 65}, openai.BadRequestError, "ask for 64 at most"),
        ({"logprobs": 21}, openai.BadRequestError, "logprobs"),
        ({"stop": ""}, openai.BadRequestError, "send 1 to 128 of them"),
        ({"stop": [str(n) for n in range(17)]}, openai.BadRequestError, "stop"),
        ({"stop": "x" * 129}, openai.BadRequestError, "send 1 to 128 of them"),
        ({"logprobs": 20, "n": 2, "max_tokens": 20_000}, openai.BadRequestError, "ask for 500,000 at most"),
        ({"suffix": "x"}, openai.BadRequestError, "suffix is not supported"),
        ({"best_of": 3}, openai.BadRequestError, "best_of is not supported"),
        ({"presence_penalty": 1.0}, openai.BadRequestError, "presence_penalty is not supported"),
        ({"logit_bias": {"5": 1}}, openai.BadRequestError, "logit_bias is not supported"),
        ({"prompt": [300]}, openai.BadRequestError, "the tokens are 0 to 255"),
        ({"prompt": []}, openai.BadRequestError, "prompt is an empty list"),
        ({"prompt": "x" * 100_001}, openai.BadRequestError, "send 100,000 at most"),
        ({"extra_body": {"draft": "early-exit"}}, openai.BadRequestError, "nothing to draft 'early-exit' with"),
        ({"extra_body": {"temprature": 1}}, openai.BadRequestError, "did you mean temperature?"),
        ({"stream_options": {"include_usage": True}}, openai.BadRequestError, "send `stream: true` too"),
    ],
)
def test_errors_are_exceptions_of_the_client(client, wrong, kind, message):
    with pytest.raises(kind) as caught:
        write(client, **wrong)
    assert message in str(caught.value)
    assert caught.value.param == next(iter(wrong.get("extra_body", wrong)))


def test_error_names_the_unknown_letter(lettered):
    with openai.OpenAI(base_url=f"{lettered.url}/v1", api_key="none", max_retries=0) as client:
        response = client.completions.create(model="lettered", prompt="A lädder ", max_tokens=10, logprobs=0, echo=True)
        assert response.usage.prompt_tokens == 9 and response.choices[0].logprobs.tokens[3] == "ä"
        with pytest.raises(openai.BadRequestError, match="prompt has the character 'q'"):
            client.completions.create(model="lettered", prompt="q", max_tokens=1)


def test_bearer_token_is_required(runs):
    with serving(runs / "run", token="sesame") as guarded:
        right, wrong = (
            openai.OpenAI(base_url=f"{guarded.url}/v1", api_key=key, max_retries=0) for key in ("sesame", "sesam")
        )
        assert right.models.list().data
        with pytest.raises(openai.AuthenticationError, match="needs its token"):
            wrong.models.list()
        assert httpx2.get(f"{guarded.url}/health").status_code == 200
        assert httpx2.get(f"{guarded.url}/about").status_code == 401
        for header, status in (("bearer sesame", 200), ("Basic sesame", 401), ("sesame", 401), ("Bearer", 401)):
            assert httpx2.get(f"{guarded.url}/about", headers={"Authorization": header}).status_code == status


def test_full_queue_gives_429_until_streams_are_free(runs):
    with (
        serving(runs / "run", streams=1, waiting=1, max_tokens=10_000_000) as small,
        openai.OpenAI(base_url=f"{small.url}/v1", api_key="none", max_retries=0) as client,
    ):
        with pytest.raises(openai.RateLimitError, match="too many texts"):
            write(client, n=3)
        # Long enough to be still active when the second request is in the queue.
        long = write(client, max_tokens=10_000_000, stream=True)
        until(lambda: small.service.scheduler.num_active)
        waiting = write(client, max_tokens=10_000_000, stream=True)
        until(lambda: small.service.scheduler.waiting)
        with pytest.raises(openai.RateLimitError):
            write(client)
        long.close()
        waiting.close()
        until(lambda: not small.service.scheduler.num_active)
        assert len(write(client).choices[0].text) > 0


def test_text_ends_at_its_deadline(runs):
    with (
        serving(runs / "run", seconds=0.3, max_tokens=10_000_000) as impatient,
        openai.OpenAI(base_url=f"{impatient.url}/v1", api_key="none", max_retries=0) as client,
    ):
        choice = write(client, max_tokens=10_000_000).choices[0]
        assert choice.finish_reason == "length" and choice.model_extra["charladder"]["ended_by"] == "time"
        assert 0 < len(choice.text) < 10_000_000


def symbols(tokens: list[str]) -> list[int]:
    return [int(t[8:], 16) if t.startswith("bytes:\\x") else ord(t) for t in tokens]


def token_of(symbol: int) -> str:
    return chr(symbol) if symbol < 128 else f"bytes:\\x{symbol:02x}"
