// Barriers, SIMD-group functions and the 8x8 simdgroup matrices.
//
// A function that exchanges values waits until all lanes that still run have come to the same call. As on Apple's GPUs the
// exchanged types are of at most 32 bits a component, and neither bool nor bfloat.
#pragma once
#include "math.h"

namespace metal {

enum class mem_flags { mem_none = 0, mem_device = 1, mem_threadgroup = 2, mem_texture = 4 };
constexpr mem_flags operator|(mem_flags a, mem_flags b) {
    return (mem_flags)((int)a | (int)b);
}

inline void threadgroup_barrier(mem_flags flags, STANDIN_SITE) {
    standin::standin_threadgroup_barrier((int)flags, file_, line_);
}
inline void simdgroup_barrier(mem_flags flags, STANDIN_SITE) {
    standin::standin_simd_rendezvous("simdgroup_barrier", file_, line_, 0, (int)flags, false);
}

} // namespace metal

namespace standin {

template <class T>
constexpr bool is_exchangeable =
    is_scalar<typename shape<T>::element> && sizeof(typename shape<T>::element) <= 4 &&
    !std::is_same<typename shape<T>::element, bool>::value && !std::is_same<typename shape<T>::element, bfloat>::value;

// What all lanes of the simdgroup gave to one operation.
template <class T>
struct Exchange {
    const T *values;
    uint32_t active;
    unsigned lane;
    bool is_active(unsigned i) const { return active >> i & 1; }
};

template <class T>
STANDIN_UNCHECKED Exchange<T> exchange(const char *operation, const T &value, const char *file, int line) {
    static_assert(is_exchangeable<T>, "SIMD-group functions take scalars and vectors of 32 bits a component at most, "
                                      "and neither bool nor bfloat");
    unsigned lane = standin_lane();
    static_cast<T *>(standin_simd_deposit())[lane] = value;
    uint32_t active = standin_simd_rendezvous(operation, file, line, sizeof(T) * kSimdWidth, 0, false);
    return {static_cast<const T *>(standin_simd_received()), active, lane};
}

template <class T>
STANDIN_UNCHECKED T take(const Exchange<T> &e, const char *operation, const char *file, int line, long lane) {
    if (lane < 0 || lane >= (long)kSimdWidth || !e.is_active((unsigned)lane))
        standin_inactive_lane(operation, file, line, lane);
    return e.values[lane];
}

template <class T, class F>
STANDIN_UNCHECKED T reduce(const Exchange<T> &e, F combine) {
    unsigned i = (unsigned)__builtin_ctz(e.active);
    T r = e.values[i];
    for (++i; i < kSimdWidth; ++i)
        if (e.is_active(i)) r = combine(r, e.values[i]);
    return r;
}

} // namespace standin

