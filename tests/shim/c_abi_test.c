/* The C ABI used from C alone, as a host other than Python would; built and run under AddressSanitizer by
 * test_sanitizer.py. Exits with 0 if everything holds. */
#include "mlxr_shim.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(condition)                                                                                               \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "%s:%d: %s (last error: %s)\n", __FILE__, __LINE__, #condition, mlxr_last_error());        \
            exit(1);                                                                                                   \
        }                                                                                                              \
    } while (0)

static mlxr_stream stream;

static float *host(size_t n, float first) {
    /* One float more in front: the size word that shared memory needs is readable, and ASan watches the rest. */
    float *block = malloc((n + 2) * sizeof(float));
    CHECK(block);
    for (size_t i = 0; i < n; i++)
        block[i + 2] = first + (float)i;
    return block + 2;
}

static const float *result(mlxr_array array, size_t n) {
    mlxr_array_info info;
    info.size = sizeof info;
    CHECK(array != 0);
    CHECK(mlxr_eval(&array, 1) == MLXR_OK);
    CHECK(mlxr_array_info_get(array, &info) == MLXR_OK);
    CHECK(info.count == n && info.dtype == MLXR_FLOAT32 && (info.flags & MLXR_FLAG_AVAILABLE));
    return info.data;
}

static void sharing(void) {
    int64_t shape[2] = {3, 4}, strides[2] = {1, 3};
    float *memory = host(12, 1);
    uint64_t tokens[4];
    mlxr_array a = mlxr_array_share(memory, shape, NULL, 2, MLXR_FLOAT32, 7);
    mlxr_array b = mlxr_array_share(memory, shape, strides, 2, MLXR_FLOAT32, 8);
    CHECK(result(a, 12) == memory);
    CHECK(result(b, 12) == memory);
    mlxr_array sum = mlxr_binary(MLXR_ADD, a, b, stream);
    CHECK(result(sum, 12)[1] == 2 + 4);
    CHECK(mlxr_array_free(a) == MLXR_OK && mlxr_array_free(b) == MLXR_OK && mlxr_array_free(sum) == MLXR_OK);
    CHECK(mlxr_synchronize(MLXR_ALL_STREAMS) == MLXR_OK);
    CHECK(mlxr_released(tokens, 1) == 1);
    CHECK(mlxr_released(tokens + 1, 3) == 1);
    CHECK(tokens[0] + tokens[1] == 15);
    CHECK(mlxr_released(tokens, 4) == 0);
    strides[0] = -1;
    CHECK(mlxr_array_share(memory, shape, strides, 2, MLXR_FLOAT32, 9) == 0);
    CHECK(mlxr_last_error_code() == MLXR_E_UNSUPPORTED);
    CHECK(mlxr_released(tokens, 4) == 0);
    free(memory - 2);
}

/* Builds of upstream whose arrays do not live in host memory (CUDA, Metal) take no memory of the caller's. */
static void no_sharing(void) {
    int64_t shape[1] = {12};
    float *memory = host(12, 1);
    uint64_t token;
    CHECK(mlxr_array_share(memory, shape, NULL, 1, MLXR_FLOAT32, 7) == 0);
    CHECK(mlxr_last_error_code() == MLXR_E_UNSUPPORTED);
    CHECK(mlxr_released(&token, 1) == 0);
    free(memory - 2);
}

static void operations(void) {
    int64_t shape[2] = {4, 4}, wide[1] = {-1}, start[2] = {1, 0}, stop[2] = {4, 4}, step[2] = {2, 3};
    int32_t axes[1] = {-1};
    float *memory = host(16, 0);
    mlxr_array x = mlxr_array_copy(memory, shape, 2, MLXR_FLOAT32);
    free(memory - 2);
    mlxr_array products[] = {
        mlxr_matmul(x, x, stream),
        mlxr_unary(MLXR_SQRT, x, stream),
        mlxr_transpose(x, NULL, 0, stream),
        mlxr_softmax(x, axes, 1, 1, stream),
        mlxr_reshape(x, wide, 1, stream),
        mlxr_rms_norm(x, 0, 1e-5f, stream),
        mlxr_scan(MLXR_CUMSUM, x, 1, 0, 1, stream),
        mlxr_contiguous(x, 0, stream),
    };
    int32_t n = sizeof products / sizeof *products;
    CHECK(mlxr_eval(products, n) == MLXR_OK);
    CHECK(result(products[0], 16)[0] == 56);
    CHECK(fabsf(result(products[3], 16)[3] - 0.6439142f) < 1e-6f);
    mlxr_array sliced = mlxr_slice(x, start, stop, step, 2, stream);
    mlxr_array total = mlxr_reduce(MLXR_SUM, sliced, NULL, MLXR_ALL_AXES, 0, 0, stream);
    CHECK(*result(total, 1) == 4 + 7 + 12 + 15);
    mlxr_array parts[3];
    CHECK(mlxr_linalg(MLXR_SVD, x, 0, 1, parts, 3) == MLXR_OK);
    CHECK(mlxr_array_free_many(parts, 3) == MLXR_OK);
    CHECK(mlxr_array_free_many(products, n) == MLXR_OK);
    CHECK(mlxr_array_free(sliced) == MLXR_OK && mlxr_array_free(total) == MLXR_OK && mlxr_array_free(x) == MLXR_OK);
}

