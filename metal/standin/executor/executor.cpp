// Runs a kernel over its grid: threadgroups in parallel on operating-system threads, the threads of a group as fibers on
// one of them. A fiber runs until it waits (barrier, SIMD-group function) or returns; when no fiber of the group can run,
// the waits are resolved, and what cannot be resolved is a bug of the kernel that is reported with its place.
//
// It knows nothing of how memory accesses are judged; that is the checker's business.
#include "worker.h"
#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <dlfcn.h>
#include <memory>
#include <mutex>
#include <random>
#include <sys/syscall.h>
#include <thread>

namespace standin {

thread_local Worker *worker;

struct Launch {
    const standin_launch *given;
    Module *module;
    const Kernel *kernel;
    Binding bindings[kMaxBuffers];
    Extent groups;
    uint32_t group_count;
    std::atomic<uint32_t> next{0};
    std::atomic<bool> failed{false};
};

namespace {

constexpr double kDefaultTimeLimit = 10.0;
constexpr double kTick = 0.25; // seconds of processor time between two looks of the watchdog

std::string text(const char *format, ...) {
    char buffer[900];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(buffer, sizeof buffer, format, arguments);
    va_end(arguments);
    return buffer;
}

const char *base_name(const char *file) {
    const char *slash = strrchr(file, '/');
    return slash ? slash + 1 : file;
}

std::string place(const Fiber *f) {
    return text("%s (%s:%d)", f->operation, base_name(f->file), f->line);
}

bool same_place(const Fiber *a, const Fiber *b) {
    return a->line == b->line && !strcmp(a->file, b->file) && !strcmp(a->operation, b->operation);
}

Failure at(int kind, const Fiber *f, std::string message) {
    return {kind, f->file, f->line, nullptr, std::move(message)};
}

// ---------------------------------------------------------------- fibers

void switch_to(Fiber *f) {
    Worker *w = worker;
    w->current = f;
    w->in_kernel = 1;
    standin_switch(&w->scheduler, f->context);
    w->in_kernel = 0;
}

Fiber *next_ready(Worker *w) {
    for (; w->position < w->end; ++w->position)
        if (Fiber *f = &w->fibers[w->order[w->position]]; f->state == State::Ready) return f;
    return nullptr;
}

// The calling fiber has stopped being ready: goes on with the next one, or with the scheduler.
void block(Fiber *f) {
    Worker *w = worker;
    ++w->position;
    Fiber *next = next_ready(w);
    if (next && next->started) {
        w->current = next;
        w->in_kernel = 1;
        standin_switch(&f->context, next->context);
    } else {
        w->in_kernel = 0;
        standin_switch(&f->context, w->scheduler);
    }
    worker->in_kernel = 1;
}

// A fiber that served one launch may be resumed in another by another operating-system thread: the address of a
// thread-local variable must not be kept across that, which is what a call that cannot be inlined makes sure of.
__attribute__((noinline)) Worker *current_worker() {
    asm volatile("");
    return worker;
}

// Runs one thread of the kernel each time that the scheduler starts the fiber anew.
void fiber_main() {
    for (;;) {
        Worker *w = current_worker();
        Fiber *f = w->current;
        Arguments arguments = w->arguments;
        arguments.thread = &f->thread;
        w->launch->kernel->entry(arguments);
        w->in_kernel = 0;
        f->state = State::Done;
        ++w->done;
        ++w->simdgroups[f->thread.simdgroup].done;
        standin_switch(&f->context, w->scheduler);
    }
}

void start(Fiber *f) {
    if (!f->context) {
        char *stack = f->stack.reserve();
        if (!stack) throw Failure{STANDIN_BAD_LAUNCH, "", 0, nullptr, "no memory for the stacks of a threadgroup"};
        f->context = new_context(stack, Stack::kSize, fiber_main);
    }
    f->started = true;
}

// ---------------------------------------------------------------- one threadgroup

// Sets the order of the threads; shuffled orders change at every barrier.
void arrange(Worker *w, std::mt19937 &random) {
    const int order = w->launch->given->order;
    const unsigned count = w->simdgroups.size();
    w->sequence.resize(count);
    w->first.resize(count + 1);
    w->order.resize(w->size);
    for (unsigned g = 0; g < count; ++g)
        w->sequence[g] = order == STANDIN_REVERSE ? count - 1 - g : g;
    if (order == STANDIN_SHUFFLED) std::shuffle(w->sequence.begin(), w->sequence.end(), random);
    unsigned k = 0;
    for (unsigned j = 0; j < count; ++j) {
        const unsigned g = w->sequence[j], size = w->simdgroups[g].size;
        w->first[j] = k;
        for (unsigned i = 0; i < size; ++i)
            w->order[k++] = g * kSimdWidth + (order == STANDIN_REVERSE ? size - 1 - i : i);
        if (order == STANDIN_SHUFFLED) std::shuffle(w->order.begin() + w->first[j], w->order.begin() + k, random);
    }
    w->first[count] = k;
}

void run_range(Worker *w, unsigned begin, unsigned end) {
    w->position = begin;
    w->end = end;
    while (Fiber *f = next_ready(w)) {
        if (!f->started) start(f);
        switch_to(f);
        if (w->failure.kind) throw w->failure;
    }
}

// Lets the waiting lanes of a simdgroup go on, if they all wait for the same.
void release_simdgroup(Worker *w, unsigned g) {
    Simdgroup &s = w->simdgroups[g];
    const bool partial = s.arrived != s.size;
    uint32_t mask = 0;
    Fiber *reference = nullptr;
    for (unsigned i = 0; i < s.size; ++i) {
        Fiber *f = &w->fibers[g * kSimdWidth + i];
        if (f->state != State::AtSimd) continue;
        mask |= 1u << i;
        if (!reference) reference = f;
        if (!same_place(f, reference))
            throw at(STANDIN_SIMD_DIVERGENCE, f,
                     "lanes of one simdgroup wait in different operations: " + place(reference) + " and " + place(f));
        if (f->uniform != reference->uniform)
            throw at(STANDIN_SIMD_DIVERGENCE, f,
                     "a simdgroup matrix was loaded or stored with arguments that differ between lanes, before " +
                         place(f));
    }
    if (reference->whole && (partial || s.size != kSimdWidth))
        throw at(STANDIN_INACTIVE_LANE, reference,
                 text("%s needs all 32 lanes; active: 0x%08x", reference->operation, mask));
    memcpy(s.received, s.deposit, s.deposited);
    if (reference->flags & kMemoryThreadgroup) ++s.epoch[0];
    if (reference->flags & kMemoryDevice) ++s.epoch[1];
    for (unsigned i = 0; i < s.size; ++i) {
        Fiber *f = &w->fibers[g * kSimdWidth + i];
        if (f->state == State::AtSimd) {
            f->state = State::Ready;
            f->active = mask;
            f->uniform = 0;
        }
    }
    s.arrived = 0;
}

// Lets the threads that wait at a barrier go on, if all of the group wait at the same.
void release_barrier(Worker *w, std::mt19937 &random) {
    Fiber *first = nullptr, *other = nullptr, *elsewhere = nullptr;
    int flags = 0;
    for (unsigned i = 0; i < w->size; ++i) {
        Fiber *f = &w->fibers[i];
        if (f->state == State::AtBarrier) {
            flags |= f->flags;
            if (!first)
                first = f;
            else if (!same_place(first, f))
                other = f;
        } else if (f->state == State::AtSimd)
            elsewhere = f;
    }
    if (elsewhere)
        throw at(STANDIN_DEADLOCK, first,
                 text("%u threads wait in ", w->at_barrier) + place(first) + " while others wait in " +
                     place(elsewhere));
    if (w->done)
        throw at(STANDIN_BARRIER_DIVERGENCE, first,
                 text("not reached by all threads: %u wait here, %u have returned", w->at_barrier, w->done));
    if (other)
        throw at(STANDIN_BARRIER_DIVERGENCE, first,
                 "threads of one threadgroup wait in different barriers: " + place(first) + " and " + place(other));
    for (unsigned i = 0; i < w->size; ++i)
        w->fibers[i].state = State::Ready;
    w->at_barrier = 0;
    if (flags & kMemoryThreadgroup) ++w->epoch[0];
    if (flags & kMemoryDevice) ++w->epoch[1];
    arrange(w, random);
}

void run_threads(Worker *w) {
    w->done = w->at_barrier = 0;
    for (unsigned i = 0; i < w->size; ++i) {
        Fiber &f = w->fibers[i];
        f.started = false;
        f.state = State::Ready;
        f.uniform = 0;
    }
    for (Simdgroup &s : w->simdgroups)
        s.arrived = s.done = 0;
    std::mt19937 random(w->launch->given->seed * 0x9e3779b9u + w->group_index);
    arrange(w, random);
    // In the plain order all threads run to their next wait before any goes on; in the others one simdgroup runs as far
    // as it can before the next one begins, which is what exposes a missing barrier between simdgroups.
    const bool greedy = w->launch->given->order != STANDIN_FORWARD;
    while (w->done < w->size) {
        if (greedy) {
            for (unsigned j = 0; j < w->simdgroups.size(); ++j)
                for (;;) {
                    run_range(w, w->first[j], w->first[j + 1]);
                    Simdgroup &s = w->simdgroups[w->sequence[j]];
                    if (!s.arrived || s.arrived != s.size) break;
                    release_simdgroup(w, w->sequence[j]);
                }
        } else
            run_range(w, 0, w->size);
        if (w->caught) siglongjmp(w->escape, 1);
        bool released = false;
        for (bool complete : {true, false}) {
            for (unsigned g = 0; g < w->simdgroups.size() && (complete || !released); ++g) {
                Simdgroup &s = w->simdgroups[g];
                if (s.arrived && s.arrived + (complete ? 0 : s.done) == s.size) {
                    release_simdgroup(w, g);
                    released = true;
                }
            }
        }
        if (!released && w->at_barrier) {
            release_barrier(w, random);
            released = true;
        }
        if (!released && w->done < w->size)
            for (unsigned i = 0; i < w->size; ++i)
                if (Fiber *f = &w->fibers[i]; f->state == State::AtSimd)
                    throw at(STANDIN_DEADLOCK, f, "no thread of the group can run; one waits in " + place(f));
    }
}

void run_group(Worker *w, uint32_t index) {
    const Launch &launch = *w->launch;
    const standin_launch &given = *launch.given;
    const Extent groups = launch.groups;
    const Extent g = {index % groups.x, index / groups.x % groups.y, index / groups.x / groups.y};
    auto edge = [](uint32_t grid, uint32_t group, uint32_t at) { return std::min(group, grid - at * group); };
    const Extent size = {edge(given.grid[0], given.group[0], g.x), edge(given.grid[1], given.group[1], g.y),
                         edge(given.grid[2], given.group[2], g.z)};
    const unsigned total = size.x * size.y * size.z, simdgroups = (total + kSimdWidth - 1) / kSimdWidth;
    w->serial = w->serial + 1;
    const bool same_shape = w->size == total && w->group.size.x == size.x && w->group.size.y == size.y;
    w->group = {g,
                size,
                {given.group[0], given.group[1], given.group[2]},
                {given.grid[0], given.grid[1], given.grid[2]},
                groups,
                simdgroups};
    w->group_index = index;
    if (!same_shape) {
        w->size = total;
        if (w->fibers.size() < total) w->fibers.resize(total);
        w->simdgroups.resize(simdgroups);
        for (unsigned s = 0; s < simdgroups; ++s)
            w->simdgroups[s].size = std::min(kSimdWidth, total - s * kSimdWidth);
        unsigned i = 0;
        for (uint32_t z = 0; z < size.z; ++z)
            for (uint32_t y = 0; y < size.y; ++y)
                for (uint32_t x = 0; x < size.x; ++x, ++i)
                    w->fibers[i].thread = {{x, y, z}, i, i % kSimdWidth, i / kSimdWidth};
    }
    if (launch.module->checked) checker_new_group();
    memset(w->arena, 0xff, w->used); // what a forgotten initialisation reads is NaN, not last group's values
    w->used = w->charged = 0;
    w->variables.clear();
    for (uint32_t t = 0; t < given.threadgroup_count; ++t)
        if (given.threadgroup_sizes[t])
            w->threadgroup[t] = standin_threadgroup_variable(&given.threadgroup_sizes[t], given.threadgroup_sizes[t],
                                                             16, "[[threadgroup]] parameter");
    if (w->failure.kind) throw w->failure;
    w->arguments = {launch.bindings, w->threadgroup.data(), &w->group, nullptr};
    run_threads(w);
}

// ---------------------------------------------------------------- signals

// Real-time signals that Python, its profilers and the usual libraries leave alone.
int watchdog_signal() {
    return SIGRTMIN + 9;
}
struct sigaction previous_segv, previous_bus;

void *program_counter(void *context) {
    auto *u = static_cast<ucontext_t *>(context);
#if defined(__x86_64__)
    return reinterpret_cast<void *>(u->uc_mcontext.gregs[REG_RIP]);
#elif defined(__aarch64__)
    return reinterpret_cast<void *>(u->uc_mcontext.pc);
#else
    (void)u;
    return nullptr;
#endif
}

void on_tick(int, siginfo_t *, void *context) {
    Worker *w = worker;
    if (!w) return;
    if (w->watched != w->serial) {
        w->watched = w->serial;
        w->ticks = 0;
    }
    w->ticks = w->ticks + 1;
    if (w->ticks < w->allowed_ticks) return;
    w->caught = STANDIN_ENDLESS_LOOP;
    w->caught_pc = program_counter(context);
    if (w->in_kernel) siglongjmp(w->escape, 1);
}

void on_fault(int number, siginfo_t *info, void *context) {
    Worker *w = worker;
    if (w && w->in_kernel) {
        w->caught = STANDIN_INVALID_ACCESS;
        w->caught_pc = program_counter(context);
        w->caught_address = info->si_addr;
        siglongjmp(w->escape, 1);
    }
    sigaction(number, number == SIGSEGV ? &previous_segv : &previous_bus,
              nullptr); // not ours: happens again, to its owner
}

// The handlers of a launch, and those that were there before.
class Handlers {
  public:
    Handlers() {
        struct sigaction action{};
        sigemptyset(&action.sa_mask);
        action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART;
        action.sa_sigaction = on_tick;
        sigaction(watchdog_signal(), &action, nullptr);
        action.sa_sigaction = on_fault;
        sigaction(SIGSEGV, &action, &previous_segv);
        sigaction(SIGBUS, &action, &previous_bus);
    }
    ~Handlers() {
        sigaction(SIGSEGV, &previous_segv, nullptr);
        sigaction(SIGBUS, &previous_bus, nullptr);
    }
};

// The watchdog of one thread, by its processor time: what other processes do is no reason to give up.
class Watchdog {
  public:
    Watchdog() {
        alternate_.reset(new char[kAlternate]);
        stack_t stack{};
        stack.ss_sp = alternate_.get();
        stack.ss_size = kAlternate;
        sigaltstack(&stack, &previous_);
        sigevent event{};
        event.sigev_notify = SIGEV_THREAD_ID;
        event.sigev_signo = watchdog_signal();
        event._sigev_un._tid = (pid_t)syscall(SYS_gettid);
        armed_ = timer_create(CLOCK_THREAD_CPUTIME_ID, &event, &timer_) == 0;
        const timespec tick{0, (long)(kTick * 1e9)};
        const itimerspec period{tick, tick};
        if (armed_) timer_settime(timer_, 0, &period, nullptr);
    }
    ~Watchdog() {
        if (armed_) timer_delete(timer_);
        sigaltstack(&previous_, nullptr);
    }

