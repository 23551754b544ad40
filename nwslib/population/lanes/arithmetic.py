"""Arithmetic for compiled loops: functions of one number that a vector of any length computes with the same bits.

A library's exp or tanh may round differently inside and at the end of a vector. These are written from additions and
multiplications alone, which every processor rounds alike.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic, overload


def _sources() -> str:
    """Give the hash of every source file of this package whose functions are compiled."""
    files = sorted(file for file in Path(__file__).parent.glob("*.py") if file.name not in ("crowd.py", "plan.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


#: Hash of the sources of compiled code.
SOURCES = _sources()


def compiled(function: Callable) -> Callable:
    """Compile a function for its first arguments' types, once per machine: without the interpreter's lock.

    Numba keeps machine code until the function's own file changes; but it contains that of the functions called, from
    other files. So ours is kept until any file of this package changes.
    """
    dispatcher = njit(nogil=True, cache=True, error_model="numpy")(function)
    dispatcher._cache._cache_file._source_stamp = SOURCES
    return dispatcher


@intrinsic
def like(typingctx, x, constant):
    """Give a constant in the type of x: the compiler would else compute in float64."""
    signature = x(x, constant)

    def generate(context, builder, signature, arguments):
        return context.cast(builder, arguments[1], signature.args[1], signature.return_type)

    return signature, generate


@intrinsic
def _power_of_two(typingctx, x, exponent):
    """Give 2**exponent in the type of x, from the bits of its exponent."""
    bits, shift, bias = (32, 23, 127) if x == types.float32 else (64, 52, 1023)
    signature = x(x, types.int32)

    def generate(context, builder, signature, arguments):
        whole = ir.IntType(bits)
        number = builder.sext(arguments[1], whole) if bits == 64 else arguments[1]
        number = builder.shl(builder.add(number, whole(bias)), whole(shift))
        return builder.bitcast(number, context.get_value_type(x))

    return signature, generate


def expm1(x: float) -> float:
    """Compute exp(x) - 1 to the last bits, near 0 too; x is cut off at 87 in float32, at 700 in float64.

    Notes
    -----
    x = n ln 2 + r with ln 2 in two parts (Cody and Waite, 1980), then the Taylor series of r, up to its precision.
    """
    return float(np.expm1(x))


@overload(expm1, jit_options={"nogil": True, "error_model": "numpy"})
def _expm1(x):
    return _expm1_single if x == types.float32 else _expm1_double


def _expm1_single(x):
    x = np.float32(87) if x > np.float32(87) else x
    x = np.float32(-87) if x < np.float32(-87) else x
    # Adding and subtracting 1.5 * 2**23 rounds to a whole number.
    n = (x * np.float32(1.4426950408889634) + np.float32(12582912.0)) - np.float32(12582912.0)
    r = (x - n * np.float32(0.693359375)) - n * np.float32(-2.12194440e-4)
    p = np.float32(1 / 40320)
    p = p * r + np.float32(1 / 5040)
    p = p * r + np.float32(1 / 720)
    p = p * r + np.float32(1 / 120)
    p = p * r + np.float32(1 / 24)
    p = p * r + np.float32(1 / 6)
    p = p * r + np.float32(0.5)
    p = p * (r * r) + r
    power = _power_of_two(x, np.int32(n))
    return power * p + (power - np.float32(1))


def _expm1_double(x):
    x = 700.0 if x > 700.0 else x
    x = -700.0 if x < -700.0 else x
    n = (x * 1.4426950408889634 + 6755399441055744.0) - 6755399441055744.0
    r = (x - n * 0.693145751953125) - n * 1.42860682030941723212e-6
    p = 1 / 87178291200
    p = p * r + 1 / 6227020800
    p = p * r + 1 / 479001600
    p = p * r + 1 / 39916800
    p = p * r + 1 / 3628800
    p = p * r + 1 / 362880
    p = p * r + 1 / 40320
    p = p * r + 1 / 5040
    p = p * r + 1 / 720
    p = p * r + 1 / 120
    p = p * r + 1 / 24
    p = p * r + 1 / 6
    p = p * r + 0.5
    p = p * (r * r) + r
    power = _power_of_two(x, np.int32(n))
    return power * p + (power - 1.0)


@compiled
def relu(x):  # noqa: D103
    return like(x, 0.0) if x < like(x, 0.0) else x


@compiled
def elu(x):  # noqa: D103
    zero = like(x, 0.0)
    return expm1(zero if x > zero else x) + (zero if x < zero else x)


@compiled
def tanh(x):  # noqa: D103
    size = -x if x < like(x, 0.0) else x
    size = like(x, 20.0) if size > like(x, 20.0) else size
    grown = expm1(size + size)
    value = grown / (grown + like(x, 2.0))
    return -value if x < like(x, 0.0) else value


@compiled
def sigmoid(x):  # noqa: D103
    half = like(x, 0.5)
    return half * tanh(half * x) + half


@compiled
def power(base: float, exponent: int) -> float:
    """Raise to a whole power by squaring: the same bits on every machine, which a library's pow does not promise."""
    result = 1.0
    while exponent > 0:
        if exponent & 1:
            result *= base
        base *= base
        exponent >>= 1
    return result


@compiled
def philox(index, step, epoch, purpose, seed):
    """Encrypt one counter with Philox4x32-10, as `population.draws.philox` does for tensors; four words in uint64."""
    word = np.uint64(0xFFFFFFFF)
    shift = np.uint64(32)
    c0, c1, c2, c3 = np.uint64(index), np.uint64(step), np.uint64(epoch), np.uint64(purpose)
    k0, k1 = np.uint64(seed) & word, np.uint64(seed) >> shift
    for _ in range(10):
        product0, product1 = c0 * np.uint64(0xD2511F53), c2 * np.uint64(0xCD9E8D57)
        c0, c2 = (product1 >> shift) ^ c1 ^ k0, (product0 >> shift) ^ c3 ^ k1
        c1, c3 = product1 & word, product0 & word
        k0, k1 = (k0 + np.uint64(0x9E3779B9)) & word, (k1 + np.uint64(0xBB67AE85)) & word
    return c0, c1, c2, c3
