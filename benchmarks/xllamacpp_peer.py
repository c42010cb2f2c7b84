"""A process that writes text with xllamacpp, for writers.py: prompts and a length come as a line of JSON, texts go
back.

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
    os.dup2(2, 1)  # what the server says goes elsewhere
    settings = xllamacpp.CommonParams()
    settings.model.path, settings.n_ctx, settings.n_parallel = path, int(context), 1
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = int(threads)
    settings.verbosity = -1
    server = xllamacpp.Server(settings)
    for line in sys.stdin:
        asked, written = json.loads(line), []
        for prompt in asked["prompts"]:
            answer = server.handle_completions({"prompt": prompt, "n_predict": asked["length"], **SAMPLING})
            assert answer["usage"]["completion_tokens"] == asked["length"], answer["usage"]
            written.append(list(answer["choices"][0]["text"].encode())[: asked["length"]])
        print(json.dumps(written), file=answers, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
