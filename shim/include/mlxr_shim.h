/* mlxr_shim.h: upstream MLX and mlxr's Metal runtime behind one versioned C ABI.
 *
 * This header is the whole contract between mlxr and its native libraries. It is plain C99 (and C11, C++17, C++20), names
 * no type of MLX, of Metal or of Python, and is what the ctypes binding (mlxr/shim/abi.py) is generated from.
 *
 * It has two halves, each with a library of its own: libmlxr_shim (upstream MLX) and, since 1.1, libmlxr_shim_metal (the
 * functions called mlxr_metal_*). Both libraries export what stands under "Versions, errors, capabilities", and the
 * version, the errors and the rules for handles are the same; a function of the other half is not exported.
 *
 * Conventions that hold for every function
 *   Start     mlxr_init() comes first. Until it has succeeded every other call that can fail fails with MLXR_E_STATE.
 *   Results   A function that makes one array returns its handle, or 0 on failure. Every other function that can fail
 *             returns an mlxr_status. After a failure mlxr_last_error_code() and mlxr_last_error() tell the calling
 *             thread why; nothing was changed, and no output parameter was written.
 *   Handles   An mlxr_array is (generation << 32 | slot), never a pointer: a stale, freed or invented handle is refused
 *             with MLXR_E_HANDLE. So is an mlxr_metal_object, and one of another kind than a function asks for. 0 is no array, and is what an optional operand is left out with. The caller owns each
 *             handle that it receives and gives it back with mlxr_array_free(). Passing a handle lends it for the call.
 *   Laziness  Operations build a graph and return at once. mlxr_eval() and mlxr_async_eval() run it. Exceptions, all of
 *             them documented: linear algebra runs inside the call, and operations that take indices, dynamic starts or
 *             integer divisors evaluate that operand, because upstream does not check its values.
 *   Threads   Every function may be called from any thread at any time. One lock serialises the building of graphs; it
 *             is not held while anything waits for a result.
 *   Fork      In a child made by fork() every function that can fail fails with MLXR_E_FORK: upstream's workers, and
 *             the GPU, are the parent's.
 *   Pointers  Arguments that are pointers to arrays of numbers are read during the call and not kept, except for the
 *             memory given to mlxr_array_share() and mlxr_metal_buffer_share(). A count of 0 allows NULL.
 *   Numbers   Sizes and strides are counted in elements, not bytes; in the Metal half, which knows no elements, in
 *             bytes. Negative axes count from the end.
 *   Since     What carries no mark was there in 1.0. The Metal half is there since 1.1; later additions say "since 1.x".
 *
 * Versions: MLXR_ABI_MAJOR changes when anything is removed or changes meaning. MLXR_ABI_MINOR counts additions:
 * functions, enumerators at the end of their group, fields at the end of a struct (its `size` field tells them apart).
 */
#ifndef MLXR_SHIM_H
#define MLXR_SHIM_H

#include <stddef.h>
#include <stdint.h>

#define MLXR_ABI_MAJOR 1
#define MLXR_ABI_MINOR 1
#define MLXR_ABI_VERSION ((MLXR_ABI_MAJOR << 16) | MLXR_ABI_MINOR)

#define MLXR_MAX_NDIM 32       /* arrays of a higher rank are refused with MLXR_E_INVALID */
#define MLXR_ALL_AXES (-1)     /* as a count of axes: reduce over all of them */
#define MLXR_FLATTEN INT32_MIN /* as an axis: treat the operand as flattened */
#define MLXR_ALL_STREAMS (-1)  /* as a stream of mlxr_synchronize() */
#define MLXR_SAME_DTYPE (-1)   /* as a dtype: upstream's own choice */

#define MLXR_METAL_MAX_ARGUMENTS 31          /* buffers and constants of one launch */
#define MLXR_METAL_MAX_BYTES 4096            /* of one argument that is passed by value */
#define MLXR_METAL_MAX_THREADGROUP_BUFFERS 4 /* threadgroup memory arguments of one launch */

#if defined(_WIN32)
#define MLXR_API __declspec(dllexport)
#elif defined(__GNUC__)
#define MLXR_API __attribute__((visibility("default")))
#else
#define MLXR_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef uint64_t mlxr_array; /* generation << 32 | slot; 0 is no array */
typedef int32_t mlxr_stream; /* index of a stream; streams live as long as the process */
typedef int32_t mlxr_status; /* one of enum mlxr_error */

typedef uint64_t mlxr_metal_object; /* generation << 32 | slot; 0 is no object */

/* Why a call failed. */
enum mlxr_error {
    MLXR_OK = 0,
    MLXR_E_INVALID = 1,     /* shapes, axes or parameters that do not fit */
    MLXR_E_INDEX = 2,       /* an index outside of the array that it points into */
    MLXR_E_DTYPE = 3,       /* an unknown dtype code, or one that the operation does not take */
    MLXR_E_MEMORY = 4,      /* larger than the memory of the machine, or the allocator refused */
    MLXR_E_OVERFLOW = 5,    /* an extent or a number of elements that upstream cannot count */
    MLXR_E_ARITHMETIC = 6,  /* integer division by zero, or whose quotient does not fit */
    MLXR_E_DEVICE = 7,      /* no such device or stream */
    MLXR_E_UNSUPPORTED = 8, /* this build, device or layout cannot do it */
    MLXR_E_HANDLE = 9,      /* stale, freed, foreign or missing array handle */
    MLXR_E_POISONED = 10,   /* an earlier evaluation failed and may have left this array unfinished */
    MLXR_E_STATE = 11,      /* mlxr_init() has not succeeded */
    MLXR_E_ABI = 12,        /* versions that do not fit: of this ABI, of a struct, or of upstream */
    MLXR_E_FORK = 13,       /* called in a forked child */
    MLXR_E_OPCODE = 14,     /* operation code not known in this family */
    MLXR_E_RUNTIME = 15,    /* upstream failed for another reason, e.g. a singular matrix */
    MLXR_E_INTERNAL = 16,   /* an exception that is no std::exception */
    MLXR_E_COMPILE = 17,    /* Metal source, or a function of it, that the compiler refuses; since 1.1 */
    MLXR_E_EXECUTION = 18,  /* a kernel failed while it ran: page fault, timeout, ...; since 1.1 */
    MLXR_E_DEVICE_LOST = 19 /* the GPU was removed, or its access revoked; since 1.1 */
};

