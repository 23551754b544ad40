"""The one loop that does the work: small matrix products whose vectors hold channels and networks together.

In memory the network is the innermost axis and the channel the next one: ``(..., c, m)``. A vector of W numbers so
holds W / M channels of M networks. One product serves every layer, forward and backward::

    c[r, j] (+)= sum over s1, s0 of a[r, s1, s0, j % M] * b[s1, s0, j]

``a`` is read as M numbers that repeat through the vector. Each number of the result is a sum of its own, added in one
order by fused multiply-adds; how many networks share a vector, and how long it is, changes none of them. That is why a
network trained here is the same, bit for bit, alone and in any crowd.
"""

import functools

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.compiler_lock import global_compiler_lock
from numba.core.registry import cpu_target
from numba.extending import intrinsic

_INT = ir.IntType(64)
_ARGUMENTS = ("a", "a_row", "rows", "b", "c", "c_row", "vectors", "n1", "a1", "b1", "n0", "a0", "b0", "add")


@functools.cache
def vector_bytes() -> int:
    """Give the length of this processor's vectors: 64 with AVX-512, 32 with AVX, else 16."""
    features = llvm.get_host_cpu_features()
    return 64 if features.get("avx512f") else 32 if features.get("avx") else 16


@functools.cache
def processor() -> str:
    """Name this processor's kind."""
    return f"{llvm.get_host_cpu_name()} {8 * vector_bytes()} bit"


def vector_width(joint: int, dtype: np.dtype) -> int:
    """Choose how many numbers a vector holds, so that whole vectors make up an axis.

    Parameters
    ----------
    joint
        Length of the joint axis: channels times networks.
    dtype
        Of the numbers.

    Returns
    -------
    int
        A power of two.

    Examples
    --------
    >>> vector_width(12, np.dtype("float32"))
    4
    """
    longest = vector_bytes() // dtype.itemsize
    return min(longest, joint & -joint)


def compiled(dtype: np.dtype, networks: int, width: int) -> int:
    """Compile the product for one vector shape.

    Parameters
    ----------
    dtype
        float32 or float64.
    networks, width
        Networks side by side, and numbers in a vector, a multiple of it; both powers of two.

    Returns
    -------
    int
        The address of the machine code, for `call`.
    """
    with global_compiler_lock:  # outside the cache, so that two threads do not compile the same for half a second each
        return _compiled(dtype, networks, width)


@functools.cache
def _compiled(dtype: np.dtype, networks: int, width: int) -> int:
    module = ir.Module(f"product_{dtype}_{networks}_{width}")
    _Emitter(module, dtype, networks, width).emit()
    library = cpu_target.target_context.codegen().create_library(module.name)
    library.add_ir_module(module)
    library.finalize()
    _libraries.append(library)  # the code lives as long as its library
    return library.get_pointer_to_function(module.name)


_libraries: list = []


@intrinsic
def call(typingctx, address, a, a_row, rows, b, c, c_row, vectors, n1, a1, b1, n0, a0, b0, add):
    """Call a compiled product: addresses and strides in bytes, counts, and whether to add to what is there."""
    signature = types.void(*[types.intp] * (1 + len(_ARGUMENTS)))

    def generate(context, builder, signature, arguments):
        kind = ir.FunctionType(ir.VoidType(), [_INT] * len(_ARGUMENTS)).as_pointer()
        builder.call(builder.inttoptr(arguments[0], kind), arguments[1:])
        return context.get_dummy_value()

    return signature, generate


@functools.cache
def _tiles(registers: int) -> tuple[tuple[int, tuple[int, ...]], ...]:
    """Give vectors side by side, and the rows that go with them: all sums of a tile stay in registers."""
    if registers >= 32:
        return (4, (4, 2, 1)), (2, (8, 4, 2, 1)), (1, (16, 8, 4, 2, 1))
    return (2, (4, 2, 1)), (1, (8, 4, 2, 1))


