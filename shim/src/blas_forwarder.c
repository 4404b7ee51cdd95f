/* The three BLAS functions that libmlx calls on Linux, forwarded to the OpenBLAS inside NumPy's wheel.
 *
 * The mlx wheel bundles netlib's reference BLAS. This library is loaded before libmlx, with its symbols global, so that
 * the dynamic linker binds libmlx to it (see docs/upstream.md). NumPy's library has 64-bit integers and names of its
 * own; it is loaded by whoever loads this one, also globally, and looked up here on the first call. Not part of the shim:
 * it exports foreign names on purpose.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

typedef int64_t wide;

static void *find(const char *name) {
    void *symbol = dlsym(RTLD_DEFAULT, name);
    if (!symbol) {
        fprintf(stderr, "mlxr: %s is not loaded: NumPy's OpenBLAS must be loaded before this library is used\n", name);
        abort();
    }
    return symbol;
}

#define FORWARD_REAL(NAME, T)                                                                                          \
    void NAME(int order, int ta, int tb, int m, int n, int k, T alpha, const T *a, int lda, const T *b, int ldb,       \
              T beta, T *c, int ldc) {                                                                                 \
        typedef void gemm(int, int, int, wide, wide, wide, T, const T *, wide, const T *, wide, T, T *, wide);         \
        static gemm *target;                                                                                           \
        if (!target) *(void **)&target = find("scipy_" #NAME "64_");                                                   \
        target(order, ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);                                           \
    }

FORWARD_REAL(cblas_sgemm, float)
FORWARD_REAL(cblas_dgemm, double)

void cblas_cgemm(int order, int ta, int tb, int m, int n, int k, const void *alpha, const void *a, int lda,
                 const void *b, int ldb, const void *beta, void *c, int ldc) {
    typedef void gemm(int, int, int, wide, wide, wide, const void *, const void *, wide, const void *, wide,
                      const void *, void *, wide);
    static gemm *target;
    if (!target) *(void **)&target = find("scipy_cblas_cgemm64_");
    target(order, ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}
