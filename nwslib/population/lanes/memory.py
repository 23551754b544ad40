"""Loads and stores without bounds or wrap-around, so that loops over flat buffers become vector instructions."""

from collections.abc import Callable

from llvmlite import ir
from numba import types
from numba.extending import intrinsic


def streams(name: str) -> tuple[Callable, Callable]:
    """Make a pair of ``get(array, place)`` and ``put(array, place, value)`` for one loop nest.

    They promise the compiler that nothing written by this ``put`` is read by this ``get``. Each loop nest has a pair of
    its own, because the promise must not reach into another one.

    Parameters
    ----------
    name
        Of the loop nest.

    Returns
    -------
    tuple of callable
        For use in compiled functions.
    """

    @intrinsic
    def get(typingctx, array, place):
        def generate(context, builder, signature, arguments):
            loaded = builder.load(_address(context, builder, signature, arguments))
            _mark(builder, loaded, name, "alias.scope")
            return loaded

        return array.dtype(array, types.intp), generate

    @intrinsic
    def put(typingctx, array, place, value):
        def generate(context, builder, signature, arguments):
            stored = context.cast(builder, arguments[2], signature.args[2], array.dtype)
            written = builder.store(stored, _address(context, builder, signature, arguments))
            _mark(builder, written, name, "noalias")
            return context.get_dummy_value()

        return types.void(array, types.intp, value), generate

    return get, put


@intrinsic
def current(typingctx, array, place):
    """Load a number that the same loop writes: without the promise of `streams`."""

    def generate(context, builder, signature, arguments):
        return builder.load(_address(context, builder, signature, arguments))

    return array.dtype(array, types.intp), generate


@intrinsic
def address(typingctx, array):
    """Give the address of an array's first number."""

    def generate(context, builder, signature, arguments):
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        return builder.ptrtoint(data, ir.IntType(64))

    return types.intp(array), generate


def _address(context, builder, signature, arguments) -> ir.Value:
    data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
    return builder.gep(data, [arguments[1]])


def _mark(builder: ir.IRBuilder, instruction: ir.Instruction, name: str, kind: str) -> None:
    module = builder.module
    scope = module.add_metadata([f"nws.{name}", module.add_metadata(["nws"])])
    instruction.set_metadata(kind, module.add_metadata([scope]))


__all__ = ["address", "current", "streams"]
