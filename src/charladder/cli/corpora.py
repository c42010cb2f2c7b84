"""`charladder corpora`: lists, downloads and prunes texts in the cache."""

from datetime import UTC, date, datetime
from typing import Any

from charladder.cli.options import Parser, add_json_option
from charladder.cli.progress import reading_progress
from charladder.cli.tables import AdaptiveTable
from charladder.cli.terminal import Terminal
from charladder.errors import UserError, suggest_names
from charladder.strict_json import dumps
from charladder.text import PrunedItem, cache_folder, fetch_url, is_url, list_corpora, open_corpus, prune

_DEFAULT_DAYS = 30.0


def make_parser() -> Parser:
    parser = Parser(
        "corpora",
        "Texts that have a name: what they are, where they come from, which are in the cache. --prune removes from the "
        "cache what has not been used for some days, but nothing that a running process uses.",
        "charladder corpora text8 --download",
        "charladder corpora --prune --days 10 --dry-run",
    )
    parser.add_argument("name", nargs="?", metavar="NAME|URL", help="one text (default: all)")
    parser.add_argument("--download", action="store_true", help="download the text, verify it and put it in the cache")
    parser.add_argument("--prune", action="store_true", help="remove texts from the cache that have not been used")
    parser.add_argument("--days", type=float, help=f"with --prune: days without use (default {_DEFAULT_DAYS:g})")
    parser.add_argument("--dry-run", action="store_true", help="with --prune: only list what would be removed")
    add_json_option(parser)
    return parser


def main(argv: list[str]) -> int:
    options = make_parser().parse(argv)
    if options.prune:
        if options.name or options.download:
            raise UserError("--prune is for the whole cache; leave out NAME and --download")
        days = _DEFAULT_DAYS if options.days is None else options.days
        if not 0 <= days < float("inf"):
            raise UserError(f"--days is {days:g}; it must be a number of at least 0")
        _print_pruned(prune(days, options.dry_run), days, options.dry_run, options.json)
        return 0
    if options.days is not None or options.dry_run:
        raise UserError("--days and --dry-run need --prune; add it")
    known = list_corpora()
    if options.download and not options.name:
        raise UserError("--download needs the NAME of a corpus or a URL; see charladder corpora")
    if options.name and is_url(options.name):
        if not options.download:
            raise UserError("a URL needs --download; afterwards `train URL` reads it from the cache")
        with reading_progress() as report:
            fetch_url(options.name, report, force=True)
            corpus = open_corpus(options.name, on_progress=report)
        facts: dict[str, Any] = {options.name: {"characters": len(corpus.ids_N), "sha256": corpus.sha256}}
    elif options.name and options.name not in known:
        raise UserError(f"there is no corpus called {options.name!r}{suggest_names(options.name, known)}")
    else:
        if options.download:
            with reading_progress() as report:
                open_corpus(options.name, on_progress=report)
            known = list_corpora()
        facts = {options.name: known[options.name]} if options.name else known
    _print_corpora(facts, options.json)
    return 0


def _print_corpora(facts: dict[str, dict[str, Any]], as_json: bool) -> None:
    if as_json:
        print(dumps({"cache": str(cache_folder()), "corpora": facts}))
        return
    console = Terminal()
    if len(facts) > 1:
        names = "name", "characters", "download", "cached", "licence", "what it is"
        table = AdaptiveTable(*names, wrapped=("licence", "what it is"))
        for name, fact in facts.items():
            size = f"{fact['characters']:,}" if fact["characters"] else "-"
            download = f"{fact['download_bytes'] / 1e6:.0f} MB" if fact["download_bytes"] else "none"
            table.add_row(name, size, download, "yes" if fact["cached"] else "no", fact["licence"], fact["about"])
        console.print(table)
    else:
        for name, fact in facts.items():
            console.print(name, markup=False, highlight=False)
            for key, value in fact.items():
                shown = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else value
                console.print(f"  {key} = {shown}", markup=False, highlight=False, soft_wrap=True)
    console.print(f"cache: {cache_folder()}", markup=False, highlight=False, soft_wrap=True)


def _print_pruned(items: list[PrunedItem], days: float, dry_run: bool, as_json: bool) -> None:
    """Prints what was removed, or would be, and what was kept, with its size and the reason."""
    removed, kept = (
        [item for item in items if item.kept_because is None],
        [item for item in items if item.kept_because is not None],
    )
    size = sum(item.bytes for item in removed)
    if as_json:
        facts = {"cache": str(cache_folder()), "dry_run": dry_run, "days": days, "bytes": size}
        print(
            dumps(
                facts
                | {
                    "removed": [_pruned_item_entries(item) for item in removed],
                    "kept": [_pruned_item_entries(item) for item in kept],
                }
            )
        )
        return
    console = Terminal()
    word = "would be removed" if dry_run else "removed"
    for item in (*removed, *kept):
        what = f"{item.kind} {item.name}, {item.bytes:,} bytes, last used {date.fromtimestamp(item.last_used)}"
        end = word if item.kept_because is None else f"kept, for {item.kept_because}"
        console.print(f"{what}: {end}", markup=False, highlight=False, soft_wrap=True)
    console.print(f"cache: {cache_folder()}", markup=False, highlight=False, soft_wrap=True)
    console.print(f"{word}: {size:,} bytes of {size + sum(item.bytes for item in kept):,}", highlight=False)


def _pruned_item_entries(item: PrunedItem) -> dict[str, Any]:
    return {
        "what": item.kind,
        "name": item.name,
        "bytes": item.bytes,
        "last_used": datetime.fromtimestamp(item.last_used, UTC).isoformat(timespec="seconds"),
        "files": [str(path) for path in item.files],
    } | ({} if item.kept_because is None else {"why": item.kept_because})
