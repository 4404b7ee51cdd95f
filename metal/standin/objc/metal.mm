// The stand-in's Metal: Apple's compute API on the executor. Compiled with ARC.
//
// What an Apple GPU with validation would abort over aborts here, with a message: encoders and commits out of order, arguments
// past their limits. What it would return an error for returns the same kind of error. A queue runs its command buffers in
// order on a thread of its own, after a delay that tests choose, so that a missing wait shows. Launches of all queues run one
// after the other; overlap of command buffers is not simulated.
#import <Metal/Metal.h>

#include "../executor/executor.h"
#include "inspect.h"

#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <dlfcn.h>
#include <fcntl.h>
#include <fstream>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <spawn.h>
#include <sstream>
#include <string>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>
#include <vector>

extern char **environ;

NSString *const MTLLibraryErrorDomain = @"MTLLibraryErrorDomain";
NSString *const MTLCommandBufferErrorDomain = @"MTLCommandBufferErrorDomain";
NSString *const MTLBinaryArchiveDomain = @"MTLBinaryArchiveDomain";
NSString *const MTLCaptureErrorDomain = @"MTLCaptureErrorDomain";

namespace {

constexpr NSUInteger kPage = 16384; // Apple silicon's
constexpr NSUInteger kMaxBytes = 4096, kMaxBuffers = 31, kMaxThreads = 1024, kThreadgroupMemory = 32768;
constexpr double kEventTimeout = 20.0; // seconds; a wait for an event that nobody signals
const char kLibraryMagic[] = "mlxr stand-in metallib 1\n";
const char kArchiveMagic[] = "mlxr stand-in binary archive 1\n";

uint64_t environment(const char *name, uint64_t otherwise) {
    const char *value = getenv(name);
    return value && *value ? strtoull(value, nullptr, 10) : otherwise;
}

int order_from_environment() {
    const std::string order = getenv("MLXR_STANDIN_ORDER") ? getenv("MLXR_STANDIN_ORDER") : "forward";
    return order == "reverse" ? STANDIN_REVERSE : order == "shuffled" ? STANDIN_SHUFFLED : STANDIN_FORWARD;
}

// Outlives static destruction: queues may run when the process ends.
struct State {
    std::mutex mutex;
    std::condition_variable changed;
    uint64_t bytes = 0;
    uint64_t limit =
        environment("MLXR_STANDIN_MEMORY", (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE) / 4 * 3);
    uint32_t delay = (uint32_t)environment("MLXR_STANDIN_DELAY_US", 0);
    bool checked = environment("MLXR_STANDIN_CHECKED", 0) != 0;
    int order = order_from_environment();
    uint32_t seed = 0;
    int injected = getenv("MLXR_STANDIN_LOSE_AFTER") ? MTLCommandBufferErrorDeviceRemoved : 0;
    uint64_t inject_after = environment("MLXR_STANDIN_LOSE_AFTER", 0);
    bool lost = false;
    uint64_t pending = 0;                        // command buffers committed and not let go of
    std::map<std::string, void *> modules;       // by the path of the compiled library
    std::map<std::string, std::string> compiled; // path by source
};
State &state() {
    static State *const instance = new State;
    return *instance;
}

NSString *string_of(const std::string &text) {
    return [NSString stringWithUTF8String:text.c_str()];
}

NSError *make_error(NSString *domain, NSInteger code, const std::string &text) {
    return [NSError errorWithDomain:domain code:code userInfo:@{NSLocalizedDescriptionKey : string_of(text)}];
}

void give(NSError *__autoreleasing *where, NSString *domain, NSInteger code, const std::string &text) {
    if (where) *where = make_error(domain, code, text);
}

[[noreturn]] void misuse(const std::string &what) {
    fprintf(stderr, "stand-in for Metal: API misuse: %s\n", what.c_str());
    abort();
}
void require(bool condition, const std::string &what) {
    if (!condition) misuse(what);
}

double now() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

std::string read_file(const std::string &path) {
    std::ifstream file(path, std::ios::binary);
    std::stringstream text;
    text << file.rdbuf();
    return text.str();
}

bool starts_with(const std::string &text, const char *prefix) {
    return text.compare(0, strlen(prefix), prefix) == 0;
}

// Runs the stand-in's compiler on a source. True, and the path of the library; or false, and the compiler's messages.
bool compile(const std::string &source, std::string &result) {
    State &s = state();
    const std::string key = (s.checked ? "checked\n" : "plain\n") + source;
    {
        std::lock_guard lock(s.mutex);
        if (auto found = s.compiled.find(key); found != s.compiled.end()) {
            result = found->second;
            return true;
        }
    }
    int in[2], out[2];
    if (pipe2(in, O_CLOEXEC) || pipe2(out, O_CLOEXEC)) {
        result = "no pipe to the compiler";
        return false;
    }
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, in[0], 0);
    posix_spawn_file_actions_adddup2(&actions, out[1], 1);
    // It compiles for the executor of its checkout, which has to be the one that is loaded here.
    const char *arguments[] = {STANDIN_PYTHON, STANDIN_COMPILER, s.checked ? "--checked" : "--plain",
                               "--executor=" STANDIN_EXECUTOR, nullptr};
    pid_t child = 0;
    const int failed = posix_spawn(&child, STANDIN_PYTHON, &actions, nullptr, const_cast<char **>(arguments), environ);
    posix_spawn_file_actions_destroy(&actions);
    close(in[0]);
    close(out[1]);
    std::string text;
    int status = -1;
    if (!failed) {
        std::thread writer([&] { // the compiler reads all of its input before it writes, but who knows
            size_t done = 0;
            while (done < source.size()) {
                ssize_t n = write(in[1], source.data() + done, source.size() - done);
                if (n <= 0) break;
                done += (size_t)n;
            }
            close(in[1]);
        });
        char buffer[4096];
        for (ssize_t n; (n = read(out[0], buffer, sizeof buffer)) > 0;)
            text.append(buffer, (size_t)n);
        writer.join();
        waitpid(child, &status, 0);
    } else
        close(in[1]);
    close(out[0]);
    while (!text.empty() && text.back() == '\n')
        text.pop_back();
    result = text;
    if (failed || status != 0) {
        if (text.empty()) result = std::string("the stand-in's compiler could not be run: ") + STANDIN_PYTHON;
        return false;
    }
    std::lock_guard lock(s.mutex);
    s.compiled[key] = text;
    return true;
}

