# cython: language_level=3
"""Kernel table of the convolution family: cross-correlation with 1, 2, 3 or more spatial axes, channels last.

    x    [N, spatial..., C]
    w    [O, kernel..., C / groups]
    out  [N, out spatial..., O], contiguous

    out[n, p, o] = sum over taps k, channels c:  X[n, p * stride + k * kernel_dilation - padding_lo, g, c] * w[o, k', c]

where g = o // (O / groups) is the group, c runs over the group's C / groups channels, k' = k (or kernel - 1 - k in
every axis when `flip` is set: a true convolution), and X is x with input_dilation - 1 zeros between neighbours and
zeros outside. padding_hi is not an argument: it only decides the extent of `out`,

    out = (padding_lo + padding_hi + (in - 1) * input_dilation + 1 - (kernel - 1) * kernel_dilation - 1) // stride + 1

and any extent of `out` that the caller gives is computed, so paddings may be negative (cropping) and differ by side.

Order of operations, which is that of matmul.pxd: the products of one output are added in the order of k = (tap,
channel) with taps row-major (after flip), by fused multiply-adds, as chains of MATMUL_KC consecutive k, and the chains
are added up in order. Products with padding, and with zeros that input dilation inserted, are left out where a whole
row of outputs agrees on it and are products with zero elsewhere: with finite w both are the same number. So a 1x1
convolution has the bits of the matrix product, and an output depends neither on threads nor on the other images of the
batch. The arithmetic type is float64 for FLOAT64 and float32 for the rest; one rounding at the store.

Preconditions (the caller checks, with a typed error each):
  - one dtype for x, w and out: FLOAT16, BFLOAT16, FLOAT32 or FLOAT64
  - x.ndim == w.ndim == out.ndim >= 3; every kernel extent >= 1 (upstream ends the process on an empty kernel)
  - groups >= 1 divides C and O, and w.shape[-1] == C / groups
  - stride, kernel_dilation, input_dilation >= 1
  - out extents are those of the formula, >= 0; out does not overlap x or w. x and w may have any strides.
  - N, C, O or an input extent of 0 are fine: sums without products are 0

Recipes. Everything is one more call of the entry, on views unless it says copy; `in`, `kernel`, `out` are extents per
axis, and what decides the far side is the extent of the `out` that the caller passes.

  conv_transpose(x, w, stride s, padding p, dilation d, output_padding a), with w [O, kernel..., C / groups]:
      stride' = 1, input_dilation' = s, kernel_dilation' = d, flip' = True, padding_lo' = d * (kernel - 1) - p,
      padding_hi' = padding_lo' + a

  gradients of out = conv(x, w, stride s, padding (lo, hi), kernel dilation d, input dilation e, groups, flip):

  input: the cotangent, convolved with w turned around and with its channel roles exchanged
      x' = cotangent; w' [C, kernel..., O / groups]: w with the axes O and C exchanged within each group. groups == 1:
      the view w.transpose(last, kernel..., first). Otherwise w.reshape(groups, O / groups, kernel..., C / groups), axes
      1 and last exchanged, the first two merged (a copy of w)
      stride' = e, input_dilation' = s, kernel_dilation' = d, flip' = not flip, padding_lo' = d * (kernel - 1) - lo;
      out' has the shape of x

  weight: contracts over images and output positions, with the images as channels
      x' = x viewed as [C, spatial..., N]; w' = cotangent viewed as [O, out..., N]
      stride' = d, kernel_dilation' = s, input_dilation' = e, padding_lo' = lo, flip' = False, groups' = 1
      out' = [C, kernel..., O]; the gradient is its view [O, kernel..., C], reversed along the kernel axes if flip.
      groups > 1: one call per group, on the views of the group's channels of x and cotangent
"""
from mlxr.core.abi cimport ArrayRef


ctypedef struct ConvArgs:
    const ArrayRef *x
    const ArrayRef *w
    const ArrayRef *out
    const Py_ssize_t *stride                # one per spatial axis, as are the next three
    const Py_ssize_t *padding_lo
    const Py_ssize_t *kernel_dilation
    const Py_ssize_t *input_dilation
    Py_ssize_t groups
    bint flip
    int threads                             # upper bound >= 1
    char *workspace                         # NULL, or workspace_size(args) bytes aligned to 64

ctypedef struct ConvTable:
    # 0, or -1 when memory ran out (out is unspecified then; never with a workspace).
    int (*conv)(const ConvArgs *) noexcept nogil
    size_t (*workspace_size)(const ConvArgs *) noexcept nogil
