# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# cython: freethreading_compatible=True
"""Random kernels: Threefry-2x32 in vector lanes, and uniform, normal and Bernoulli samples made from it in one pass.

random.pxd states the layout and the formulas. This module must not know about Python objects, tensors or key sequences.

What limits it: 20 rounds of three integer operations per two words, so under 1 ns a word on 16 lanes; normal adds
erfinv, which costs about three times as much. Both stay above the cost of writing the result to memory.
"""
from cpython.pycapsule cimport PyCapsule_New
from cython.parallel cimport prange
from libc.stdint cimport uint16_t, uint32_t
from libc.string cimport memcpy

from mlxr.core.abi cimport BFLOAT16, COMPLEX64, FLOAT16, UINT8, UINT16, ArrayRef, BOOL
from mlxr.cpu.kernels.half cimport bf16_to_f32, f16_to_f32, f32_to_bf16, f32_to_f16
from mlxr.cpu.kernels.random cimport RandomTable
from mlxr.cpu.kernels.vecmath cimport erfinv_f32
from mlxr.cpu.team cimport team_of

cdef enum:
    BLOCK = 512                 # counters per block: both word buffers and their results stay in the L1 cache
    GRAIN = 16                  # blocks that a thread takes at a time
    PARALLEL_WORDS = 32768      # below this a second thread costs more than it saves

cdef enum Sample:
    BITS
    UNIFORM
    NORMAL
    BERNOULLI

# One call: what to make of the words, and where they go.
ctypedef struct Job:
    Sample sample
    int dtype
    float offset                # low, or loc
    float factor                # high - low, or factor, or threshold
    Py_ssize_t nbytes           # of output per key, counting 4 per element for the distributions
    Py_ssize_t words            # per key
    Py_ssize_t itemsize         # bytes that one word becomes in the output
    char *out


cdef inline uint32_t rotate(uint32_t x, int by) noexcept nogil:
    return (x << by) | (x >> (32 - by))


cdef inline void four_rounds(uint32_t *x, uint32_t *y, int a, int b, int c, int d) noexcept nogil:
    x[0] += y[0]
    y[0] = rotate(y[0], a) ^ x[0]
    x[0] += y[0]
    y[0] = rotate(y[0], b) ^ x[0]
    x[0] += y[0]
    y[0] = rotate(y[0], c) ^ x[0]
    x[0] += y[0]
    y[0] = rotate(y[0], d) ^ x[0]


cdef void threefry(const uint32_t *key, uint32_t first, uint32_t second, Py_ssize_t n,
                   uint32_t *first_out, uint32_t *second_out) noexcept nogil:
    """Encrypt the counters (first + i, second + i) for i < n."""
    cdef uint32_t k0 = key[0], k1 = key[1], k2 = key[0] ^ key[1] ^ 0x1BD11BDAu
    cdef uint32_t x, y
    cdef Py_ssize_t i
    for i in range(n):
        x = first + <uint32_t>i + k0
        y = second + <uint32_t>i + k1
        four_rounds(&x, &y, 13, 15, 26, 6)
        x += k1
        y += k2 + 1u
        four_rounds(&x, &y, 17, 29, 16, 24)
        x += k2
        y += k0 + 2u
        four_rounds(&x, &y, 13, 15, 26, 6)
        x += k0
        y += k1 + 3u
        four_rounds(&x, &y, 17, 29, 16, 24)
        x += k1
        y += k2 + 4u
        four_rounds(&x, &y, 13, 15, 26, 6)
        first_out[i] = x + k2
        second_out[i] = y + k0 + 5u


cdef inline float unit(uint32_t word, float upper) noexcept nogil:
    cdef float u = <float>word * <float>2.3283064365386963e-10      # 2**-32: exact, so equal to the division
    return upper if u > upper else u


