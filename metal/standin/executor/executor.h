/* The executor's C interface: runs one kernel of a loaded module over a grid, on fibers, and says what went wrong.
 *
 * It knows buffers as addresses and lengths. It knows nothing of Metal's API, Python or NumPy; both harness.py (by ctypes)
 * and the Metal subset (objc/metal.mm) sit on top of it.
 */
#ifndef MLXR_STANDIN_EXECUTOR_H
#define MLXR_STANDIN_EXECUTOR_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Kinds of failure; errors.py has their names in this order. */
enum standin_kind {
    STANDIN_OK = 0,
    STANDIN_BAD_LAUNCH,
    STANDIN_MISSING_BINDING,
    STANDIN_MISSING_CONSTANT,
    STANDIN_THREADGROUP_MEMORY,
    STANDIN_BARRIER_DIVERGENCE,
    STANDIN_SIMD_DIVERGENCE,
    STANDIN_INACTIVE_LANE,
    STANDIN_DEADLOCK,
    STANDIN_ENDLESS_LOOP,
    STANDIN_INVALID_ACCESS,
    STANDIN_OUT_OF_BOUNDS,
    STANDIN_UNINITIALISED_READ,
    STANDIN_DATA_RACE,
    STANDIN_UNDEFINED_BEHAVIOUR
};

enum standin_order { STANDIN_FORWARD = 0, STANDIN_REVERSE, STANDIN_SHUFFLED };

typedef struct standin_buffer {
    void *data;
    size_t size;
    uint8_t *initialised; /* one byte for each byte of data, read and written when checked; NULL: all initialised */
} standin_buffer;

typedef struct standin_constant {
    int32_t index;
    uint32_t size;
    const void *value;
} standin_constant;

typedef struct standin_launch {
    const char *kernel;
    uint32_t grid[3];  /* in threads; a multiple of `group` for whole threadgroups */
    uint32_t group[3]; /* threads of a threadgroup */
    uint32_t buffer_count;
    const standin_buffer *buffers;
    uint32_t threadgroup_count;
    const size_t *threadgroup_sizes;
    uint32_t constant_count;
    const standin_constant *constants;
    int32_t order; /* enum standin_order */
    uint32_t seed;
    uint32_t threads;  /* 0: as many as there are processors */
    double time_limit; /* seconds of processor time for one threadgroup; 0: 10 */
    /* For tests of the checker: the barrier at this place is passed as if it were not there, and counted. */
    const char *deleted_file;
    int32_t deleted_line;
    uint32_t *deleted_count;
} standin_launch;

typedef struct standin_error {
    int32_t kind;
    int32_t line;
    char file[512];
    char kernel[128];
    char message[1024];
} standin_error;

typedef struct standin_kernel_info {
    uint32_t max_threads;
    uint32_t parameter_count;
} standin_kernel_info;

/* `module` is what a kernel file's standin_module() returned. Launches of a process run one after the other. */
int32_t standin_run(void *module, const standin_launch *launch, standin_error *error);

/* Names of the module's kernels, one a line; valid until the next call of the same thread. */
const char *standin_kernel_names(void *module);
/* 0, or -1 where there is no such kernel. */
int32_t standin_describe(void *module, const char *kernel, standin_kernel_info *info);
/* The indices of the function constants that a kernel reads: writes up to `capacity`, returns how many there are. */
int32_t standin_required_constants(void *module, const char *kernel, int32_t *indices, int32_t capacity);
/* The type of a function constant (b, f, h, i, u) and its size in *size; 0 where the module has none of that index. */
char standin_constant_type(void *module, int32_t index, uint32_t *size);

#ifdef __cplusplus
}
#endif
#endif
