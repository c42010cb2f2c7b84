"""A process that generates text with xllamacpp, for generation_peers.py. Reads JSON lines with prompts and a length,
and answers each with a line of texts.

python -m benchmarks.xllamacpp_peer NETWORK.gguf CONTEXT THREADS
"""

import importlib
import json
import os
import sys
from typing import Any

SAMPLING = {"temperature": 1.0, "samplers": ["temperature"], "ignore_eos": True, "cache_prompt": False}


def main(path: str, context: str, threads: str) -> None:
    xllamacpp: Any = importlib.import_module("xllamacpp")

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # redirects the server's log to standard error
    settings = xllamacpp.CommonParams()
    settings.model.path, settings.n_ctx, settings.n_parallel = path, int(context), 1
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = int(threads)
    settings.verbosity = -1
    server = xllamacpp.Server(settings)
    for line in sys.stdin:
        request, texts = json.loads(line), []
        for prompt in request["prompts"]:
            answer = server.handle_completions({"prompt": prompt, "n_predict": request["length"], **SAMPLING})
            assert answer["usage"]["completion_tokens"] == request["length"], answer["usage"]
            texts.append(list(answer["choices"][0]["text"].encode())[: request["length"]])
        print(json.dumps(texts), file=answers, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
