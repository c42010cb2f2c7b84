"""Export of networks to Hugging Face's transformers and to llama.cpp, and import from transformers."""

from charladder.export.exporting import export_gguf, export_hugging_face
from charladder.export.gguf_file import write_gguf
from charladder.export.hugging_face import write_hugging_face
from charladder.export.importing import import_hugging_face
from charladder.export.layout import PRECISIONS, Precision, check_layout

__all__ = [
    "PRECISIONS",
    "Precision",
    "check_layout",
    "export_gguf",
    "export_hugging_face",
    "import_hugging_face",
    "write_gguf",
    "write_hugging_face",
]