cdef void emit_uniform(const Job *job, const uint32_t *words, Py_ssize_t n, char *out) noexcept nogil:
    cdef float low = job.offset, width = job.factor, value
    cdef uint16_t *out16 = <uint16_t *>out
    cdef float *out32 = <float *>out
    cdef Py_ssize_t i
    if job.dtype == FLOAT16:
        for i in range(n):
            value = f16_to_f32(f32_to_f16(unit(words[i], <float>0.99951171875)))
            value = f16_to_f32(f32_to_f16(width * value))
            out16[i] = f32_to_f16(value + low)
    elif job.dtype == BFLOAT16:
        for i in range(n):
            value = bf16_to_f32(f32_to_bf16(unit(words[i], <float>0.99609375)))
            value = bf16_to_f32(f32_to_bf16(width * value))
            out16[i] = f32_to_bf16(value + low)
    else:
        for i in range(n):
            value = width * unit(words[i], <float>0.999999940395355224609375)
            out32[i] = value + low


cdef void emit_normal(const Job *job, const uint32_t *words, Py_ssize_t n, Py_ssize_t first, char *out) noexcept nogil:
    cdef float loc = job.offset, factor = job.factor, value
    cdef float largest = <float>0.999999940395355224609375
    cdef float z[BLOCK]
    cdef uint16_t *out16 = <uint16_t *>out
    cdef float *out32 = <float *>out
    cdef Py_ssize_t i
    for i in range(n):
        z[i] = erfinv_f32(<float>2.0 * unit(words[i], largest) - largest)
    if job.dtype == FLOAT16:
        for i in range(n):
            value = f16_to_f32(f32_to_f16(factor * f16_to_f32(f32_to_f16(z[i]))))
            out16[i] = f32_to_f16(loc + value)
    elif job.dtype == BFLOAT16:
        for i in range(n):
            value = bf16_to_f32(f32_to_bf16(factor * bf16_to_f32(f32_to_bf16(z[i]))))
            out16[i] = f32_to_bf16(loc + value)
    elif job.dtype == COMPLEX64:
        for i in range(n):
            value = factor * z[i]
            out32[i] = value + (<float>0.0 if (first + i) & 1 else loc)
    else:
        for i in range(n):
            value = factor * z[i]
            out32[i] = loc + value


cdef void emit(const Job *job, const uint32_t *words, Py_ssize_t first, Py_ssize_t n, char *out) noexcept nogil:
    """Turn words number first .. first + n of one key into their part of that key's output, which starts at `out`."""
    cdef Py_ssize_t left = job.nbytes - 4 * first, i
    cdef char *at = out + first * job.itemsize
    if job.sample == BITS:
        memcpy(at, words, left if left < 4 * n else 4 * n)
    elif job.sample == UNIFORM:
        emit_uniform(job, words, n, at)
    elif job.sample == NORMAL:
        emit_normal(job, words, n, first, at)
    else:
        for i in range(n):
            at[i] = <float>words[i] < job.factor


cdef void block(const Job *job, const uint32_t *key, Py_ssize_t index, char *out) noexcept nogil:
    """Counters index * BLOCK and up: BLOCK words of the first half, and their partners in the second."""
    cdef uint32_t first[BLOCK]
    cdef uint32_t second[BLOCK]
    cdef Py_ssize_t half = job.words // 2, odd = job.words % 2
    cdef Py_ssize_t begin = index * BLOCK
    cdef Py_ssize_t n = half - begin if half - begin < BLOCK else BLOCK
    if n > 0:
        threefry(key, <uint32_t>begin, <uint32_t>(half + odd + begin), n, first, second)
        emit(job, first, begin, n, out)
        emit(job, second, half + odd + begin, n, out)
    if odd and half // BLOCK == index:
        threefry(key, <uint32_t>half, 0, 1, first, second)
        emit(job, first, half, 1, out)


