"""Convolution and dense layers of M networks as implicit matrix products."""

import torch
import triton
import triton.language as tl
from torch import Tensor

#: Pixels of one network whose part of a kernel's gradient one program sums.
CHUNK = 4096


def convolve(x: Tensor, kernel: Tensor, precision: str = "ieee") -> Tensor:
    """Convolve with zero padding so that the size is kept.

    Parameters
    ----------
    x
        Shape (b, y, x, m, i), float32 or float64, in any memory layout.
    kernel
        Shape (m, o, i, ky, kx), of odd size, of the same type.
    precision
        How float32 is multiplied: ``"ieee"``, or ``"tf32x3"``: three products on tensor units, which keep 22 bits.

    Returns
    -------
    torch.Tensor
        Shape (b, y, x, m, o); in memory m o b y x.

    Raises
    ------
    TypeError
        If the types differ, or are neither float32 nor float64.

    Notes
    -----
    An implicit matrix product: kernels of shape (o, i*ky*kx) times patches of shape (i*ky*kx, pixels), which are read
    from the feature maps and never written.
    """
    if x.dtype != kernel.dtype or x.dtype not in (torch.float32, torch.float64):
        raise TypeError(
            f"maps and kernels must both be float32, or both be float64, not {x.dtype} and {kernel.dtype}; "
            'choose precision "float32" or "float64"'
        )
    return of_planes(_Convolve.apply(planes(x), _rows_together(kernel), precision))


def planes(x: Tensor) -> Tensor:
    """Bring maps (b, y, x, m, c) into the order m c b y x, in memory too.

    With one layout, no stride depends on the number of networks; the compiler reads strides to order a program's sums.
    """
    return x.permute(3, 4, 0, 1, 2).contiguous()


def of_planes(x: Tensor) -> Tensor:
    """View (m, c, b, y, x) as (b, y, x, m, c)."""
    return x.permute(2, 3, 4, 0, 1)


def dense(x: Tensor, kernel: Tensor, bias: Tensor, precision: str = "ieee") -> Tensor:
    """Multiply by a kernel and add a bias: a convolution of single pixels.

    Parameters
    ----------
    x
        Shape (m, b, i).
    kernel, bias
        Shapes (m, o, i) and (m, o).
    precision
        As for `convolve`.

    Returns
    -------
    torch.Tensor
        Shape (m, b, o); in memory m o b.
    """
    # The bias is one more input that is 1: so its gradient is summed like those of the others.
    ones = x.new_ones(()).expand(*x.shape[:2], 1)
    maps = torch.cat((x, ones), dim=2).transpose(0, 1)[:, None, None]  # (b, 1, 1, m, i + 1)
    whole = torch.cat((kernel, bias[..., None]), dim=2)[..., None, None]
    return convolve(maps, whole, precision)[:, 0, 0].transpose(0, 1)


class _Convolve(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, kernel: Tensor, precision: str) -> Tensor:
        ctx.save_for_backward(x, kernel)
        ctx.precision = precision
        return _product(x, kernel, precision, flipped=False)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, kernel = ctx.saved_tensors
        gradient = gradient.contiguous()
        of_x = of_kernel = None
        if ctx.needs_input_grad[0]:  # a convolution of the gradient by the kernels turned by half a circle
            of_x = _product(gradient, kernel.transpose(1, 2), ctx.precision, flipped=True)
        if ctx.needs_input_grad[1]:
            of_kernel = _kernel_gradient(x, gradient, kernel.shape, ctx.precision)
        return of_x, of_kernel, None


def _product(x: Tensor, kernel: Tensor, precision: str, flipped: bool) -> Tensor:
    networks, inputs, images, height, width = x.shape
    outputs, size = kernel.shape[1], kernel.shape[-1]
    y = x.new_empty(networks, outputs, images, height, width)
    block_o = _power(outputs, 4, 32)
    block_p = _power(images * height * width, 16, 256 if block_o <= 16 else 128)
    grid = (triton.cdiv(images * height * width, block_p), triton.cdiv(outputs, block_o), networks)
    with torch.cuda.device_of(x):
        _convolve[grid](
            x, kernel, y, *kernel.stride()[:3], images,
            HEIGHT=height, WIDTH=width, INPUTS=inputs, OUTPUTS=outputs, SIZE=size, FLIPPED=flipped,
            PRECISION=precision, BLOCK_O=block_o, BLOCK_P=block_p, BLOCK_K=16 if inputs * size**2 <= 128 else 32,
            enable_fp_fusion=True,
        )  # fmt: skip
    return y


def _kernel_gradient(x: Tensor, gradient: Tensor, shape: torch.Size, precision: str) -> Tensor:
    networks, inputs, images, height, width = x.shape
    outputs, size = shape[1], shape[-1]
    chunks, columns = triton.cdiv(images * height * width, CHUNK), inputs * size**2
    parts = x.new_empty(networks, chunks, outputs, columns)
    result = x.new_empty(shape)
    block_o, block_k = _power(outputs, 4, 32), _power(columns, 16, 64)
    grid = (triton.cdiv(outputs, block_o) * triton.cdiv(columns, block_k), chunks, networks)
    with torch.cuda.device_of(x):
        _sum_products[grid](
            x, gradient, parts, images,
            HEIGHT=height, WIDTH=width, INPUTS=inputs, OUTPUTS=outputs, SIZE=size, CHUNK=CHUNK,
            PRECISION=precision, BLOCK_O=block_o, BLOCK_P=32, BLOCK_K=block_k, enable_fp_fusion=True,
        )  # fmt: skip
        _sum_chunks[triton.cdiv(outputs * columns, 256), networks](
            parts, result, chunks, outputs * columns, BLOCK=256, enable_fp_fusion=True
        )
    return result


