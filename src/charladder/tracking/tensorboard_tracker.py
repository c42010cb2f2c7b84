"""TensorBoard: event files in the folder `tensorboard` of the run directory."""

import time

from tensorboard.compat.proto.event_pb2 import Event  # pyright: ignore[reportMissingImports]
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata  # pyright: ignore[reportMissingImports]
from tensorboard.compat.proto.tensor_pb2 import TensorProto  # pyright: ignore[reportMissingImports]
from tensorboard.compat.proto.types_pb2 import DT_STRING  # pyright: ignore[reportMissingImports]
from tensorboard.summary.writer.event_file_writer import EventFileWriter  # pyright: ignore[reportMissingImports]

from charladder.shell_words import quote_path
from charladder.tracking.tracked_run import TrackedRun


class TensorboardTracker:
    """Writes an event file for each session of the run. The recipe is the text `recipe`."""

    def start(self, run: TrackedRun) -> str:
        folder = run.path / "tensorboard"
        self._writer = EventFileWriter(str(folder))
        self._add(0, [_text_summary("recipe", _as_table({**run.labels, **run.config}))])
        return f"tensorboard --logdir {quote_path(folder)}"

    def log(self, values: dict[str, float], step: int) -> None:
        self._add(step, [Summary.Value(tag=name, simple_value=value) for name, value in values.items()])

    def flush(self) -> None:
        self._writer.flush()

    def finish(self, finished: bool) -> None:
        self._writer.close()

    def _add(self, step: int, values: list[Summary.Value]) -> None:
        self._writer.add_event(Event(step=step, wall_time=time.time(), summary=Summary(value=values)))


def _text_summary(tag: str, text: str) -> Summary.Value:
    """A text in Markdown, for the page Text."""
    metadata = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text"))
    tensor = TensorProto(dtype=DT_STRING, string_val=[text.encode()])
    return Summary.Value(tag=f"{tag}/text_summary", metadata=metadata, tensor=tensor)


def _as_table(values: dict[str, object]) -> str:
    """A table in Markdown."""
    rows = [f"| {name} | {str(value).replace('|', chr(92) + '|')} |" for name, value in values.items()]
    return "\n".join(["| field | value |", "| --- | --- |", *rows])
