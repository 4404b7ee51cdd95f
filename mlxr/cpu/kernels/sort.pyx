# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# cython: freethreading_compatible=True
"""Sort kernels: sort, argsort, partition, argpartition and searchsorted by radix on monotone keys.

sort.pxd states the order and what is returned. This module must not know about Python objects or tensors.

How it works. Every dtype has a key: an unsigned integer of its width that orders as its elements do. A line (the
elements along the axis) becomes keys, or pairs of key and index, in one vectorized pass; they are sorted from the least
significant digit to the most, each by counting and moving all elements once; digits that all elements share are
skipped. Keys become elements again in another pass. Partitions find the key of rank k from the most significant digit
down, looking only at the elements that can still be it, and then distribute the line in one pass.

What limits it: a digit costs a read and a scattered write of each element, about 1 ns where the line fits the L2 cache.
Threads share out the lines, or parts of one line if it is long.
"""
from cpython.pycapsule cimport PyCapsule_New
from cython.parallel cimport prange, threadid
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from mlxr.core.abi cimport (
    BFLOAT16, BOOL, COMPLEX64, FLOAT16, FLOAT32, FLOAT64, INT8, INT16, INT32, INT64, MAX_NDIM, UINT8, UINT16, UINT32,
    ArrayRef,
)
from mlxr.cpu.kernels.sort cimport SortTable
from mlxr.cpu.team cimport team_of

cdef enum:
    SMALL_LINE = 64             # up to here, comparing all pairs beats counting digits
    WIDE_LINE = 4096            # from here, 11-bit digits beat 8-bit ones
    MAX_BUCKETS = 2048
    MAX_PARTS = 16              # of one line that threads share
    PARALLEL_ELEMENTS = 32768   # below this a second thread costs more than it saves
    RANGES_PER_THREAD = 8
    SEARCHES = 16               # binary searches at a time

# What is sorted: keys, or keys with the index of their element. Keys of 32 bits and less share a word with the index.
ctypedef struct Pair:
    uint64_t key
    uint64_t index

ctypedef fused item_t:
    uint8_t
    uint16_t
    uint32_t
    uint64_t
    Pair

ctypedef fused key_t:
    uint8_t
    uint16_t
    uint32_t
    uint64_t


cdef inline size_t itemsize(int dtype) noexcept nogil:
    if dtype == BOOL or dtype == UINT8 or dtype == INT8:
        return 1
    if dtype == UINT16 or dtype == INT16 or dtype == FLOAT16 or dtype == BFLOAT16:
        return 2
    if dtype == UINT32 or dtype == INT32 or dtype == FLOAT32:
        return 4
    return 8


# Keys. `sign` is the sign bit of a signed type, else 0. `limit` is the bits of infinity for floats, else 0.

ctypedef struct Order:
    uint64_t sign
    uint64_t infinity
    bint floating
    bint is_complex


cdef Order order_of(int dtype) noexcept nogil:
    cdef Order order
    order.floating = dtype == FLOAT16 or dtype == BFLOAT16 or dtype == FLOAT32 or dtype == FLOAT64 or dtype == COMPLEX64
    order.is_complex = dtype == COMPLEX64
    order.infinity = 0
    order.sign = 0
    if order.floating or dtype == INT8 or dtype == INT16 or dtype == INT32 or dtype == INT64:
        order.sign = <uint64_t>1 << (31 if order.is_complex else 8 * itemsize(dtype) - 1)
    if dtype == FLOAT16:
        order.infinity = 0x7C00u
    elif dtype == BFLOAT16:
        order.infinity = 0x7F80u
    elif dtype == FLOAT32 or dtype == COMPLEX64:
        order.infinity = 0x7F800000u
    elif dtype == FLOAT64:
        order.infinity = <uint64_t>0x7FF00000u << 32
    return order


cdef inline key_t float_key(key_t bits, key_t sign, key_t infinity) noexcept nogil:
    """Larger floats have larger keys; NaN has the largest; both zeros have that of 0.0."""
    cdef key_t magnitude = bits & ~sign
    cdef key_t key = (bits ^ sign) if magnitude == bits else <key_t>~bits
    key = sign if magnitude == 0 else key
    return <key_t>~(<key_t>0) if magnitude > infinity else key