  private:
    static constexpr size_t kAlternate = 64 << 10;
    std::unique_ptr<char[]> alternate_;
    stack_t previous_{};
    timer_t timer_{};
    bool armed_ = false;
};

// ---------------------------------------------------------------- a launch

// The file and line of an instruction, from the debugging information; inlined library code is passed over.
void look_up(Failure &failure) {
    Dl_info info;
    if (!failure.pc || !dladdr(failure.pc, &info) || !info.dli_fname) return;
    char command[1400];
    snprintf(command, sizeof command, "addr2line -i -e '%s' 0x%lx 2>/dev/null", info.dli_fname,
             (unsigned long)(static_cast<char *>(failure.pc) - static_cast<char *>(info.dli_fbase)));
    FILE *pipe = popen(command, "r");
    if (!pipe) return;
    char line[2048];
    while (fgets(line, sizeof line, pipe)) {
        char *colon = strrchr(line, ':');
        if (!colon || line[0] == '?' || strstr(line, "/standin/msl/") || strstr(line, "<wrappers>") || !atoi(colon + 1))
            continue;
        *colon = 0;
        failure.file = line;
        failure.line = atoi(colon + 1);
        break;
    }
    while (fgets(line, sizeof line, pipe)) {
    }
    pclose(pipe);
}

// Groups run in the given order; shuffled is a fixed permutation i -> a * i + b of their numbers.
uint32_t group_number(const Launch &launch, uint32_t i) {
    const uint64_t n = launch.group_count;
    if (launch.given->order == STANDIN_REVERSE) return (uint32_t)(n - 1 - i);
    if (launch.given->order != STANDIN_SHUFFLED || n < 3) return i;
    uint64_t a = (0x9e3779b97f4a7c15ull ^ launch.given->seed) % n;
    auto common = [](uint64_t x, uint64_t y) {
        while (y) {
            uint64_t r = x % y;
            x = y, y = r;
        }
        return x;
    };
    while (a < 2 || common(a, n) != 1)
        a = (a + 1) % (n + 2) < 2 ? 2 : a + 1;
    return (uint32_t)((a % n * i + launch.given->seed) % n);
}

void run_groups(Worker *w) {
    worker = w;
    Watchdog watchdog;
    const Launch *launch = w->launch;
    if (sigsetjmp(w->escape, 1)) {
        w->in_kernel = 0;
        const int kind = w->caught;
        Dl_info kernel, caught;
        const bool inside = dladdr(reinterpret_cast<void *>(launch->kernel->entry), &kernel) &&
                            dladdr(w->caught_pc, &caught) && kernel.dli_fbase == caught.dli_fbase;
        // Outside of the kernel something was at work for it: the place is where the checker was last asked, if it was.
        void *pc = inside || !w->last_access ? static_cast<void *>(w->caught_pc) : static_cast<void *>(w->last_access);
        w->failure = {kind, launch->kernel->file, launch->kernel->line, pc, ""};
        if (kind == STANDIN_ENDLESS_LOOP)
            w->failure.message = text("a threadgroup ran for more than %.3g s", w->allowed_ticks * kTick);
        else
            w->failure.message = text("access to address %p, which is no memory (or a stack that is used up)",
                                      (void *)w->caught_address);
    } else {
        try {
            for (uint32_t i; !const_cast<Launch *>(launch)->failed &&
                             (i = const_cast<Launch *>(launch)->next++) < launch->group_count;)
                run_group(w, group_number(*launch, i));
        } catch (Failure &failure) {
            w->failure = failure;
        }
    }
    w->in_kernel = 0;
    if (w->failure.kind) const_cast<Launch *>(launch)->failed = true;
    worker = nullptr;
}

// Workers are kept for the next launch, with their stacks, unless a launch failed on them.
// Neither is ever destroyed: a queue may run when the process ends.
std::vector<std::unique_ptr<Worker>> &idle_workers = *new std::vector<std::unique_ptr<Worker>>;
std::mutex &launch_mutex = *new std::mutex;

std::unique_ptr<Worker> new_worker(const Launch *launch) {
    std::unique_ptr<Worker> w;
    if (!idle_workers.empty()) {
        w = std::move(idle_workers.back());
        idle_workers.pop_back();
    } else {
        w.reset(new Worker);
        w->arena = static_cast<char *>(aligned_alloc(64, kArena));
        w->used = kArena;
    }
    const double limit = launch->given->time_limit > 0 ? launch->given->time_limit : kDefaultTimeLimit;
    w->launch = launch;
    w->size = 0;
    w->failure = {};
    w->caught = 0;
    w->last_access = nullptr;
    w->ticks = 0;
    w->threadgroup.assign(kMaxBuffers, nullptr);
    w->allowed_ticks = std::max(1u, (unsigned)(limit / kTick));
    return w;
}

const Kernel *find(Module *module, const char *name) {
    for (const Kernel *k = module->kernels; k; k = k->next)
        if (!strcmp(k->name, name)) return k;
    return nullptr;
}

Failure refuse(int kind, std::string message) {
    return {kind, "", 0, nullptr, std::move(message)};
}

void set_constants(Module *module, const Kernel *kernel, const standin_launch &given) {
    for (Constant *c = module->constants; c; c = c->next) {
        c->defined = false;
        memset(c->value, 0, c->size);
    }
    for (uint32_t i = 0; i < given.constant_count; ++i) {
        const standin_constant &value = given.constants[i];
        for (Constant *c = module->constants; c; c = c->next)
            if (c->index == value.index) {
                if (c->size != value.size)
                    throw refuse(STANDIN_BAD_LAUNCH, text("function constant %d (%s) has %zu bytes, not %u", c->index,
                                                          c->name, c->size, value.size));
                memcpy(c->value, value.value, c->size);
                c->defined = true;
            }
    }
    for (int i = 0; i < kernel->required_constant_count; ++i)
        for (Constant *c = module->constants; c; c = c->next)
            if (c->index == kernel->required_constants[i] && !c->defined)
                throw refuse(STANDIN_MISSING_CONSTANT,
                             text("function constant %d (%s) has no value", c->index, c->name));
    module->derive();
}

void check_bindings(const Launch &launch) {
    const standin_launch &given = *launch.given;
    for (int i = 0; i < launch.kernel->parameter_count; ++i) {
        const Parameter &p = launch.kernel->parameters[i];
        if (p.condition && !*p.condition) continue;
        if (p.kind == Parameter::Threadgroup) {
            if ((uint32_t)p.index >= given.threadgroup_count || !given.threadgroup_sizes[p.index])
                throw refuse(STANDIN_MISSING_BINDING,
                             text("threadgroup memory %d (%s) has no length", p.index, p.name));
            continue;
        }
        const Binding &b = launch.bindings[p.index];
        if (!b.data) throw refuse(STANDIN_MISSING_BINDING, text("buffer %d (%s) is not bound", p.index, p.name));
        if (p.reference && b.size < p.size)
            throw refuse(STANDIN_BAD_LAUNCH,
                         text("buffer %d (%s) has %zu bytes, the argument needs %zu", p.index, p.name, b.size, p.size));
        if (reinterpret_cast<uintptr_t>(b.data) % p.align)
            throw refuse(STANDIN_BAD_LAUNCH,
                         text("buffer %d (%s) is not aligned to %zu bytes", p.index, p.name, p.align));
    }
}

void run(Launch &launch) {
    const standin_launch &given = *launch.given;
    Module *module = launch.module;
    if (module->version != kInterfaceVersion)
        throw refuse(STANDIN_BAD_LAUNCH, "the kernels were compiled for another version of the executor");
    launch.kernel = find(module, given.kernel);
    if (!launch.kernel) throw refuse(STANDIN_BAD_LAUNCH, text("there is no kernel '%s'", given.kernel));
    uint64_t threads = 1, groups = 1;
    uint32_t count[3];
    for (int i = 0; i < 3; ++i) {
        if (!given.group[i] || !given.grid[i])
            throw refuse(STANDIN_BAD_LAUNCH, "a grid and a threadgroup have at least one thread in each dimension");
        threads *= given.group[i];
        count[i] = (given.grid[i] - 1) / given.group[i] + 1;
        groups *= count[i];
        if (threads > kMaxThreads || groups > 0xffffffffu) break;
    }
    if (threads > launch.kernel->max_threads || threads > kMaxThreads)
        throw refuse(STANDIN_BAD_LAUNCH,
                     text("%llu threads in a threadgroup; this kernel allows %u", (unsigned long long)threads,
                          std::min(launch.kernel->max_threads, kMaxThreads)));
    if (groups > (module->checked ? 1u << 22 : 0xffffffffu)) throw refuse(STANDIN_BAD_LAUNCH, "too many threadgroups");
    if (given.buffer_count > kMaxBuffers || given.threadgroup_count > kMaxBuffers)
        throw refuse(STANDIN_BAD_LAUNCH, "at most 31 buffers and 31 lengths of threadgroup memory");
    launch.groups = {count[0], count[1], count[2]};
    launch.group_count = (uint32_t)groups;
    for (uint32_t i = 0; i < kMaxBuffers; ++i)
        launch.bindings[i] = i < given.buffer_count
                                 ? Binding{given.buffers[i].data, given.buffers[i].size, given.buffers[i].initialised}
                                 : Binding{};
    set_constants(module, launch.kernel, given);
    check_bindings(launch);

    unsigned parallel = given.threads ? given.threads : std::max(1u, std::thread::hardware_concurrency());
    parallel = module->checked ? 1 : (unsigned)std::min<uint64_t>(parallel, groups);
    if (module->checked) checker_begin(given, reinterpret_cast<const void *>(launch.kernel->entry));
    Handlers handlers;
    std::vector<std::unique_ptr<Worker>> workers;
    for (unsigned i = 0; i < parallel; ++i)
        workers.push_back(new_worker(&launch));
    {
        std::vector<std::thread> others;
        for (unsigned i = 1; i < parallel; ++i)
            others.emplace_back(run_groups, workers[i].get());
        run_groups(workers[0].get());
        for (std::thread &t : others)
            t.join();
    }
    if (module->checked) checker_end();
    Failure failure;
    for (auto &w : workers) {
        if (w->failure.kind && !failure.kind) failure = w->failure;
        if (!w->failure.kind) idle_workers.push_back(std::move(w));
    }
    if (failure.kind) throw failure;
}

} // namespace

Worker::~Worker() {
    free(arena);
}

void fail(Failure failure) {
    Worker *w = worker;
    w->in_kernel = 0;
    w->failure = std::move(failure);
    Context abandoned;
    standin_switch(&abandoned, w->scheduler);
    abort(); // the scheduler never comes back to a failed fiber
}

std::string describe_thread(uint32_t group, const Group &of, uint32_t index) {
    const Extent n = of.groups;
    std::string where = n.y == 1 && n.z == 1 ? text("%u", group)
                                             : text("(%u, %u, %u)", group % n.x, group / n.x % n.y, group / n.x / n.y);
    return text("thread %u of threadgroup ", index) + where;
}

} // namespace standin