class _Emitter:
    """Writes the product in LLVM's language, all tile shapes unrolled."""

    def __init__(self, module: ir.Module, dtype: np.dtype, networks: int, width: int) -> None:
        self.networks, self.width, self.size = networks, width, dtype.itemsize
        self.number = ir.FloatType() if self.size == 4 else ir.DoubleType()
        self.vector = ir.VectorType(self.number, width)
        function = ir.Function(module, ir.FunctionType(ir.VoidType(), [_INT] * len(_ARGUMENTS)), module.name)
        self.build = ir.IRBuilder(function.append_basic_block())
        self.given = dict(zip(_ARGUMENTS, function.args, strict=True))
        kind = ir.FunctionType(self.vector, [self.vector] * 3)
        self.fma = cgutils.get_or_insert_function(module, kind, f"llvm.fma.v{width}f{8 * self.size}")

    def emit(self) -> None:
        """Cut the result into tiles of several rows and vectors, the largest that fit first."""
        build, given = self.build, self.given
        done = cgutils.alloca_once_value(build, _INT(0))
        for vectors, heights in _tiles(32 if vector_bytes() != 32 else 16):
            with self._while_left(given["vectors"], done, vectors) as column:
                row = cgutils.alloca_once_value(build, _INT(0))
                build.store(_INT(0), row)
                for height in heights:
                    with self._while_left(given["rows"], row, height) as first:
                        self._tile(first, height, column, vectors)
        build.ret_void()

    def _while_left(self, total: ir.Value, counter: ir.Value, count: int) -> "_Loop":
        return _Loop(self.build, total, counter, count)

    def _tile(self, first_row: ir.Value, height: int, first_vector: ir.Value, vectors: int) -> None:
        build, given = self.build, self.given
        offset = build.mul(first_vector, _INT(self.width * self.size))
        a = build.add(given["a"], build.mul(first_row, given["a_row"]))
        b = build.add(given["b"], offset)
        c = build.add(build.add(given["c"], offset), build.mul(first_row, given["c_row"]))
        places = [(row, vector) for row in range(height) for vector in range(vectors)]
        sums = {place: cgutils.alloca_once(build, self.vector) for place in places}
        for place in places:
            build.store(self.vector([0.0] * self.width), sums[place])
        rows = [build.mul(given["a_row"], _INT(row)) for row in range(height)]
        with cgutils.for_range(build, given["n1"]) as outer:
            a1, b1 = self._at(a, outer.index, "a1"), self._at(b, outer.index, "b1")
            with cgutils.for_range(build, given["n0"]) as inner:
                a0, b0 = self._at(a1, inner.index, "a0"), self._at(b1, inner.index, "b0")
                factors = [self._load(build.add(b0, _INT(k * self.width * self.size))) for k in range(vectors)]
                for row in range(height):
                    repeated = self._load_repeated(build.add(a0, rows[row]))
                    for k in range(vectors):
                        place = sums[row, k]
                        build.store(build.call(self.fma, [repeated, factors[k], build.load(place)]), place)
        self._store(c, sums)

    def _store(self, c: ir.Value, sums: dict[tuple[int, int], ir.Value]) -> None:
        """Put the sums in their places, or add them to what is there: a sum of partial sums loses fewer bits."""
        build = self.build
        adding = build.icmp_signed("!=", self.given["add"], _INT(0))
        with build.if_else(adding) as branches:
            for branch, add in zip(branches, (True, False), strict=True):
                with branch:
                    for (row, k), place in sums.items():
                        target = build.add(c, build.mul(self.given["c_row"], _INT(row)))
                        target = build.add(target, _INT(k * self.width * self.size))
                        value = build.load(place)
                        value = build.fadd(self._load(target), value) if add else value
                        build.store(value, self._pointer(target, self.vector)).align = self.size

    def _at(self, base: ir.Value, index: ir.Value, stride: str) -> ir.Value:
        return self.build.add(base, self.build.mul(index, self.given[stride]))

    def _pointer(self, address: ir.Value, kind: ir.Type) -> ir.Value:
        return self.build.inttoptr(address, kind.as_pointer())

    def _load(self, address: ir.Value, kind: ir.Type | None = None) -> ir.Value:
        loaded = self.build.load(self._pointer(address, kind or self.vector))
        loaded.align = self.size
        return loaded

    def _load_repeated(self, address: ir.Value) -> ir.Value:
        if self.networks == self.width:
            return self._load(address)
        few = ir.VectorType(self.number, self.networks)
        pattern = ir.VectorType(ir.IntType(32), self.width)([lane % self.networks for lane in range(self.width)])
        return self.build.shuffle_vector(self._load(address, few), ir.Constant(few, ir.Undefined), pattern)


class _Loop:
    """A while loop: as long as `count` more fit into `total`; its body sees the counter, which then moves on."""

    def __init__(self, build: ir.IRBuilder, total: ir.Value, counter: ir.Value, count: int) -> None:
        self.build, self.total, self.counter, self.count = build, total, counter, count

    def __enter__(self) -> ir.Value:
        build = self.build
        self.check, body = build.append_basic_block(), build.append_basic_block()
        self.end = build.append_basic_block()
        build.branch(self.check)
        build.position_at_end(self.check)
        left = build.sub(self.total, build.load(self.counter))
        build.cbranch(build.icmp_signed(">=", left, _INT(self.count)), body, self.end)
        build.position_at_end(body)
        return build.load(self.counter)

    def __exit__(self, *_: object) -> None:
        build = self.build
        build.store(build.add(build.load(self.counter), _INT(self.count)), self.counter)
        build.branch(self.check)
        build.position_at_end(self.end)
