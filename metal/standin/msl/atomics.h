// Metal's atomic types and functions: memory_order_relaxed only, 32 bits only (and bool), arithmetic on float is fetch_add
// and fetch_sub alone. That float atomics live in device memory only is the address-space lint's business.
#pragma once
#include "types.h"

namespace metal {

enum memory_order { memory_order_relaxed };

template <class T>
struct atomic {
    static_assert(std::is_same<T, int>::value || std::is_same<T, uint>::value || std::is_same<T, float>::value ||
                      std::is_same<T, bool>::value,
                  "atomic: only int, uint, float and bool are supported on all GPUs that this code is for");
    T value_;
};
typedef atomic<int> atomic_int;
typedef atomic<uint> atomic_uint;
typedef atomic<float> atomic_float;
typedef atomic<bool> atomic_bool;

template <class T>
inline T atomic_load_explicit(const volatile atomic<T> *object, memory_order) {
    T r;
    __atomic_load(&object->value_, &r, __ATOMIC_RELAXED);
    return r;
}
template <class T>
inline void atomic_store_explicit(volatile atomic<T> *object, std::common_type_t<T> desired, memory_order) {
    __atomic_store(&object->value_, &desired, __ATOMIC_RELAXED);
}
template <class T>
inline T atomic_exchange_explicit(volatile atomic<T> *object, std::common_type_t<T> desired, memory_order) {
    T r;
    __atomic_exchange(&object->value_, &desired, &r, __ATOMIC_RELAXED);
    return r;
}
template <class T>
inline bool atomic_compare_exchange_weak_explicit(volatile atomic<T> *object, T *expected,
                                                  std::common_type_t<T> desired, memory_order, memory_order) {
    return __atomic_compare_exchange(&object->value_, expected, &desired, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
}

#define STANDIN_FETCH(name, expression, floats)                                                                        \
    template <class T>                                                                                                 \
    inline T name(volatile atomic<T> *object, std::common_type_t<T> operand, memory_order order) {                     \
        static_assert(std::is_same<T, int>::value || std::is_same<T, uint>::value ||                                   \
                          (floats && std::is_same<T, float>::value),                                                   \
                      #name ": not available for this type");                                                          \
        T old = atomic_load_explicit(object, order), desired;                                                          \
        do                                                                                                             \
            desired = (expression);                                                                                    \
        while (!atomic_compare_exchange_weak_explicit(object, &old, desired, order, order));                           \
        return old;                                                                                                    \
    }
STANDIN_FETCH(atomic_fetch_add_explicit, (T)(old + operand), true)
STANDIN_FETCH(atomic_fetch_sub_explicit, (T)(old - operand), true)
STANDIN_FETCH(atomic_fetch_max_explicit, old < operand ? operand : old, false)
STANDIN_FETCH(atomic_fetch_min_explicit, operand < old ? operand : old, false)
STANDIN_FETCH(atomic_fetch_and_explicit, (T)((uint)old & (uint)operand), false)
STANDIN_FETCH(atomic_fetch_or_explicit, (T)((uint)old | (uint)operand), false)
STANDIN_FETCH(atomic_fetch_xor_explicit, (T)((uint)old ^ (uint)operand), false)
#undef STANDIN_FETCH

} // namespace metal
