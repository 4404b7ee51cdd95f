// The Metal half of the shim: queues, libraries, pipelines, buffers and commands on the system's default Metal device.
//
// Objective-C++ with ARC, for Apple's frameworks and for the software stand-in alike: only the subset of Foundation and
// Metal that the stand-in has, no @try, no libdispatch. What Metal would abort over is checked before Metal sees it.
// Knows no tensors, dtypes or operations, and nothing of Python.
#import <Foundation/Foundation.h>
#import <Metal/Metal.h>

#include "guard.hpp"
#include "slots.hpp"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <memory>
#include <mutex>
#include <variant>

#include <unistd.h>

namespace mlxr {

namespace {

namespace fs = std::filesystem;

// Apple silicon's page. Other Macs have smaller ones, of which this is a multiple.
constexpr uint64_t kPage = 16384;
constexpr uint64_t kSmallestBuffer = 256;

std::string text_of(NSError *error) {
    return error ? std::string(error.localizedDescription.UTF8String) : std::string("no reason was given");
}

NSString *string_of(const std::string &text) {
    return [NSString stringWithUTF8String:text.c_str()];
}

// ---- Counters

struct Counters {
    std::atomic<int64_t> in_flight{0}, live_buffers{0}, live_bytes{0};
    std::atomic<uint64_t> command_buffers{0}, failures{0}, dispatches{0}, bytes_copied{0}, bytes_shared{0};
    std::atomic<uint64_t> allocations{0}, reuses{0};
    std::atomic<uint64_t> libraries_compiled{0}, pipelines_compiled{0}, pipelines_loaded{0};
};

// ---- Device memory

// Buffers that nobody uses, by capacity, for whoever asks next: making one costs a call of the driver and page faults.
class Pool {
  public:
    // A buffer of at least `nbytes`; nil if the device has no memory for it. `capacity` gets its size.
    id<MTLBuffer> take(id<MTLDevice> device, uint64_t nbytes, uint64_t &capacity);

    // Takes back a buffer of take()'s that no command uses.
    void give(id<MTLBuffer> buffer, uint64_t capacity) noexcept;

    // Whether the buffers in use and one of `nbytes` would be more than the limit.
    bool would_exceed(uint64_t nbytes);

    // Drops buffers, largest first, until at most `keep` bytes are kept.
    void shrink(uint64_t keep);

    std::mutex mutex; // of the figures
    uint64_t active = 0, peak = 0, cached = 0;
    uint64_t limit = UINT64_MAX, cache_limit = UINT64_MAX;

  private:
    void shrink_locked(uint64_t keep, std::vector<id<MTLBuffer>> &dropped);

