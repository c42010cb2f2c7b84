"""`charladder decompress`: the original of a file that `compress` wrote."""

import sys

from charladder.cli.compress import SUFFIX
from charladder.cli.compression import coding_bar, find_run, format_speed
from charladder.cli.notes import print_note
from charladder.cli.options import Parser, add_json_option
from charladder.cli.signals import interrupt_on_signal
from charladder.compression import decompress_file, find_codec, read_file_header
from charladder.errors import UserError
from charladder.run import open_run
from charladder.strict_json import dumps


def make_parser() -> Parser:
    parser = Parser(
        "decompress",
        "Writes the original of FILE, which `compress` wrote. It needs the run of that network (its last or best "
        "weights), the machine and the versions that wrote FILE; FILE says which, and another one is refused.",
        "charladder decompress runs/ladder-1 book.txt.clz",
        "charladder decompress book.clz book.txt",
    )
    parser.add_argument("run", metavar="RUN", nargs="?", help="a run directory; not for a file of --online")
    parser.add_argument("file", metavar="FILE", nargs="?", help="a file that compress wrote")
    parser.add_argument("output", metavar="OUT", nargs="?", help=f"the new file (default: FILE without {SUFFIX})")
    add_json_option(parser.add_argument_group("output"))
    return parser


def main(argv: list[str]) -> int:
    options = make_parser().parse(argv)
    run_path, source, output = find_run(options, None)
    if output is None and (source.suffix != SUFFIX or source.name == SUFFIX):
        raise UserError(f"{source} does not end in {SUFFIX}, so the name of the original is unknown; give OUT")
    output = output or source.with_suffix("")
    header = read_file_header(source)
    if header.mode == "online" and run_path is not None:
        print_note(f"{source} was compressed with --online, and needs no run")
    codec = find_codec(header, None if run_path is None else open_run(run_path), str(source))
    with interrupt_on_signal(), coding_bar(f"decompressing {source.name}") as (start, report):
        start(header.symbols)
        result = decompress_file(source, output, codec, report)
    if options.json:
        entries = {"file": str(source), "output": str(output), "bytes": result.bytes, "mode": header.mode}
        print(dumps({**entries, "characters": result.symbols, "seconds": result.seconds}))
    else:
        print(f"{output}: {result.bytes:,} bytes, equal to the original by its checksum")
    print(format_speed(result), file=sys.stderr)
    return 0