// The executor's module of a compiled library, which stays loaded.
void *load(const std::string &path, std::string &error) {
    State &s = state();
    std::lock_guard lock(s.mutex);
    if (auto found = s.modules.find(path); found != s.modules.end()) return found->second;
    void *handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    auto *entry = handle ? reinterpret_cast<void *(*)()>(dlsym(handle, "standin_module")) : nullptr;
    if (!entry) {
        error = dlerror();
        return nullptr;
    }
    return s.modules[path] = entry();
}

size_t size_of(MTLDataType type) {
    switch (type) {
    case MTLDataTypeBool:
    case MTLDataTypeChar:
    case MTLDataTypeUChar: return 1;
    case MTLDataTypeHalf:
    case MTLDataTypeShort:
    case MTLDataTypeUShort: return 2;
    default: return 4;
    }
}
char letter_of(MTLDataType type) {
    switch (type) {
    case MTLDataTypeBool: return 'b';
    case MTLDataTypeFloat: return 'f';
    case MTLDataTypeHalf: return 'h';
    case MTLDataTypeInt:
    case MTLDataTypeShort:
    case MTLDataTypeChar: return 'i';
    default: return 'u';
    }
}

struct ConstantValue {
    char letter;
    std::string bytes;
};
typedef std::map<int32_t, ConstantValue> Constants;

} // namespace

// ---------------------------------------------------------------- classes

@interface StandinDevice : NSObject <MTLDevice>
@end
@interface StandinBuffer : NSObject <MTLBuffer> {
  @public
    char *memory;
    NSUInteger size;
    bool owned;
    void (^deallocator)(void *, NSUInteger);
}
@end
@interface StandinLibrary : NSObject <MTLLibrary> {
  @public
    void *module;
    std::string path;
    std::vector<std::string> names;
}
@end
@interface StandinFunction : NSObject <MTLFunction> {
  @public
    StandinLibrary *library;
    std::string kernel;
    Constants constants;
}
- (std::string)key;
@end
@interface StandinPipeline : NSObject <MTLComputePipelineState> {
  @public
    StandinFunction *function;
    uint32_t threads;
    NSString *given;
}
@end
@interface StandinArchive : NSObject <MTLBinaryArchive> {
  @public
    std::mutex mutex;
    std::set<std::string> keys;
}
@end
@interface StandinEvent : NSObject <MTLSharedEvent> {
  @public
    std::mutex mutex;
    std::condition_variable changed;
    uint64_t value;
}
@end

namespace {

struct Argument {
    StandinBuffer *buffer = nil;
    NSUInteger offset = 0;
    std::shared_ptr<std::vector<char>> bytes; // by value
};

struct Command {
    enum Kind { Launch, Wait, Signal } kind = Launch;
    StandinPipeline *pipeline = nil;
    std::vector<Argument> arguments;
    std::vector<size_t> threadgroup;
    MTLSize grid{}, group{}; // in threads
    StandinEvent *event = nil;
    uint64_t value = 0;
};

// What a queue's thread works on. The thread keeps it alive, and ends when the queue is gone and nothing is left.
struct Line {
    std::mutex mutex;
    std::condition_variable changed;
    std::deque<std::function<void()>> work;
    NSUInteger open = 0, most = 64; // command buffers that exist and are not completed
    bool closed = false;
};

void run_line(std::shared_ptr<Line> line) {
    for (;;) {
        std::function<void()> work;
        {
            std::unique_lock lock(line->mutex);
            line->changed.wait(lock, [&] { return line->closed || !line->work.empty(); });
            if (line->work.empty()) return;
            work = std::move(line->work.front());
            line->work.pop_front();
        }
        if (const uint32_t delay = state().delay) usleep(delay);
        @autoreleasepool {
            work();
            work = nullptr;
        }
        std::lock_guard lock(state().mutex);
        --state().pending;
        state().changed.notify_all();
    }
}

void leave(Line &line) {
    std::lock_guard lock(line.mutex);
    --line.open;
    line.changed.notify_all();
}

} // namespace

