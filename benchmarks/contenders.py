"""Contenders: each lives in a process of its own and makes steps when it is told to, so that they can alternate
without sharing memory, allocator settings or compiled code.
"""

import multiprocessing
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

Step = Callable[[], object]


def serve(pipe: Connection, make: Callable[..., Step], arguments: Mapping[str, Any], threads: int, on: str) -> None:
    """What the process of a contender does: make it, then answer each number with the seconds of as many steps."""
    import torch

    from charladder.training.memory import peak_bytes

    torch.set_num_threads(threads)
    device = torch.device(on)
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    try:
        began = time.perf_counter()
        step = make(**arguments)
        step()
        wait()
        pipe.send(("ready", time.perf_counter() - began))
        while (steps := pipe.recv()) is not None:
            began = time.perf_counter()
            for _ in range(steps):
                step()
            wait()
            pipe.send(("done", (time.perf_counter() - began) / steps, peak_bytes(device)))
    except (ImportError, RuntimeError) as error:
        pipe.send(("absent", f"{type(error).__name__}: {str(error).splitlines()[0]}"))


@dataclass
class Contender:
    """`absent` says why it takes no part. Seconds are of one step."""

    name: str
    make: Callable[..., Step]
    arguments: Mapping[str, Any]
    device: str = "cpu"
    absent: str = ""
    first_step: float = 0.0
    seconds: list[float] = field(default_factory=list)
    peak_bytes: int = 0

    def start(self) -> None:
        import torch

        spawn = multiprocessing.get_context("spawn")
        self.pipe, theirs = spawn.Pipe()
        arguments = theirs, self.make, self.arguments, torch.get_num_threads(), self.device
        self.process = spawn.Process(target=serve, args=arguments, daemon=True)
        self.process.start()
        theirs.close()
        kind, answer, *_ = self.hear()
        if kind == "absent":
            self.absent = answer
        else:
            self.first_step = answer

    def run(self, steps: int) -> None:
        if not self.absent:
            self.pipe.send(steps)
            kind, answer, *peak = self.hear()
            if kind == "absent":
                self.absent = answer
            else:
                self.seconds.append(answer)
                self.peak_bytes = peak[0]

    def hear(self) -> Any:
        try:
            return self.pipe.recv()
        except EOFError:
            self.process.join()
            return "absent", f"its process ended with {self.process.exitcode}"

    def stop(self) -> None:
        if self.process.is_alive():
            self.pipe.send(None)
            self.process.join()


def alternate(contenders: list[Contender], rounds: int, steps: int = 1) -> None:
    """Starts all, then lets each make `steps` steps in turn, `rounds` times; every second round in reverse order."""
    for contender in contenders:
        contender.start()
    try:
        for at in range(rounds):
            for contender in contenders if at % 2 == 0 else reversed(contenders):
                contender.run(steps)
    finally:
        for contender in contenders:
            contender.stop()