/* Element types; the order is upstream's. */
enum mlxr_dtype {
    MLXR_BOOL = 0,
    MLXR_UINT8 = 1,
    MLXR_UINT16 = 2,
    MLXR_UINT32 = 3,
    MLXR_UINT64 = 4,
    MLXR_INT8 = 5,
    MLXR_INT16 = 6,
    MLXR_INT32 = 7,
    MLXR_INT64 = 8,
    MLXR_FLOAT16 = 9,
    MLXR_FLOAT32 = 10,
    MLXR_FLOAT64 = 11,
    MLXR_BFLOAT16 = 12,
    MLXR_COMPLEX64 = 13
};

enum mlxr_device_type { MLXR_CPU = 0, MLXR_GPU = 1 };

/* Operation codes. The family is code >> 8, so that one number names an operation in mlxr_run() and mlxr_supports(). */
enum mlxr_unary_op {
    MLXR_ABS = 0x100,
    MLXR_NEGATIVE,
    MLXR_SIGN,
    MLXR_LOGICAL_NOT,
    MLXR_BITWISE_INVERT,
    MLXR_RECIPROCAL,
    MLXR_FLOOR,
    MLXR_CEIL,
    MLXR_TRUNC,
    MLXR_ROUND, /* half to even */
    MLXR_SQUARE,
    MLXR_SQRT,
    MLXR_RSQRT,
    MLXR_EXP,
    MLXR_EXPM1,
    MLXR_LOG,
    MLXR_LOG2,
    MLXR_LOG10,
    MLXR_LOG1P,
    MLXR_SIN,
    MLXR_COS,
    MLXR_TAN,
    MLXR_ARCSIN,
    MLXR_ARCCOS,
    MLXR_ARCTAN,
    MLXR_SINH,
    MLXR_COSH,
    MLXR_TANH,
    MLXR_ARCSINH,
    MLXR_ARCCOSH,
    MLXR_ARCTANH,
    MLXR_SIGMOID,
    MLXR_ERF,
    MLXR_ERFINV,
    MLXR_DEGREES,
    MLXR_RADIANS,
    MLXR_ISNAN,
    MLXR_ISINF,
    MLXR_ISFINITE,
    MLXR_ISPOSINF,
    MLXR_ISNEGINF,
    MLXR_CONJUGATE,
    MLXR_REAL,
    MLXR_IMAG
};

enum mlxr_binary_op {
    MLXR_ADD = 0x200,
    MLXR_SUBTRACT,
    MLXR_MULTIPLY,
    MLXR_DIVIDE,
    MLXR_FLOOR_DIVIDE, /* integers: evaluates b, and a where b has a -1; MLXR_E_ARITHMETIC */
    MLXR_REMAINDER,    /* likewise */
    MLXR_POWER,
    MLXR_MAXIMUM,
    MLXR_MINIMUM,
    MLXR_LOGADDEXP,
    MLXR_ARCTAN2,
    MLXR_EQUAL,
    MLXR_NOT_EQUAL,
    MLXR_LESS,
    MLXR_LESS_EQUAL,
    MLXR_GREATER,
    MLXR_GREATER_EQUAL,
    MLXR_LOGICAL_AND,
    MLXR_LOGICAL_OR,
    MLXR_LOGICAL_XOR,
    MLXR_BITWISE_AND,
    MLXR_BITWISE_OR,
    MLXR_BITWISE_XOR,
    MLXR_LEFT_SHIFT,
    MLXR_RIGHT_SHIFT
};

enum mlxr_select_op {
    MLXR_WHERE = 0x300, /* a ? b : c */
    MLXR_CLIP           /* a clipped to [b, c]; b or c may be 0 */
};

enum mlxr_cast_op {
    MLXR_ASTYPE = 0x400, /* convert the values */
    MLXR_VIEW,           /* keep the bits; the last axis changes its extent with the item size */
    MLXR_FROM_FP8,       /* E4M3 bytes (uint8) to a floating dtype */
    MLXR_TO_FP8          /* a floating dtype to E4M3 bytes; dtype is ignored */
};

enum mlxr_reduce_op {
    MLXR_SUM = 0x500,
    MLXR_PROD,
    MLXR_MAX,
    MLXR_MIN,
    MLXR_MEAN,
    MLXR_VAR, /* parameter: ddof */
    MLXR_STD, /* parameter: ddof */
    MLXR_ALL,
    MLXR_ANY,
    MLXR_MEDIAN,
    MLXR_LOGSUMEXP,
    MLXR_ARGMAX, /* one axis or all of them */
    MLXR_ARGMIN  /* one axis or all of them */
};

enum mlxr_scan_op { MLXR_CUMSUM = 0x600, MLXR_CUMPROD, MLXR_CUMMAX, MLXR_CUMMIN, MLXR_LOGCUMSUMEXP };

enum mlxr_sort_op { MLXR_SORT = 0x700, MLXR_ARGSORT, MLXR_PARTITION, MLXR_ARGPARTITION, MLXR_TOPK };

/* How an update meets what is there. */
enum mlxr_update_op { MLXR_UPDATE_SET = 0x800, MLXR_UPDATE_ADD, MLXR_UPDATE_PROD, MLXR_UPDATE_MAX, MLXR_UPDATE_MIN };

enum mlxr_linalg_op {
    MLXR_INV = 0x900,      /* 1 output */
    MLXR_TRI_INV,          /* 1; flag: upper */
    MLXR_CHOLESKY,         /* 1; flag: upper */
    MLXR_CHOLESKY_INV,     /* 1; flag: upper */
    MLXR_PINV,             /* 1 */
    MLXR_QR,               /* 2: Q, R */
    MLXR_SVD,              /* flag 1: 3 outputs U, S, Vt; flag 0: 1 output S */
    MLXR_LU,               /* 3: P (row indices), L, U */
    MLXR_LU_FACTOR,        /* 2: LU, pivots */
    MLXR_SOLVE,            /* 1; takes b */
    MLXR_SOLVE_TRIANGULAR, /* 1; takes b; flag: upper */
    MLXR_EIG,              /* 2: values, vectors */
    MLXR_EIGVALS,          /* 1 */
    MLXR_EIGH,             /* 2: values, vectors; flag: upper triangle is read */
    MLXR_EIGVALSH          /* 1; flag: upper triangle is read */
};

enum mlxr_fft_op { MLXR_FFT = 0xa00, MLXR_IFFT, MLXR_RFFT, MLXR_IRFFT };

