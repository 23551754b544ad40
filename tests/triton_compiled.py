"""Whether each program that a training step launches compiles for an H100, which need not be here."""

import pytest
import torch
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from triton.runtime.jit import JITFunction

from nwslib.population import operators, optimizers
from nwslib.population.cuda import batch
from nwslib.population.networks import cnn

H100 = GPUTarget("cuda", 90, 32)
TYPES = {torch.float32: "*fp32", torch.float64: "*fp64", torch.int32: "*i32", torch.int64: "*i64"}
TYPES |= {torch.bool: "*i1", torch.uint8: "*u8"}


def launches(monkeypatch, implementation, dtype):
    """Run forward and backward of the fixed network; keep what would be launched, one of each kind."""
    found = {}

    def run(program, *arguments, grid, warmup, **constants):
        options = {"enable_fp_fusion": constants.pop("enable_fp_fusion")}
        values = dict(zip(program.arg_names, arguments, strict=False)) | constants
        fixed = {p.name: values[p.name] for p in program.params if p.is_constexpr}
        signature = {
            name: "constexpr" if name in fixed else TYPES[value.dtype] if isinstance(value, torch.Tensor) else "i32"
            for name, value in values.items()
        }
        found[program.__name__, str(fixed)] = (program, signature, fixed, options)

    monkeypatch.setattr(JITFunction, "run", run)
    layout = cnn.layout(32, 5, 3, 2, 8, 128)
    weights = torch.rand(2, layout.size, dtype=dtype, requires_grad=True)
    tensors = {t.name: weights[:, layout.slices[t.name]].unflatten(1, t.shape) for t in layout.tensors}
    activations = implementation.activations(["relu", "tanh"])
    images = torch.rand(64, 32, 32, 2, 3, dtype=dtype)
    features = cnn.features(tensors, images, activations, {}, implementation)
    logits = cnn.outputs(tensors, features, activations, {}, None, implementation)
    torch.autograd.grad(logits.sum(), weights)
    seeds, state = torch.arange(2), weights.detach()
    flags = torch.ones(2, dtype=torch.bool)
    bank = torch.zeros(9, 32, 32, 3, dtype=torch.uint8)
    batch.load(bank, torch.zeros(2, 64, dtype=torch.int64), seeds, seeds, seeds, flags, flags, torch.ones(9), dtype)
    batch.dropout(seeds, seeds, seeds, 64, cnn.hidden_units(layout), dtype)
    batch.update(state, state, state, state, optimizers.coefficients(["adam"] * 2, dtype, "cpu"), state[:, :1])
    return found


@pytest.mark.parametrize(
    ("names", "dtype", "instruction"),
    [
        (("triton", "triton", "triton"), torch.float32, "fma.rn.f32"),
        (("triton", "triton", "triton"), torch.float64, "mma.sync.aligned.m8n8k4"),
        (("triton_tf32x3", "triton", "triton_tf32x3"), torch.float32, "tf32.tf32.f32"),
    ],
)
def test_every_program_compiles(monkeypatch, names, dtype, instruction):
    found = launches(monkeypatch, operators.Implementation(*names), dtype)
    products = 0
    assert len({name for name, _ in found}) == 12
    for (name, _), (program, signature, fixed, options) in found.items():
        source = ASTSource(program, signature, {(program.arg_names.index(k),): v for k, v in fixed.items()})
        result = compile(source, target=H100, options=options)
        assert len(result.asm["cubin"]) > 0, name
        assert result.metadata.shared <= 227 * 1024, name
        products += instruction in result.asm["ptx"] and name in ("_convolve", "_sum_products")
    assert products == sum(name in ("_convolve", "_sum_products") for name, _ in found)