    std::map<uint64_t, std::vector<id<MTLBuffer>>> free_;
};

// Memory that a launch reads or writes. Handles and commands in flight share it.
struct Buffer {
    id<MTLBuffer> buffer;
    uint64_t nbytes; // what was asked for
    uint64_t capacity;
    bool shared;
    ~Buffer();
};

// ---- Code

struct Pipeline {
    id<MTLComputePipelineState> state;
    std::string name; // of the kernel
};

struct Library {
    id<MTLLibrary> library;
    id<MTLBinaryArchive> archive; // nil: no cache on disk
    std::string name, archive_path;
    std::mutex mutex; // of what follows
    std::map<std::string, std::shared_ptr<Pipeline>> pipelines;
    bool fresh = false; // the archive has what the file has not
    void write_archive() noexcept;
    ~Library() { write_archive(); }
};

// ---- Commands

// Queues run in order, so two numbers tell what is in flight.
struct Queue {
    id<MTLCommandQueue> queue;
    std::mutex mutex;
    std::condition_variable changed;
    uint64_t submitted = 0, completed = 0;
    void wait();
};

struct Event {
    id<MTLSharedEvent> event;
};

struct Commands {
    std::shared_ptr<Queue> queue;
    std::vector<std::shared_ptr<Buffer>> buffers; // until they have run
    std::vector<std::shared_ptr<Pipeline>> pipelines;
    std::string kernels; // their names, for messages
    std::mutex mutex;    // of what follows
    std::condition_variable changed;
    bool done = false;
    mlxr_error code = MLXR_OK;
    std::string message;
    double start = 0, end = 0;
    void finish(id<MTLCommandBuffer> buffer) noexcept;
};

using Object = std::variant<std::shared_ptr<Queue>, std::shared_ptr<Library>, std::shared_ptr<Pipeline>,
                            std::shared_ptr<Buffer>, std::shared_ptr<Event>, std::shared_ptr<Commands>>;

// ---- State

// Outlives static destruction on purpose: commands may still run then, and at exit there is nobody left to free for.
struct State {
    std::mutex mutex; // of what follows, up to the pool; nothing of Metal is called or destroyed under it
    Slots<Object> objects;
    std::vector<std::weak_ptr<Queue>> queues;
    std::vector<std::weak_ptr<Library>> libraries;
    std::vector<uint64_t> released;
    std::string cache_folder;
    std::atomic<bool> lost{false}; // the last command buffer that ended told that the device is gone
    Pool pool;
    Counters counters;
};

State &state() {
    static State *const instance = new State;
    return *instance;
}

id<MTLDevice> device() {
    static id<MTLDevice> const instance = [] {
        id<MTLDevice> found = MTLCreateSystemDefaultDevice();
        if (found) {
            auto &pool = state().pool;
            pool.limit = found.recommendedMaxWorkingSetSize;
            pool.cache_limit = pool.limit / 4;
        }
        return found;
    }();
    if (!instance) fail(MLXR_E_DEVICE, "this machine has no Metal device");
    return instance;
}

bool is_stand_in() {
    return std::strstr(device().name.UTF8String, "stand-in") != nullptr;
}

template <class T>
mlxr_metal_object put(std::shared_ptr<T> object) {
    std::lock_guard lock(state().mutex);
    return state().objects.put(std::move(object));
}

template <class T>
constexpr const char *kind_name() {
    if constexpr (std::is_same_v<T, Queue>)
        return "queue";
    else if constexpr (std::is_same_v<T, Library>)
        return "library";
    else if constexpr (std::is_same_v<T, Pipeline>)
        return "pipeline";
    else if constexpr (std::is_same_v<T, Buffer>)
        return "buffer";
    else if constexpr (std::is_same_v<T, Event>)
        return "event";
    else
        return "commands";
}

// The object behind a live handle of the right kind. The caller holds the lock.
template <class T>
const std::shared_ptr<T> &find_locked(mlxr_metal_object handle) {
    Object *object = state().objects.find(handle);
    if (auto *found = object ? std::get_if<std::shared_ptr<T>>(object) : nullptr) return *found;
    fail(MLXR_E_HANDLE, std::string(object ? "of another kind than " : "stale, freed or foreign: no ") +
                            kind_name<T>() + " has the handle " + std::to_string(handle));
}

template <class T>
std::shared_ptr<T> find(mlxr_metal_object handle) {
    std::lock_guard lock(state().mutex);
    return find_locked<T>(handle);
}

// Every entry runs in here. The pool of autoreleased objects is left in the ordinary way, whatever is thrown.
template <class Body>
mlxr_status status_entry(Body &&body) noexcept {
    if (mlxr_status status = check_state()) return status;
    @autoreleasepool {
        try {
            body();
            return MLXR_OK;
        } catch (...) {
            return report_current_exception();
        }
    }
}

template <class Body>
mlxr_metal_object object_entry(Body &&body) noexcept {
    mlxr_metal_object handle = 0;
    status_entry([&] { handle = put(body()); });
    return handle;
}

// ---- Pool

// Four sizes per octave while small, eight per octave when large; large ones are whole pages.
uint64_t capacity_for(uint64_t nbytes) {
    if (nbytes <= kSmallestBuffer) return kSmallestBuffer;
    int octave = 63 - __builtin_clzll(nbytes - 1);
    uint64_t step = uint64_t(1) << (octave - (octave < 17 ? 2 : 3));
    return (nbytes + step - 1) / step * step;
}

id<MTLBuffer> Pool::take(id<MTLDevice> device, uint64_t nbytes, uint64_t &capacity) {
    auto &counters = state().counters;
    capacity = capacity_for(nbytes);
    std::vector<id<MTLBuffer>> dropped; // dies after the lock is let go
    {
        std::lock_guard lock(mutex);
        auto found = free_.find(capacity);
        id<MTLBuffer> buffer = nil;
        if (found != free_.end()) {
            buffer = found->second.back();
            found->second.pop_back();
            if (found->second.empty()) free_.erase(found);
            cached -= capacity;
            counters.reuses++;
        } else if (active + cached + capacity > limit) {
            shrink_locked(limit > active + capacity ? limit - active - capacity : 0, dropped);
        }
        active += capacity;
        peak = std::max(peak, active);
        if (buffer) return buffer;
    }
    dropped.clear();
    id<MTLBuffer> buffer = [device newBufferWithLength:capacity options:MTLResourceStorageModeShared];
    if (buffer) {
        counters.allocations++;
        return buffer;
    }
    std::lock_guard lock(mutex);
    active -= capacity;
    return nil;
}

bool Pool::would_exceed(uint64_t nbytes) {
    std::lock_guard lock(mutex);
    return active + capacity_for(nbytes) > limit;
}

void Pool::give(id<MTLBuffer> buffer, uint64_t capacity) noexcept {
    std::lock_guard lock(mutex);
    active -= capacity;
    if (cached + capacity > cache_limit) return;
    try {
        free_[capacity].push_back(buffer);
        cached += capacity;
    } catch (...) {
        // No memory to remember it by: the buffer goes back to the device.
    }
}

void Pool::shrink_locked(uint64_t keep, std::vector<id<MTLBuffer>> &dropped) {
    while (cached > keep) {
        auto last = std::prev(free_.end());
        dropped.push_back(last->second.back());
        last->second.pop_back();
        cached -= last->first;
        if (last->second.empty()) free_.erase(last);
    }
}

void Pool::shrink(uint64_t keep) {
    std::vector<id<MTLBuffer>> dropped;
    std::lock_guard lock(mutex);
    shrink_locked(keep, dropped);
}

Buffer::~Buffer() {
    auto &s = state();
    s.counters.live_buffers--;
    if (shared) return; // the buffer's own deallocator releases the token
    s.counters.live_bytes -= static_cast<int64_t>(capacity);
    s.pool.give(buffer, capacity);
}

// Waits for everything in flight.
void synchronize_all() {
    std::vector<std::shared_ptr<Queue>> queues;
    {
        std::lock_guard lock(state().mutex);
        for (auto &weak : state().queues) {
            if (auto queue = weak.lock()) queues.push_back(std::move(queue));
        }
    }
    for (auto &queue : queues)
        queue->wait();
}

std::shared_ptr<Buffer> new_buffer(uint64_t nbytes) {
    auto &s = state();
    id<MTLDevice> on = device();
    if (nbytes > on.maxBufferLength) {
        fail(MLXR_E_MEMORY, "a buffer of " + std::to_string(nbytes) +
                                " bytes is larger than the device allows: " + std::to_string(on.maxBufferLength));
    }
    // Rather than grow past the limit, wait for what commands in flight are about to let go of.
    if (s.pool.would_exceed(nbytes)) synchronize_all();
    uint64_t capacity = 0;
    id<MTLBuffer> buffer = s.pool.take(on, nbytes, capacity);
    if (!buffer) {
        // What commands in flight let go of, and what is kept for later, may be enough.
        synchronize_all();
        s.pool.shrink(0);
        buffer = s.pool.take(on, nbytes, capacity);
    }
    if (!buffer && s.lost) fail(MLXR_E_DEVICE_LOST, "the device is lost, and gives no memory");
    if (!buffer) {
        fail(MLXR_E_MEMORY, "the device has no memory for a buffer of " + std::to_string(nbytes) + " bytes; " +
                                std::to_string(s.counters.live_bytes.load()) + " are in use");
    }
    s.counters.live_buffers++;
    s.counters.live_bytes += static_cast<int64_t>(capacity);
    return std::shared_ptr<Buffer>(new Buffer{buffer, nbytes, capacity, false});
}

// ---- Libraries

uint64_t fnv1a(const std::string &text) {
    uint64_t hash = 0xcbf29ce484222325u;
    for (unsigned char c : text)
        hash = (hash ^ c) * 0x100000001b3u;
    return hash;
}

// Opens the archive of compiled pipelines for a library with this content, or begins one.
void open_archive(Library &library, const std::string &content) {
    std::string folder;
    {
        std::lock_guard lock(state().mutex);
        folder = state().cache_folder;
    }
    if (folder.empty()) return;
    char hash[17];
    std::snprintf(hash, sizeof hash, "%016llx", static_cast<unsigned long long>(fnv1a(content)));
    library.archive_path = (fs::path(folder) / (library.name + "-" + hash + ".pipelines")).string();
    MTLBinaryArchiveDescriptor *descriptor = [[MTLBinaryArchiveDescriptor alloc] init];
    std::error_code ignored;
    if (fs::exists(library.archive_path, ignored)) {
        descriptor.url = [NSURL fileURLWithPath:string_of(library.archive_path)];
        library.archive = [device() newBinaryArchiveWithDescriptor:descriptor error:nil];
    }
    if (!library.archive) {
        // There is none, or another system wrote it.
        descriptor.url = nil;
        library.archive = [device() newBinaryArchiveWithDescriptor:descriptor error:nil];
    }
}

// A cache that cannot be written is no failure: the next process compiles again.
void Library::write_archive() noexcept {
    try {
        std::lock_guard lock(mutex);
        if (!archive || !fresh) return;
        fresh = false;
        // Beside its place and then moved: other processes see a whole file or none.
        std::string part = archive_path + "." + std::to_string(getpid());
        @autoreleasepool {
            if (![archive serializeToURL:[NSURL fileURLWithPath:string_of(part)] error:nil]) return;
        }
        std::error_code ignored;
        fs::rename(part, archive_path, ignored);
        if (ignored) fs::remove(part, ignored);
    } catch (...) {
    }
}

std::shared_ptr<Library> remember(std::shared_ptr<Library> library) {
    std::lock_guard lock(state().mutex);
    auto &all = state().libraries;
    all.erase(std::remove_if(all.begin(), all.end(), [](auto &weak) { return weak.expired(); }), all.end());
    all.push_back(library);
    return library;
}

MTLFunctionConstantValues *values_of(const std::string &function, const mlxr_metal_constant *constants, int32_t n) {
    MTLFunctionConstantValues *values = [[MTLFunctionConstantValues alloc] init];
    for (int32_t i = 0; i < n; i++) {
        const auto &constant = *required_struct(&constants[i], "constants");
        if (constant.index < 0 || constant.index > 65535) {
            fail(MLXR_E_INVALID, function + ": " + std::to_string(constant.index) + " is no index of a constant");
        }
        auto index = static_cast<NSUInteger>(constant.index);
        bool flag = constant.bits != 0;
        switch (constant.type) {
        case MLXR_METAL_BOOL: [values setConstantValue:&flag type:MTLDataTypeBool atIndex:index]; break;
        case MLXR_METAL_INT: [values setConstantValue:&constant.bits type:MTLDataTypeInt atIndex:index]; break;
        case MLXR_METAL_UINT: [values setConstantValue:&constant.bits type:MTLDataTypeUInt atIndex:index]; break;
        case MLXR_METAL_FLOAT: [values setConstantValue:&constant.bits type:MTLDataTypeFloat atIndex:index]; break;
        default: fail(MLXR_E_INVALID, function + ": constants have no type " + std::to_string(constant.type));
        }
    }
    return values;
}

std::shared_ptr<Pipeline> compile(Library &library, const std::string &function, MTLFunctionConstantValues *values) {
    auto &counters = state().counters;
    auto refuse = [&](NSError *error) {
        fail(MLXR_E_COMPILE, "kernel " + function + " of " + library.name + ": " + text_of(error));
    };
    NSError *error = nil;
    id<MTLFunction> code = [library.library newFunctionWithName:string_of(function) constantValues:values error:&error];
    if (!code) refuse(error);
    MTLComputePipelineDescriptor *descriptor = [[MTLComputePipelineDescriptor alloc] init];
    descriptor.computeFunction = code;
    descriptor.label = string_of(function);
    id<MTLComputePipelineState> made = nil;
    if (library.archive) {
        descriptor.binaryArchives = @[ library.archive ];
        made = [device() newComputePipelineStateWithDescriptor:descriptor
                                                       options:MTLPipelineOptionFailOnBinaryArchiveMiss
                                                    reflection:nil
                                                         error:nil];
        if (made) counters.pipelines_loaded++;
    }
    if (!made) {
        made = [device() newComputePipelineStateWithDescriptor:descriptor
                                                       options:MTLPipelineOptionNone
                                                    reflection:nil
                                                         error:&error];
        if (!made) refuse(error);
        counters.pipelines_compiled++;
        if (library.archive && [library.archive addComputePipelineFunctionsWithDescriptor:descriptor error:nil]) {
            library.fresh = true;
        }
    }
    return std::make_shared<Pipeline>(Pipeline{made, function});
}

// ---- Commands

void Queue::wait() {
    std::unique_lock lock(mutex);
    uint64_t until = submitted;
    changed.wait(lock, [&] { return completed >= until; });
}

mlxr_error code_of(NSError *error) {
    switch (error.code) {
    case MTLCommandBufferErrorOutOfMemory: return MLXR_E_MEMORY;
    case MTLCommandBufferErrorDeviceRemoved:
    case MTLCommandBufferErrorAccessRevoked: return MLXR_E_DEVICE_LOST;
    default: return MLXR_E_EXECUTION;
    }
}

// Called on a thread of Metal's when the commands have run.
void Commands::finish(id<MTLCommandBuffer> buffer) noexcept {
    auto &counters = state().counters;
    // Whoever is woken finds the memory given back.
    buffers.clear();
    pipelines.clear();
    {
        std::lock_guard lock(mutex);
        start = buffer.GPUStartTime;
        end = buffer.GPUEndTime;
        if (buffer.status == MTLCommandBufferStatusError) {
            code = code_of(buffer.error);
            try {
                message = "a command buffer with " + kernels + " failed: " + text_of(buffer.error);
            } catch (...) {
                message.clear();
            }
            counters.failures++;
        }
        done = true;
    }
    state().lost = code == MLXR_E_DEVICE_LOST;
    counters.in_flight--;
    changed.notify_all();
    {
        std::lock_guard lock(queue->mutex);
        queue->completed++;
    }
    queue->changed.notify_all();
}

// One launch, checked and ready to be encoded.
struct Prepared {
    const mlxr_metal_launch *launch;
    const mlxr_metal_argument *arguments;
    Pipeline *pipeline;
    Buffer *buffers[MLXR_METAL_MAX_ARGUMENTS];
};

template <class T>
const T *advance(const T *first, uint32_t size, int32_t n) {
    return reinterpret_cast<const T *>(reinterpret_cast<const char *>(first) + size_t(size) * n);
}

class Encoder {
  public:
    explicit Encoder(const mlxr_metal_batch &batch) : batch_(batch), commands_(std::make_shared<Commands>()) {
        if (batch.nlaunches < 0 || batch.narguments < 0) fail(MLXR_E_INVALID, "a negative count in the batch");
        if (batch.nlaunches > 0) required(batch.launches, "launches");
        if (batch.narguments > 0) required_struct(batch.arguments, "arguments");
        if (batch.nbytes > 0) required(batch.bytes, "bytes");
    }