enum mlxr_fft_norm { MLXR_NORM_BACKWARD = 0, MLXR_NORM_ORTHO = 1, MLXR_NORM_FORWARD = 2 };

/* Operations that have a function of their own; the codes serve mlxr_run() and mlxr_supports(). */
enum mlxr_op {
    MLXR_MATMUL = 0xb00,
    MLXR_ADDMM,
    MLXR_GATHER_MM,
    MLXR_BLOCK_MASKED_MM,
    MLXR_SEGMENTED_MM,
    MLXR_RESHAPE,
    MLXR_TRANSPOSE,
    MLXR_BROADCAST_TO,
    MLXR_SLICE,
    MLXR_SLICE_UPDATE,
    MLXR_AS_STRIDED,
    MLXR_CONCATENATE,
    MLXR_PAD,
    MLXR_CONTIGUOUS,
    MLXR_TAKE,
    MLXR_TAKE_ALONG_AXIS,
    MLXR_GATHER,
    MLXR_SCATTER,
    MLXR_SCATTER_AXIS,
    MLXR_MASKED_SCATTER,
    MLXR_SEARCHSORTED,
    MLXR_DIVMOD,
    MLXR_SOFTMAX,
    MLXR_RMS_NORM,
    MLXR_LAYER_NORM,
    MLXR_ROPE,
    MLXR_SDPA,
    MLXR_CROSS_ENTROPY,
    MLXR_QUANTIZE,
    MLXR_DEQUANTIZE,
    MLXR_QUANTIZED_MATMUL,
    MLXR_GATHER_QMM,
    MLXR_CONV,
    MLXR_RANDOM_BITS,
    MLXR_HADAMARD,
    MLXR_FULL,
    MLXR_ARANGE
};

enum mlxr_mask_mode { MLXR_MASK_NONE = 0, MLXR_MASK_CAUSAL = 1, MLXR_MASK_ARRAY = 2 };

enum mlxr_quant_mode { MLXR_AFFINE = 0, MLXR_MXFP4 = 1, MLXR_MXFP8 = 2, MLXR_NVFP4 = 3 };

enum mlxr_pad_mode { MLXR_PAD_CONSTANT = 0, MLXR_PAD_EDGE = 1 };

enum mlxr_capability_kind {
    MLXR_CAP_UPSTREAM = 0,    /* 1: the upstream half is in this library */
    MLXR_CAP_METAL = 1,       /* 1: the Metal half is in this library */
    MLXR_CAP_CPU_COUNT = 2,   /* CPU devices */
    MLXR_CAP_GPU_COUNT = 3,   /* GPU devices (Metal or CUDA) */
    MLXR_CAP_SHARE_HOST = 4,  /* 1: mlxr_array_share() can work without copying */
    MLXR_CAP_MEMORY_LIMIT = 5 /* the number of bytes above which one array is refused */
};

enum mlxr_array_flag {
    MLXR_FLAG_AVAILABLE = 1,      /* evaluated: `data` may be read */
    MLXR_FLAG_ROW_CONTIGUOUS = 2, /* row-major without gaps */
    MLXR_FLAG_SHARED = 4          /* the memory is not upstream's own: see mlxr_array_share() */
};

enum mlxr_metal_device_flag {
    MLXR_METAL_UNIFIED = 1, /* host and device share their memory */
    MLXR_METAL_STAND_IN = 2 /* no GPU: software that behaves like one */
};

enum mlxr_metal_buffer_flag {
    MLXR_METAL_SHARED = 1 /* the memory is the caller's: see mlxr_metal_buffer_share() */
};

/* Types of function constants. */
enum mlxr_metal_type {
    MLXR_METAL_BOOL = 0,
    MLXR_METAL_INT = 1,  /* int32_t */
    MLXR_METAL_UINT = 2, /* uint32_t */
    MLXR_METAL_FLOAT = 3 /* binary32 */
};

enum mlxr_memory_figure {
    MLXR_MEMORY_ACTIVE = 0,
    MLXR_MEMORY_PEAK = 1, /* may be set, to 0 */
    MLXR_MEMORY_CACHE = 2,
    MLXR_MEMORY_LIMIT = 3,      /* may be set */
    MLXR_MEMORY_CACHE_LIMIT = 4 /* may be set; reading it is MLXR_E_UNSUPPORTED: upstream has no getter */
};

/* What an array is. Set `size` to sizeof(mlxr_array_info) before the call. */
typedef struct mlxr_array_info {
    uint32_t size;
    int32_t dtype;
    int32_t ndim;
    uint32_t flags; /* enum mlxr_array_flag */
    uint64_t count; /* elements */
    void *data;     /* the element at index (0, 0, ...); NULL unless MLXR_FLAG_AVAILABLE */
    int64_t shape[MLXR_MAX_NDIM];
    int64_t strides[MLXR_MAX_NDIM]; /* in elements; all 0 unless MLXR_FLAG_AVAILABLE */
} mlxr_array_info;

/* Parameters of a convolution over `spatial` axes (1 to 3). Layout is upstream's: input N..C, weight O..I. */
typedef struct mlxr_conv_params {
    uint32_t size;
    int32_t spatial;
    int32_t stride[3];
    int32_t padding_low[3];
    int32_t padding_high[3];
    int32_t kernel_dilation[3];
    int32_t input_dilation[3];
    int32_t groups;
    int32_t flip;
} mlxr_conv_params;

/* One step of a program. Values are numbered: the inputs first, then one for each step. */
typedef struct mlxr_instr {
    uint32_t size; /* sizeof(mlxr_instr); also the distance to the next one */
    int32_t op;
    int32_t in[4]; /* value numbers of earlier values, -1 for none */
    int32_t ints;  /* parameters: the first of `nints` in program->ints ... */
    int32_t nints;
    int32_t floats; /* ... and of `nfloats` in program->floats; see mlxr_run() */
    int32_t nfloats;
} mlxr_instr;

typedef struct mlxr_program {
    uint32_t size;
    int32_t ninputs;
    int32_t ninstrs;
    int32_t nresults;
    int32_t nints;
    int32_t nfloats;
    const mlxr_instr *instrs;
    const int32_t *results; /* value numbers that are handed out */
    const int64_t *ints;
    const double *floats;
} mlxr_program;

