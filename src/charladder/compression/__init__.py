"""Compression of files by arithmetic coding with the predictions of a network."""

from charladder.compression.codec import Codec, find_codec, network_codec, online_codec
from charladder.compression.container import Header
from charladder.compression.files import CompressionResult, compress_file, decompress_file, read_file_header

__all__ = [
    "Codec",
    "CompressionResult",
    "Header",
    "compress_file",
    "decompress_file",
    "find_codec",
    "network_codec",
    "online_codec",
    "read_file_header",
]