    // Checks everything, and takes hold of what the commands use.
    void prepare(id<MTLDevice> device) {
        threadgroup_memory_ = device.maxThreadgroupMemoryLength;
        std::lock_guard lock(state().mutex);
        if (batch_.wait_event) wait_ = find_locked<Event>(batch_.wait_event);
        if (batch_.signal_event) signal_ = find_locked<Event>(batch_.signal_event);
        const auto *launch = batch_.launches;
        for (int32_t i = 0; i < batch_.nlaunches; i++) {
            required_struct(launch, "launches");
            prepare(*launch);
            launch = advance(launch, launch->size, 1);
        }
    }

    std::shared_ptr<Commands> commit(std::shared_ptr<Queue> queue) {
        auto &counters = state().counters;
        id<MTLCommandBuffer> buffer = [queue->queue commandBuffer];
        if (!buffer) fail(MLXR_E_DEVICE_LOST, "the queue gives no command buffer");
        if (wait_) [buffer encodeWaitForEvent:wait_->event value:batch_.wait_value];
        if (!prepared_.empty()) {
            id<MTLComputeCommandEncoder> encoder = [buffer computeCommandEncoder];
            if (!encoder) fail(MLXR_E_DEVICE_LOST, "the command buffer gives no encoder");
            for (const auto &launch : prepared_)
                encode(encoder, launch);
            [encoder endEncoding];
        }
        if (signal_) [buffer encodeSignalEvent:signal_->event value:batch_.signal_value];
        auto commands = commands_;
        commands->queue = queue;
        [buffer addCompletedHandler:^(id<MTLCommandBuffer> done) {
          commands->finish(done);
        }];
        {
            // Numbers are given in the order of commits.
            std::lock_guard lock(queue->mutex);
            queue->submitted++;
            counters.in_flight++;
            counters.command_buffers++;
            counters.dispatches += prepared_.size();
            [buffer commit];
        }
        return commands;
    }