@interface StandinQueue : NSObject <MTLCommandQueue> {
  @public
    std::shared_ptr<Line> line;
}
@end
@interface StandinCommandBuffer : NSObject <MTLCommandBuffer> {
  @public
    StandinQueue *queue;
    std::shared_ptr<Line> line;
    std::vector<Command> commands;
    std::vector<MTLCommandBufferHandler> scheduled, completed;
    std::mutex mutex; // of what follows
    std::condition_variable changed;
    MTLCommandBufferStatus stage;
    bool finished, encoding; // finished: the handlers have run too
    NSError *failure;
    double began, ended;
}
- (void)run;
@end
@interface StandinEncoder : NSObject <MTLComputeCommandEncoder> {
  @public
    StandinCommandBuffer *buffer;
    Command next;
    bool ended;
}
@end

// ---------------------------------------------------------------- resources

@implementation StandinBuffer
@synthesize label;
- (id<MTLDevice>)device {
    return MTLCreateSystemDefaultDevice();
}
- (MTLStorageMode)storageMode {
    return MTLStorageModeShared;
}
- (NSUInteger)allocatedSize {
    return size;
}
- (NSUInteger)length {
    return size;
}
- (void *)contents {
    return memory;
}
- (uint64_t)gpuAddress {
    return (uint64_t)(uintptr_t)memory;
}
- (void)dealloc {
    if (owned) {
        free(memory);
        std::lock_guard lock(state().mutex);
        state().bytes -= size;
    } else if (deallocator)
        deallocator(memory, size);
}
@end

@implementation StandinEvent
@synthesize label;
- (id<MTLDevice>)device {
    return MTLCreateSystemDefaultDevice();
}
- (uint64_t)signaledValue {
    std::lock_guard lock(mutex);
    return value;
}
- (void)setSignaledValue:(uint64_t)given {
    std::lock_guard lock(mutex);
    value = given;
    changed.notify_all();
}
@end

// ---------------------------------------------------------------- libraries and pipelines

@implementation MTLCompileOptions
@end

@implementation MTLFunctionConstantValues {
  @public
    Constants values;
}
- (void)setConstantValue:(const void *)value type:(MTLDataType)type atIndex:(NSUInteger)index {
    require(value != nullptr && index < 65536, "a function constant needs a value and an index below 65536");
    values[(int32_t)index] = {letter_of(type), std::string((const char *)value, size_of(type))};
}
@end

@implementation StandinFunction
- (NSString *)name {
    return string_of(kernel);
}
- (id<MTLDevice>)device {
    return MTLCreateSystemDefaultDevice();
}
- (std::string)key {
    std::string text = library->path + " " + kernel;
    for (auto &[index, value] : constants) {
        text += " " + std::to_string(index) + value.letter;
        for (unsigned char c : value.bytes)
            text += "." + std::to_string(c);
    }
    return text;
}
@end

@implementation StandinLibrary
@synthesize label;
- (id<MTLDevice>)device {
    return MTLCreateSystemDefaultDevice();
}
- (NSArray<NSString *> *)functionNames {
    NSMutableArray *all = [[NSMutableArray alloc] init];
    for (auto &name : names)
        [all addObject:string_of(name)];
    return all;
}
- (id<MTLFunction>)newFunctionWithName:(NSString *)functionName {
    for (auto &name : names)
        if (name == functionName.UTF8String) {
            StandinFunction *f = [[StandinFunction alloc] init];
            f->library = self;
            f->kernel = name;
            return f;
        }
    return nil;
}
- (id<MTLFunction>)newFunctionWithName:(NSString *)name
                        constantValues:(MTLFunctionConstantValues *)constantValues
                                 error:(NSError *__autoreleasing *)error {
    StandinFunction *f = [self newFunctionWithName:name];
    if (!f) {
        give(error, MTLLibraryErrorDomain, MTLLibraryErrorFunctionNotFound,
             std::string("Function ") + name.UTF8String + " was not found in the library");
        return nil;
    }
    for (auto &[index, value] : constantValues->values) {
        uint32_t size = 0;
        const char letter = standin_constant_type(module, index, &size);
        if (!letter) continue; // as with Metal, values that the function does not know are ignored
        if (letter != value.letter || size != value.bytes.size()) {
            give(error, MTLLibraryErrorDomain, MTLLibraryErrorCompileFailure,
                 std::string("function constant ") + std::to_string(index) + " of " + name.UTF8String +
                     " was given a value of another type");
            return nil;
        }
        f->constants[index] = value;
    }
    return f;
}
@end

@implementation MTLComputePipelineDescriptor
@end

@implementation MTLBinaryArchiveDescriptor
@end

