"""Train classifiers of one family for a fixed number of epochs, M networks at a time as one tensor program.

Each network has its own image set, split, order, learning rate, weight decay, label smoothing, noise in its labels and
number of epochs. Networks of one layout and batch size are sorted by their steps and cut into blocks; one whose steps
are over leaves its block.

A family is a module of `nwslib.population.networks` with

``classifier(row, channels, classes) -> Layout``
    The layout of the network that a row of the design describes; ``channels`` is 1 for grey images, else 3.
``initial_weights(layout, seeds) -> Tensor``
    float64 (m, w), drawn with `nwslib.population.draws` from the networks' seeds, int64 (m,), on the device of the seeds.
``outputs(tensors, images, **forward) -> Tensor``
    Logits (m, b, classes). ``tensors`` are the layout's by name, each (m, *shape); ``images`` are (m, b, y, x, c), in
    [0, 1] and contiguous, of the type of the weights. Autograd differentiates it with respect to ``tensors``.
``FORWARD``
    Columns of the design that ``outputs`` takes by name: ``("order",)`` of a KAN, mostly ``()``.
``SCHEDULE``
    ``"constant"``, or ``"triangular"``: from 0 to the learning rate at epoch 5, and linearly back to 0 at the end.

Networks that agree in their layout, what ``outputs`` takes and the batch size may share a block.
"""
