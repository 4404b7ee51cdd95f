// An Objective-C runtime, as small as clang's -fobjc-runtime=gnustep-2.0 lets it be: classes, categories, message sends,
// automatic reference counting, weak references, blocks. It exists so that the Metal runtime compiles and runs unchanged on
// Linux, and it is stricter than a real one: it counts live objects, keeps the last dead ones as zombies, and reports
// whoever touches them. It knows no class but the roots of constant strings.
//
// Not here: exceptions of Objective-C, forwarding, dynamic creation of classes, associated objects.
#include "inspect.h"
#include <atomic>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <mutex>
#include <string>
#include <unordered_map>
#include <unwind.h>
#include <vector>

// ---------------------------------------------------------------- what the compiler emits

struct objc_class;
typedef objc_class *Class;
typedef struct objc_object {
    Class isa;
} *id;
struct objc_selector {
    const char *name;
    const char *types;
};
typedef objc_selector *SEL;
typedef id (*IMP)(id, SEL, ...);

struct Method {
    IMP implementation;
    SEL selector;
    const char *types;
};
struct MethodList {
    MethodList *next;
    int count;
    long size;
    Method methods[1];
};
struct InstanceVariable {
    const char *name, *type;
    int *offset;
    uint32_t size, flags; // from bit 3 on: the logarithm of the alignment
};
struct VariableList {
    int count;
    long size;
    InstanceVariable variables[1];
};
typedef std::unordered_map<const char *, Method *> MethodTable;
struct objc_class {
    Class isa, super;
    const char *name;
    long version;
    unsigned long info;
    long instance_size;
    VariableList *variables;
    MethodList *methods;
    MethodTable *table;
    IMP construct, destroy;
    Class subclass, sibling;
    void *protocols, *extra;
    long abi;
    void *properties;
};
struct Category {
    const char *name, *class_name;
    MethodList *instance_methods, *class_methods;
    void *protocols, *properties, *class_properties;
};
struct ProtocolList;
struct ObjcProtocol {
    void *isa;
    const char *name;
    ProtocolList *protocols;
    void *methods[4], *properties[4];
};
struct ProtocolList {
    ProtocolList *next;
    long count;
    ObjcProtocol *protocols[1];
};
struct Image { // sections of one shared library
    uint64_t version;
    objc_selector *selectors, *selectors_end;
    Class *classes, *classes_end;
    Class *class_references, *class_references_end;
    Category *categories, *categories_end;
    ObjcProtocol *protocols, *protocols_end;
    ObjcProtocol **protocol_references, **protocol_references_end;
    void **aliases, **aliases_end;
    void *strings, *strings_end;
};

extern "C" objc_class tiny_string_class __asm__("._OBJC_CLASS_NSTinyString") __attribute__((weak));
extern "C" objc_class constant_string_class __asm__("._OBJC_CLASS_NSConstantString") __attribute__((weak));

// ---------------------------------------------------------------- state, which outlives static destruction