cdef inline uint64_t complex_key(uint64_t bits) noexcept nogil:
    """The key of the real part, then that of the imaginary part, which is the upper half in memory order."""
    cdef uint32_t re = float_key(<uint32_t>bits, <uint32_t>0x80000000u, <uint32_t>0x7F800000u)
    cdef uint32_t im = float_key(<uint32_t>(bits >> 32), <uint32_t>0x80000000u, <uint32_t>0x7F800000u)
    cdef uint64_t key = <uint64_t>re << 32 | im
    return ~<uint64_t>0 if (re == ~<uint32_t>0) | (im == ~<uint32_t>0) else key


cdef inline key_t key_of_bits(key_t bits, const Order *order) noexcept nogil:
    if key_t is uint64_t:
        if order.is_complex:
            return complex_key(bits)
    if order.floating:
        return float_key(bits, <key_t>order.sign, <key_t>order.infinity)
    return bits ^ <key_t>order.sign


cdef inline key_t fetch(const char *src, key_t *unused) noexcept nogil:
    cdef key_t value
    memcpy(&value, src, sizeof(key_t))
    return value


cdef void load_keys(const char *src, Py_ssize_t step, Py_ssize_t n, key_t *keys, const Order *order) noexcept nogil:
    """The keys of n elements, `step` bytes apart."""
    cdef Py_ssize_t i
    if step == <Py_ssize_t>sizeof(key_t):
        memcpy(keys, src, n * sizeof(key_t))
    else:
        for i in range(n):
            keys[i] = fetch(src + i * step, <key_t *>NULL)
    for i in range(n):
        keys[i] = key_of_bits(keys[i], order)


cdef void store_keys(const key_t *keys, Py_ssize_t n, char *dst, Py_ssize_t step, const Order *order) noexcept nogil:
    """The elements that have these keys: of equal ones, 0.0 and the NaN of all ones (see `restore`)."""
    cdef key_t sign = <key_t>order.sign, bits
    cdef Py_ssize_t i
    for i in range(n):
        bits = keys[i]
        if order.floating:
            bits = (bits ^ sign) if bits & sign else <key_t>~bits
        else:
            bits ^= sign
        memcpy(dst + i * step, &bits, sizeof(key_t))


cdef Py_ssize_t lower_bound(const key_t *keys, Py_ssize_t n, key_t key) noexcept nogil:
    cdef Py_ssize_t low = 0, half
    while n > 0:
        half = n // 2
        if keys[low + half] < key:
            low += half + 1
            n -= half + 1
        else:
            n = half
    return low


cdef void restore(const char *src, Py_ssize_t step, const key_t *keys, Py_ssize_t n, char *dst, Py_ssize_t dst_step,
                  const Order *order) noexcept nogil:
    """Give zeros their signs and NaNs their bits, in the order of the input."""
    cdef key_t sign = <key_t>order.sign, nan = <key_t>~(<key_t>0), bits, key
    cdef Py_ssize_t zero = lower_bound(keys, n, sign)
    cdef Py_ssize_t end = lower_bound(keys, n, nan)
    cdef Py_ssize_t i
    if end == n and (zero == n or keys[zero] != sign):
        return
    for i in range(n):
        bits = fetch(src + i * step, <key_t *>NULL)
        key = float_key(bits, sign, <key_t>order.infinity)
        if key == sign:
            memcpy(dst + zero * dst_step, &bits, sizeof(key_t))
            zero += 1
        elif key == nan:
            memcpy(dst + end * dst_step, &bits, sizeof(key_t))
            end += 1


# Sorting by digits.

cdef inline uint64_t key_of(item_t item) noexcept nogil:
    if item_t is Pair:
        return item.key
    else:
        return <uint64_t>item