  private:
    void prepare(const mlxr_metal_launch &launch) {
        Prepared p{&launch, nullptr, nullptr, {}};
        const auto &pipeline = find_locked<Pipeline>(launch.pipeline);
        p.pipeline = pipeline.get();
        auto refuse = [&](const std::string &why) { fail(MLXR_E_INVALID, "kernel " + p.pipeline->name + ": " + why); };
        if (launch.argument < 0 || launch.narguments < 0 || launch.narguments > MLXR_METAL_MAX_ARGUMENTS ||
            launch.argument > batch_.narguments - launch.narguments) {
            refuse("its arguments are not among the batch's, or more than 31");
        }
        uint64_t threads = uint64_t(launch.group[0]) * launch.group[1] * launch.group[2];
        uint64_t most = p.pipeline->state.maxTotalThreadsPerThreadgroup;
        if (threads == 0 || threads > most || launch.group[0] > most || launch.group[1] > most) {
            refuse("threadgroups of " + std::to_string(threads) + " threads; it takes 1 to " + std::to_string(most));
        }
        uint64_t memory = p.pipeline->state.staticThreadgroupMemoryLength;
        for (uint32_t nbytes : launch.threadgroup_memory) {
            if (nbytes % 16) refuse("threadgroup memory of " + std::to_string(nbytes) + " bytes, no multiple of 16");
            memory += nbytes;
        }
        if (memory > threadgroup_memory_) {
            refuse(std::to_string(memory) + " bytes of threadgroup memory; the device has " +
                   std::to_string(threadgroup_memory_));
        }
        p.arguments = batch_.narguments ? advance(batch_.arguments, batch_.arguments->size, launch.argument) : nullptr;
        const auto *argument = p.arguments;
        for (int32_t i = 0; i < launch.narguments; i++, argument = advance(argument, batch_.arguments->size, 1)) {
            std::string what = "argument " + std::to_string(i);
            if (argument->buffer == 0) {
                if (argument->nbytes == 0 || argument->nbytes > MLXR_METAL_MAX_BYTES) {
                    refuse(what + " of " + std::to_string(argument->nbytes) + " bytes by value; 1 to 4096 can be");
                }
                if (argument->offset > batch_.nbytes || argument->nbytes > batch_.nbytes - argument->offset) {
                    refuse(what + " lies outside of the batch's bytes");
                }
                continue;
            }
            const auto &buffer = find_locked<Buffer>(argument->buffer);
            if (argument->offset >= buffer->capacity) {
                refuse(what + " begins at byte " + std::to_string(argument->offset) + " of a buffer of " +
                       std::to_string(buffer->nbytes));
            }
            p.buffers[i] = buffer.get();
            hold(commands_->buffers, buffer);
        }
        if (!launch.grid[0] || !launch.grid[1] || !launch.grid[2]) return; // nothing to run
        hold(commands_->pipelines, pipeline);
        name(p.pipeline->name);
        prepared_.push_back(p);
    }