namespace metal {

#define STANDIN_REDUCE(name, expression)                                                                               \
    template <class T>                                                                                                 \
    inline T name(T data, STANDIN_SITE) {                                                                              \
        return standin::reduce(standin::exchange(#name, data, file_, line_),                                           \
                               [](T a, T b)                                                                            \
                                   __attribute__((no_sanitize("thread", "undefined"))) { return expression; });        \
    }
STANDIN_REDUCE(simd_sum, (T)(a + b))
STANDIN_REDUCE(simd_product, (T)(a * b))
STANDIN_REDUCE(simd_max, max(a, b))
STANDIN_REDUCE(simd_min, min(a, b))
STANDIN_REDUCE(simd_and, (T)(a & b))
STANDIN_REDUCE(simd_or, (T)(a | b))
STANDIN_REDUCE(simd_xor, (T)(a ^ b))
#undef STANDIN_REDUCE

#define STANDIN_PREFIX(name, identity, op, last)                                                                       \
    template <class T>                                                                                                 \
    STANDIN_UNCHECKED T name(T data, STANDIN_SITE) {                                                                   \
        auto e = standin::exchange(#name, data, file_, line_);                                                         \
        T r = T(identity);                                                                                             \
        for (unsigned i = 0; i < e.lane + last; ++i)                                                                   \
            if (e.is_active(i)) r = (T)(r op e.values[i]);                                                             \
        return r;                                                                                                      \
    }
STANDIN_PREFIX(simd_prefix_inclusive_sum, 0, +, 1)
STANDIN_PREFIX(simd_prefix_exclusive_sum, 0, +, 0)
STANDIN_PREFIX(simd_prefix_inclusive_product, 1, *, 1)
STANDIN_PREFIX(simd_prefix_exclusive_product, 1, *, 0)
#undef STANDIN_PREFIX

// `source` is the lane to read; lanes beyond the ends of the simdgroup keep their own value where `keep` says so.
#define STANDIN_SHUFFLE(name, source, keep)                                                                            \
    template <class T>                                                                                                 \
    inline T name(T data, ushort n, STANDIN_SITE) {                                                                    \
        auto e = standin::exchange(#name, data, file_, line_);                                                         \
        [[maybe_unused]] const long lane = (long)e.lane;                                                               \
        const long from = (source);                                                                                    \
        if (keep && (from < 0 || from >= (long)standin::kSimdWidth)) return data;                                      \
        return standin::take(e, #name, file_, line_, from);                                                            \
    }
STANDIN_SHUFFLE(simd_shuffle, (long)n, false)
STANDIN_SHUFFLE(simd_broadcast, (long)n, false)
STANDIN_SHUFFLE(simd_shuffle_xor, lane ^ (long)n, false)
STANDIN_SHUFFLE(simd_shuffle_down, lane + (long)n, true)
STANDIN_SHUFFLE(simd_shuffle_up, lane - (long)n, true)
STANDIN_SHUFFLE(simd_shuffle_rotate_down, (lane + (long)n) % 32, false)
STANDIN_SHUFFLE(simd_shuffle_rotate_up, (lane - (long)n + 32) % 32, false)
#undef STANDIN_SHUFFLE
#define STANDIN_SHUFFLE_FILL(name, source, beyond)                                                                     \
    template <class T>                                                                                                 \
    inline T name(T data, T filling, ushort delta, STANDIN_SITE) {                                                     \
        auto e = standin::exchange(#name, data, file_, line_);                                                         \
        const long from = (source);                                                                                    \
        const bool inside = from >= 0 && from < (long)standin::kSimdWidth;                                             \
        T r = inside ? standin::take(e, #name, file_, line_, from) : data;                                             \
        auto f = standin::exchange(#name, filling, file_, line_);                                                      \
        return inside ? r : standin::take(f, #name, file_, line_, beyond);                                             \
    }
STANDIN_SHUFFLE_FILL(simd_shuffle_and_fill_down, (long)e.lane + delta, from - 32)
STANDIN_SHUFFLE_FILL(simd_shuffle_and_fill_up, (long)e.lane - delta, from + 32)
#undef STANDIN_SHUFFLE_FILL
template <class T>
inline T simd_broadcast_first(T data, STANDIN_SITE) {
    auto e = standin::exchange("simd_broadcast_first", data, file_, line_);
    return standin::take(e, "simd_broadcast_first", file_, line_, __builtin_ctz(e.active));
}

struct simd_vote {
    typedef ulong vote_t;
    explicit simd_vote(vote_t v) : v_(v) {}
    explicit operator vote_t() const { return v_; }
    bool all() const { return v_ == 0xfffffffful; }
    bool any() const { return v_ != 0; }
    vote_t v_;
};
inline simd_vote simd_ballot(bool x, STANDIN_SITE) {
    return simd_vote(
        standin::reduce(standin::exchange("simd_ballot", x ? 1u << standin::standin_lane() : 0u, file_, line_),
                        [](uint a, uint b) { return a | b; }));
}
inline simd_vote simd_active_threads_mask(STANDIN_SITE) {
    return simd_vote(standin::exchange("simd_active_threads_mask", 0u, file_, line_).active);
}
inline bool simd_any(bool x, STANDIN_SITE) {
    return simd_or((uint)x, file_, line_) != 0;
}
inline bool simd_all(bool x, STANDIN_SITE) {
    return simd_and((uint)x, file_, line_) != 0;
}
inline bool simd_is_first(STANDIN_SITE) {
    auto e = standin::exchange("simd_is_first", 0u, file_, line_);
    return e.lane == (unsigned)__builtin_ctz(e.active);
}

// ---------------------------------------------------------------- 8x8 matrices

template <class T, int Rows, int Columns>
struct simdgroup_matrix {
    static_assert(Rows == 8 && Columns == 8, "only 8x8 simdgroup matrices exist");
    static_assert(standin::is_floating<T>, "simdgroup matrices are of float, half or bfloat");
    vec<T, 2> held_; // the two elements that a lane holds
    simdgroup_matrix() {}
    explicit simdgroup_matrix(T v) : held_(v) {}
    vec<T, 2> &thread_elements() { return held_; }
    const vec<T, 2> &thread_elements() const { return held_; }
};
typedef simdgroup_matrix<float, 8, 8> simdgroup_float8x8;
typedef simdgroup_matrix<half, 8, 8> simdgroup_half8x8;
typedef simdgroup_matrix<bfloat, 8, 8> simdgroup_bfloat8x8;

} // namespace metal

namespace standin {

// Where the two elements of a lane lie: row `row`, columns `column` and `column` + 1.
struct Fragment {
    unsigned row, column;
};
inline Fragment fragment(unsigned lane) {
    unsigned quad = lane / 4;
    return {(quad & 4) + (lane / 2) % 4, (quad & 2) * 2 + (lane % 2) * 2};
}

template <class T>
inline unsigned long element_offset(unsigned k, ulong per_row, const metal::ulong2 &origin, bool transpose) {
    Fragment f = fragment(standin_lane());
    ulong row = f.row, column = f.column + k;
    if (transpose) {
        ulong other = row;
        row = column, column = other;
    }
    return (origin.e_[1] + row) * per_row + origin.e_[0] + column;
}

STANDIN_UNCHECKED void note_uniform(const void *p, ulong per_row, const metal::ulong2 &origin, bool transpose,
                                    int line) {
    const uint64_t all[] = {(uint64_t)(uintptr_t)p, per_row, origin.e_[0], origin.e_[1], transpose, (uint64_t)line};
    uint64_t h = 0;
    for (uint64_t v : all)
        h = h * 0x9e3779b97f4a7c15ull + v;
    standin_simd_uniform(h);
}

template <class TD, class TA, class TB, class TC>
STANDIN_UNCHECKED void multiply_accumulate(metal::vec<TD, 2> &d, const metal::vec<TA, 2> &a, const metal::vec<TB, 2> &b,
                                           const metal::vec<TC, 2> &c, const char *operation, const char *file,
                                           int line) {
    struct Operands {
        float a[8][8], b[8][8];
    };
    Fragment f = fragment(standin_lane());
    auto *mine = static_cast<Operands *>(standin_simd_deposit());
    for (unsigned k = 0; k < 2; ++k) {
        mine->a[f.row][f.column + k] = (float)a.e_[k];
        mine->b[f.row][f.column + k] = (float)b.e_[k];
    }
    standin_simd_rendezvous(operation, file, line, sizeof(Operands), 0, true);
    auto *all = static_cast<const Operands *>(standin_simd_received());
    float x = (float)c.e_[0], y = (float)c.e_[1];
    for (unsigned k = 0; k < 8; ++k) {
        x += all->a[f.row][k] * all->b[k][f.column];
        y += all->a[f.row][k] * all->b[k][f.column + 1];
    }
    d.e_[0] = (TD)x;
    d.e_[1] = (TD)y;
}

} // namespace standin

namespace metal {

template <class T, int Rows, int Columns>
inline simdgroup_matrix<T, Rows, Columns> make_filled_simdgroup_matrix(T value) {
    return simdgroup_matrix<T, Rows, Columns>(value);
}
template <class T>
inline void simdgroup_load(simdgroup_matrix<T, 8, 8> &m, const T *from, ulong elements_per_row = 8,
                           ulong2 origin = ulong2(0), bool transpose = false, STANDIN_SITE) {
    standin::note_uniform(from, elements_per_row, origin, transpose, line_);
    for (unsigned k = 0; k < 2; ++k)
        m.held_.e_[k] = from[standin::element_offset<T>(k, elements_per_row, origin, transpose)];
}
template <class T>
inline void simdgroup_store(const simdgroup_matrix<T, 8, 8> &m, T *to, ulong elements_per_row = 8,
                            ulong2 origin = ulong2(0), bool transpose = false, STANDIN_SITE) {
    standin::note_uniform(to, elements_per_row, origin, transpose, line_);
    for (unsigned k = 0; k < 2; ++k)
        to[standin::element_offset<T>(k, elements_per_row, origin, transpose)] = m.held_.e_[k];
}
template <class TD, class TA, class TB, class TC>
inline void simdgroup_multiply_accumulate(simdgroup_matrix<TD, 8, 8> &d, const simdgroup_matrix<TA, 8, 8> &a,
                                          const simdgroup_matrix<TB, 8, 8> &b, const simdgroup_matrix<TC, 8, 8> &c,
                                          STANDIN_SITE) {
    standin::multiply_accumulate(d.held_, a.held_, b.held_, c.held_, "simdgroup_multiply_accumulate", file_, line_);
}
template <class TD, class TA, class TB>
inline void simdgroup_multiply(simdgroup_matrix<TD, 8, 8> &d, const simdgroup_matrix<TA, 8, 8> &a,
                               const simdgroup_matrix<TB, 8, 8> &b, STANDIN_SITE) {
    standin::multiply_accumulate(d.held_, a.held_, b.held_, vec<TD, 2>(TD(0)), "simdgroup_multiply", file_, line_);
}

} // namespace metal