cdef void rank_sort(const item_t *a, item_t *b, Py_ssize_t n) noexcept nogil:
    """Put each item where as many smaller ones precede it: n**2 comparisons, but all of them in vectors."""
    cdef bint taken[SMALL_LINE]
    cdef Py_ssize_t i, j
    cdef item_t item
    cdef uint32_t rank
    for i in range(n):
        taken[i] = False
    for i in range(n):
        item = a[i]
        rank = 0
        if item_t is Pair:
            for j in range(n):
                rank += (a[j].key < item.key) | ((a[j].key == item.key) & (j < i))
        else:
            for j in range(n):
                rank += a[j] < item
        b[rank] = item
        taken[rank] = True
    # Equal keys without an index all went to the first of their places.
    for i in range(1, n):
        if not taken[i]:
            b[i] = b[i - 1]


cdef void count_digit(const item_t *a, Py_ssize_t n, int shift, uint32_t buckets, uint32_t *counts) noexcept nogil:
    cdef Py_ssize_t i
    memset(counts, 0, buckets * sizeof(uint32_t))
    for i in range(n):
        counts[<uint32_t>(key_of(a[i]) >> shift) & (buckets - 1)] += 1


cdef void move_by_digit(const item_t *a, Py_ssize_t n, int shift, uint32_t buckets, uint32_t *offsets,
                        item_t *b) noexcept nogil:
    cdef item_t item
    cdef uint32_t digit
    cdef Py_ssize_t i
    for i in range(n):
        item = a[i]
        digit = <uint32_t>(key_of(item) >> shift) & (buckets - 1)
        b[offsets[digit]] = item
        offsets[digit] += 1


cdef bint offsets_of(uint32_t *counts, uint32_t buckets, int parts, Py_ssize_t n) noexcept nogil:
    """Turn the counts of each part into where its elements go; False if all elements share the digit."""
    cdef uint32_t total = 0, count = 0
    cdef uint32_t d = 0
    cdef int p
    while count == 0:
        for p in range(parts):
            count += counts[p * MAX_BUCKETS + d]
        d += 1
    if count == n:
        return False
    if parts == 1:
        for d in range(buckets):
            count = counts[d]
            counts[d] = total
            total += count
        return True
    for d in range(buckets):
        for p in range(parts):
            count = counts[p * MAX_BUCKETS + d]
            counts[p * MAX_BUCKETS + d] = total
            total += count
    return True


cdef item_t *radix_sort(item_t *a, item_t *b, Py_ssize_t n, int low, int high, uint32_t *counts,
                        int parts) noexcept nogil:
    """Sort by the bits [low, high) of the keys; returns where the result is, a or b. Stable."""
    cdef int bits = 11 if n >= WIDE_LINE and high - low > 16 else 8
    cdef uint32_t buckets = <uint32_t>1 << bits
    cdef item_t *swap
    cdef int shift = low, p
    if n <= SMALL_LINE:
        rank_sort(a, b, n)
        return b
    while shift < high:
        if high - shift < bits:
            buckets = <uint32_t>1 << (high - shift)
        if parts == 1:
            count_digit(a, n, shift, buckets, counts)
        else:
            for p in prange(parts, num_threads=team_of(parts), schedule="static"):
                count_digit(a + p * n // parts, (p + 1) * n // parts - p * n // parts, shift, buckets,
                            counts + p * MAX_BUCKETS)
        if offsets_of(counts, buckets, parts, n):
            if parts == 1:
                move_by_digit(a, n, shift, buckets, counts, b)
            else:
                for p in prange(parts, num_threads=team_of(parts), schedule="static"):
                    move_by_digit(a + p * n // parts, (p + 1) * n // parts - p * n // parts, shift, buckets,
                                  counts + p * MAX_BUCKETS, b)
            swap = a
            a = b
            b = swap
        shift += bits
    return a


# Lines.

ctypedef enum Task:
    SORT
    ARGSORT
    PARTITION
    ARGPARTITION

ctypedef struct Job:
    Task task
    int dtype
    Order order
    Py_ssize_t kth
    const char *data
    char *out
    Py_ssize_t n
    Py_ssize_t stride
    Py_ssize_t out_stride
    Py_ssize_t item
    # The other axes, strides in bytes.
    int ndim
    Py_ssize_t lines
    Py_ssize_t shape[MAX_NDIM]
    Py_ssize_t strides[MAX_NDIM]
    Py_ssize_t out_strides[MAX_NDIM]


