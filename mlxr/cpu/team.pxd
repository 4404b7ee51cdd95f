"""The one way in which kernels start threads: ``num_threads=team_of(threads)``."""

# Return `threads`, having seen to it that the workers do not run where this thread does. One function for all kernel
# modules, because the workers are one team: modules that each placed it would undo each other's choice. A few ns
# where the calling thread has not moved since the last region.
cdef int team_of(int threads) noexcept nogil
