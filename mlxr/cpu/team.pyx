# cython: language_level=3, binding=True, embedsignature=True
"""Where the threads of a parallel region run. Must not know about kernels, arrays or instruction sets.

Every region takes its number of threads through `team_of`. A system may wake a sleeping worker on the processor of the
thread that wakes it, though another one is idle: Linux does so where wakeups are packed to save power, or where it
believes that all processors are busy. The two then take turns, and the region takes three times as long as on one
thread, because the first to finish waits for the other by spinning. So the workers of a calling thread are told to keep
off that thread's processor. The caller itself is never bound: what it starts inherits its affinity, the user's choice.
"""

cdef extern from *:
    """
    #ifdef __linux__
    #include <omp.h>
    #include <sched.h>

    /* What was last arranged for this calling thread's workers: for which processor of its own, and for how many. */
    static __thread int team_cpu = -1, team_size;

    static void team_place(int cpu, int threads) {
        cpu_set_t mask;
        if (omp_in_parallel() || omp_get_proc_bind() != omp_proc_bind_false) return; /* nested, or bound by the user */
        team_cpu = cpu;
        team_size = threads;
        if (sched_getaffinity(0, sizeof mask, &mask) != 0) return; /* more processors than the set has room for */
        /* With more threads than processors all of them are needed. */
        if (threads <= CPU_COUNT(&mask)) CPU_CLR(cpu, &mask);
    #pragma omp parallel num_threads(threads)
        if (omp_get_thread_num() != 0) sched_setaffinity(0, sizeof mask, &mask);
    }

    /* Return `threads`, having seen to it that the workers do not run where this thread does. A few ns where it has not
     * moved since the last call. */
    static int team(int threads) {
        if (threads > 1) {
            const int cpu = sched_getcpu();
            if (cpu >= 0 && (cpu != team_cpu || threads > team_size)) team_place(cpu, threads);
        }
        return threads;
    }
    #else
    static int team(int threads) { return threads; }
    #endif
    """
    int team(int threads) noexcept nogil


cdef int team_of(int threads) noexcept nogil:
    return team(threads)