/* A Metal device and its limits. Set `size` to sizeof(mlxr_metal_device_info) before the call. */
typedef struct mlxr_metal_device_info {
    uint32_t size;
    uint32_t flags;              /* enum mlxr_metal_device_flag */
    uint64_t max_buffer_length;  /* bytes of one buffer */
    uint64_t working_set;        /* bytes that all buffers should stay below */
    uint32_t max_threads[3];     /* threads per threadgroup along each axis */
    uint32_t threadgroup_memory; /* bytes per threadgroup */
    uint32_t page_size;          /* what pointer and length of shared memory must be multiples of */
    uint32_t family;             /* the highest Apple GPU family: 7 for M1, 8 for M2, 9 for M3; 0 if it is none */
    char name[128];              /* ends with 0 */
} mlxr_metal_device_info;

/* What the compiler made of a kernel. */
typedef struct mlxr_metal_pipeline_info {
    uint32_t size;
    uint32_t max_threads;        /* per threadgroup, for this kernel */
    uint32_t simd_width;         /* threads of a SIMD group */
    uint32_t threadgroup_memory; /* bytes that the kernel declares itself */
} mlxr_metal_pipeline_info;

typedef struct mlxr_metal_buffer_info {
    uint32_t size;
    uint32_t flags; /* enum mlxr_metal_buffer_flag */
    uint64_t nbytes;
    void *data; /* host address */
} mlxr_metal_buffer_info;

/* The value of one function constant. */
typedef struct mlxr_metal_constant {
    uint32_t size;
    int32_t index; /* [[function_constant(index)]] */
    int32_t type;  /* enum mlxr_metal_type */
    uint32_t bits; /* the value; a bool is 0 or 1 */
} mlxr_metal_constant;

/* One argument of a launch, [[buffer(i)]] for the i-th: a buffer from `offset` on, or bytes passed by value. */
typedef struct mlxr_metal_argument {
    uint32_t size;            /* sizeof(mlxr_metal_argument); also the distance to the next one */
    uint32_t nbytes;          /* by value: how many, at most MLXR_METAL_MAX_BYTES */
    mlxr_metal_object buffer; /* 0: by value */
    uint64_t offset;          /* into the buffer, or into the batch's bytes */
} mlxr_metal_argument;

/* One dispatch of whole threadgroups. */
typedef struct mlxr_metal_launch {
    uint32_t size;      /* sizeof(mlxr_metal_launch); also the distance to the next one */
    int32_t argument;   /* the first one in batch->arguments */
    int32_t narguments; /* at most MLXR_METAL_MAX_ARGUMENTS */
    uint32_t grid[3];   /* threadgroups; with a 0 among them nothing runs */
    uint32_t group[3];  /* threads per threadgroup */
    uint32_t threadgroup_memory[MLXR_METAL_MAX_THREADGROUP_BUFFERS]; /* bytes of [[threadgroup(i)]]; 0: none */
    mlxr_metal_object pipeline;
} mlxr_metal_launch;

/* What mlxr_metal_submit() makes one command buffer of. */
typedef struct mlxr_metal_batch {
    uint32_t size;
    int32_t nlaunches;
    int32_t narguments;
    uint32_t reserved; /* 0 */
    uint64_t nbytes;
    const mlxr_metal_launch *launches; /* run in this order: each one sees what earlier ones wrote */
    const mlxr_metal_argument *arguments;
    const void *bytes;            /* of all arguments that are passed by value */
    mlxr_metal_object wait_event; /* 0, or wait for this event to reach wait_value before the first launch */
    uint64_t wait_value;
    mlxr_metal_object signal_event; /* 0, or set this event to signal_value after the last launch */
    uint64_t signal_value;
} mlxr_metal_batch;

/* What the Metal half has done since it was loaded, or since mlxr_metal_counters_reset(), and what there is now. */
typedef struct mlxr_metal_counters {
    uint32_t size;
    uint32_t in_flight;          /* now: command buffers that have not completed */
    uint64_t command_buffers;    /* committed */
    uint64_t failures;           /* of them, failed */
    uint64_t dispatches;         /* launches that were encoded */
    uint64_t bytes_copied;       /* by mlxr_metal_buffer_copy() */
    uint64_t bytes_shared;       /* by mlxr_metal_buffer_share() */
    uint64_t allocations;        /* buffers asked of the device */
    uint64_t reuses;             /* buffers taken from the cache instead */
    uint64_t libraries_compiled; /* from source */
    uint64_t pipelines_compiled; /* by the driver */
    uint64_t pipelines_loaded;   /* found in the cache on disk instead */
    uint64_t live_buffers;       /* now: buffers that somebody holds, a command buffer in flight included */
    uint64_t live_bytes;         /* now: in them, shared memory excluded */
} mlxr_metal_counters;

/* ---- Versions, errors, capabilities ----------------------------------------------------------------------------- */

/* The ABI of the loaded library, major << 16 | minor. Never fails; may be called before mlxr_init(). */
MLXR_API uint32_t mlxr_abi_version(void);

/* Checks that the library serves a caller that was written for `want` (MLXR_ABI_VERSION of its header), and, in the
 * upstream half, that the MLX found at load time is exactly the one compiled against: it promises no stable C++ ABI, so
 * this is the first thing to call. May be called again. MLXR_E_ABI. */
MLXR_API mlxr_status mlxr_init(uint32_t want);

/* Upstream's version: as compiled against, and as loaded. Static strings, empty in the Metal half; may be called before
 * mlxr_init(). */
MLXR_API const char *mlxr_upstream_version_compiled(void);
MLXR_API const char *mlxr_upstream_version_loaded(void);

/* The calling thread's last failure. The text belongs to the thread and is valid until its next failing call. */
MLXR_API mlxr_status mlxr_last_error_code(void);
MLXR_API const char *mlxr_last_error(void);

/* One figure of enum mlxr_capability_kind, of this half. A kind that this library does not know is MLXR_E_UNSUPPORTED. */
MLXR_API mlxr_status mlxr_capability(int32_t kind, int64_t *value);

/* 1 if operation `op` exists here for elements of `dtype` on a device of `device_type`, else 0. Never fails. The Metal
 * half has no operations, only kernels: 0. */
MLXR_API int32_t mlxr_supports(int32_t op, int32_t dtype, int32_t device_type);

/* ---- Devices and streams ---------------------------------------------------------------------------------------- */

/* The number of devices of a type. */
MLXR_API mlxr_status mlxr_device_count(int32_t device_type, int32_t *count);

/* Properties of a device, as "key=value" lines. Writes at most `capacity` bytes with the final 0 and, if `needed` is
 * given, the number of bytes that the whole text takes. MLXR_E_DEVICE. */
