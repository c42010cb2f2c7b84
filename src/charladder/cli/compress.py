"""`charladder compress`: a smaller file, by arithmetic coding with a network."""

import sys

from charladder.cli.compression import coding_bar, find_run, format_speed
from charladder.cli.options import Parser, add_json_option, add_weights_option
from charladder.cli.signals import interrupt_on_signal
from charladder.compression import compress_file, network_codec, online_codec
from charladder.errors import UserError
from charladder.run import open_run
from charladder.shell_words import quote_path
from charladder.strict_json import dumps

SUFFIX = ".clz"


def make_parser() -> Parser:
    parser = Parser(
        "compress",
        "Compresses FILE with the network of RUN, or with --online with one that learns while it codes and that the "
        "decoder does not need. Any file comes back exactly, on the same machine with the same versions.",
        "charladder compress runs/ladder-1 book.txt",
        "charladder compress --online book.txt book.clz",
    )
    parser.add_argument("run", metavar="RUN", nargs="?", help="a run directory; not with --online")
    parser.add_argument("file", metavar="FILE", nargs="?", help="the file to compress")
    parser.add_argument("output", metavar="OUT", nargs="?", help=f"the new file (default: FILE{SUFFIX})")
    network = parser.add_argument_group("network")
    network.add_argument("--online", action="store_true", help="start from an untrained network and learn")
    add_weights_option(network)
    add_json_option(parser.add_argument_group("output"))
    return parser


def main(argv: list[str]) -> int:
    options = make_parser().parse(argv)
    if options.online and options.weights != "last":
        raise UserError("--weights is for a run, and --online uses none; leave one of them out")
    run_path, source, output = find_run(options, "online" if options.online else "network")
    output = output or source.parent / (source.name + SUFFIX)
    run = None if run_path is None else open_run(run_path, options.weights)
    codec = online_codec() if run is None else network_codec(run)
    with interrupt_on_signal(), coding_bar(f"compressing {source.name}") as (start, report):
        result = compress_file(source, output, codec, start, report)
    bits = 8 * result.compressed_bytes / max(1, result.symbols)
    if options.json:
        print(
            dumps(
                {
                    "file": str(source),
                    "output": str(output),
                    "bytes": result.bytes,
                    "compressed_bytes": result.compressed_bytes,
                    "characters": result.symbols,
                    "bits_per_character": bits,
                    "segments": result.segments,
                    "mode": codec.mode,
                    "seconds": result.seconds,
                }
            )
        )
    else:
        print(f"{output}: {result.compressed_bytes:,} of {result.bytes:,} bytes, {bits:.4f} bits per character")
    print(format_speed(result), file=sys.stderr)
    words = [*([] if run_path is None else [run_path]), output, f"{output}.original"]
    print(f"get it back: charladder decompress {' '.join(map(quote_path, words))}", file=sys.stderr)
    return 0
