"""One network trained alone by other code: nn.Module, autograd, TensorFlow 1's updates written out per tensor."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

ACTIVATIONS = {"relu": F.relu, "elu": F.elu, "sigmoid": torch.sigmoid, "tanh": torch.tanh}


class Norm(nn.Module):
    """Batch norm with a biased moving variance and decay 0.9."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma, self.beta = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("variance", torch.ones(channels))

    def forward(self, x, move):
        dims = [0, *range(2, x.dim())]
        shape = [1, -1, *[1] * (x.dim() - 2)]
        mean = x.mean(dims)
        variance = ((x - mean.view(shape)) ** 2).mean(dims)
        if move:
            self.mean.data = 0.9 * self.mean + 0.1 * mean.detach()
            self.variance.data = 0.9 * self.variance + 0.1 * variance.detach()
        x = (x - mean.view(shape)) / torch.sqrt(variance.view(shape) + 1e-5)
        return x * self.gamma.view(shape) + self.beta.view(shape)


class Network(nn.Module):
    """The study's network on images (b, c, y, x), in training mode."""

    def __init__(self, row, layout) -> None:
        super().__init__()
        self.row, self.layout = row, layout
        tensors = {t.name: t for t in layout.tensors}
        self.convolutions, self.dense, self.norms = nn.ModuleList(), nn.ModuleList(), nn.ModuleDict()
        for name, tensor in tensors.items():
            layer, kind = name.split(".")
            if kind == "kernel" and tensor.part == "convolution":
                out, inputs, size, _ = tensor.shape
                self.convolutions.append(nn.Conv2d(inputs, out, size, padding=size // 2))
            elif kind == "kernel":
                self.dense.append(nn.Linear(int(np.prod(tensor.shape[1:])), tensor.shape[0]))
            elif kind == "gamma":
                self.norms[layer] = Norm(tensor.shape[0])
        self.double()

    def targets(self):
        """Every tensor of the layout with the parameter or buffer that holds it."""
        for tensor in self.layout.tensors:
            layer, kind = tensor.layer, tensor.kind
            number = int("".join(filter(str.isdigit, layer)) or 0) - 1
            module = self.convolutions[number] if tensor.part == "convolution" else self.dense[number]
            if kind in ("kernel", "bias"):
                yield tensor, module.weight if kind == "kernel" else module.bias
            else:
                yield tensor, getattr(self.norms[layer], kind)

    def load(self, vector):
        for tensor, target in self.targets():
            values = torch.as_tensor(vector[self.layout.slices[tensor.name]], dtype=torch.float64)
            values = values.reshape(tensor.shape)
            if values.dim() == 4 and tensor.part == "dense":
                values = values.permute(0, 3, 1, 2).reshape(len(values), -1)
            target.data = values.clone()

    def vector(self):
        parts = []
        for tensor, target in self.targets():
            values = target.detach()
            if len(tensor.shape) == 4 and tensor.part == "dense":
                units, rows, columns, sources = tensor.shape
                values = values.reshape(units, sources, rows, columns).permute(0, 2, 3, 1)
            parts.append(values.reshape(-1))
        return torch.cat(parts)

    def forward(self, x, mask, move):
        activation = ACTIVATIONS[self.row["activation"]]
        depth = len(self.convolutions)
        ends = {3: (1, 2, 3), 4: (1, 2, 4), 5: (1, 3, 5)}[depth]
        for number, convolution in enumerate(self.convolutions, start=1):
            x = self.norms[f"conv{number}"](convolution(x), move)
            if number in ends:  # before the activation: after it, a saturated one makes ties that rounding decides
                x = F.max_pool2d(x, 2)
            x = activation(x)
        x, used = x.flatten(1), 0
        for number, linear in enumerate(self.dense[:-1], start=1):
            x = self.norms[f"dense{number}"](activation(linear(x)), move)
            x = x * mask[:, used : used + x.shape[1]] / 0.5
            used += x.shape[1]
        return self.dense[-1](x)


def step(network, images, labels, mask, states, rate, t):
    """Take one step in place; `states` holds two tensors per parameter name."""
    loss = F.cross_entropy(network(images, mask, move=True), labels)
    parameters = dict(network.named_parameters())
    gradients = torch.autograd.grad(loss, list(parameters.values()))
    for (name, parameter), g in zip(parameters.items(), gradients, strict=True):
        if name.startswith("convolutions") and name.endswith("bias"):
            continue  # its true gradient is zero; autograd gives rounding noise
        a, v = states.setdefault(name, start_state(network.row["optimizer"], parameter))
        if network.row["optimizer"] == "adam":
            a.copy_(0.9 * a + 0.1 * g)
            v.copy_(0.999 * v + 0.001 * g**2)
            rate_t = rate * np.sqrt(1 - 0.999**t) / (1 - 0.9**t)
            parameter.data -= rate_t * a / (v.sqrt() + 1e-8)
        elif network.row["optimizer"] == "rmsprop":
            v.copy_(0.9 * v + 0.1 * g**2)
            parameter.data -= rate * g / torch.sqrt(v + 1e-10)
        else:
            a.copy_(0.95 * a + g)
            parameter.data -= rate * a


def start_state(optimizer, parameter):
    a = torch.zeros_like(parameter)
    return a, torch.ones_like(a) if optimizer == "rmsprop" else torch.zeros_like(a)