MLXR_API mlxr_status mlxr_device_info(int32_t device_type, int32_t index, char *text, size_t capacity, size_t *needed);

/* The shim's own default stream of a device: the same number on every call and in every thread. MLXR_E_DEVICE. */
MLXR_API mlxr_status mlxr_stream_default(int32_t device_type, int32_t index, mlxr_stream *stream);

/* A further stream. It has a worker thread and lives until the process ends. At most 64. */
MLXR_API mlxr_status mlxr_stream_new(int32_t device_type, int32_t index, mlxr_stream *stream);

/* The device that a stream runs on. */
MLXR_API mlxr_status mlxr_stream_device(mlxr_stream stream, int32_t *device_type, int32_t *index);

/* ---- Arrays ----------------------------------------------------------------------------------------------------- */

/* An array that uses the caller's memory, without copying. `strides` may be NULL for row-major. The memory must stay
 * valid, and must not be written, until `token` comes out of mlxr_released(); the token is the caller's and means
 * nothing here. It never comes out if this call fails.
 * MLXR_E_UNSUPPORTED where sharing needs a copy: negative strides, a misaligned pointer, upstream builds whose buffers
 * are not host memory, memory whose preceding 8 bytes cannot be read (upstream looks there). */
MLXR_API mlxr_array mlxr_array_share(void *data, const int64_t *shape, const int64_t *strides, int32_t ndim,
                                     int32_t dtype, uint64_t token);

/* An array with a copy of row-major elements. */
MLXR_API mlxr_array mlxr_array_copy(const void *data, const int64_t *shape, int32_t ndim, int32_t dtype);

/* Takes up to `capacity` tokens of shared memory that upstream has let go of. Returns how many were written. */
MLXR_API size_t mlxr_released(uint64_t *tokens, size_t capacity);

/* One more owner of a handle: mlxr_array_free() then has to be called once more. */
MLXR_API mlxr_status mlxr_array_retain(mlxr_array array);

/* Gives a handle back. 0 is allowed and does nothing. Freeing twice is MLXR_E_HANDLE. */
MLXR_API mlxr_status mlxr_array_free(mlxr_array array);

/* Gives `n` handles back. Bad ones are skipped, and reported once as MLXR_E_HANDLE. */
MLXR_API mlxr_status mlxr_array_free_many(const mlxr_array *arrays, int32_t n);

/* The number of handles that have not been given back. */
MLXR_API int64_t mlxr_live_handles(void);

/* Describes an array. Does not evaluate. */
MLXR_API mlxr_status mlxr_array_info_get(mlxr_array array, mlxr_array_info *info);

/* ---- Evaluation and memory -------------------------------------------------------------------------------------- */

/* Runs the graphs of `n` arrays and waits for them. When it fails, the arrays that may have been hit are poisoned:
 * using them is MLXR_E_POISONED until they are freed, and the text goes on with that of the first failure. */
MLXR_API mlxr_status mlxr_eval(const mlxr_array *arrays, int32_t n);

/* Starts the graphs of `n` arrays and returns. A failure is reported by a later mlxr_eval() or mlxr_synchronize(). */
MLXR_API mlxr_status mlxr_async_eval(const mlxr_array *arrays, int32_t n);

/* Waits for what was started on a stream, or on MLXR_ALL_STREAMS. */
MLXR_API mlxr_status mlxr_synchronize(mlxr_stream stream);

/* Reads a figure of enum mlxr_memory_figure, in bytes. */
MLXR_API mlxr_status mlxr_memory_get(int32_t figure, uint64_t *bytes);

/* Sets one; `previous` may be NULL. MLXR_E_INVALID for figures that cannot be set. */
MLXR_API mlxr_status mlxr_memory_set(int32_t figure, uint64_t bytes, uint64_t *previous);

/* Gives cached buffers back to the system. */
MLXR_API mlxr_status mlxr_memory_clear_cache(void);

/* ---- Elementwise ------------------------------------------------------------------------------------------------ */

MLXR_API mlxr_array mlxr_unary(int32_t op, mlxr_array a, mlxr_stream stream);

/* Broadcasts, and promotes dtypes as upstream does. MLXR_E_ARITHMETIC: see enum mlxr_binary_op. */
MLXR_API mlxr_array mlxr_binary(int32_t op, mlxr_array a, mlxr_array b, mlxr_stream stream);

/* Quotient and remainder: out[0], out[1]. Checked like MLXR_FLOOR_DIVIDE. */
MLXR_API mlxr_status mlxr_divmod(mlxr_array a, mlxr_array b, mlxr_stream stream, mlxr_array *out);

MLXR_API mlxr_array mlxr_select(int32_t op, mlxr_array a, mlxr_array b, mlxr_array c, mlxr_stream stream);

MLXR_API mlxr_array mlxr_cast(int32_t op, mlxr_array a, int32_t dtype, mlxr_stream stream);

/* An array of `shape` filled with `value`, which must broadcast to it. */
MLXR_API mlxr_array mlxr_full(mlxr_array value, const int64_t *shape, int32_t ndim, int32_t dtype, mlxr_stream stream);

/* start, start + step, ... below stop. */
MLXR_API mlxr_array mlxr_arange(double start, double stop, double step, int32_t dtype, mlxr_stream stream);

/* ---- Reductions, scans, sorting --------------------------------------------------------------------------------- */

/* `naxes` of MLXR_ALL_AXES reduces everything; 0 reduces nothing. `parameter`: see enum mlxr_reduce_op. */
MLXR_API mlxr_array mlxr_reduce(int32_t op, mlxr_array a, const int32_t *axes, int32_t naxes, int32_t keepdims,
                                int32_t parameter, mlxr_stream stream);

/* `axis` may be MLXR_FLATTEN. */
MLXR_API mlxr_array mlxr_scan(int32_t op, mlxr_array a, int32_t axis, int32_t reverse, int32_t inclusive,
                              mlxr_stream stream);

/* `axis` may be MLXR_FLATTEN. `k`: the element that a partition puts in place, or how many MLXR_TOPK keeps. */
MLXR_API mlxr_array mlxr_sort(int32_t op, mlxr_array a, int32_t axis, int32_t k, mlxr_stream stream);

/* Where `values` would go in the sorted sequence `a`; before equal elements, or after them if `right`. */
MLXR_API mlxr_array mlxr_searchsorted(mlxr_array a, mlxr_array values, int32_t right, mlxr_stream stream);

