"""charladder corpora"""

import json
from typing import Any

from charladder.cli.options import Parser
from charladder.cli.reading import reading
from charladder.cli.tables import Rows
from charladder.cli.terminal import Terminal
from charladder.errors import BadInput, nearest
from charladder.text import cache_folder, corpora, fetched, is_url, open_corpus


def main(argv: list[str]) -> int:
    parser = Parser(
        "corpora",
        "The texts that have a name: what they are, where they come from, what is in the cache.",
        "charladder corpora text8 --download",
    )
    parser.add_argument("name", nargs="?", metavar="NAME|URL", help="one of them (default: all)")
    parser.add_argument("--download", action="store_true", help="fetch it, check it and put it in the cache")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    options = parser.read(argv)
    known = corpora()
    if options.download and not options.name:
        raise BadInput("--download wants the NAME of a corpus or a URL; see charladder corpora")
    if options.name and is_url(options.name):
        if not options.download:
            raise BadInput("a URL is fetched with --download, and once it is, `train URL` takes it from the cache")
        with reading() as report:
            fetched(options.name, report, anew=True)
            corpus = open_corpus(options.name, report=report)
        facts: dict[str, Any] = {options.name: {"characters": len(corpus.ids_N), "sha256": corpus.sha256}}
    elif options.name and options.name not in known:
        raise BadInput(f"there is no corpus called {options.name!r}{nearest(options.name, known)}")
    else:
        if options.download:
            with reading() as report:
                open_corpus(options.name, report=report)
            known = corpora()
        facts = {options.name: known[options.name]} if options.name else known
    show(facts, options.json)
    return 0


def show(facts: dict[str, dict[str, Any]], as_json: bool) -> None:
    if as_json:
        print(json.dumps({"cache": str(cache_folder()), "corpora": facts}))
        return
    console = Terminal()
    if len(facts) > 1:
        names = "name", "characters", "download", "cached", "licence", "what it is"
        table = Rows(*names, prose=("licence", "what it is"))
        for name, fact in facts.items():
            size = f"{fact['characters']:,}" if fact["characters"] else "-"
            download = f"{fact['download_bytes'] / 1e6:.0f} MB" if fact["download_bytes"] else "none"
            table.add(name, size, download, "yes" if fact["cached"] else "no", fact["licence"], fact["about"])
        console.print(table)
    else:
        for name, fact in facts.items():
            console.print(name, markup=False, highlight=False)
            for key, value in fact.items():
                shown = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else value
                console.print(f"  {key} = {shown}", markup=False, highlight=False, soft_wrap=True)
    console.print(f"cache: {cache_folder()}", markup=False, highlight=False, soft_wrap=True)
