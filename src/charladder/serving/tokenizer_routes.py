"""The routes of a remote tokenizer, with vLLM's fields. A token is a symbol of the alphabet."""

import asyncio

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from charladder.serving import schemas
from charladder.serving.json_encoding import encode_json
from charladder.serving.service import Service


def add_tokenizer_routes(app: FastAPI, service: Service) -> None:
    tokenizer, context = service.tokenizer, service.run.recipe.model.context

    @app.post("/tokenize", responses={200: {"model": schemas.TokenizeResponse}}, response_model=None)
    async def tokenize(request: Request) -> Response:
        """A text as tokens. A letter outside the alphabet is an error or is left out, by the rule of the run."""

        def encode(body: schemas.TokenizeRequest) -> list[int]:
            return tokenizer.encode(body.prompt, "prompt")

        body, ids = await service.parse(request, schemas.TokenizeRequest, encode)
        answer = {"count": len(ids), "max_model_len": context, "tokens": ids}
        if body.return_token_strs:
            answer["token_strs"] = [tokenizer.token_string(symbol) for symbol in ids]
        return Response(await asyncio.to_thread(encode_json, answer), media_type="application/json")

    @app.post("/detokenize", responses={200: {"model": schemas.DetokenizeResponse}}, response_model=None)
    async def detokenize(request: Request) -> Response:
        """Tokens as a text. Bytes that are not UTF-8 become U+FFFD."""

        def decode(body: schemas.DetokenizeRequest) -> str:
            return tokenizer.decode(tokenizer.check_ids(body.tokens, "tokens"))

        _, text = await service.parse(request, schemas.DetokenizeRequest, decode)
        return JSONResponse({"prompt": text})

    @app.get("/tokenizer_info", responses={200: {"model": schemas.TokenizerInfo}}, response_model=None)
    async def tokenizer_info() -> Response:
        """Describes the tokenizer."""
        special = dict.fromkeys(("bos_token", "eos_token", "pad_token", "unk_token", "chat_template"))
        info = {
            "tokenizer_class": "charladder",
            "vocab_size": tokenizer.alphabet.size,
            "model_max_length": context,
        }
        return JSONResponse(info | special)