    // Most batches use few different objects, the same ones in neighbouring launches.
    template <class T>
    static void hold(std::vector<std::shared_ptr<T>> &held, const std::shared_ptr<T> &object) {
        size_t recent = held.size() > 8 ? held.size() - 8 : 0;
        if (std::find(held.begin() + recent, held.end(), object) == held.end()) held.push_back(object);
    }

    void name(const std::string &kernel) {
        auto &kernels = commands_->kernels;
        if (kernel == last_named_ || kernels.size() > 200) return;
        kernels += (kernels.empty() ? "" : ", ") + kernel;
        if (kernels.size() > 200) kernels += ", ...";
        last_named_ = kernel;
    }

    void encode(id<MTLComputeCommandEncoder> encoder, const Prepared &p) const {
        const auto &launch = *p.launch;
        [encoder setComputePipelineState:p.pipeline->state];
        const auto *argument = p.arguments;
        for (int32_t i = 0; i < launch.narguments; i++, argument = advance(argument, batch_.arguments->size, 1)) {
            auto index = static_cast<NSUInteger>(i);
            if (p.buffers[i]) {
                [encoder setBuffer:p.buffers[i]->buffer offset:argument->offset atIndex:index];
            } else {
                const char *bytes = static_cast<const char *>(batch_.bytes) + argument->offset;
                [encoder setBytes:bytes length:argument->nbytes atIndex:index];
            }
        }
        for (NSUInteger i = 0; i < MLXR_METAL_MAX_THREADGROUP_BUFFERS; i++) {
            if (launch.threadgroup_memory[i]) {
                [encoder setThreadgroupMemoryLength:launch.threadgroup_memory[i] atIndex:i];
            }
        }
        [encoder dispatchThreadgroups:MTLSizeMake(launch.grid[0], launch.grid[1], launch.grid[2])
                threadsPerThreadgroup:MTLSizeMake(launch.group[0], launch.group[1], launch.group[2])];
    }

    const mlxr_metal_batch &batch_;
    std::shared_ptr<Commands> commands_;
    std::shared_ptr<Event> wait_, signal_;
    std::vector<Prepared> prepared_;
    std::string last_named_;
    uint64_t threadgroup_memory_ = 0;
};

} // namespace

// ---- What the half says for itself

void check_runtime() {}

const char *upstream_compiled() {
    return "";
}

const char *upstream_loaded() {
    return "";
}

bool capability_of(int32_t kind, int64_t &value) {
    @autoreleasepool {
        id<MTLDevice> found = MTLCreateSystemDefaultDevice();
        switch (kind) {
        case MLXR_CAP_UPSTREAM:
        case MLXR_CAP_CPU_COUNT: value = 0; return true;
        case MLXR_CAP_METAL: value = 1; return true;
        case MLXR_CAP_GPU_COUNT: value = found != nil; return true;
        case MLXR_CAP_SHARE_HOST: value = found.hasUnifiedMemory; return true;
        case MLXR_CAP_MEMORY_LIMIT: value = static_cast<int64_t>(found.maxBufferLength); return true;
        default: return false;
        }
    }
}

bool device_supports(int32_t, int32_t, int32_t) {
    return false;
}

} // namespace mlxr

using namespace mlxr;