// ---------------------------------------------------------------- what kernels call

using namespace standin;

extern "C" {

unsigned standin::standin_lane() {
    return worker->current->thread.lane;
}

static bool is_deleted(const Worker *w, const char *file, int line) {
    const standin_launch &given = *w->launch->given;
    if (line != given.deleted_line || !given.deleted_file || strcmp(file, given.deleted_file)) return false;
    ++*given.deleted_count;
    return true;
}

void standin::standin_threadgroup_barrier(int flags, const char *file, int line) {
    Worker *w = worker;
    if (is_deleted(w, file, line)) return;
    Fiber *f = w->current;
    f->operation = "threadgroup_barrier";
    f->file = file;
    f->line = line;
    f->flags = flags;
    f->state = State::AtBarrier;
    ++w->at_barrier;
    block(f);
}

void *standin::standin_simd_deposit() {
    return worker->simdgroups[worker->current->thread.simdgroup].deposit;
}
const void *standin::standin_simd_received() {
    return worker->simdgroups[worker->current->thread.simdgroup].received;
}

uint32_t standin::standin_simd_rendezvous(const char *operation, const char *file, int line, size_t size, int flags,
                                          bool whole) {
    Worker *w = worker;
    Fiber *f = w->current;
    if (flags && is_deleted(w, file, line)) return f->active;
    Simdgroup &s = w->simdgroups[f->thread.simdgroup];
    s.deposited = size;
    f->operation = operation;
    f->file = file;
    f->line = line;
    f->flags = flags;
    f->whole = whole;
    f->state = State::AtSimd;
    ++s.arrived;
    block(f);
    return f->active;
}

void standin::standin_simd_uniform(uint64_t value) {
    Fiber *f = worker->current;
    f->uniform = f->uniform * 1000003u + value;
}

void *standin::standin_threadgroup_variable(const void *site, size_t size, size_t align, const char *name) {
    constexpr size_t kGap = 64;
    Worker *w = worker;
    for (const Variable &v : w->variables)
        if (v.site == site) return v.memory;
    const auto was_in_kernel = w->in_kernel;
    w->in_kernel = 0;
    const size_t step = std::max<size_t>(align, 64), offset = (w->used + kGap + step - 1) / step * step;
    w->charged += (size + 15) / 16 * 16;
    if (w->charged > kThreadgroupMemory || offset + size + kGap > kArena) {
        Failure failure{STANDIN_THREADGROUP_MEMORY, w->launch->kernel->file, w->launch->kernel->line, nullptr,
                        text("%zu bytes of threadgroup memory with variable '%s'; a threadgroup has %zu", w->charged,
                             name, kThreadgroupMemory)};
        if (was_in_kernel) fail(failure);
        throw failure;
    }
    char *memory = w->arena + offset;
    w->used = offset + size;
    w->variables.push_back({site, memory, size, name});
    if (w->launch->module->checked) checker_add_threadgroup(memory, size, name);
    w->in_kernel = was_in_kernel;
    return memory;
}

void standin::standin_inactive_lane(const char *operation, const char *file, int line, long lane) {
    worker->in_kernel = 0;
    fail({STANDIN_INACTIVE_LANE, file, line, nullptr, text("%s reads lane %ld, which is not active", operation, lane)});
}

// Rounds to bfloat, to nearest even. The compiler's run-time library has this only from GCC 13 on.
__attribute__((visibility("default"))) __bf16 __truncsfbf2(float value) {
    uint32_t bits, rounded;
    memcpy(&bits, &value, sizeof bits);
    if ((bits & 0x7fffffffu) > 0x7f800000u)
        rounded = (bits >> 16) | 0x40u;
    else
        rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    const uint16_t half_word = (uint16_t)rounded;
    __bf16 result;
    memcpy(&result, &half_word, sizeof result);
    return result;
}

// ---------------------------------------------------------------- what hosts call

__attribute__((visibility("default"))) int32_t standin_run(void *module, const standin_launch *given,
                                                           standin_error *error) {
    std::lock_guard<std::mutex> lock(launch_mutex);
    auto launch = std::make_unique<Launch>();
    launch->given = given;
    launch->module = static_cast<Module *>(module);
    memset(error, 0, sizeof *error);
    try {
        run(*launch);
    } catch (Failure &failure) {
        look_up(failure);
        error->kind = failure.kind;
        error->line = failure.line;
        snprintf(error->file, sizeof error->file, "%s", failure.file.c_str());
        snprintf(error->kernel, sizeof error->kernel, "%s", given->kernel);
        snprintf(error->message, sizeof error->message, "%s", failure.message.c_str());
    }
    return error->kind;
}

__attribute__((visibility("default"))) const char *standin_kernel_names(void *module) {
    static thread_local std::string names;
    std::vector<std::string> all;
    for (const Kernel *k = static_cast<Module *>(module)->kernels; k; k = k->next)
        all.push_back(k->name);
    names.clear();
    for (auto name = all.rbegin(); name != all.rend(); ++name) // registered in reverse
        names += *name + "\n";
    return names.c_str();
}

__attribute__((visibility("default"))) int32_t standin_describe(void *module, const char *name,
                                                                standin_kernel_info *info) {
    const Kernel *kernel = find(static_cast<Module *>(module), name);
    if (!kernel) return -1;
    info->max_threads = std::min(kernel->max_threads, kMaxThreads);
    info->parameter_count = (uint32_t)kernel->parameter_count;
    return 0;
}

__attribute__((visibility("default"))) int32_t standin_required_constants(void *module, const char *name,
                                                                          int32_t *indices, int32_t capacity) {
    const Kernel *kernel = find(static_cast<Module *>(module), name);
    for (int i = 0; kernel && i < kernel->required_constant_count && i < capacity; ++i)
        indices[i] = kernel->required_constants[i];
    return kernel ? kernel->required_constant_count : 0;
}

__attribute__((visibility("default"))) char standin_constant_type(void *module, int32_t index, uint32_t *size) {
    for (Constant *c = static_cast<Module *>(module)->constants; c; c = c->next)
        if (c->index == index) {
            *size = (uint32_t)c->size;
            return c->type;
        }
    return 0;
}
}