/* `precise` accumulates in float32. */
MLXR_API mlxr_array mlxr_softmax(mlxr_array a, const int32_t *axes, int32_t naxes, int32_t precise, mlxr_stream stream);

/* ---- Matrix products -------------------------------------------------------------------------------------------- */

MLXR_API mlxr_array mlxr_matmul(mlxr_array a, mlxr_array b, mlxr_stream stream);

/* alpha * a @ b + beta * c */
MLXR_API mlxr_array mlxr_addmm(mlxr_array c, mlxr_array a, mlxr_array b, float alpha, float beta, mlxr_stream stream);

/* Products of matrices chosen by index; `lhs` and `rhs` index the flattened batch axes of a and b, and may be 0.
 * Evaluates the indices. MLXR_E_INDEX. */
MLXR_API mlxr_array mlxr_gather_mm(mlxr_array a, mlxr_array b, mlxr_array lhs, mlxr_array rhs, int32_t sorted,
                                   mlxr_stream stream);

/* Product that skips blocks; each mask may be 0. */
MLXR_API mlxr_array mlxr_block_masked_mm(mlxr_array a, mlxr_array b, int32_t block, mlxr_array mask_out,
                                         mlxr_array mask_lhs, mlxr_array mask_rhs, mlxr_stream stream);

/* One product for each segment [first, last) of the inner axis. Evaluates `segments`. MLXR_E_INDEX. */
MLXR_API mlxr_array mlxr_segmented_mm(mlxr_array a, mlxr_array b, mlxr_array segments, mlxr_stream stream);

/* ---- Layout ----------------------------------------------------------------------------------------------------- */

/* At most one extent may be -1. */
MLXR_API mlxr_array mlxr_reshape(mlxr_array a, const int64_t *shape, int32_t ndim, mlxr_stream stream);

/* `axes` of NULL reverses them. */
MLXR_API mlxr_array mlxr_transpose(mlxr_array a, const int32_t *axes, int32_t naxes, mlxr_stream stream);

MLXR_API mlxr_array mlxr_broadcast_to(mlxr_array a, const int64_t *shape, int32_t ndim, mlxr_stream stream);

/* Three arrays of as many entries as `a` has axes. Negative steps run backwards (a stop before the first element is
 * -extent - 1). */
MLXR_API mlxr_array mlxr_slice(mlxr_array a, const int64_t *start, const int64_t *stop, const int64_t *step, int32_t n,
                               mlxr_stream stream);

/* `a` with `update` put into a slice; `op` is one of enum mlxr_update_op. */
MLXR_API mlxr_array mlxr_slice_update(int32_t op, mlxr_array a, mlxr_array update, const int64_t *start,
                                      const int64_t *stop, const int64_t *step, int32_t n, mlxr_stream stream);

/* A window on the row-major elements of `a`; offset and strides in elements. MLXR_E_INDEX if it leaves them. */
MLXR_API mlxr_array mlxr_as_strided(mlxr_array a, const int64_t *shape, const int64_t *strides, int32_t ndim,
                                    int64_t offset, mlxr_stream stream);

MLXR_API mlxr_array mlxr_concatenate(const mlxr_array *arrays, int32_t n, int32_t axis, mlxr_stream stream);

/* `low` and `high` have as many entries as `a` has axes, none negative. `value` is a scalar; 0 stands for zeros. */
MLXR_API mlxr_array mlxr_pad(mlxr_array a, const int64_t *low, const int64_t *high, int32_t n, mlxr_array value,
                             int32_t mode, mlxr_stream stream);

/* Row-major elements (or column-major ones if that is allowed and they are); shares memory where they already are. */
MLXR_API mlxr_array mlxr_contiguous(mlxr_array a, int32_t allow_column_major, mlxr_stream stream);

/* ---- Indexing: all of these evaluate the index operands, and refuse bad ones with MLXR_E_INDEX ------------------ */

/* Negative indices count from the end. `axis` may be MLXR_FLATTEN. */
MLXR_API mlxr_array mlxr_take(mlxr_array a, mlxr_array indices, int32_t axis, mlxr_stream stream);

MLXR_API mlxr_array mlxr_take_along_axis(mlxr_array a, mlxr_array indices, int32_t axis, mlxr_stream stream);

/* Windows of `slice_sizes` (one extent for each axis of `a`) at positions given by `n` index arrays for `axes`. */
MLXR_API mlxr_array mlxr_gather(mlxr_array a, const mlxr_array *indices, const int32_t *axes, int32_t n,
                                const int64_t *slice_sizes, int32_t ndim, mlxr_stream stream);

/* `updates` has the shape of the broadcast indices followed by one extent for each axis of `a`. `op` is one of enum
 * mlxr_update_op. */
MLXR_API mlxr_array mlxr_scatter(int32_t op, mlxr_array a, const mlxr_array *indices, const int32_t *axes, int32_t n,
                                 mlxr_array updates, mlxr_stream stream);

/* The inverse of mlxr_take_along_axis(); `op` is MLXR_UPDATE_SET or MLXR_UPDATE_ADD. */
MLXR_API mlxr_array mlxr_scatter_axis(int32_t op, mlxr_array a, mlxr_array indices, mlxr_array values, int32_t axis,
                                      mlxr_stream stream);

/* `a` with the elements where `mask` is true replaced by those of `source`, in order. Evaluates `mask`. */
MLXR_API mlxr_array mlxr_masked_scatter(mlxr_array a, mlxr_array mask, mlxr_array source, mlxr_stream stream);

/* ---- Fused operations ------------------------------------------------------------------------------------------- */

/* `weight` may be 0. */
MLXR_API mlxr_array mlxr_rms_norm(mlxr_array x, mlxr_array weight, float eps, mlxr_stream stream);

/* `weight` and `bias` may be 0. */
MLXR_API mlxr_array mlxr_layer_norm(mlxr_array x, mlxr_array weight, mlxr_array bias, float eps, mlxr_stream stream);

/* Rotary positions. `offset_array`, if not 0, takes the place of `offset`; `freqs`, if not 0, that of `base`. */
MLXR_API mlxr_array mlxr_rope(mlxr_array x, int32_t dims, int32_t traditional, float base, float scale, int32_t offset,
                              mlxr_array offset_array, mlxr_array freqs, mlxr_stream stream);

/* Attention. `mask` goes with MLXR_MASK_ARRAY only; `sinks` may be 0. */
MLXR_API mlxr_array mlxr_sdpa(mlxr_array q, mlxr_array k, mlxr_array v, float scale, int32_t mask_mode, mlxr_array mask,
                              mlxr_array sinks, mlxr_stream stream);