@implementation StandinPipeline
- (NSString *)label {
    return given;
}
- (id<MTLDevice>)device {
    return MTLCreateSystemDefaultDevice();
}
- (NSUInteger)maxTotalThreadsPerThreadgroup {
    return threads;
}
- (NSUInteger)threadExecutionWidth {
    return 32;
}
- (NSUInteger)staticThreadgroupMemoryLength {
    return 0; // not known before the kernel has run; the executor enforces the limit
}
@end

@implementation StandinArchive
@synthesize label;
- (id<MTLDevice>)device {
    return MTLCreateSystemDefaultDevice();
}
- (BOOL)addComputePipelineFunctionsWithDescriptor:(MTLComputePipelineDescriptor *)descriptor
                                            error:(NSError *__autoreleasing *)error {
    StandinFunction *f = descriptor.computeFunction;
    if (!f) {
        give(error, MTLBinaryArchiveDomain, MTLBinaryArchiveErrorUnexpectedElement, "the descriptor has no function");
        return NO;
    }
    std::lock_guard lock(mutex);
    keys.insert([f key]);
    return YES;
}
- (BOOL)serializeToURL:(NSURL *)url error:(NSError *__autoreleasing *)error {
    std::ofstream file(url.path.UTF8String, std::ios::binary);
    file << kArchiveMagic;
    {
        std::lock_guard lock(mutex);
        for (auto &key : keys)
            file << key << "\n";
    }
    file.close();
    if (file) return YES;
    give(error, MTLBinaryArchiveDomain, MTLBinaryArchiveErrorInternalError,
         std::string("the archive could not be written to ") + url.path.UTF8String);
    return NO;
}
@end

// ---------------------------------------------------------------- commands

@implementation StandinEncoder
@synthesize label;
- (id<MTLDevice>)device {
    return MTLCreateSystemDefaultDevice();
}
- (void)mustBeOpen {
    require(!ended, "an encoder was used after endEncoding");
}
- (void)setComputePipelineState:(id<MTLComputePipelineState>)pipeline {
    [self mustBeOpen];
    require(pipeline != nil, "setComputePipelineState: nil");
    next.pipeline = pipeline;
}
- (void)setBuffer:(id<MTLBuffer>)given offset:(NSUInteger)offset atIndex:(NSUInteger)index {
    [self mustBeOpen];
    require(index < kMaxBuffers, "setBuffer: index " + std::to_string(index) + " is not below 31");
    require(!given || offset < given.length, "setBuffer: offset " + std::to_string(offset) +
                                                 " is beyond the buffer's " + std::to_string(given.length) + " bytes");
    next.arguments[index] = Argument{given, offset, nullptr};
}
- (void)setBufferOffset:(NSUInteger)offset atIndex:(NSUInteger)index {
    [self mustBeOpen];
    require(index < kMaxBuffers && next.arguments[index].buffer && offset < next.arguments[index].buffer->size,
            "setBufferOffset: nothing is bound at the index, or the offset is beyond the buffer");
    next.arguments[index].offset = offset;
}
- (void)setBytes:(const void *)bytes length:(NSUInteger)length atIndex:(NSUInteger)index {
    [self mustBeOpen];
    require(index < kMaxBuffers, "setBytes: index " + std::to_string(index) + " is not below 31");
    require(length > 0 && length <= kMaxBytes,
            "setBytes: " + std::to_string(length) + " bytes; 1 to 4096 can be passed by value");
    auto *first = static_cast<const char *>(bytes);
    next.arguments[index] = Argument{nil, 0, std::make_shared<std::vector<char>>(first, first + length)};
}
- (void)setThreadgroupMemoryLength:(NSUInteger)length atIndex:(NSUInteger)index {
    [self mustBeOpen];
    require(index < kMaxBuffers && length % 16 == 0 && length <= kThreadgroupMemory,
            "setThreadgroupMemoryLength: " + std::to_string(length) + " is no multiple of 16 up to 32768");
    next.threadgroup[index] = length;
}
- (void)dispatchThreads:(MTLSize)grid threadsPerThreadgroup:(MTLSize)group {
    [self mustBeOpen];
    require(next.pipeline != nil, "dispatch without a pipeline state");
    const NSUInteger threads = group.width * group.height * group.depth;
    require(threads > 0 && threads <= next.pipeline->threads, "dispatch: " + std::to_string(threads) +
                                                                  " threads in a threadgroup; the pipeline allows " +
                                                                  std::to_string(next.pipeline->threads));
    require(grid.width && grid.height && grid.depth, "dispatch: the grid is empty");
    require(grid.width <= UINT32_MAX && grid.height <= UINT32_MAX && grid.depth <= UINT32_MAX,
            "dispatch: the grid has more than 2^32 threads in a dimension");
    next.grid = grid;
    next.group = group;
    buffer->commands.push_back(next);
}
- (void)dispatchThreadgroups:(MTLSize)groups threadsPerThreadgroup:(MTLSize)group {
    [self dispatchThreads:MTLSizeMake(groups.width * group.width, groups.height * group.height,
                                      groups.depth * group.depth)
        threadsPerThreadgroup:group];
}
- (void)memoryBarrierWithScope:(MTLBarrierScope)scope {
    [self mustBeOpen]; // launches run one after the other anyway
}
- (void)endEncoding {
    require(!ended, "endEncoding was called twice");
    ended = true;
    buffer->encoding = false;
}
- (void)dealloc {
    require(ended, "an encoder was released without endEncoding");
}
@end

