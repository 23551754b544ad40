"""Image networks: one network per image, thousands at a time, fitted with full-batch Adam on all pixels.

A network maps a pixel's coordinates to its value. Its *family* is a module of `nwslib.population.networks` that has

``ARCHITECTURE``
    Columns of the design that fix the tensors of a network and its program: ``("width", "depth", "frequency")``.
``layout(channels, **architecture) -> Layout``
    Of networks with so many outputs; `architecture` holds the columns named above.
``initial_weights(layout, seeds, **architecture) -> Tensor``
    Shape (m, w), float64, on the CPU: each row from its own seed alone, seeds of shape (m,), int64.
``gradient(layout, inputs, targets, **architecture) -> Gradient``
    The program of m networks. `inputs` (b, 2) are coordinates (row, column) from -1 to 1, the same for all; `targets`
    (m, b, c) are pixels from 0 to 1; their device and precision are those of the weights. Called with weights (m, w) and
    a tensor (m, w) to fill, it gives each network's mean squared error over pixels and channels, (m,), and fills the
    tensor with the gradient of each. It keeps its buffers, belongs to one thread, and the result of a network does not
    depend on its neighbours.
``at_once(layout, pixels, device) -> int``
    How many networks make a block: as many as were measured to be fast.
``to_module(layout, vector, **architecture) -> nn.Module``
    One network: takes coordinates (b, 2) and gives pixels (b, c).
"""

from collections.abc import Callable

from torch import Tensor

#: Fills the second argument with the gradients at the first, both (m, w), and gives the losses (m,).
Gradient = Callable[[Tensor, Tensor], Tensor]