cdef void keyed_block(const Job *job, const ArrayRef *keys, Py_ssize_t unit_index, Py_ssize_t blocks,
                      Py_ssize_t share) noexcept nogil:
    """Block number unit_index of all blocks of all keys."""
    cdef Py_ssize_t key_index = unit_index // blocks, rest = unit_index // blocks, at = 0, word = 0
    cdef int axis
    cdef uint32_t key[2]
    for axis in range(keys.ndim - 2, -1, -1):
        at += (rest % keys.shape[axis]) * keys.strides[axis]
        rest //= keys.shape[axis]
    for word in range(2):
        # By bytes, because a view's data may be unaligned.
        memcpy(&key[word], keys.data + 4 * (at + word * keys.strides[keys.ndim - 1]), 4)
    block(job, key, unit_index % blocks, job.out + key_index * share)


cdef void run(Job *job, const ArrayRef *keys, const ArrayRef *out, Py_ssize_t bytes_per_element,
              int threads) noexcept nogil:
    """Fill `out`; `bytes_per_element` counts random bytes, not output bytes."""
    cdef Py_ssize_t count = keys.size // 2
    if count == 0 or out.size == 0:
        return
    job.nbytes = out.size // count * bytes_per_element
    job.words = (job.nbytes + 3) // 4
    job.out = out.data
    # As many blocks as hold the counters; the odd word at the end counts as one.
    cdef Py_ssize_t blocks = (job.words - job.words // 2 + BLOCK - 1) // BLOCK
    cdef Py_ssize_t share = job.nbytes if job.sample == BITS else job.words * job.itemsize
    cdef Py_ssize_t unit_index
    cdef bint parallel = threads > 1 and count * job.words >= PARALLEL_WORDS
    for unit_index in prange(count * blocks, num_threads=team_of(threads), schedule="dynamic", chunksize=GRAIN,
                             use_threads_if=parallel):
        keyed_block(job, keys, unit_index, blocks, share)


cdef void bits(const ArrayRef *keys, const ArrayRef *out, int threads) noexcept nogil:
    cdef Job job
    job.sample = BITS
    job.dtype = out.dtype
    job.offset = job.factor = 0
    job.itemsize = 4
    run(&job, keys, out, 1 if out.dtype == UINT8 else 2 if out.dtype == UINT16 else 4, threads)


cdef void uniform(const ArrayRef *keys, float low, float high, const ArrayRef *out, int threads) noexcept nogil:
    cdef Job job
    job.sample = UNIFORM
    job.dtype = out.dtype
    job.offset = low
    job.factor = high - low
    job.itemsize = 4
    if out.dtype == FLOAT16:
        job.factor = f16_to_f32(f32_to_f16(job.factor))
        job.itemsize = 2
    elif out.dtype == BFLOAT16:
        job.factor = bf16_to_f32(f32_to_bf16(job.factor))
        job.itemsize = 2
    run(&job, keys, out, 4, threads)


cdef void normal(const ArrayRef *keys, float loc, float factor, const ArrayRef *out, int threads) noexcept nogil:
    cdef Job job
    job.sample = NORMAL
    job.dtype = out.dtype
    job.offset = loc
    job.factor = factor
    job.itemsize = 2 if out.dtype == FLOAT16 or out.dtype == BFLOAT16 else 4
    run(&job, keys, out, 8 if out.dtype == COMPLEX64 else 4, threads)


cdef void bernoulli(const ArrayRef *keys, float threshold, const ArrayRef *out, int threads) noexcept nogil:
    cdef Job job
    job.sample = BERNOULLI
    job.dtype = BOOL
    job.offset = 0
    job.factor = threshold
    job.itemsize = 1
    run(&job, keys, out, 4, threads)


cdef RandomTable TABLE
TABLE.bits = bits
TABLE.uniform = uniform
TABLE.normal = normal
TABLE.bernoulli = bernoulli

table = PyCapsule_New(&TABLE, "mlxr.cpu.random", NULL)
