// Fibers: stacks of their own and a switch between them, in assembly for x86-64 and AArch64 and with ucontext elsewhere.
//
// A switch saves what the calling convention says a callee keeps, and nothing else: neither the signal mask nor the
// floating-point control words. The AArch64 version has been assembled but never run; see docs/metal.md.
#pragma once
#include <cstddef>
#include <cstdint>
#include <sys/mman.h>
#include <unistd.h>
#if !defined(__x86_64__) && !defined(__aarch64__)
#include <ucontext.h>
#endif

namespace standin {

#if defined(__x86_64__) || defined(__aarch64__)

typedef void *Context; // the stack pointer; everything else lies on the stack

extern "C" void standin_switch(Context *from, Context to);

#if defined(__x86_64__)
inline Context new_context(char *stack, size_t size, void (*entry)()) {
    auto *top = reinterpret_cast<uintptr_t *>(stack + size);
    *--top = 0; // keeps the stack aligned as after a call
    *--top = reinterpret_cast<uintptr_t>(entry);
    for (int i = 0; i < 6; ++i)
        *--top = 0;
    return top;
}
#else
inline Context new_context(char *stack, size_t size, void (*entry)()) {
    auto *top = reinterpret_cast<uintptr_t *>(stack + size) - 20;
    for (int i = 0; i < 20; ++i)
        top[i] = 0;
    top[11] = reinterpret_cast<uintptr_t>(entry); // x30
    return top;
}
#endif

#else

typedef ucontext_t *Context;

inline void standin_switch(Context *from, Context to) {
    ucontext_t here;
    *from = &here;
    swapcontext(&here, to);
}
inline Context new_context(char *stack, size_t size, void (*entry)()) {
    auto *context = new ucontext_t;
    getcontext(context);
    context->uc_stack.ss_sp = stack;
    context->uc_stack.ss_size = size;
    context->uc_link = nullptr;
    makecontext(context, entry, 0);
    return context;
}

#endif

// A stack with a guard page below, given back by the destructor.
class Stack {
  public:
    static constexpr size_t kSize = 256 << 10, kGuard = 4096 << 2;

    Stack() = default;
    Stack(const Stack &) = delete;
    Stack(Stack &&other) noexcept : memory_(other.memory_) { other.memory_ = nullptr; }
    ~Stack() { release(); }
    char *reserve() {
        if (!memory_) {
            void *p = mmap(nullptr, kSize + kGuard, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                           -1, 0);
            if (p == MAP_FAILED) return nullptr;
            memory_ = static_cast<char *>(p);
            mprotect(memory_, kGuard, PROT_NONE);
        }
        return memory_ + kGuard;
    }
    void release() {
        if (memory_) munmap(memory_, kSize + kGuard);
        memory_ = nullptr;
    }
    bool contains(const char *p) const { return p >= memory_ && p < memory_ + kSize + kGuard; }

  private:
    char *memory_ = nullptr;
};

} // namespace standin