@implementation StandinCommandBuffer
@synthesize label;
- (id<MTLDevice>)device {
    return MTLCreateSystemDefaultDevice();
}
- (id<MTLCommandQueue>)commandQueue {
    return queue;
}
- (void)mustBeOpen:(const char *)what {
    require(self.status < MTLCommandBufferStatusCommitted, std::string(what) + " after commit");
    require(!encoding, std::string(what) + " while an encoder is open");
}
- (id<MTLComputeCommandEncoder>)computeCommandEncoder {
    [self mustBeOpen:"computeCommandEncoder"];
    encoding = true;
    StandinEncoder *e = [[StandinEncoder alloc] init];
    e->buffer = self;
    e->next.arguments.resize(kMaxBuffers);
    e->next.threadgroup.resize(kMaxBuffers);
    return e;
}
- (id<MTLComputeCommandEncoder>)computeCommandEncoderWithDispatchType:(MTLDispatchType)dispatchType {
    return [self computeCommandEncoder];
}
- (void)encodeEvent:(id<MTLEvent>)event value:(uint64_t)value kind:(Command::Kind)kind {
    [self mustBeOpen:"encoding an event"];
    require(event != nil, "an event is nil");
    Command command;
    command.kind = kind;
    command.event = (StandinEvent *)event;
    command.value = value;
    commands.push_back(command);
}
- (void)encodeWaitForEvent:(id<MTLEvent>)event value:(uint64_t)value {
    [self encodeEvent:event value:value kind:Command::Wait];
}
- (void)encodeSignalEvent:(id<MTLEvent>)event value:(uint64_t)value {
    [self encodeEvent:event value:value kind:Command::Signal];
}
- (void)addScheduledHandler:(MTLCommandBufferHandler)block {
    require(self.status < MTLCommandBufferStatusCommitted, "addScheduledHandler after commit");
    scheduled.push_back(block);
}
- (void)addCompletedHandler:(MTLCommandBufferHandler)block {
    require(self.status < MTLCommandBufferStatusCommitted, "addCompletedHandler after commit");
    completed.push_back(block);
}
- (void)enqueue {
    std::lock_guard lock(mutex);
    require(stage == MTLCommandBufferStatusNotEnqueued, "enqueue of a command buffer that is enqueued or committed");
    stage = MTLCommandBufferStatusEnqueued;
}
- (void)commit {
    require(!encoding, "commit while an encoder is open");
    {
        std::lock_guard lock(mutex);
        require(stage < MTLCommandBufferStatusCommitted, "commit of a command buffer that is committed");
        stage = MTLCommandBufferStatusCommitted;
    }
    {
        std::lock_guard lock(state().mutex);
        ++state().pending;
    }
    StandinCommandBuffer *me = self;
    std::lock_guard lock(line->mutex);
    line->work.push_back([me] { [me run]; });
    line->changed.notify_all();
}
// What is injected, or the loss of the device: an error code, or 0.
- (int)doomed {
    State &s = state();
    std::lock_guard lock(s.mutex);
    if (s.lost) return MTLCommandBufferErrorDeviceRemoved;
    if (!s.injected) return 0;
    if (s.inject_after) {
        --s.inject_after;
        return 0;
    }
    const int code = s.injected;
    s.injected = 0;
    s.lost = code == MTLCommandBufferErrorDeviceRemoved;
    return code;
}
- (NSError *)launch:(const Command &)command {
    standin_buffer buffers[kMaxBuffers] = {};
    std::vector<standin_constant> constants;
    std::vector<std::unique_ptr<char[]>> copies;
    for (NSUInteger i = 0; i < kMaxBuffers; ++i) {
        const Argument &a = command.arguments[i];
        if (a.bytes) {
            // Aligned as the argument table of a GPU is, and no longer than what was given.
            auto *memory = static_cast<char *>(operator new[](a.bytes->size() + 64));
            copies.emplace_back(memory);
            memory += -reinterpret_cast<uintptr_t>(memory) % 64;
            memcpy(memory, a.bytes->data(), a.bytes->size());
            buffers[i] = {memory, a.bytes->size(), nullptr};
        } else if (a.buffer)
            buffers[i] = {a.buffer->memory + a.offset, a.buffer->size - a.offset, nullptr};
    }
    StandinFunction *function = command.pipeline->function;
    for (auto &[index, value] : function->constants)
        constants.push_back({index, (uint32_t)value.bytes.size(), value.bytes.data()});
    standin_launch launch = {};
    launch.kernel = function->kernel.c_str();
    const NSUInteger grid[] = {command.grid.width, command.grid.height, command.grid.depth};
    const NSUInteger group[] = {command.group.width, command.group.height, command.group.depth};
    for (int i = 0; i < 3; ++i) {
        launch.grid[i] = (uint32_t)grid[i];
        launch.group[i] = (uint32_t)group[i];
    }
    launch.buffer_count = kMaxBuffers;
    launch.buffers = buffers;
    launch.threadgroup_count = kMaxBuffers;
    launch.threadgroup_sizes = command.threadgroup.data();
    launch.constant_count = (uint32_t)constants.size();
    launch.constants = constants.data();
    launch.order = state().order;
    launch.seed = state().seed;
    auto error = std::make_unique<standin_error>();
    if (!standin_run(function->library->module, &launch, error.get())) return nil;
    NSInteger code = MTLCommandBufferErrorInvalidResource;
    switch (error->kind) {
    case STANDIN_ENDLESS_LOOP:
    case STANDIN_DEADLOCK: code = MTLCommandBufferErrorTimeout; break;
    case STANDIN_INVALID_ACCESS:
    case STANDIN_OUT_OF_BOUNDS: code = MTLCommandBufferErrorPageFault; break;
    default: break;
    }
    std::string text = std::string("kernel ") + error->kernel + ": " + error->message;
    if (error->line) text += std::string(" (") + error->file + ":" + std::to_string(error->line) + ")";
    return make_error(MTLCommandBufferErrorDomain, code, text);
}
- (void)run {
    std::vector<MTLCommandBufferHandler> handlers;
    {
        std::lock_guard lock(mutex);
        stage = MTLCommandBufferStatusScheduled;
        changed.notify_all();
    }
    for (auto &handler : scheduled)
        handler(self);
    scheduled.clear();
    NSError *error = nil;
    const double start = now();
    if (const int code = [self doomed])
        error = make_error(MTLCommandBufferErrorDomain, code,
                           code == MTLCommandBufferErrorDeviceRemoved ? "the device was lost (injected)"
                                                                      : "a failure was injected");
    for (const Command &command : commands) {
        if (error) break;
        StandinEvent *event = command.event;
        if (command.kind == Command::Launch)
            error = [self launch:command];
        else if (command.kind == Command::Signal) {
            std::lock_guard lock(event->mutex);
            event->value = std::max(event->value, command.value);
            event->changed.notify_all();
        } else {
            std::unique_lock lock(event->mutex);
            const bool came = event->changed.wait_for(lock, std::chrono::duration<double>(kEventTimeout),
                                                      [&] { return event->value >= command.value; });
            if (!came)
                error = make_error(MTLCommandBufferErrorDomain, MTLCommandBufferErrorTimeout,
                                   "an event was never signalled");
        }
    }
    commands.clear();
    {
        std::lock_guard lock(mutex);
        began = start;
        ended = now();
        failure = error;
        stage = error ? MTLCommandBufferStatusError : MTLCommandBufferStatusCompleted;
        handlers.swap(completed);
    }
    leave(*line);
    for (auto &handler : handlers)
        handler(self);
    handlers.clear();
    std::lock_guard lock(mutex);
    finished = true;
    changed.notify_all();
}
- (void)waitUntilScheduled {
    std::unique_lock lock(mutex);
    require(stage >= MTLCommandBufferStatusCommitted, "waitUntilScheduled before commit");
    changed.wait(lock, [&] { return stage >= MTLCommandBufferStatusScheduled; });
}
- (void)waitUntilCompleted {
    std::unique_lock lock(mutex);
    require(stage >= MTLCommandBufferStatusCommitted, "waitUntilCompleted before commit");
    changed.wait(lock, [&] { return finished; });
}
- (MTLCommandBufferStatus)status {
    std::lock_guard lock(mutex);
    return stage;
}
- (NSError *)error {
    std::lock_guard lock(mutex);
    return failure;
}
- (CFTimeInterval)GPUStartTime {
    std::lock_guard lock(mutex);
    return began;
}
- (CFTimeInterval)GPUEndTime {
    std::lock_guard lock(mutex);
    return ended;
}
- (void)dealloc {
    if (stage < MTLCommandBufferStatusCommitted) leave(*line);
}
@end

