"""The one way in which kernels start threads: ``num_threads=team_of(threads)``. team.h tells what that does."""

cdef extern from "team.h" nogil:
    int team_of(int threads) noexcept
