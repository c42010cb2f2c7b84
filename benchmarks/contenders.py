"""Contenders of a benchmark. Each runs in its own process, so that they alternate without sharing memory, allocator
settings or compiled code.
"""

import multiprocessing
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

Step = Callable[[], object]


def run_contender(
    pipe: Connection, make: Callable[..., Step], arguments: Mapping[str, Any], threads: int, device_name: str
) -> None:
    """The main function of a contender's process: makes the step function, then runs and times steps on request."""
    import torch

    from charladder.training.memory import peak_bytes

    torch.set_num_threads(threads)
    device = torch.device(device_name)
    synchronize = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    try:
        began = time.perf_counter()
        step = make(**arguments)
        step()
        synchronize()
        pipe.send(("ready", time.perf_counter() - began))
        while (steps := pipe.recv()) is not None:
            began = time.perf_counter()
            for _ in range(steps):
                step()
            synchronize()
            pipe.send(("done", (time.perf_counter() - began) / steps, peak_bytes(device)))
    except (ImportError, RuntimeError) as error:
        pipe.send(("absent", f"{type(error).__name__}: {str(error).splitlines()[0]}"))


@dataclass
class Contender:
    """absent: why it cannot run, or "". seconds: the time per step, one number for each round."""

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
        self.pipe, child_pipe = spawn.Pipe()
        arguments = child_pipe, self.make, self.arguments, torch.get_num_threads(), self.device
        self.process = spawn.Process(target=run_contender, args=arguments, daemon=True)
        self.process.start()
        child_pipe.close()
        kind, answer, *_ = self.receive()
        if kind == "absent":
            self.absent = answer
        else:
            self.first_step = answer

    def run(self, steps: int) -> None:
        if not self.absent:
            self.pipe.send(steps)
            kind, answer, *peak = self.receive()
            if kind == "absent":
                self.absent = answer
            else:
                self.seconds.append(answer)
                self.peak_bytes = peak[0]

    def receive(self) -> Any:
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
    """Starts all contenders; in each round, each runs `steps` steps. Every second round is in reverse order."""
    for contender in contenders:
        contender.start()
    try:
        for number in range(rounds):
            for contender in contenders if number % 2 == 0 else reversed(contenders):
                contender.run(steps)
    finally:
        for contender in contenders:
            contender.stop()