cdef void sort_line(const Job *job, const char *x, char *y, key_t *a, uint32_t *counts, int parts) noexcept nogil:
    cdef const key_t *sorted
    load_keys(x, job.stride, job.n, a, &job.order)
    sorted = radix_sort(a, a + job.n, job.n, 0, 8 * sizeof(key_t), counts, parts)
    store_keys(sorted, job.n, y, job.out_stride, &job.order)
    if job.order.floating:
        restore(x, job.stride, sorted, job.n, y, job.out_stride, &job.order)


cdef void argsort_line(const Job *job, const char *x, char *y, key_t *keys, uint32_t *counts,
                       int parts) noexcept nogil:
    """Indices that sort the line; of complex numbers, whose keys do not tell them, the numbers too."""
    cdef uint64_t *words = <uint64_t *>keys
    cdef Pair *pairs = <Pair *>keys
    cdef const uint64_t *sorted_words
    cdef const Pair *sorted_pairs
    cdef uint32_t index
    cdef Py_ssize_t i, n = job.n
    if key_t is uint64_t:
        # Keys begin in the second half of the space of the pairs, which grow from the front without overtaking them.
        load_keys(x, job.stride, n, keys + n, &job.order)
        for i in range(n):
            pairs[i].key = keys[n + i]
            pairs[i].index = i
        sorted_pairs = radix_sort(pairs, pairs + n, n, 0, 64, counts, parts)
        for i in range(n):
            index = <uint32_t>sorted_pairs[i].index
            if job.task == SORT:
                memcpy(y + i * job.out_stride, x + index * job.stride, sizeof(uint64_t))
            else:
                memcpy(y + i * job.out_stride, &index, sizeof(uint32_t))
    else:
        load_keys(x, job.stride, n, <key_t *>(words + n), &job.order)
        for i in range(n):
            words[i] = <uint64_t>(<key_t *>(words + n))[i] << 32 | <uint32_t>i
        sorted_words = radix_sort(words, words + n, n, 32, 32 + 8 * sizeof(key_t), counts, parts)
        for i in range(n):
            index = <uint32_t>sorted_words[i]
            memcpy(y + i * job.out_stride, &index, sizeof(uint32_t))


cdef key_t key_of_rank(const key_t *keys, key_t *candidates, Py_ssize_t n, Py_ssize_t rank,
                       uint32_t *counts) noexcept nogil:
    """The key of this rank, by narrowing down from the most significant digit."""
    cdef int bits = 11 if n >= WIDE_LINE and sizeof(key_t) > 2 else 8
    cdef int shift = 8 * sizeof(key_t)
    cdef uint32_t buckets, digit
    cdef Py_ssize_t i, kept
    cdef key_t key
    while True:
        buckets = <uint32_t>1 << (bits if bits < shift else shift)
        shift = shift - bits if shift > bits else 0
        count_digit(keys, n, shift, buckets, counts)
        digit = 0
        while rank >= counts[digit]:
            rank -= counts[digit]
            digit += 1
        kept = 0
        for i in range(n):
            key = keys[i]
            candidates[kept] = key
            kept += (<uint32_t>(<uint64_t>key >> shift) & (buckets - 1)) == digit
        keys = candidates
        n = kept
        if shift == 0 or n == 1:
            return keys[0]


cdef void partition_line(const Job *job, const char *x, char *y, key_t *keys, uint32_t *counts) noexcept nogil:
    cdef Py_ssize_t at[3]
    cdef Py_ssize_t i, n = job.n, side
    cdef key_t pivot, bits
    cdef uint32_t index
    load_keys(x, job.stride, n, keys, &job.order)
    pivot = key_of_rank(keys, keys + n, n, job.kth, counts)
    at[0] = at[1] = at[2] = 0
    for i in range(n):
        at[1] += keys[i] < pivot
        at[2] += keys[i] <= pivot
    for i in range(n):
        side = (keys[i] >= pivot) + (keys[i] > pivot)
        if job.task == PARTITION:
            bits = fetch(x + i * job.stride, <key_t *>NULL)
            memcpy(y + at[side] * job.out_stride, &bits, sizeof(key_t))
        else:
            index = <uint32_t>i
            memcpy(y + at[side] * job.out_stride, &index, sizeof(uint32_t))
        at[side] += 1