/* Cross entropy of logits with class indices. Evaluates `targets`. MLXR_E_INDEX. */
MLXR_API mlxr_array mlxr_cross_entropy(mlxr_array logits, mlxr_array targets, mlxr_stream stream);

/* out[0] the packed words, out[1] scales, out[2] biases, or 0 in modes that have none. `group_size` and `bits` of 0
 * mean the mode's own. */
MLXR_API mlxr_status mlxr_quantize(mlxr_array w, int32_t group_size, int32_t bits, int32_t mode, mlxr_stream stream,
                                   mlxr_array *out);

MLXR_API mlxr_array mlxr_dequantize(mlxr_array w, mlxr_array scales, mlxr_array biases, int32_t group_size,
                                    int32_t bits, int32_t mode, int32_t dtype, mlxr_stream stream);

MLXR_API mlxr_array mlxr_quantized_matmul(mlxr_array x, mlxr_array w, mlxr_array scales, mlxr_array biases,
                                          int32_t transpose, int32_t group_size, int32_t bits, int32_t mode,
                                          mlxr_stream stream);

/* mlxr_gather_mm() with quantized matrices on the right. Evaluates the indices. MLXR_E_INDEX. */
MLXR_API mlxr_array mlxr_gather_qmm(mlxr_array x, mlxr_array w, mlxr_array scales, mlxr_array biases, mlxr_array lhs,
                                    mlxr_array rhs, int32_t transpose, int32_t group_size, int32_t bits, int32_t mode,
                                    int32_t sorted, mlxr_stream stream);

/* ---- Convolution, random bits, transforms ----------------------------------------------------------------------- */

/* MLXR_E_INVALID for an empty kernel or input, or no groups; MLXR_E_UNSUPPORTED for negative padding of an axis whose
 * input dilation is above 1. */
MLXR_API mlxr_array mlxr_conv(mlxr_array input, mlxr_array weight, const mlxr_conv_params *params, mlxr_stream stream);

/* Unsigned integers of `width` bytes (1, 2 or 4) from a key of two uint32. */
MLXR_API mlxr_array mlxr_random_bits(mlxr_array key, const int64_t *shape, int32_t ndim, int32_t width,
                                     mlxr_stream stream);

/* Walsh-Hadamard transform of the last axis. */
MLXR_API mlxr_array mlxr_hadamard(mlxr_array a, float scale, mlxr_stream stream);

/* Over `naxes` axes, each resized to lengths[i] first; `norm` is one of enum mlxr_fft_norm. */
MLXR_API mlxr_array mlxr_fft(int32_t op, mlxr_array a, const int64_t *lengths, const int32_t *axes, int32_t naxes,
                             int32_t norm, mlxr_stream stream);

/* ---- Linear algebra: runs inside the call, on the CPU ----------------------------------------------------------- */

/* `b` and `flag`: see enum mlxr_linalg_op, as is the number of outputs, which `nout` must equal. A matrix that LAPACK
 * cannot handle (singular, not positive definite, not finite) is MLXR_E_RUNTIME. */
MLXR_API mlxr_status mlxr_linalg(int32_t op, mlxr_array a, mlxr_array b, int32_t flag, mlxr_array *out, int32_t nout);

/* ---- Programs --------------------------------------------------------------------------------------------------- */

/* Builds a whole program of operations in one call. `inputs` has program->ninputs handles, `out` receives
 * program->nresults. Values that are not results never become handles, so nothing has to be freed for them. Everything
 * that the single functions check is checked, and when a step fails nothing is handed out.
 *
 * Operands and parameters (ints, then floats) of a step, in order:
 *   unary, select        operands            -
 *   binary               a b                 -
 *   cast                 a                   dtype
 *   reduce               a                   keepdims, parameter, axes... (no axes: all)
 *   scan                 a                   axis, reverse, inclusive
 *   sort                 a                   axis, k
 *   MATMUL               a b                 -
 *   ADDMM                c a b               - | alpha, beta
 *   RESHAPE              a                   shape...
 *   TRANSPOSE            a                   axes... (none: reversed)
 *   BROADCAST_TO         a                   shape...
 *   SLICE                a                   start..., stop..., step...
 *   AS_STRIDED           a                   shape..., strides..., offset
 *   CONCATENATE          up to 4             axis
 *   CONTIGUOUS           a                   -
 *   TAKE                 a indices           axis
 *   TAKE_ALONG_AXIS      a indices           axis
 *   SOFTMAX              a                   precise, axes...
 *   RMS_NORM             x weight            - | eps
 *   LAYER_NORM           x weight bias       - | eps
 *   ROPE                 x offset freqs      dims, traditional, offset | base, scale
 *   SDPA                 q k v mask          mask_mode | scale
 *   QUANTIZED_MATMUL     x w scales biases   transpose, group_size, bits, mode
 * Any other operation is MLXR_E_OPCODE. */
MLXR_API mlxr_status mlxr_run(const mlxr_program *program, const mlxr_array *inputs, mlxr_stream stream,
                              mlxr_array *out);

/* ---- Metal: device and queues ----------------------------------------------------------------------------------- */

/* The Metal half runs kernels and knows nothing of arrays, dtypes or operations. Objects are queues, libraries,
 * pipelines, buffers, events and commands. Commands in flight keep everything that they use: any handle may be freed at
 * any time. */

/* The system's default Metal device, which all functions below use. MLXR_E_DEVICE if there is none. */
MLXR_API mlxr_status mlxr_metal_device_info_get(mlxr_metal_device_info *info);

/* A queue: what is submitted to one queue runs in that order. `in_flight` is how many command buffers it holds before
 * mlxr_metal_submit() waits for the oldest; 1 to 65536. */
MLXR_API mlxr_metal_object mlxr_metal_queue_new(int32_t in_flight);

/* Gives a handle of any kind back. 0 is allowed and does nothing. Freeing twice is MLXR_E_HANDLE. */
MLXR_API mlxr_status mlxr_metal_free(mlxr_metal_object object);

/* Gives `n` handles back. Bad ones are skipped, and reported once as MLXR_E_HANDLE. */
MLXR_API mlxr_status mlxr_metal_free_many(const mlxr_metal_object *objects, int32_t n);

/* The number of handles that have not been given back. */
MLXR_API int64_t mlxr_metal_live_objects(void);

