// Planted errors of the language: what Apple's compiler refuses and a C++ compiler would not. Each snippet is compiled on its
// own, with the library's header before it; `ERROR` gives a part of the message, and the line that it is about.
//---- no address space in a parameter
float first(float *p) { return p[0]; } // ERROR: needs an address space
//---- no address space in a local pointer
kernel void k(device float *a [[buffer(0)]]) {
    const float *p = a; // ERROR: needs an address space
    a[0] = p[1];
}
//---- double
kernel void k(device float *a [[buffer(0)]]) {
    double x = 1.0; // ERROR: no double
    a[0] = float(x);
}
//---- the standard library
kernel void k(device float *a [[buffer(0)]]) {
    a[0] = std::max(a[0], a[1]); // ERROR: standard library
}
//---- a function that Metal has not
kernel void k(device float *a [[buffer(0)]]) {
    a[0] = erf(a[1]); // ERROR: undeclared identifier 'erf'
}
//---- arguments of two types
kernel void k(device float *a [[buffer(0)]]) {
    a[0] = max(a[1], 0); // ERROR: ambiguous
}
//---- bfloat has no functions
kernel void k(device bfloat *a [[buffer(0)]]) {
    a[0] = exp(a[1]); // ERROR: deleted function
}
//---- a SIMD-group function of 64 bits
kernel void k(device long *a [[buffer(0)]], uint i [[thread_position_in_grid]]) {
    a[i] = simd_sum(a[i]); // ERROR: 32 bits a component
}
//---- a threadgroup variable outside of a kernel
void helper() {
    threadgroup float shared[32]; // ERROR: only be declared in kernel functions
}
//---- a threadgroup variable with a value
kernel void k(device float *a [[buffer(0)]]) {
    threadgroup float shared = 0.0f; // ERROR: initialiser
    a[0] = shared;
}
//---- a global variable
float global_value = 1.0f; // ERROR: constant address space
//---- recursion
int fibonacci(int n) { return n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2); } // ERROR: recursive
//---- an array whose length is not known
kernel void k(device float *a [[buffer(0)]], constant uint &n [[buffer(1)]]) {
    float local[n]; // ERROR: variable length array
    a[0] = local[0];
}
//---- two parameters with one index
kernel void k(device float *a [[buffer(0)]], device float *b [[buffer(0)]]) { // ERROR: is taken
    a[0] = b[0];
}
//---- more buffers than there are
kernel void k(device float *a [[buffer(31)]]) { // ERROR: 0 to 30
    a[0] = 1.0f;
}
//---- positions of different shapes
kernel void k(device float *a [[buffer(0)]], uint3 g [[threadgroup_position_in_grid]], // ERROR: same number of components
              uint2 t [[thread_position_in_threadgroup]]) {
    a[g.x] = float(t.x);
}
//---- a parameter without an attribute
kernel void k(device float *a [[buffer(0)]], uint i) { // ERROR: needs exactly one of
    a[i] = 1.0f;
}
//---- a new expression
kernel void k(device float *a [[buffer(0)]]) {
    a[0] = *(new float(1.0f)); // ERROR: operator new
}
//---- 64-bit atomics
kernel void k(device atomic<long> *a [[buffer(0)]]) {
    atomic_store_explicit(a, 0l, memory_order_relaxed); // ERROR: only int, uint, float and bool
}
//---- arithmetic of float atomics in threadgroup memory
kernel void k(device float *a [[buffer(0)]]) {
    threadgroup atomic_float sum;
    atomic_fetch_add_explicit(&sum, 1.0f, memory_order_relaxed); // ERROR: no matching function
    a[0] = 1.0f;
}
//---- a threadgroup address for a device pointer
kernel void k(device float *a [[buffer(0)]], uint i [[thread_position_in_threadgroup]]) {
    threadgroup float shared[32];
    shared[i] = 1.0f;
    device float *p = shared; // ERROR: __local
    a[0] = p[0];
}
//---- a device address for a threadgroup parameter
float second(threadgroup const float *p) { return p[1]; }
kernel void k(device float *a [[buffer(0)]]) {
    a[0] = second(a); // ERROR: no matching function
}
//---- a write to constant memory
kernel void k(device float *a [[buffer(0)]], constant float &b [[buffer(1)]]) {
    b = a[0]; // ERROR: const-qualified
}
//---- a constant address for a device pointer
kernel void k(device float *a [[buffer(0)]], constant float *b [[buffer(1)]]) {
    device const float *p = b; // ERROR: __constant
    a[0] = p[0];
}
//---- the address of a variable of the thread, for device memory
void store(device float *p) { p[0] = 1.0f; }
kernel void k(device float *a [[buffer(0)]]) {
    float local = a[0];
    store(&local); // ERROR: no matching function
    a[0] = local;
}
//---- a return value that is missing
float nothing(float x) {
    if (x > 0.0f)
        return x;
} // ERROR: non-void function
