# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""How threads share out pieces of work: each has a share of its own, and helps the others once that is done.

A share is a run of neighbouring pieces, the same one in every call that cuts its work alike. So a thread that reads an
array again finds in its own caches what it left there: processors have several L3 caches, and a schedule that deals
pieces out as they come makes threads read what lies in another's. Helping keeps a core that others use too from holding
up the rest.

Which thread takes a piece must never show in a result. This must not know what pieces are.
"""

cdef extern from *:
    """
    static inline Py_ssize_t share_advance(Py_ssize_t *counter) {
        return __atomic_fetch_add(counter, 1, __ATOMIC_RELAXED);
    }
    """
    Py_ssize_t share_advance(Py_ssize_t *counter) noexcept nogil

cdef enum:
    MAX_SHARES = 64
    SHARE_STRIDE = 8            # counters lie on cache lines of their own

ctypedef struct Shares:
    Py_ssize_t pieces
    int shares
    Py_ssize_t taken[MAX_SHARES * SHARE_STRIDE]     # pieces of each share that some thread took


cdef inline void share_out(Shares *work, Py_ssize_t pieces, int threads) noexcept nogil:
    """Divide `pieces` among `threads`; more than MAX_SHARES threads have shares in common."""
    cdef int i
    work.pieces = pieces
    work.shares = min(threads, <int>MAX_SHARES)
    for i in range(work.shares):
        work.taken[i * SHARE_STRIDE] = 0


cdef inline Py_ssize_t next_piece(Shares *work, int thread) noexcept nogil:
    """A piece that nobody else gets, for `thread` (any number from 0), or -1 if all are taken."""
    cdef Py_ssize_t first, piece
    cdef int share = thread % work.shares
    cdef int tried = 0
    while tried < work.shares:
        first = work.pieces * share // work.shares
        piece = first + share_advance(&work.taken[share * SHARE_STRIDE])
        if piece < work.pieces * (share + 1) // work.shares:
            return piece
        share = share + 1 if share + 1 < work.shares else 0
        tried += 1
    return -1