namespace {

constexpr unsigned long kMeta = 1, kResolved = 0x200, kBlock = 0x10000; // of objc_class::info
constexpr size_t kZombies = 1 << 14;

typedef std::lock_guard<std::recursive_mutex> Guard;

struct Entry {
    Class of;
    const char *name;
    IMP implementation;
};

struct State {
    std::recursive_mutex mutex;
    std::unordered_map<std::string, const char *> names;
    std::unordered_map<std::string, Class> classes;
    std::vector<Category *> waiting; // categories of classes that are not loaded yet
    std::unordered_map<id, std::vector<id *>> weak;
    std::deque<void *> zombies;
    std::recursive_mutex synchronized[64];
    std::atomic<const Entry *> cache[4096] = {};
    std::atomic<int64_t> live{0}, errors{0};
    std::atomic<bool> tolerate{false};
    Class root_meta = nullptr;
};
State &state() {
    static State *const instance = new State;
    return *instance;
}

objc_class zombie_class;
thread_local std::vector<id> autoreleased;
thread_local int pools = 0;

[[noreturn]] void die(const std::string &message) {
    fprintf(stderr, "stand-in for Metal: Objective-C: %s\n", message.c_str());
    abort();
}

// A use of memory that is no object any more.
void memory_error(const std::string &message) {
    ++state().errors;
    fprintf(stderr, "stand-in for Metal: Objective-C: %s\n", message.c_str());
    if (!state().tolerate) abort();
}

const char *intern(const char *name) {
    auto &names = state().names;
    auto found = names.find(name);
    if (found == names.end()) found = names.emplace(name, strdup(name)).first;
    return found->second;
}

void add_methods(Class to, MethodList *list) {
    if (!to->table) to->table = new MethodTable;
    for (; list; list = list->next)
        for (int i = 0; i < list->count; ++i) {
            Method *method = &list->methods[i];
            method->selector->name = intern(method->selector->name);
            (*to->table)[method->selector->name] = method;
        }
}

// Lays out a class whose superclass is laid out, and enters its methods.
void resolve(Class c) {
    if (c->info & kResolved) return;
    c->info |= kResolved;
    if (c->super) resolve(c->super);
    Class meta = c->isa;
    meta->info |= kResolved;
    meta->name = c->name;
    meta->instance_size = sizeof(objc_class);
    if (!c->super) {
        state().root_meta = meta;
        meta->super = c;
    } else
        meta->super = c->super->isa;
    meta->isa = state().root_meta ? state().root_meta : meta;
    if (c->instance_size <= 0) { // minus the size of the class's own variables, which follow the superclass's
        long end = c->super ? c->super->instance_size : 0;
        for (int i = 0; c->variables && i < c->variables->count; ++i) {
            InstanceVariable &v = c->variables->variables[i];
            const long alignment = 1L << (v.flags >> 3);
            end = (end + alignment - 1) / alignment * alignment;
            *v.offset = (int)end;
            end += v.size;
        }
        c->instance_size = (end + 7) / 8 * 8;
    }
    add_methods(c, c->methods);
    add_methods(meta, meta->methods);
    state().classes[c->name] = c;
}

Method *find_method(Class c, const char *name) {
    for (; c; c = c->super)
        if (c->table)
            if (auto found = c->table->find(name); found != c->table->end()) return found->second;
    return nullptr;
}

bool is_tiny(id o) {
    return (reinterpret_cast<uintptr_t>(o) & 7) != 0;
}
Class class_of(id o) {
    return is_tiny(o) ? &tiny_string_class : o->isa;
}
bool is_block(id o) {
    return !is_tiny(o) && (o->isa->info & kBlock);
}
bool is_constant(id o) {
    return is_tiny(o) || o->isa == &constant_string_class || (o->isa->info & kMeta);
}
size_t &count_of(id o) {
    return reinterpret_cast<size_t *>(o)[-1];
}

extern "C" {
void *_Block_copy(const void *);
void _Block_release(const void *);
id objc_autorelease(id);
id objc_retain(id);
extern objc_class _NSConcreteStackBlock;
}
id retain_block(id o, SEL) {
    return objc_retain(o);
}
id copy_block(id o, SEL) {
    return static_cast<id>(_Block_copy(o));
}
void release_block(id o, SEL) {
    _Block_release(o);
}
id autorelease_block(id o, SEL) {
    return objc_autorelease(o);
}
id ignore(id, SEL) {
    return nullptr;
}

IMP look_up(Class c, SEL selector) {
    State &s = state();
    if (c == &zombie_class) {
        memory_error(std::string("message ") + selector->name + " to an object that is gone");
        return reinterpret_cast<IMP>(ignore);
    }
    const char *name = selector->name;
    const size_t slot = ((reinterpret_cast<uintptr_t>(c) >> 4) ^ (reinterpret_cast<uintptr_t>(name) >> 3)) % 4096;
    const Entry *entry = s.cache[slot].load(std::memory_order_acquire);
    if (entry && entry->of == c && entry->name == name) return entry->implementation;
    if (c->info & kBlock) {
        if (!strcmp(name, "copy")) return reinterpret_cast<IMP>(copy_block);
        if (!strcmp(name, "retain")) return reinterpret_cast<IMP>(retain_block);
        if (!strcmp(name, "release")) return reinterpret_cast<IMP>(release_block);
        if (!strcmp(name, "autorelease")) return reinterpret_cast<IMP>(autorelease_block);
    }
    Guard guard(s.mutex);
    name = selector->name = intern(name);
    if (!(c->info & (kResolved | kMeta))) resolve(c);
    Method *method = find_method(c, name);
    if (!method) die(std::string(c->info & kMeta ? "+[" : "-[") + c->name + " " + name + "]: unrecognized selector");
    // Entries are never freed: another thread may be reading one. There are as many as there are pairs that were sent.
    s.cache[slot].store(new Entry{c, name, method->implementation}, std::memory_order_release);
    return method->implementation;
}

class Selector {
  public:
    explicit Selector(const char *name) {
        Guard guard(state().mutex);
        selector_ = {intern(name), nullptr};
    }
    operator SEL() { return &selector_; }
    const char *name() const { return selector_.name; }