static void programs(void) {
    int64_t shape[1] = {8}, ints[2] = {0, 0};
    int32_t results[2] = {3, 2};
    float *memory = host(8, 1);
    mlxr_instr steps[3];
    memset(steps, 0, sizeof steps);
    for (int i = 0; i < 3; i++) {
        steps[i].size = sizeof(mlxr_instr);
        for (int k = 0; k < 4; k++)
            steps[i].in[k] = -1;
    }
    steps[0].op = MLXR_ADD, steps[0].in[0] = 0, steps[0].in[1] = 0;
    steps[1].op = MLXR_NEGATIVE, steps[1].in[0] = 1;
    steps[2].op = MLXR_SUM, steps[2].in[0] = 2, steps[2].nints = 2;
    mlxr_program program = {sizeof program, 1, 3, 2, 2, 0, steps, results, ints, NULL};
    mlxr_array x = mlxr_array_copy(memory, shape, 1, MLXR_FLOAT32), out[2];
    free(memory - 2);
    CHECK(mlxr_run(&program, &x, stream, out) == MLXR_OK);
    CHECK(*result(out[0], 1) == -72);
    CHECK(result(out[1], 8)[7] == -16);
    CHECK(mlxr_array_free_many(out, 2) == MLXR_OK);
    steps[2].in[0] = 3;
    CHECK(mlxr_run(&program, &x, stream, out) == MLXR_E_INVALID);
    CHECK(mlxr_array_free(x) == MLXR_OK);
}

static void refusals(void) {
    int64_t shape[1] = {4}, one[1] = {1}, huge[3] = {1 << 20, 1 << 20, 1 << 20};
    int64_t where = 4;
    float *memory = host(4, 0);
    mlxr_array x = mlxr_array_copy(memory, shape, 1, MLXR_FLOAT32);
    mlxr_array index = mlxr_array_copy(&where, one, 1, MLXR_INT64);
    CHECK(mlxr_take(x, index, 0, stream) == 0 && mlxr_last_error_code() == MLXR_E_INDEX);
    CHECK(mlxr_broadcast_to(x, huge, 3, stream) == 0);
    CHECK(mlxr_matmul(x, 0, stream) == 0 && mlxr_last_error_code() == MLXR_E_HANDLE);
    CHECK(mlxr_array_free(x) == MLXR_OK);
    CHECK(mlxr_array_free(x) == MLXR_E_HANDLE);
    CHECK(mlxr_unary(MLXR_ABS, x, stream) == 0 && mlxr_last_error_code() == MLXR_E_HANDLE);
    CHECK(mlxr_array_free(index) == MLXR_OK);
    free(memory - 2);
}

int main(void) {
    CHECK(mlxr_unary(MLXR_ABS, 1, 0) == 0 && mlxr_last_error_code() == MLXR_E_STATE);
    CHECK(mlxr_init(MLXR_ABI_VERSION) == MLXR_OK);
    CHECK(mlxr_stream_default(MLXR_CPU, 0, &stream) == MLXR_OK);
    int64_t shares = 0;
    CHECK(mlxr_capability(MLXR_CAP_SHARE_HOST, &shares) == MLXR_OK);
    for (int round = 0; round < 20; round++) {
        if (shares)
            sharing();
        else
            no_sharing();
        operations();
        programs();
        refusals();
    }
    CHECK(mlxr_live_handles() == 0);
    CHECK(mlxr_synchronize(MLXR_ALL_STREAMS) == MLXR_OK);
    puts("passed");
    return 0;
}