cdef void take_line(const Job *job, const char *x, char *y, key_t *space, uint32_t *counts, int parts) noexcept nogil:
    if job.task == PARTITION or job.task == ARGPARTITION:
        partition_line(job, x, y, space, counts)
    elif job.task == SORT and not job.order.is_complex:
        sort_line(job, x, y, space, counts, parts)
    else:
        argsort_line(job, x, y, space, counts, parts)


cdef void take_lines(const Job *job, Py_ssize_t begin, Py_ssize_t end, char *memory, int parts) noexcept nogil:
    """The lines [begin, end). `memory` holds counts, then the items of one line, twice."""
    cdef Py_ssize_t line, rest, quotient, position
    cdef const char *x
    cdef char *y
    cdef char *space = memory + parts * MAX_BUCKETS * sizeof(uint32_t)
    cdef int d
    for line in range(begin, end):
        x = job.data
        y = job.out
        rest = line
        d = job.ndim - 1
        while d >= 0:
            quotient = rest // job.shape[d]
            position = rest - quotient * job.shape[d]
            x += position * job.strides[d]
            y += position * job.out_strides[d]
            rest = quotient
            d -= 1
        if job.item == 1:
            take_line(job, x, y, <uint8_t *>space, <uint32_t *>memory, parts)
        elif job.item == 2:
            take_line(job, x, y, <uint16_t *>space, <uint32_t *>memory, parts)
        elif job.item == 4:
            take_line(job, x, y, <uint32_t *>space, <uint32_t *>memory, parts)
        else:
            take_line(job, x, y, <uint64_t *>space, <uint32_t *>memory, parts)


