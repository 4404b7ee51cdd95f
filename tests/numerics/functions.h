/* The references: what each elementwise function is, in a real type R whose C library functions are F(name).
 *
 * ulp.c includes this once for double, which the kernels are measured against, and once for long double, which the
 * double references are. It must not know about the kernels, their dtypes or how errors are measured.
 *
 * Every function takes two operands (a function of one ignores b) and the value that a kernel `got`, which only the
 * inverse of erf uses: one step of Halley's method from there is good to double precision if `got` is near, and is far
 * from `got` if it is not. Values at infinity are limits. No branch does work, so that loops vectorize. */

#define DEFINE(name) static inline R NAME(name)(R a, R b, R got)
#define UNUSED (void)a, (void)b, (void)got

#define OF_LIBRARY(name, function)                                                                                     \
    DEFINE(name) {                                                                                                     \
        UNUSED;                                                                                                        \
        return F(function)(a);                                                                                         \
    }

OF_LIBRARY(abs, fabs)
OF_LIBRARY(sqrt, sqrt)
OF_LIBRARY(exp, exp)
OF_LIBRARY(expm1, expm1)
OF_LIBRARY(log, log)
OF_LIBRARY(log2, log2)
OF_LIBRARY(log10, log10)
OF_LIBRARY(log1p, log1p)
OF_LIBRARY(sin, sin)
OF_LIBRARY(cos, cos)
OF_LIBRARY(tan, tan)
OF_LIBRARY(arcsin, asin)
OF_LIBRARY(arccos, acos)
OF_LIBRARY(arctan, atan)
OF_LIBRARY(sinh, sinh)
OF_LIBRARY(cosh, cosh)
OF_LIBRARY(tanh, tanh)
OF_LIBRARY(arcsinh, asinh)
OF_LIBRARY(arccosh, acosh)
OF_LIBRARY(arctanh, atanh)
OF_LIBRARY(erf, erf)
OF_LIBRARY(floor, floor)
OF_LIBRARY(ceil, ceil)
OF_LIBRARY(trunc, trunc)
OF_LIBRARY(round, rint)
#undef OF_LIBRARY

#define UNARY(name, expression)                                                                                        \
    DEFINE(name) {                                                                                                     \
        UNUSED;                                                                                                        \
        return expression;                                                                                             \
    }

UNARY(negative, -a)
UNARY(sign, (R)((a > 0) - (a < 0)))
UNARY(square, a *a)
UNARY(reciprocal, 1 / a)
UNARY(rsqrt, 1 / F(sqrt)(a))
UNARY(relu, (a > 0) | (a != a) ? a : 0)
UNARY(sigmoid, 1 / (1 + F(exp)(-a)))
UNARY(softplus, (a > 0 ? a : 0) + F(log1p)(F(exp)(-F(fabs)(a))))
#undef UNARY

/* x / (1 + exp(-u)), whose limit is zero where x and u are minus infinity */
static inline R NAME(sigmoid_times)(R x, R u) {
    R e = F(exp)(-u);
    return x == -(R)INFINITY ? -(R)0 : x / (1 + e);
}

DEFINE(silu) {
    UNUSED;
    return NAME(sigmoid_times)(a, a);
}

DEFINE(gelu_sigmoid) {
    UNUSED;
    return NAME(sigmoid_times)(a, (R)1.702L * a);
}

/* x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) */
DEFINE(gelu_tanh) {
    UNUSED;
    return NAME(sigmoid_times)(a, 2 * (R)0.797884560802865355879892119869L * (a + (R)0.044715L * a * a * a));
}

DEFINE(gelu) {
    UNUSED;
    R tail = F(erfc)(a * -(R)0.707106781186547524400844362105L);
    return a == -(R)INFINITY ? -(R)0 : (R)0.5 * a * tail;
}

DEFINE(erfinv) {
    UNUSED;
    R p = F(fabs)(a), r = F(fabs)(got);
    /* 1 - p is exact, so nothing is lost where erf has no digits left */
    R whole = F(erf)(r) - p, tail = (1 - p) - F(erfc)(r);
    R step = (p < (R)0.5 ? whole : tail) * (R)0.886226925452758013649083741671L * F(exp)(r * r);
    R root = r - step / (1 + r * step);
    root = p == 1 ? (R)INFINITY : root;
    root = p == 0 ? 0 : root;
    return F(copysign)(p <= 1 ? root : (R)NAN, a);
}

#define BINARY(name, expression)                                                                                       \
    DEFINE(name) {                                                                                                     \
        UNUSED;                                                                                                        \
        return expression;                                                                                             \
    }

BINARY(add, a + b)
BINARY(subtract, a - b)
BINARY(multiply, a *b)
BINARY(divide, a / b)
BINARY(floor_divide, F(floor)((R)(float)(a / b))) /* of the quotient as float32 has it */
BINARY(maximum, (a > b) | (a != a) ? a : b)
BINARY(minimum, (a < b) | (a != a) ? a : b)
BINARY(power, F(pow)(a, b))
BINARY(arctan2, F(atan2)(a, b))
#undef BINARY

/* with the sign of the divisor */
DEFINE(remainder) {
    UNUSED;
    R r = F(fmod)(a, b);
    return (r != 0) & ((r < 0) != (b < 0)) ? r + b : r;
}

/* Where the result is near zero, the sum cancels: there double is too short, and long double helps. */
DEFINE(logaddexp) {
    UNUSED;
    R high = a > b ? a : b, low = a > b ? b : a;
    R r = high + F(log1p)(F(exp)(low - high));
    if (F(fabs)(r) < (R)0.125 * F(fabs)(high)) r = (R)((long double)high + log1pl(expl((long double)low - high)));
    r = (low == -(R)INFINITY) | (high == (R)INFINITY) ? high : r;
    return (a != a) | (b != b) ? a + b : r;
}

#undef DEFINE
#undef UNUSED
