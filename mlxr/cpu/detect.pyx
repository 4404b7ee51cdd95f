# cython: language_level=3, binding=True, embedsignature=True
"""Processor detection. Must not know about anything else."""

cdef extern from *:
    """
    #if defined(__x86_64__)
    static int mlxr_x86_level(void) {
        __builtin_cpu_init();
        if (!(__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi")
              && __builtin_cpu_supports("bmi2")))
            return 2;
        if (!(__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw")
              && __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq")
              && __builtin_cpu_supports("avx512vl")))
            return 3;
        return 4;
    }
    #else
    static int mlxr_x86_level(void) { return 0; }
    #endif
    """
    int mlxr_x86_level()


def x86_level():
    """Return the x86-64 level that the processor runs (2, 3 or 4); 0 on other architectures."""
    return mlxr_x86_level()
