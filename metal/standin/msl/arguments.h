// How the generated wrappers turn bindings into the parameters of a kernel, and how they register kernels and function
// constants with their module. Everything here is compiled after the kernels, which never see it.
#pragma once
#include "simd.h"

namespace standin {

extern Module module_;

template <int I, class F>
struct parameter;
template <int I, class R, class First, class... Rest>
struct parameter<I, R (*)(First, Rest...)> : parameter<I - 1, R (*)(Rest...)> {};
template <class R, class First, class... Rest>
struct parameter<0, R (*)(First, Rest...)> {
    typedef First type;
};
template <class F>
struct returns;
template <class R, class... A>
struct returns<R (*)(A...)> {
    typedef R type;
};

template <class P>
using element = std::remove_pointer_t<std::remove_reference_t<P>>;

template <class P>
constexpr Parameter describe(Parameter::Kind kind, int index, const bool *condition, const char *name) {
    return {kind,
            index,
            sizeof(element<P>),
            alignof(element<P>),
            std::is_reference<P>::value,
            !std::is_const<element<P>>::value,
            condition,
            name};
}

template <class P>
STANDIN_UNCHECKED P buffer(void *data) {
    static_assert(std::is_pointer<P>::value || std::is_reference<P>::value,
                  "a [[buffer]] parameter is a pointer or a reference");
    if constexpr (std::is_pointer<P>::value)
        return static_cast<P>(data);
    else
        return *static_cast<std::remove_reference_t<P> *>(data);
}
template <class P>
STANDIN_UNCHECKED P threadgroup(void *data) {
    static_assert(std::is_pointer<P>::value, "a [[threadgroup]] parameter is a pointer");
    return static_cast<P>(data);
}

template <class P>
constexpr bool is_index =
    std::is_same<typename shape<P>::element, uint>::value || std::is_same<typename shape<P>::element, ushort>::value;
// Zero for a scalar that goes with anything; positions of one kernel have the same number of components.
template <class P>
constexpr int dimensions() {
    return shape<P>::components ? shape<P>::components : 1;
}
template <class P>
STANDIN_UNCHECKED P position(Extent e) {
    static_assert(is_index<std::remove_cv_t<P>>, "a position is uint, ushort or a vector of them");
    if constexpr (shape<P>::components == 0)
        return (P)e.x;
    else if constexpr (shape<P>::components == 2)
        return P(e.x, e.y);
    else
        return P(e.x, e.y, e.z);
}
template <class P>
STANDIN_UNCHECKED P scalar(uint32_t v) {
    static_assert(shape<P>::components == 0 && is_index<std::remove_cv_t<P>>, "an index is uint or ushort");
    return (P)v;
}

STANDIN_UNCHECKED Extent position_in_grid(const Arguments &a) {
    const Group &g = *a.group;
    return {g.position.x * g.dispatched_size.x + a.thread->position.x,
            g.position.y * g.dispatched_size.y + a.thread->position.y,
            g.position.z * g.dispatched_size.z + a.thread->position.z};
}

struct RegisterKernel {
    Kernel kernel;
    RegisterKernel(Kernel k) : kernel(k) {
        kernel.next = module_.kernels;
        module_.kernels = &kernel;
    }
};
template <class T>
constexpr char type_letter() {
    return std::is_same<T, bool>::value    ? 'b'
           : std::is_same<T, float>::value ? 'f'
           : std::is_same<T, half>::value  ? 'h'
           : std::is_signed<T>::value      ? 'i'
                                           : 'u';
}
struct RegisterConstant {
    Constant constant;
    template <class T>
    RegisterConstant(int index, const char *name, T *value)
        : constant{index, name, value, sizeof(T), type_letter<T>(), false, module_.constants} {
        module_.constants = &constant;
    }
};
inline bool is_defined(const void *value) {
    for (Constant *c = module_.constants; c; c = c->next)
        if (c->value == value) return c->defined;
    return false;
}
template <class T>
STANDIN_UNCHECKED T &threadgroup_variable(const void *site, const char *name) {
    return *static_cast<T *>(standin_threadgroup_variable(site, sizeof(T), alignof(T), name));
}

} // namespace standin
#define is_function_constant_defined(x) standin::is_defined(&x)