extern "C" {

// ---- Device and queues

mlxr_status mlxr_metal_device_info_get(mlxr_metal_device_info *info) {
    return status_entry([&] {
        required_struct(info, "info");
        id<MTLDevice> on = device();
        info->flags = (on.hasUnifiedMemory ? MLXR_METAL_UNIFIED : 0u) | (is_stand_in() ? MLXR_METAL_STAND_IN : 0u);
        info->max_buffer_length = on.maxBufferLength;
        info->working_set = on.recommendedMaxWorkingSetSize;
        MTLSize most = on.maxThreadsPerThreadgroup;
        info->max_threads[0] = static_cast<uint32_t>(most.width);
        info->max_threads[1] = static_cast<uint32_t>(most.height);
        info->max_threads[2] = static_cast<uint32_t>(most.depth);
        info->threadgroup_memory = static_cast<uint32_t>(on.maxThreadgroupMemoryLength);
        info->page_size = kPage;
        info->family = 0;
        for (uint32_t family = 1; family <= 10; family++) {
            if ([on supportsFamily:static_cast<MTLGPUFamily>(1000 + family)]) info->family = family;
        }
        give_text(on.name.UTF8String, info->name, sizeof info->name, nullptr);
    });
}

mlxr_metal_object mlxr_metal_queue_new(int32_t in_flight) {
    return object_entry([&] {
        if (in_flight < 1 || in_flight > 65536) {
            fail(MLXR_E_INVALID, std::to_string(in_flight) + " command buffers in flight; 1 to 65536 can be");
        }
        auto queue = std::make_shared<Queue>();
        queue->queue = [device() newCommandQueueWithMaxCommandBufferCount:static_cast<NSUInteger>(in_flight)];
        if (!queue->queue) fail(MLXR_E_DEVICE_LOST, "the device gives no queue");
        std::lock_guard lock(state().mutex);
        auto &all = state().queues;
        all.erase(std::remove_if(all.begin(), all.end(), [](auto &weak) { return weak.expired(); }), all.end());
        all.push_back(queue);
        return queue;
    });
}

mlxr_status mlxr_metal_free(mlxr_metal_object object) {
    if (object == 0) return MLXR_OK;
    return mlxr_metal_free_many(&object, 1);
}

mlxr_status mlxr_metal_free_many(const mlxr_metal_object *objects, int32_t n) {
    return status_entry([&] {
        if (n < 0) fail(MLXR_E_INVALID, "a negative number of objects");
        if (n > 0) required(objects, "objects");
        std::vector<std::optional<Object>> last(static_cast<size_t>(n)); // they die after the lock is let go
        int32_t refused = 0;
        {
            std::lock_guard lock(state().mutex);
            for (int32_t i = 0; i < n; i++) {
                if (objects[i] != 0 && !state().objects.give_back(objects[i], last[i])) refused++;
            }
        }
        if (refused) fail(MLXR_E_HANDLE, std::to_string(refused) + " stale, freed or foreign handles");
    });
}

int64_t mlxr_metal_live_objects(void) {
    if (check_state()) return 0;
    std::lock_guard lock(state().mutex);
    return state().objects.live();
}

// ---- Libraries and pipelines

mlxr_status mlxr_metal_cache_folder(const char *folder) {
    return status_entry([&] {
        std::string chosen = folder ? folder : "";
        std::error_code ignored;
        if (folder && !fs::is_directory(chosen, ignored)) fail(MLXR_E_INVALID, chosen + " is no folder");
        std::lock_guard lock(state().mutex);
        state().cache_folder = chosen;
    });
}

mlxr_metal_object mlxr_metal_library_source(const char *name, const char *source) {
    return object_entry([&] {
        auto library = std::make_shared<Library>();
        library->name = required(name, "name");
        MTLCompileOptions *options = [[MTLCompileOptions alloc] init];
        options.fastMathEnabled = NO;
        options.languageVersion = MTLLanguageVersion3_1; // the first one with bfloat
        NSError *error = nil;
        library->library = [device() newLibraryWithSource:string_of(required(source, "source"))
                                                  options:options
                                                    error:&error];
        // A library may come with warnings; without one, the text says what is wrong, file and line first.
        if (!library->library) fail(MLXR_E_COMPILE, library->name + " does not compile: " + text_of(error));
        state().counters.libraries_compiled++;
        open_archive(*library, source);
        return remember(library);
    });
}

mlxr_metal_object mlxr_metal_library_file(const char *path) {
    return object_entry([&] {
        auto library = std::make_shared<Library>();
        library->name = fs::path(required(path, "path")).stem().string();
        NSError *error = nil;
        library->library = [device() newLibraryWithURL:[NSURL fileURLWithPath:string_of(path)] error:&error];
        if (!library->library) fail(MLXR_E_COMPILE, std::string(path) + ": " + text_of(error));
        std::ifstream file(path, std::ios::binary);
        open_archive(*library, std::string(std::istreambuf_iterator<char>(file), {}));
        return remember(library);
    });
}

mlxr_status mlxr_metal_library_functions(mlxr_metal_object library, char *text, size_t capacity, size_t *needed) {
    return status_entry([&] {
        std::string lines;
        for (NSString *name in find<Library>(library)->library.functionNames)
            lines += std::string(name.UTF8String) + "\n";
        give_text(lines, text, capacity, needed);
    });
}

mlxr_metal_object mlxr_metal_pipeline_get(mlxr_metal_object library, const char *function,
                                          const mlxr_metal_constant *constants, int32_t nconstants) {
    return object_entry([&] {
        auto from = find<Library>(library);
        std::string name = required(function, "function");
        if (nconstants < 0) fail(MLXR_E_INVALID, "a negative number of constants");
        if (nconstants > 0) required(constants, "constants");
        std::string key = name;
        key.push_back('\0');
        for (int32_t i = 0; i < nconstants; i++) {
            const int32_t parts[] = {constants[i].index, constants[i].type, static_cast<int32_t>(constants[i].bits)};
            key.append(reinterpret_cast<const char *>(parts), sizeof parts);
        }
        MTLFunctionConstantValues *values = values_of(name, constants, nconstants);
        std::lock_guard lock(from->mutex);
        auto &pipeline = from->pipelines[key];
        if (!pipeline) {
            try {
                pipeline = compile(*from, name, values);
            } catch (...) {
                from->pipelines.erase(key);
                throw;
            }
        }
        return pipeline;
    });
}

mlxr_status mlxr_metal_pipeline_info_get(mlxr_metal_object pipeline, mlxr_metal_pipeline_info *info) {
    return status_entry([&] {
        required_struct(info, "info");
        auto found = find<Pipeline>(pipeline);
        info->max_threads = static_cast<uint32_t>(found->state.maxTotalThreadsPerThreadgroup);
        info->simd_width = static_cast<uint32_t>(found->state.threadExecutionWidth);
        info->threadgroup_memory = static_cast<uint32_t>(found->state.staticThreadgroupMemoryLength);
    });
}

mlxr_status mlxr_metal_cache_write(void) {
    return status_entry([&] {
        std::vector<std::shared_ptr<Library>> libraries;
        {
            std::lock_guard lock(state().mutex);
            for (auto &weak : state().libraries) {
                if (auto library = weak.lock()) libraries.push_back(std::move(library));
            }
        }
        for (auto &library : libraries)
            library->write_archive();
    });
}

// ---- Buffers

mlxr_metal_object mlxr_metal_buffer_new(uint64_t nbytes) {
    return object_entry([&] { return new_buffer(nbytes); });
}

mlxr_metal_object mlxr_metal_buffer_share(void *data, uint64_t nbytes, uint64_t token) {
    return object_entry([&] {
        required(data, "data");
        if (nbytes == 0 || reinterpret_cast<uintptr_t>(data) % kPage || nbytes % kPage) {
            fail(MLXR_E_UNSUPPORTED, "memory can be shared in whole pages of " + std::to_string(kPage) + " bytes");
        }
        id<MTLDevice> on = device();
        if (nbytes > on.maxBufferLength) {
            fail(MLXR_E_MEMORY, "a buffer of " + std::to_string(nbytes) + " bytes is larger than the device allows");
        }
        auto &s = state();
        {
            // So that giving the token out later cannot fail.
            std::lock_guard lock(s.mutex);
            s.released.reserve(s.released.size() + static_cast<size_t>(s.counters.live_buffers.load()) + 64);
        }
        uint64_t own = token; // a block would keep the reference that this function has to its argument
        id<MTLBuffer> buffer = [on newBufferWithBytesNoCopy:data
                                                     length:nbytes
                                                    options:MTLResourceStorageModeShared
                                                deallocator:^(void *, NSUInteger) {
                                                  std::lock_guard lock(state().mutex);
                                                  state().released.push_back(own);
                                                }];
        if (!buffer) fail(MLXR_E_UNSUPPORTED, "the device does not take this memory");
        s.counters.live_buffers++;
        s.counters.bytes_shared += nbytes;
        return std::shared_ptr<Buffer>(new Buffer{buffer, nbytes, nbytes, true});
    });
}

mlxr_metal_object mlxr_metal_buffer_copy(const void *data, uint64_t nbytes) {
    return object_entry([&] {
        auto buffer = new_buffer(nbytes);
        if (nbytes) std::memcpy(buffer->buffer.contents, required(data, "data"), nbytes);
        state().counters.bytes_copied += nbytes;
        return buffer;
    });
}

size_t mlxr_metal_released(uint64_t *tokens, size_t capacity) {
    if (check_state() || !tokens) return 0;
    std::lock_guard lock(state().mutex);
    auto &released = state().released;
    size_t n = std::min(capacity, released.size());
    std::copy(released.end() - static_cast<std::ptrdiff_t>(n), released.end(), tokens);
    released.resize(released.size() - n);
    return n;
}

mlxr_status mlxr_metal_buffer_info_get(mlxr_metal_object buffer, mlxr_metal_buffer_info *info) {
    return status_entry([&] {
        required_struct(info, "info");
        auto found = find<Buffer>(buffer);
        info->flags = found->shared ? MLXR_METAL_SHARED : 0u;
        info->nbytes = found->nbytes;
        info->data = found->buffer.contents;
    });
}

mlxr_status mlxr_metal_memory_get(int32_t figure, uint64_t *bytes) {
    return status_entry([&] {
        required(bytes, "bytes");
        device(); // which sets the limits
        auto &pool = state().pool;
        std::lock_guard lock(pool.mutex);
        switch (figure) {
        case MLXR_MEMORY_ACTIVE: *bytes = pool.active; return;
        case MLXR_MEMORY_PEAK: *bytes = pool.peak; return;
        case MLXR_MEMORY_CACHE: *bytes = pool.cached; return;
        case MLXR_MEMORY_LIMIT: *bytes = pool.limit; return;
        case MLXR_MEMORY_CACHE_LIMIT: *bytes = pool.cache_limit; return;
        default: fail(MLXR_E_INVALID, "memory figure " + std::to_string(figure) + " does not exist");
        }
    });
}

mlxr_status mlxr_metal_memory_set(int32_t figure, uint64_t bytes, uint64_t *previous) {
    return status_entry([&] {
        device();
        auto &pool = state().pool;
        uint64_t before = 0;
        {
            std::lock_guard lock(pool.mutex);
            switch (figure) {
            case MLXR_MEMORY_PEAK:
                if (bytes != 0) fail(MLXR_E_INVALID, "the peak can only be set to 0");
                before = std::exchange(pool.peak, 0);
                break;
            case MLXR_MEMORY_LIMIT: before = std::exchange(pool.limit, bytes); break;
            case MLXR_MEMORY_CACHE_LIMIT: before = std::exchange(pool.cache_limit, bytes); break;
            default: fail(MLXR_E_INVALID, "memory figure " + std::to_string(figure) + " cannot be set");
            }
        }
        if (figure == MLXR_MEMORY_CACHE_LIMIT) pool.shrink(bytes);
        if (previous) *previous = before;
    });
}

mlxr_status mlxr_metal_memory_clear_cache(void) {
    return status_entry([&] { state().pool.shrink(0); });
}

// ---- Commands

mlxr_metal_object mlxr_metal_submit(mlxr_metal_object queue, const mlxr_metal_batch *batch) {
    return object_entry([&] {
        auto on = find<Queue>(queue);
        Encoder encoder(*required_struct(batch, "batch"));
        encoder.prepare(device());
        return encoder.commit(std::move(on));
    });
}

mlxr_status mlxr_metal_wait(mlxr_metal_object commands) {
    return status_entry([&] {
        auto found = find<Commands>(commands);
        std::unique_lock lock(found->mutex);
        found->changed.wait(lock, [&] { return found->done; });
        if (found->code) fail(found->code, found->message);
    });
}

mlxr_status mlxr_metal_done(mlxr_metal_object commands, int32_t *done) {
    return status_entry([&] {
        auto found = find<Commands>(commands);
        std::lock_guard lock(found->mutex);
        *required(done, "done") = found->done;
    });
}

mlxr_status mlxr_metal_times(mlxr_metal_object commands, double *start, double *end) {
    return status_entry([&] {
        auto found = find<Commands>(commands);
        std::lock_guard lock(found->mutex);
        if (!found->done) fail(MLXR_E_STATE, "the commands have not ended");
        *required(start, "start") = found->start;
        *required(end, "end") = found->end;
    });
}

mlxr_status mlxr_metal_synchronize(mlxr_metal_object queue) {
    return status_entry([&] {
        if (queue == 0)
            synchronize_all();
        else
            find<Queue>(queue)->wait();
    });
}

// ---- Events

mlxr_metal_object mlxr_metal_event_new(void) {
    return object_entry([&] {
        auto event = std::make_shared<Event>();
        event->event = [device() newSharedEvent];
        if (!event->event) fail(MLXR_E_DEVICE_LOST, "the device gives no event");
        return event;
    });
}

mlxr_status mlxr_metal_event_get(mlxr_metal_object event, uint64_t *value) {
    return status_entry([&] { *required(value, "value") = find<Event>(event)->event.signaledValue; });
}

mlxr_status mlxr_metal_event_set(mlxr_metal_object event, uint64_t value) {
    return status_entry([&] { find<Event>(event)->event.signaledValue = value; });
}

// ---- Measuring

mlxr_status mlxr_metal_counters_get(mlxr_metal_counters *counters) {
    return status_entry([&] {
        required_struct(counters, "counters");
        const auto &now = state().counters;
        counters->in_flight = static_cast<uint32_t>(now.in_flight.load());
        counters->command_buffers = now.command_buffers;
        counters->failures = now.failures;
        counters->dispatches = now.dispatches;
        counters->bytes_copied = now.bytes_copied;
        counters->bytes_shared = now.bytes_shared;
        counters->allocations = now.allocations;
        counters->reuses = now.reuses;
        counters->libraries_compiled = now.libraries_compiled;
        counters->pipelines_compiled = now.pipelines_compiled;
        counters->pipelines_loaded = now.pipelines_loaded;
        counters->live_buffers = static_cast<uint64_t>(now.live_buffers.load());
        counters->live_bytes = static_cast<uint64_t>(now.live_bytes.load());
    });
}

mlxr_status mlxr_metal_counters_reset(void) {
    return status_entry([&] {
        auto &now = state().counters;
        for (auto *counter :
             {&now.command_buffers, &now.failures, &now.dispatches, &now.bytes_copied, &now.bytes_shared,
              &now.allocations, &now.reuses, &now.libraries_compiled, &now.pipelines_compiled, &now.pipelines_loaded}) {
            *counter = 0;
        }
    });
}

mlxr_status mlxr_metal_capture_start(const char *path) {
    return status_entry([&] {
        required(path, "path");
        MTLCaptureManager *manager = [MTLCaptureManager sharedCaptureManager];
        if (manager.isCapturing) fail(MLXR_E_STATE, "a capture is on already");
        if (![manager supportsDestination:MTLCaptureDestinationGPUTraceDocument]) {
            fail(MLXR_E_UNSUPPORTED, is_stand_in() ? "the stand-in has no GPU whose work could be captured"
                                                   : "set METAL_CAPTURE_ENABLED=1 before the process starts");
        }
        MTLCaptureDescriptor *descriptor = [[MTLCaptureDescriptor alloc] init];
        descriptor.captureObject = device();
        descriptor.destination = MTLCaptureDestinationGPUTraceDocument;
        descriptor.outputURL = [NSURL fileURLWithPath:string_of(path)];
        NSError *error = nil;
        if (![manager startCaptureWithDescriptor:descriptor error:&error]) fail(MLXR_E_UNSUPPORTED, text_of(error));
    });
}

mlxr_status mlxr_metal_capture_stop(void) {
    return status_entry([&] {
        MTLCaptureManager *manager = [MTLCaptureManager sharedCaptureManager];
        if (!manager.isCapturing) fail(MLXR_E_STATE, "no capture is on");
        [manager stopCapture];
    });
}

} // extern "C"