/* ---- Metal: libraries and pipelines ----------------------------------------------------------------------------- */

/* Where compiled pipelines are kept between processes: an existing folder, or NULL for nowhere (the default). Holds for
 * libraries that are made afterwards. MLXR_E_INVALID if it is no folder. */
MLXR_API mlxr_status mlxr_metal_cache_folder(const char *folder);

/* A library of kernels from Metal source. The source has no includes but those of the system: the compiler has no
 * folder to look into. `name` goes into messages. Floating point is strict (no fast math). MLXR_E_COMPILE, with the
 * compiler's text: file and line are the source's, as its #line directives say. */
MLXR_API mlxr_metal_object mlxr_metal_library_source(const char *name, const char *source);

/* A library of kernels from a .metallib file. MLXR_E_COMPILE if it is none. */
MLXR_API mlxr_metal_object mlxr_metal_library_file(const char *path);

/* The names of a library's kernels, each on a line. Writes at most `capacity` bytes with the final 0 and, if `needed` is
 * given, the number of bytes that the whole text takes. */
MLXR_API mlxr_status mlxr_metal_library_functions(mlxr_metal_object library, char *text, size_t capacity,
                                                  size_t *needed);

/* A kernel, specialised by the values of its function constants and ready to run. Compiled once for each set of values;
 * asked for again, it costs a lookup. MLXR_E_COMPILE, with the kernel's name, if the library has no such kernel or the
 * driver refuses it. */
MLXR_API mlxr_metal_object mlxr_metal_pipeline_get(mlxr_metal_object library, const char *function,
                                                   const mlxr_metal_constant *constants, int32_t nconstants);

MLXR_API mlxr_status mlxr_metal_pipeline_info_get(mlxr_metal_object pipeline, mlxr_metal_pipeline_info *info);

/* Writes compiled pipelines that are new to the cache on disk. Freeing a library does it too. */
MLXR_API mlxr_status mlxr_metal_cache_write(void);

/* ---- Metal: buffers --------------------------------------------------------------------------------------------- */

/* A buffer of at least `nbytes` bytes, visible to host and device, with undefined content. Freed buffers are kept and
 * used again, once no command in flight uses them. MLXR_E_MEMORY. */
MLXR_API mlxr_metal_object mlxr_metal_buffer_new(uint64_t nbytes);

/* A buffer on the caller's memory, without copying. `data` and `nbytes` must be multiples of the device's page size,
 * else MLXR_E_UNSUPPORTED. The memory must stay valid until `token` comes out of mlxr_metal_released(); the token is the
 * caller's and means nothing here. It never comes out if this call fails. */
MLXR_API mlxr_metal_object mlxr_metal_buffer_share(void *data, uint64_t nbytes, uint64_t token);

/* A buffer with a copy of `nbytes` bytes, which are counted. */
MLXR_API mlxr_metal_object mlxr_metal_buffer_copy(const void *data, uint64_t nbytes);

/* Takes up to `capacity` tokens of shared memory that no buffer uses any more. Returns how many were written. */
MLXR_API size_t mlxr_metal_released(uint64_t *tokens, size_t capacity);

MLXR_API mlxr_status mlxr_metal_buffer_info_get(mlxr_metal_object buffer, mlxr_metal_buffer_info *info);

/* Figures of enum mlxr_memory_figure for the device's buffers, in bytes; as mlxr_memory_get(), _set() and _clear_cache(),
 * except that the cache limit can be read. The memory limit is where the cache is given back before more is asked for. */
MLXR_API mlxr_status mlxr_metal_memory_get(int32_t figure, uint64_t *bytes);
MLXR_API mlxr_status mlxr_metal_memory_set(int32_t figure, uint64_t bytes, uint64_t *previous);
MLXR_API mlxr_status mlxr_metal_memory_clear_cache(void);

/* ---- Metal: commands -------------------------------------------------------------------------------------------- */

/* Encodes a batch as one command buffer and commits it. Everything is checked before anything is encoded: handles,
 * offsets, sizes of groups and of threadgroup memory; the message names the kernel. Returns the commands. */
MLXR_API mlxr_metal_object mlxr_metal_submit(mlxr_metal_object queue, const mlxr_metal_batch *batch);

/* Waits for commands. Returns how they ended: MLXR_OK, MLXR_E_EXECUTION, MLXR_E_MEMORY or MLXR_E_DEVICE_LOST, with the
 * names of the kernels in the message, on every call. What failed commands were to write is undefined. */
MLXR_API mlxr_status mlxr_metal_wait(mlxr_metal_object commands);

/* Tells whether commands have ended, well or not: *done is 1 or 0. */
MLXR_API mlxr_status mlxr_metal_done(mlxr_metal_object commands, int32_t *done);

/* When the GPU began and ended, in seconds of a clock of its own. MLXR_E_STATE while it has not ended. */
MLXR_API mlxr_status mlxr_metal_times(mlxr_metal_object commands, double *start, double *end);

/* Waits for everything that was submitted to a queue; 0: to any. Failures are mlxr_metal_wait()'s to report. */
MLXR_API mlxr_status mlxr_metal_synchronize(mlxr_metal_object queue);

/* ---- Metal: events ---------------------------------------------------------------------------------------------- */

/* A counter that batches wait for and set, on any queue, and the host too. Starts at 0; only ever grows. */
MLXR_API mlxr_metal_object mlxr_metal_event_new(void);
MLXR_API mlxr_status mlxr_metal_event_get(mlxr_metal_object event, uint64_t *value);
MLXR_API mlxr_status mlxr_metal_event_set(mlxr_metal_object event, uint64_t value);

/* ---- Metal: measuring ------------------------------------------------------------------------------------------- */

/* Set `size` to sizeof(mlxr_metal_counters) before the call. */
MLXR_API mlxr_status mlxr_metal_counters_get(mlxr_metal_counters *counters);

/* Sets to 0 what counts events; what there is now stays. */
MLXR_API mlxr_status mlxr_metal_counters_reset(void);

/* Records everything that is submitted, into a .gputrace that Xcode opens. MLXR_E_UNSUPPORTED where the system does not
 * allow it (on a Mac: unless METAL_CAPTURE_ENABLED=1 is set); MLXR_E_STATE if it is on already, or is not. */
MLXR_API mlxr_status mlxr_metal_capture_start(const char *path);
MLXR_API mlxr_status mlxr_metal_capture_stop(void);

#ifdef __cplusplus
}
#endif

#endif /* MLXR_SHIM_H */