@triton.jit
def _patches(x, pixel, k, pixels, HEIGHT, WIDTH, INPUTS, SIZE):
    """Read patches as a matrix: (BLOCK_K, BLOCK_P), zero outside the images."""
    row, column = pixel // WIDTH % HEIGHT, pixel % WIDTH
    source, up, left = k // (SIZE * SIZE), k // SIZE % SIZE - SIZE // 2, k % SIZE - SIZE // 2
    rows, columns = row[None, :] + up[:, None], column[None, :] + left[:, None]
    inside = (rows >= 0) & (rows < HEIGHT) & (columns >= 0) & (columns < WIDTH)
    inside = inside & (k < INPUTS * SIZE * SIZE)[:, None] & (pixel < pixels)[None, :]
    places = pixel[None, :] + (source * pixels + up * WIDTH + left)[:, None]
    return tl.load(x + places, mask=inside, other=0.0)


@triton.jit
def _convolve(
    x, kernel, y, kernel_m, kernel_o, kernel_i, images,
    HEIGHT: tl.constexpr, WIDTH: tl.constexpr, INPUTS: tl.constexpr, OUTPUTS: tl.constexpr, SIZE: tl.constexpr,
    FLIPPED: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_O: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Compute BLOCK_O channels of BLOCK_P pixels of one network."""
    network = tl.program_id(2).to(tl.int64)  # only the first pixel of a network may lie beyond 2**31 numbers
    pixel = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    out = tl.program_id(1) * BLOCK_O + tl.arange(0, BLOCK_O)
    pixels = images * HEIGHT * WIDTH
    total = tl.zeros((BLOCK_O, BLOCK_P), dtype=y.dtype.element_ty)
    for start in range(0, INPUTS * SIZE * SIZE, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        maps = _patches(x + network * INPUTS * pixels, pixel, k, pixels, HEIGHT, WIDTH, INPUTS, SIZE)
        tap = k % (SIZE * SIZE)
        if FLIPPED:
            tap = SIZE * SIZE - 1 - tap
        places = out[:, None] * kernel_o + (k // (SIZE * SIZE) * kernel_i + tap)[None, :]
        known = (out < OUTPUTS)[:, None] & (k < INPUTS * SIZE * SIZE)[None, :]
        weights = tl.load(kernel + network * kernel_m + places, mask=known, other=0.0)
        total = tl.dot(weights, maps, total, input_precision=PRECISION, out_dtype=y.dtype.element_ty)
    places = network * OUTPUTS * pixels + out[:, None] * pixels + pixel[None, :]
    tl.store(y + places, total, mask=(out < OUTPUTS)[:, None] & (pixel < pixels)[None, :])


@triton.jit
def _sum_products(
    x, gradient, parts, images,
    HEIGHT: tl.constexpr, WIDTH: tl.constexpr, INPUTS: tl.constexpr, OUTPUTS: tl.constexpr, SIZE: tl.constexpr,
    CHUNK: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_O: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Sum gradient times patch over one chunk of one network's pixels."""
    COLUMNS: tl.constexpr = INPUTS * SIZE * SIZE
    chunk, network = tl.program_id(1), tl.program_id(2).to(tl.int64)
    k = tl.program_id(0) % tl.cdiv(COLUMNS, BLOCK_K) * BLOCK_K + tl.arange(0, BLOCK_K)
    out = tl.program_id(0) // tl.cdiv(COLUMNS, BLOCK_K) * BLOCK_O + tl.arange(0, BLOCK_O)
    pixels = images * HEIGHT * WIDTH
    total = tl.zeros((BLOCK_O, BLOCK_K), dtype=parts.dtype.element_ty)
    for start in range(chunk * CHUNK, tl.minimum((chunk + 1) * CHUNK, pixels), BLOCK_P):
        pixel = start + tl.arange(0, BLOCK_P)
        maps = _patches(x + network * INPUTS * pixels, pixel, k, pixels, HEIGHT, WIDTH, INPUTS, SIZE)
        known = (out < OUTPUTS)[:, None] & (pixel < pixels)[None, :]
        places = network * OUTPUTS * pixels + out[:, None] * pixels + pixel[None, :]
        slopes = tl.load(gradient + places, mask=known, other=0.0)
        total = tl.dot(slopes, tl.trans(maps), total, input_precision=PRECISION, out_dtype=parts.dtype.element_ty)
    places = (network * tl.num_programs(1) + chunk) * OUTPUTS * COLUMNS + out[:, None] * COLUMNS + k[None, :]
    tl.store(parts + places, total, mask=(out < OUTPUTS)[:, None] & (k < COLUMNS)[None, :])


@triton.jit
def _sum_chunks(parts, result, chunks, size, BLOCK: tl.constexpr):
    """Sum the chunks of one network, in their order."""
    network = tl.program_id(1).to(tl.int64)
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), dtype=result.dtype.element_ty)
    for chunk in range(chunks):
        total += tl.load(parts + (network * chunks + chunk) * size + place, mask=place < size, other=0.0)
    tl.store(result + network * size + place, total, mask=place < size)


def _power(count: int, least: int, most: int) -> int:
    """Give the least power of two that holds a count, within limits."""
    return max(least, min(most, triton.next_power_of_2(count)))


def _rows_together(kernel: Tensor) -> Tensor:
    """Give a kernel whose last two axes are one piece of memory, as they are in a weight vector."""
    size = kernel.shape[-1]
    return kernel if size == 1 or kernel.stride()[-2:] == (size, 1) else kernel.contiguous()