cdef int run(Task task, const ArrayRef *x, Py_ssize_t kth, int axis, const ArrayRef *out, int threads) noexcept nogil:
    cdef Job job
    cdef Py_ssize_t step = itemsize(out.dtype), bytes_per_line, i, ranges
    cdef size_t per_item
    cdef int d, parts, used
    cdef char *memory
    if x.size == 0:
        return 0
    job.task = task
    job.dtype = x.dtype
    job.order = order_of(x.dtype)
    job.kth = kth
    job.data = x.data
    job.out = out.data
    job.item = itemsize(x.dtype)
    job.ndim = 0
    job.lines = 1
    job.n = x.shape[axis]
    job.stride = x.strides[axis] * job.item
    d = x.ndim - 1
    job.out_stride = 0
    while d >= 0:
        if d == axis:
            job.out_stride = step
        step *= x.shape[d]
        d -= 1
    for d in range(x.ndim):
        step = step // x.shape[d]
        if d != axis:
            job.shape[job.ndim] = x.shape[d]
            job.strides[job.ndim] = x.strides[d] * job.item
            job.out_strides[job.ndim] = step
            job.lines *= x.shape[d]
            job.ndim += 1
    used = <int>min(<Py_ssize_t>threads, x.size // PARALLEL_ELEMENTS + 1)
    parts = 1
    if job.lines < 2 * used and (task == SORT or task == ARGSORT):
        parts = min(used, <int>MAX_PARTS)
        used = 1
    used = <int>min(<Py_ssize_t>used, job.lines)
    per_item = 2 * job.item
    if task == ARGSORT or (task == SORT and job.order.is_complex):
        per_item = 2 * (sizeof(Pair) if job.item == 8 else sizeof(uint64_t))
    bytes_per_line = (parts * MAX_BUCKETS * sizeof(uint32_t) + job.n * per_item + 127) // 64 * 64
    memory = <char *>malloc(used * bytes_per_line)
    if memory is NULL:
        return -1
    if used == 1:
        take_lines(&job, 0, job.lines, memory, parts)
    else:
        ranges = min(job.lines, <Py_ssize_t>(RANGES_PER_THREAD * used))
        for i in prange(ranges, num_threads=team_of(used), schedule="dynamic"):
            take_lines(&job, i * job.lines // ranges, (i + 1) * job.lines // ranges,
                       memory + threadid() * bytes_per_line, 1)
    free(memory)
    return 0


cdef int sort(const ArrayRef *x, int axis, const ArrayRef *out, int threads) noexcept nogil:
    return run(SORT, x, 0, axis, out, threads)


cdef int argsort(const ArrayRef *x, int axis, const ArrayRef *out, int threads) noexcept nogil:
    return run(ARGSORT, x, 0, axis, out, threads)


cdef int partition(const ArrayRef *x, Py_ssize_t kth, int axis, const ArrayRef *out, int threads) noexcept nogil:
    return run(PARTITION, x, kth, axis, out, threads)


cdef int argpartition(const ArrayRef *x, Py_ssize_t kth, int axis, const ArrayRef *out, int threads) noexcept nogil:
    return run(ARGPARTITION, x, kth, axis, out, threads)


# Search.

cdef inline Py_ssize_t element(const ArrayRef *x, Py_ssize_t index) noexcept nogil:
    """Offset, in elements, of the element with this row-major index."""
    cdef Py_ssize_t offset = 0, quotient
    cdef int d = x.ndim - 1
    if x.contiguous:
        return index
    while d >= 0:
        quotient = index // x.shape[d]
        offset += (index - quotient * x.shape[d]) * x.strides[d]
        index = quotient
        d -= 1
    return offset


cdef void search(const ArrayRef *ordered, const ArrayRef *values, bint right, uint32_t *out, Py_ssize_t begin,
                 Py_ssize_t end, const Order *order, key_t *unused) noexcept nogil:
    """Results [begin, end): several searches side by side, because each waits for memory at every step."""
    cdef key_t value[SEARCHES]
    cdef Py_ssize_t low[SEARCHES]
    cdef Py_ssize_t step = ordered.strides[0] * <Py_ssize_t>sizeof(key_t)
    cdef Py_ssize_t k, size, half, count
    cdef key_t middle
    while begin < end:
        count = min(end - begin, <Py_ssize_t>SEARCHES)
        for k in range(count):
            value[k] = key_of_bits(fetch(values.data + element(values, begin + k) * <Py_ssize_t>sizeof(key_t),
                                         <key_t *>NULL), order)
            low[k] = 0
        size = ordered.shape[0]
        while size > 0:
            half = (size + 1) // 2
            for k in range(count):
                middle = key_of_bits(fetch(ordered.data + (low[k] + half - 1) * step, <key_t *>NULL), order)
                low[k] += half if (middle <= value[k] if right else middle < value[k]) else 0
            size -= half
        for k in range(count):
            out[begin + k] = <uint32_t>low[k]
        begin += count


cdef void search_range(const ArrayRef *ordered, const ArrayRef *values, bint right, uint32_t *out, Py_ssize_t begin,
                       Py_ssize_t end) noexcept nogil:
    cdef Order order = order_of(values.dtype)
    cdef size_t item = itemsize(values.dtype)
    if item == 1:
        search(ordered, values, right, out, begin, end, &order, <uint8_t *>NULL)
    elif item == 2:
        search(ordered, values, right, out, begin, end, &order, <uint16_t *>NULL)
    elif item == 4:
        search(ordered, values, right, out, begin, end, &order, <uint32_t *>NULL)
    else:
        search(ordered, values, right, out, begin, end, &order, <uint64_t *>NULL)


cdef int searchsorted(const ArrayRef *ordered, const ArrayRef *values, bint right, const ArrayRef *out,
                      int threads) noexcept nogil:
    cdef Py_ssize_t n = values.size, i, ranges
    cdef int used = <int>min(<Py_ssize_t>threads, n // (PARALLEL_ELEMENTS // 16) + 1)
    if used == 1:
        search_range(ordered, values, right, <uint32_t *>out.data, 0, n)
        return 0
    ranges = RANGES_PER_THREAD * used
    for i in prange(ranges, num_threads=team_of(used), schedule="dynamic"):
        search_range(ordered, values, right, <uint32_t *>out.data, i * n // ranges, (i + 1) * n // ranges)
    return 0


cdef SortTable TABLE
TABLE.sort = sort
TABLE.argsort = argsort
TABLE.partition = partition
TABLE.argpartition = argpartition
TABLE.searchsorted = searchsorted

table = PyCapsule_New(&TABLE, "mlxr.cpu.sort", NULL)