  private:
    objc_selector selector_;
};

template <class R = id, class... A>
R send(id o, SEL selector, A... a) {
    return reinterpret_cast<R (*)(id, SEL, A...)>(look_up(class_of(o), selector))(o, selector, a...);
}

} // namespace

// ---------------------------------------------------------------- message sends

extern "C" {

IMP standin_look_up(id o, SEL selector) {
    return look_up(class_of(o), selector);
}

IMP objc_msg_lookup(id o, SEL selector) {
    return o ? look_up(class_of(o), selector) : reinterpret_cast<IMP>(ignore);
}
struct SuperCall {
    id self;
    Class super;
};
IMP objc_msg_lookup_super(SuperCall *call, SEL selector) {
    return look_up(call->super, selector);
}

// A send keeps all argument registers, looks the method up, and jumps to it.
#if defined(__x86_64__)
asm(R"(
.text
.macro SAVE_ARGUMENTS
    pushq %rbp
    movq %rsp, %rbp
    subq $192, %rsp
    movq %rdi, 0(%rsp)
    movq %rsi, 8(%rsp)
    movq %rdx, 16(%rsp)
    movq %rcx, 24(%rsp)
    movq %r8, 32(%rsp)
    movq %r9, 40(%rsp)
    movq %rax, 48(%rsp)
    movups %xmm0, 64(%rsp)
    movups %xmm1, 80(%rsp)
    movups %xmm2, 96(%rsp)
    movups %xmm3, 112(%rsp)
    movups %xmm4, 128(%rsp)
    movups %xmm5, 144(%rsp)
    movups %xmm6, 160(%rsp)
    movups %xmm7, 176(%rsp)
.endm
.macro LOOK_UP_AND_JUMP
    callq standin_look_up@PLT
    movq %rax, %r11
    movq 0(%rsp), %rdi
    movq 8(%rsp), %rsi
    movq 16(%rsp), %rdx
    movq 24(%rsp), %rcx
    movq 32(%rsp), %r8
    movq 40(%rsp), %r9
    movq 48(%rsp), %rax
    movups 64(%rsp), %xmm0
    movups 80(%rsp), %xmm1
    movups 96(%rsp), %xmm2
    movups 112(%rsp), %xmm3
    movups 128(%rsp), %xmm4
    movups 144(%rsp), %xmm5
    movups 160(%rsp), %xmm6
    movups 176(%rsp), %xmm7
    leave
    jmpq *%r11
.endm
.globl objc_msgSend
.type objc_msgSend,@function
.globl objc_msgSend_fpret
.type objc_msgSend_fpret,@function
objc_msgSend:
objc_msgSend_fpret:
    testq %rdi, %rdi
    jz 1f
    SAVE_ARGUMENTS
    LOOK_UP_AND_JUMP
1:  xorl %eax, %eax
    xorl %edx, %edx
    pxor %xmm0, %xmm0
    pxor %xmm1, %xmm1
    ret
.globl objc_msgSend_stret
.type objc_msgSend_stret,@function
objc_msgSend_stret:
    testq %rsi, %rsi
    jz 1f
    SAVE_ARGUMENTS
    movq %rsi, %rdi
    movq %rdx, %rsi
    LOOK_UP_AND_JUMP
1:  movq %rdi, %rax
    ret
)");
#elif defined(__aarch64__)
// Assembled but never run; see docs/metal.md.
asm(R"(
.text
.globl objc_msgSend
.type objc_msgSend,%function
.globl objc_msgSend_stret
.type objc_msgSend_stret,%function
.globl objc_msgSend_fpret
.type objc_msgSend_fpret,%function
objc_msgSend:
objc_msgSend_stret:
objc_msgSend_fpret:
    cbz x0, 1f
    stp x29, x30, [sp, #-224]!
    mov x29, sp
    stp x0, x1, [sp, #16]
    stp x2, x3, [sp, #32]
    stp x4, x5, [sp, #48]
    stp x6, x7, [sp, #64]
    str x8, [sp, #80]
    stp q0, q1, [sp, #96]
    stp q2, q3, [sp, #128]
    stp q4, q5, [sp, #160]
    stp q6, q7, [sp, #192]
    bl standin_look_up
    mov x16, x0
    ldp x0, x1, [sp, #16]
    ldp x2, x3, [sp, #32]
    ldp x4, x5, [sp, #48]
    ldp x6, x7, [sp, #64]
    ldr x8, [sp, #80]
    ldp q0, q1, [sp, #96]
    ldp q2, q3, [sp, #128]
    ldp q4, q5, [sp, #160]
    ldp q6, q7, [sp, #192]
    ldp x29, x30, [sp], #224
    br x16
1:  mov x1, #0
    movi d0, #0
    movi d1, #0
    ret
)");
#else
#error "message sends are written for x86-64 and AArch64"
#endif

// ---------------------------------------------------------------- loading

void __objc_load(Image *image) {
    State &s = state();
    Guard guard(s.mutex);
    if (image->version != 0) die("the compiler speaks another version of the runtime's interface");
    for (auto *selector = image->selectors; selector < image->selectors_end; ++selector)
        if (selector->name) selector->name = intern(selector->name);
    for (auto *c = image->classes; c < image->classes_end; ++c)
        if (*c) resolve(*c);
    for (auto *category = image->categories; category < image->categories_end; ++category)
        if (category->name) s.waiting.push_back(category);
    std::vector<Category *> left;
    for (Category *category : s.waiting) {
        auto found = s.classes.find(category->class_name);
        if (found == s.classes.end()) {
            left.push_back(category);
            continue;
        }
        add_methods(found->second, category->instance_methods);
        add_methods(found->second->isa, category->class_methods);
    }
    s.waiting.swap(left);
    for (auto &slot : s.cache)
        slot = nullptr;
}

// ---------------------------------------------------------------- objects

id class_createInstance(Class c, size_t extra) {
    static Selector construct(".cxx_construct");
    State &s = state();
    if (!(c->info & kResolved)) {
        Guard guard(s.mutex);
        resolve(c);
    }
    auto *memory = static_cast<size_t *>(calloc(1, 16 + (size_t)c->instance_size + extra));
    memory[1] = 1; // the reference count lies before the object
    id o = reinterpret_cast<id>(memory + 2);
    o->isa = c;
    ++s.live;
    std::vector<Class> chain;
    for (Class k = c; k; k = k->super)
        chain.push_back(k);
    for (auto k = chain.rbegin(); k != chain.rend(); ++k)
        if ((*k)->table)
            if (auto found = (*k)->table->find(construct.name()); found != (*k)->table->end())
                found->second->implementation(o, construct);
    return o;
}

void object_dispose(id o) {
    static Selector destruct(".cxx_destruct");
    State &s = state();
    for (Class k = o->isa; k; k = k->super)
        if (k->table)
            if (auto found = k->table->find(destruct.name()); found != k->table->end())
                found->second->implementation(o, destruct);
    void *oldest = nullptr;
    const long size = o->isa->instance_size;
    {
        Guard guard(s.mutex);
        if (auto found = s.weak.find(o); found != s.weak.end()) {
            for (id *w : found->second)
                *w = nullptr;
            s.weak.erase(found);
        }
        memset(static_cast<void *>(o), 0x5a, (size_t)size);
        o->isa = &zombie_class;
        s.zombies.push_back(reinterpret_cast<size_t *>(o) - 2);
        if (s.zombies.size() > kZombies) {
            oldest = s.zombies.front();
            s.zombies.pop_front();
        }
    }
    --s.live;
    free(oldest);
}

// ---------------------------------------------------------------- reference counts

id objc_retain(id o) {
    if (!o || is_constant(o)) return o;
    if (is_block(o)) // on the stack it stays there: only a copy moves it
        return o->isa == &_NSConcreteStackBlock ? o : static_cast<id>(_Block_copy(o));
    if (o->isa == &zombie_class) {
        memory_error("retain of an object that is gone");
        return o;
    }
    __atomic_fetch_add(&count_of(o), 1, __ATOMIC_RELAXED);
    return o;
}

void objc_release(id o) {
    static Selector dealloc("dealloc");
    if (!o || is_constant(o)) return;
    if (is_block(o)) return _Block_release(o);
    if (o->isa == &zombie_class) return memory_error("over-release: release of an object that is gone");
    if (__atomic_fetch_sub(&count_of(o), 1, __ATOMIC_ACQ_REL) == 1) send<void>(o, dealloc);
}

size_t standin_retain_count(id o) {
    return is_constant(o) ? SIZE_MAX : count_of(o);
}

id objc_autorelease(id o) {
    if (!o) return o;
    if (pools)
        autoreleased.push_back(o);
    else {
        ++state().errors;
        fprintf(stderr, "stand-in for Metal: Objective-C: autorelease of a %s without a pool: it leaks\n",
                class_of(o)->name);
    }
    return o;
}
void *objc_autoreleasePoolPush() {
    ++pools;
    return reinterpret_cast<void *>(autoreleased.size() + 1);
}
void objc_autoreleasePoolPop(void *pool) {
    const size_t size = reinterpret_cast<size_t>(pool) - 1;
    while (autoreleased.size() > size) {
        id o = autoreleased.back();
        autoreleased.pop_back();
        objc_release(o);
    }
    --pools;
}
id objc_retainAutorelease(id o) {
    return objc_autorelease(objc_retain(o));
}
id objc_autoreleaseReturnValue(id o) {
    return objc_autorelease(o);
}
id objc_retainAutoreleaseReturnValue(id o) {
    return objc_retainAutorelease(o);
}
id objc_retainAutoreleasedReturnValue(id o) {
    return objc_retain(o);
}
id objc_claimAutoreleasedReturnValue(id o) {
    return objc_retain(o);
}
id objc_unsafeClaimAutoreleasedReturnValue(id o) {
    return o;
}
id objc_retainBlock(id o) {
    return static_cast<id>(_Block_copy(o));
}
id objc_storeStrong(id *where, id value) {
    id old = *where;
    objc_retain(value);
    *where = value;
    objc_release(old);
    return value;
}
id objc_alloc(Class c) {
    return class_createInstance(c, 0);
}
id objc_allocWithZone(Class c) {
    return class_createInstance(c, 0);
}
id objc_alloc_init(Class c) {
    static Selector init("init");
    return send(class_createInstance(c, 0), init);
}

// ---------------------------------------------------------------- weak references

id objc_initWeak(id *where, id o) {
    Guard guard(state().mutex);
    *where = o;
    if (o) state().weak[o].push_back(where);
    return o;
}
void objc_destroyWeak(id *where) {
    Guard guard(state().mutex);
    if (*where) {
        auto &all = state().weak[*where];
        for (size_t i = 0; i < all.size(); ++i)
            if (all[i] == where) {
                all.erase(all.begin() + (ptrdiff_t)i);
                break;
            }
        if (all.empty()) state().weak.erase(*where);
    }
    *where = nullptr;
}
id objc_storeWeak(id *where, id o) {
    Guard guard(state().mutex);
    objc_destroyWeak(where);
    return objc_initWeak(where, o);
}
// An object whose last reference is being dropped counts as gone already.
id objc_loadWeakRetained(id *where) {
    Guard guard(state().mutex);
    id o = *where;
    if (!o || is_constant(o)) return o;
    size_t count = __atomic_load_n(&count_of(o), __ATOMIC_RELAXED);
    while (count > 0)
        if (__atomic_compare_exchange_n(&count_of(o), &count, count + 1, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED))
            return o;
    return nullptr;
}
id objc_loadWeak(id *where) {
    return objc_autorelease(objc_loadWeakRetained(where));
}
void objc_copyWeak(id *to, id *from) {
    Guard guard(state().mutex);
    objc_initWeak(to, *from);
}
void objc_moveWeak(id *to, id *from) {
    Guard guard(state().mutex);
    objc_initWeak(to, *from);
    objc_destroyWeak(from);
}

// ---------------------------------------------------------------- properties, @synchronized, reflection

static std::recursive_mutex &lock_of(const void *o) {
    return state().synchronized[reinterpret_cast<uintptr_t>(o) / 16 % 64];
}
id objc_getProperty(id o, SEL, ptrdiff_t offset, bool atomic) {
    id *where = reinterpret_cast<id *>(reinterpret_cast<char *>(o) + offset);
    if (!atomic) return objc_retainAutorelease(*where);
    std::lock_guard<std::recursive_mutex> guard(lock_of(where));
    return objc_retainAutorelease(*where);
}
void objc_setProperty(id o, SEL, ptrdiff_t offset, id value, bool atomic, bool copy) {
    static Selector copying("copy");
    id *where = reinterpret_cast<id *>(reinterpret_cast<char *>(o) + offset), old;
    value = copy && value ? send(value, copying) : objc_retain(value);
    if (atomic) {
        std::lock_guard<std::recursive_mutex> guard(lock_of(where));
        old = *where;
        *where = value;
    } else {
        old = *where;
        *where = value;
    }
    objc_release(old);
}
void objc_setProperty_nonatomic(id o, SEL s, id value, ptrdiff_t at) {
    objc_setProperty(o, s, at, value, false, false);
}
void objc_setProperty_atomic(id o, SEL s, id value, ptrdiff_t at) {
    objc_setProperty(o, s, at, value, true, false);
}
void objc_setProperty_nonatomic_copy(id o, SEL s, id value, ptrdiff_t at) {
    objc_setProperty(o, s, at, value, false, true);
}
void objc_setProperty_atomic_copy(id o, SEL s, id value, ptrdiff_t at) {
    objc_setProperty(o, s, at, value, true, true);
}

int objc_sync_enter(id o) {
    lock_of(o).lock();
    return 0;
}
int objc_sync_exit(id o) {
    lock_of(o).unlock();
    return 0;
}
void objc_enumerationMutation(id) {
    die("a collection was changed while it was enumerated");
}
void objc_exception_throw(id o) {
    die(std::string("an exception of class ") + class_of(o)->name + " was thrown");
}

Class objc_getClass(const char *name) {
    Guard guard(state().mutex);
    auto found = state().classes.find(name);
    return found == state().classes.end() ? nullptr : found->second;
}
Class object_getClass(id o) {
    return o ? class_of(o) : nullptr;
}
Class class_getSuperclass(Class c) {
    return c->super;
}
const char *class_getName(Class c) {
    return c ? c->name : "nil";
}
const char *sel_getName(SEL selector) {
    return selector->name;
}
bool class_respondsToSelector(Class c, SEL selector) {
    Guard guard(state().mutex);
    selector->name = intern(selector->name);
    return find_method(c, selector->name) != nullptr;
}
static bool lists(const ProtocolList *list, const char *name) {
    for (; list; list = list->next)
        for (long i = 0; i < list->count; ++i)
            if (!strcmp(list->protocols[i]->name, name) || lists(list->protocols[i]->protocols, name)) return true;
    return false;
}
bool standin_conforms(Class c, ObjcProtocol *protocol) {
    for (; c; c = c->super)
        if (lists(static_cast<ProtocolList *>(c->protocols), protocol->name)) return true;
    return false;
}

// C++ exceptions pass through Objective-C++ as through C++.
_Unwind_Reason_Code __gxx_personality_v0(int, _Unwind_Action, uint64_t, _Unwind_Exception *, _Unwind_Context *);
_Unwind_Reason_Code __gnustep_objcxx_personality_v0(int version, _Unwind_Action actions, uint64_t type,
                                                    _Unwind_Exception *exception, _Unwind_Context *context) {
    return __gxx_personality_v0(version, actions, type, exception, context);
}
_Unwind_Reason_Code __gnustep_objc_personality_v0(int version, _Unwind_Action actions, uint64_t type,
                                                  _Unwind_Exception *exception, _Unwind_Context *context) {
    return __gxx_personality_v0(version, actions, type, exception, context);
}

// ---------------------------------------------------------------- blocks

struct BlockDescriptor {
    unsigned long reserved, size;
    void (*copy)(void *, const void *);
    void (*dispose)(const void *);
};
struct Block {
    Class isa;
    int flags, references;
    void (*invoke)(void *, ...);
    BlockDescriptor *descriptor;
};
struct ByReference { // a __block variable
    void *isa;
    ByReference *forwarding;
    int flags, size;
    void (*keep)(void *, void *);
    void (*destroy)(void *);
};
enum { kOnHeap = 1 << 24, kHasCopy = 1 << 25, kGlobal = 1 << 28 }; // flags of blocks and __block variables
enum { kFieldObject = 3, kFieldBlock = 7, kFieldByReference = 8, kFieldWeak = 16, kByReferenceCaller = 128 };

objc_class _NSConcreteStackBlock = {nullptr, nullptr, "NSStackBlock", 0, kResolved | kBlock, 0};
objc_class _NSConcreteGlobalBlock = {nullptr, nullptr, "NSGlobalBlock", 0, kResolved | kBlock, 0};
objc_class _NSConcreteMallocBlock = {nullptr, nullptr, "NSMallocBlock", 0, kResolved | kBlock, 0};

void *_Block_copy(const void *block) {
    auto *from = static_cast<Block *>(const_cast<void *>(block));
    if (!from || (from->flags & kGlobal)) return from;
    if (from->flags & kOnHeap) {
        __atomic_fetch_add(&from->references, 1, __ATOMIC_RELAXED);
        return from;
    }
    auto *to = static_cast<Block *>(malloc(from->descriptor->size));
    memcpy(static_cast<void *>(to), from, from->descriptor->size);
    to->isa = &_NSConcreteMallocBlock;
    to->flags |= kOnHeap;
    to->references = 1;
    ++state().live;
    if (to->flags & kHasCopy) to->descriptor->copy(to, from);
    return to;
}
void _Block_release(const void *given) {
    auto *block = static_cast<Block *>(const_cast<void *>(given));
    if (!block || !(block->flags & kOnHeap)) return;
    const int before = __atomic_fetch_sub(&block->references, 1, __ATOMIC_ACQ_REL);
    if (before > 1) return;
    if (block->flags & kHasCopy) block->descriptor->dispose(block);
    --state().live;
    free(block);
}
void _Block_object_assign(void *to, const void *object, const int flags) {
    if (flags & (kByReferenceCaller | kFieldWeak)) {
        *static_cast<const void **>(to) = object;
        return;
    }
    switch (flags & 15) {
    case kFieldObject: *static_cast<id *>(to) = objc_retain(static_cast<id>(const_cast<void *>(object))); break;
    case kFieldBlock: *static_cast<void **>(to) = _Block_copy(object); break;
    case kFieldByReference: {
        auto *from = static_cast<ByReference *>(const_cast<void *>(object));
        if (from->forwarding == from && !(from->flags & kOnHeap)) { // moves to the heap with its first block
            auto *moved = static_cast<ByReference *>(malloc((size_t)from->size));
            memcpy(static_cast<void *>(moved), from, (size_t)from->size);
            moved->flags = (from->flags & ~0xffff) | kOnHeap | 2; // references by the frame and by the block
            moved->forwarding = moved;
            from->forwarding = moved;
            if (from->flags & kHasCopy) from->keep(moved, from);
        } else
            __atomic_fetch_add(&from->forwarding->flags, 1, __ATOMIC_RELAXED);
        *static_cast<void **>(to) = from->forwarding;
        break;
    }
    default: die("a block captures something that this runtime does not know");
    }
}
void _Block_object_dispose(const void *object, const int flags) {
    if (flags & (kByReferenceCaller | kFieldWeak)) return;
    switch (flags & 15) {
    case kFieldObject: objc_release(static_cast<id>(const_cast<void *>(object))); break;
    case kFieldBlock: _Block_release(object); break;
    case kFieldByReference: {
        auto *variable = static_cast<const ByReference *>(object)->forwarding;
        if (!(variable->flags & kOnHeap)) break;
        if ((__atomic_sub_fetch(&variable->flags, 1, __ATOMIC_ACQ_REL) & 0xffff) == 0) {
            if (variable->flags & kHasCopy) variable->destroy(variable);
            free(variable);
        }
        break;
    }
    default: die("a block lets go of something that this runtime does not know");
    }
}

// ---------------------------------------------------------------- inspection

int64_t standin_live_objects(void) {
    return state().live;
}
int64_t standin_memory_errors(void) {
    return state().errors;
}
void standin_tolerate(int32_t tolerate) {
    state().tolerate = tolerate != 0;
}

} // extern "C"
