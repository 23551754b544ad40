"""A step as one CUDA graph: recorded once, launched as a whole."""

from collections.abc import Callable

import torch


class Recorded:
    """A program without arguments that is recorded at its second call, and from then on replayed.

    The first call runs as it is: it compiles kernels and lets libraries take their memory, neither of which a recording
    may hold. A program must read and write the same tensors each time and must not wait for the device.

    Parameters
    ----------
    program
        What to run.
    device
        A CUDA device.
    """

    def __init__(self, program: Callable[[], None], device: torch.device) -> None:
        self.program = program
        self.stream = torch.cuda.Stream(device)
        self.warm = False
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self) -> None:
        """Run the program once; what was launched before comes before it, what is launched after comes after it."""
        if not self.warm:
            self._warm_up()
        else:
            self.graph = self.graph or self._record()
            self.graph.replay()

    def _warm_up(self) -> None:
        current = torch.cuda.current_stream(self.stream.device)
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            self.program()
        current.wait_stream(self.stream)
        self.warm = True

    def _record(self) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self.stream):
            self.program()
        return graph