@implementation StandinQueue
@synthesize label;
- (id<MTLDevice>)device {
    return MTLCreateSystemDefaultDevice();
}
- (id<MTLCommandBuffer>)commandBuffer {
    {
        std::unique_lock lock(line->mutex);
        line->changed.wait(lock, [&] { return line->open < line->most; }); // as Metal does
        ++line->open;
    }
    StandinCommandBuffer *b = [[StandinCommandBuffer alloc] init];
    b->queue = self;
    b->line = line;
    return b;
}
- (id<MTLCommandBuffer>)commandBufferWithUnretainedReferences {
    return [self commandBuffer];
}
- (void)dealloc {
    std::lock_guard lock(line->mutex);
    line->closed = true;
    line->changed.notify_all();
}
@end

// ---------------------------------------------------------------- device

@implementation StandinDevice
- (NSString *)name {
    return @"mlxr software stand-in (not a GPU)";
}
- (uint64_t)registryID {
    return 1;
}
- (BOOL)hasUnifiedMemory {
    return YES;
}
- (uint64_t)recommendedMaxWorkingSetSize {
    std::lock_guard lock(state().mutex);
    return state().limit;
}
- (NSUInteger)maxThreadgroupMemoryLength {
    return kThreadgroupMemory;
}
- (NSUInteger)maxBufferLength {
    return self.recommendedMaxWorkingSetSize / 4 * 3;
}
- (MTLSize)maxThreadsPerThreadgroup {
    return MTLSizeMake(kMaxThreads, kMaxThreads, kMaxThreads);
}
- (NSUInteger)currentAllocatedSize {
    std::lock_guard lock(state().mutex);
    return state().bytes;
}
- (BOOL)supportsFamily:(MTLGPUFamily)family {
    return (family >= MTLGPUFamilyApple1 && family <= MTLGPUFamilyApple8) ||
           (family >= MTLGPUFamilyCommon1 && family <= MTLGPUFamilyCommon3) || family == MTLGPUFamilyMetal3;
}
- (id<MTLCommandQueue>)newCommandQueue {
    return [self newCommandQueueWithMaxCommandBufferCount:64];
}
- (id<MTLCommandQueue>)newCommandQueueWithMaxCommandBufferCount:(NSUInteger)maxCommandBufferCount {
    require(maxCommandBufferCount > 0, "a queue for no command buffers");
    StandinQueue *q = [[StandinQueue alloc] init];
    q->line = std::make_shared<Line>();
    q->line->most = maxCommandBufferCount;
    std::thread(run_line, q->line).detach();
    return q;
}
- (id<MTLBuffer>)newBufferWithLength:(NSUInteger)length options:(MTLResourceOptions)options {
    State &s = state();
    if (length == 0 || length > self.maxBufferLength) return nil;
    {
        std::lock_guard lock(s.mutex);
        if (s.lost || s.bytes + length > s.limit) return nil;
        s.bytes += length;
    }
    void *memory = nullptr;
    // Rounded up only to what alignment needs: memory past the length is found out by the checker.
    if (posix_memalign(&memory, kPage, length)) {
        std::lock_guard lock(s.mutex);
        s.bytes -= length;
        return nil;
    }
    memset(memory, 0, length);
    StandinBuffer *b = [[StandinBuffer alloc] init];
    b->memory = static_cast<char *>(memory);
    b->size = length;
    b->owned = true;
    return b;
}
- (id<MTLBuffer>)newBufferWithBytes:(const void *)pointer
                             length:(NSUInteger)length
                            options:(MTLResourceOptions)options {
    id<MTLBuffer> b = [self newBufferWithLength:length options:options];
    if (b) memcpy(b.contents, pointer, length);
    return b;
}
- (id<MTLBuffer>)newBufferWithBytesNoCopy:(void *)pointer
                                   length:(NSUInteger)length
                                  options:(MTLResourceOptions)options
                              deallocator:(void (^)(void *, NSUInteger))deallocator {
    if (!pointer || !length || (uintptr_t)pointer % kPage || length % kPage) {
        fprintf(stderr,
                "stand-in for Metal: newBufferWithBytesNoCopy: pointer %p and length %lu have to be multiples of %lu\n",
                pointer, length, kPage);
        return nil;
    }
    StandinBuffer *b = [[StandinBuffer alloc] init];
    b->memory = static_cast<char *>(pointer);
    b->size = length;
    b->deallocator = deallocator;
    return b;
}
- (id<MTLLibrary>)newLibraryWithSource:(NSString *)source
                               options:(MTLCompileOptions *)options
                                 error:(NSError *__autoreleasing *)error {
    std::string result;
    if (!compile(source.UTF8String, result)) {
        give(error, MTLLibraryErrorDomain, MTLLibraryErrorCompileFailure, result);
        return nil;
    }
    std::string why;
    void *module = load(result, why);
    if (!module) {
        give(error, MTLLibraryErrorDomain, MTLLibraryErrorInternal, why);
        return nil;
    }
    StandinLibrary *library = [[StandinLibrary alloc] init];
    library->module = module;
    library->path = result;
    std::istringstream names(standin_kernel_names(module));
    for (std::string name; std::getline(names, name);)
        library->names.push_back(name);
    return library;
}
- (id<MTLLibrary>)newLibraryWithURL:(NSURL *)url error:(NSError *__autoreleasing *)error {
    const std::string path = url.path.UTF8String, content = read_file(path);
    if (content.empty() && access(path.c_str(), R_OK)) {
        give(error, MTLLibraryErrorDomain, MTLLibraryErrorFileNotFound, path + " cannot be read");
        return nil;
    }
    if (!starts_with(content, kLibraryMagic)) {
        give(error, MTLLibraryErrorDomain, MTLLibraryErrorInternal,
             path + " is no library of the stand-in's (it cannot read Apple's)");
        return nil;
    }
    return [self newLibraryWithSource:string_of(content.substr(strlen(kLibraryMagic))) options:nil error:error];
}
- (id<MTLComputePipelineState>)newComputePipelineStateWithFunction:(id<MTLFunction>)computeFunction
                                                             error:(NSError *__autoreleasing *)error {
    MTLComputePipelineDescriptor *descriptor = [[MTLComputePipelineDescriptor alloc] init];
    descriptor.computeFunction = computeFunction;
    return [self newComputePipelineStateWithDescriptor:descriptor
                                               options:MTLPipelineOptionNone
                                            reflection:nil
                                                 error:error];
}
- (id<MTLComputePipelineState>)
    newComputePipelineStateWithDescriptor:(MTLComputePipelineDescriptor *)descriptor
                                  options:(MTLPipelineOption)options
                               reflection:(MTLComputePipelineReflection *__autoreleasing *)reflection
                                    error:(NSError *__autoreleasing *)error {
    StandinFunction *f = descriptor.computeFunction;
    require(f != nil, "a pipeline needs a function");
    if (options & MTLPipelineOptionFailOnBinaryArchiveMiss) {
        bool found = false;
        for (StandinArchive *archive in descriptor.binaryArchives) {
            std::lock_guard lock(archive->mutex);
            found |= archive->keys.count([f key]) != 0;
        }
        if (!found) {
            give(error, MTLBinaryArchiveDomain, MTLBinaryArchiveErrorCompilationFailure, "not in the binary archives");
            return nil;
        }
    }
    int32_t needed[64];
    const int32_t count = standin_required_constants(f->library->module, f->kernel.c_str(), needed, 64);
    for (int32_t i = 0; i < count; ++i)
        if (!f->constants.count(needed[i])) {
            give(error, MTLLibraryErrorDomain, MTLLibraryErrorCompileFailure,
                 "kernel " + f->kernel + " needs a value of function constant " + std::to_string(needed[i]));
            return nil;
        }
    standin_kernel_info info = {};
    standin_describe(f->library->module, f->kernel.c_str(), &info);
    StandinPipeline *p = [[StandinPipeline alloc] init];
    p->function = f;
    p->threads = info.max_threads;
    if (descriptor.maxTotalThreadsPerThreadgroup)
        p->threads = std::min(p->threads, (uint32_t)descriptor.maxTotalThreadsPerThreadgroup);
    p->given = descriptor.label;
    return p;
}
- (id<MTLBinaryArchive>)newBinaryArchiveWithDescriptor:(MTLBinaryArchiveDescriptor *)descriptor
                                                 error:(NSError *__autoreleasing *)error {
    StandinArchive *archive = [[StandinArchive alloc] init];
    if (descriptor.url) {
        const std::string content = read_file(descriptor.url.path.UTF8String);
        if (!starts_with(content, kArchiveMagic)) {
            give(error, MTLBinaryArchiveDomain, MTLBinaryArchiveErrorInvalidFile,
                 std::string(descriptor.url.path.UTF8String) + " is no archive of the stand-in's");
            return nil;
        }
        std::istringstream lines(content.substr(strlen(kArchiveMagic)));
        for (std::string line; std::getline(lines, line);)
            archive->keys.insert(line);
    }
    return archive;
}
- (id<MTLEvent>)newEvent {
    return [[StandinEvent alloc] init];
}
- (id<MTLSharedEvent>)newSharedEvent {
    return [[StandinEvent alloc] init];
}
@end

id<MTLDevice> MTLCreateSystemDefaultDevice(void) {
    static StandinDevice *device = [[StandinDevice alloc] init];
    return device;
}
NSArray<id<MTLDevice>> *MTLCopyAllDevices(void) {
    return @[ MTLCreateSystemDefaultDevice() ];
}

// ---------------------------------------------------------------- capture, which there is none of

@implementation MTLCaptureDescriptor
@end

@implementation MTLCaptureManager
+ (MTLCaptureManager *)sharedCaptureManager {
    static MTLCaptureManager *manager = [[MTLCaptureManager alloc] init];
    return manager;
}
- (BOOL)supportsDestination:(MTLCaptureDestination)destination {
    return NO;
}
- (BOOL)startCaptureWithDescriptor:(MTLCaptureDescriptor *)descriptor error:(NSError *__autoreleasing *)error {
    give(error, MTLCaptureErrorDomain, MTLCaptureErrorNotSupported,
         "the stand-in has no GPU whose work could be captured");
    return NO;
}
- (void)stopCapture {
}
- (BOOL)isCapturing {
    return NO;
}
@end

// ---------------------------------------------------------------- inspection

extern "C" {

uint64_t standin_device_bytes(void) {
    std::lock_guard lock(state().mutex);
    return state().bytes;
}
void standin_set_memory_limit(uint64_t bytes) {
    std::lock_guard lock(state().mutex);
    state().limit = bytes;
}
void standin_set_delay(uint32_t microseconds) {
    state().delay = microseconds;
}
void standin_inject_failure(int32_t error, uint32_t after) {
    std::lock_guard lock(state().mutex);
    state().injected = error;
    state().inject_after = after;
}
void standin_restore_device(void) {
    std::lock_guard lock(state().mutex);
    state().lost = false;
    state().injected = 0;
}
void standin_set_order(int32_t order, uint32_t seed) {
    state().order = order;
    state().seed = seed;
}
void standin_wait_idle(void) {
    std::unique_lock lock(state().mutex);
    state().changed.wait(lock, [] { return state().pending == 0; });
}
}
