// Host rules of Metal that the stand-in enforces: each argument names one that this program breaks. `ok` breaks none, and runs
// command buffers, events, failures and a lost device.
#import <Foundation/Foundation.h>
#import <Metal/Metal.h>

#include "inspect.h"

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <unistd.h>

static const char kSource[] = R"(
#include <metal_stdlib>
using namespace metal;
constant float factor [[function_constant(0)]];
kernel void scale(device float *x [[buffer(0)]], constant uint &n [[buffer(1)]], uint i [[thread_position_in_grid]]) {
    if (i < n) x[i] *= factor;
}
kernel void spins(device uint *x [[buffer(0)]]) {
    uint k = 0;
    while (x[0] == 0u) ++k;
    x[1] = k;
}
)";

static int failures = 0;
#define CHECK(...)                                                                                                     \
    do {                                                                                                               \
        if (!(__VA_ARGS__)) {                                                                                          \
            ++failures;                                                                                                \
            printf("line %d: %s\n", __LINE__, #__VA_ARGS__);                                                           \
        }                                                                                                              \
    } while (0)

static id<MTLDevice> device;
static id<MTLCommandQueue> queue;

static id<MTLComputePipelineState> pipeline() {
    NSError *error = nil;
    id<MTLLibrary> library = [device newLibraryWithSource:@(kSource) options:nil error:&error];
    CHECK(library && library.functionNames.count == 2);
    float factor = 2.0f;
    MTLFunctionConstantValues *values = [[MTLFunctionConstantValues alloc] init];
    [values setConstantValue:&factor type:MTLDataTypeFloat atIndex:0];
    id<MTLFunction> function = [library newFunctionWithName:@"scale" constantValues:values error:&error];
    id<MTLComputePipelineState> state = [device newComputePipelineStateWithFunction:function error:&error];
    CHECK(state && state.threadExecutionWidth == 32 && state.maxTotalThreadsPerThreadgroup == 1024);
    // What is wrong with a function is said when it is made, or its pipeline.
    CHECK([library newFunctionWithName:@"none" constantValues:values error:&error] == nil);
    CHECK(error.code == MTLLibraryErrorFunctionNotFound);
    error = nil;
    CHECK([device newComputePipelineStateWithFunction:[library newFunctionWithName:@"scale"] error:&error] == nil &&
          error);
    int wrong = 2;
    [values setConstantValue:&wrong type:MTLDataTypeInt atIndex:0];
    error = nil;
    CHECK([library newFunctionWithName:@"scale" constantValues:values error:&error] == nil && error);
    return state;
}

static void encode(id<MTLComputeCommandEncoder> encoder, id<MTLComputePipelineState> state, id<MTLBuffer> buffer) {
    unsigned n = 100;
    [encoder setComputePipelineState:state];
    [encoder setBuffer:buffer offset:0 atIndex:0];
    [encoder setBytes:&n length:sizeof n atIndex:1];
    [encoder dispatchThreadgroups:MTLSizeMake(4, 1, 1) threadsPerThreadgroup:MTLSizeMake(32, 1, 1)];
}

static void all_is_well() {
    id<MTLComputePipelineState> state = pipeline();
    id<MTLBuffer> buffer = [device newBufferWithLength:400 options:MTLResourceStorageModeShared];
    float *x = (float *)buffer.contents;
    for (int i = 0; i < 100; ++i)
        x[i] = (float)i;

    // A result is there after waiting, and with a delay not before.
    standin_set_delay(50000);
    id<MTLCommandBuffer> commands = [queue commandBuffer];
    id<MTLComputeCommandEncoder> encoder = [commands computeCommandEncoder];
    encode(encoder, state, buffer);
    [encoder endEncoding];
    static std::atomic<int> completed{0};
    completed = 0;
    [commands addCompletedHandler:^(id<MTLCommandBuffer> done) {
      completed += done.status == MTLCommandBufferStatusCompleted;
    }];
    [commands commit];
    CHECK(x[50] == 50.0f && commands.status < MTLCommandBufferStatusCompleted);
    [commands waitUntilCompleted];
    CHECK(x[50] == 100.0f && completed == 1 && commands.error == nil);
    CHECK(commands.GPUEndTime >= commands.GPUStartTime && commands.GPUStartTime > 0);
    standin_set_delay(0);

    // Events order two queues.
    id<MTLCommandQueue> other = [device newCommandQueueWithMaxCommandBufferCount:4];
    id<MTLSharedEvent> event = [device newSharedEvent];
    id<MTLCommandBuffer> late = [other commandBuffer];
    [late encodeWaitForEvent:event value:3];
    encoder = [late computeCommandEncoder];
    encode(encoder, state, buffer);
    [encoder endEncoding];
    [late commit];
    usleep(20000);
    CHECK(x[50] == 100.0f);
    id<MTLCommandBuffer> early = [queue commandBuffer];
    [early encodeSignalEvent:event value:3];
    [early commit];
    [late waitUntilCompleted];
    CHECK(x[50] == 200.0f && event.signaledValue == 3);

    // Memory that is shared is the same memory, and is given back once.
    void *memory = aligned_alloc(16384, 16384);
    static std::atomic<int> given_back{0};
    given_back = 0;
    @autoreleasepool {
        id<MTLBuffer> shared = [device newBufferWithBytesNoCopy:memory
                                                         length:16384
                                                        options:MTLResourceStorageModeShared
                                                    deallocator:^(void *p, NSUInteger) {
                                                      ++given_back;
                                                      free(p);
                                                    }];
        CHECK(shared.contents == memory);
        CHECK([device newBufferWithBytesNoCopy:(char *)memory + 64
                                        length:16384
                                       options:MTLResourceStorageModeShared
                                   deallocator:nil] == nil);
        CHECK([device newBufferWithBytesNoCopy:memory
                                        length:1000
                                       options:MTLResourceStorageModeShared
                                   deallocator:nil] == nil);
    }
    CHECK(given_back == 1);

    // Memory ends.
    standin_set_memory_limit(1 << 20);
    CHECK([device newBufferWithLength:2 << 20 options:MTLResourceStorageModeShared] == nil);
    id<MTLBuffer> fits = [device newBufferWithLength:700000 options:MTLResourceStorageModeShared];
    CHECK(fits != nil && [device newBufferWithLength:700000 options:MTLResourceStorageModeShared] == nil);
    fits = nil;
    CHECK([device newBufferWithLength:700000 options:MTLResourceStorageModeShared] != nil);
    standin_set_memory_limit((uint64_t)1 << 33);

    // Sources that do not compile say where.
    NSError *error = nil;
    id<MTLLibrary> bad = [device newLibraryWithSource:@"\nkernel void k(device float *a [[buffer(0)]]) { a[0] = b; }"
                                              options:nil
                                                error:&error];
    CHECK(bad == nil && error.code == MTLLibraryErrorCompileFailure);
    CHECK(strncmp(error.localizedDescription.UTF8String, "program_source:2:", 17) == 0);

    // Failures: one that is injected, and the loss of the device, which lasts.
    auto run = [&] {
        id<MTLCommandBuffer> one = [queue commandBuffer];
        id<MTLComputeCommandEncoder> e = [one computeCommandEncoder];
        encode(e, state, buffer);
        [e endEncoding];
        [one commit];
        [one waitUntilCompleted];
        return one.status == MTLCommandBufferStatusError ? (int)one.error.code : 0;
    };
    standin_inject_failure(MTLCommandBufferErrorOutOfMemory, 1);
    CHECK(run() == 0 && run() == MTLCommandBufferErrorOutOfMemory && run() == 0);
    standin_inject_failure(MTLCommandBufferErrorDeviceRemoved, 0);
    CHECK(run() == MTLCommandBufferErrorDeviceRemoved && run() == MTLCommandBufferErrorDeviceRemoved);
    CHECK([device newBufferWithLength:64 options:MTLResourceStorageModeShared] == nil);
    standin_restore_device();
    CHECK(run() == 0);

    CHECK(![[MTLCaptureManager sharedCaptureManager] supportsDestination:MTLCaptureDestinationGPUTraceDocument]);
    CHECK(strstr(device.name.UTF8String, "stand-in") && device.hasUnifiedMemory);
}

// Breaks the rule that is named.
static void breaks(const std::string &rule) {
    id<MTLBuffer> buffer = [device newBufferWithLength:400 options:MTLResourceStorageModeShared];
    id<MTLCommandBuffer> commands = [queue commandBuffer];
    if (rule == "wait-before-commit") [commands waitUntilCompleted];
    id<MTLComputeCommandEncoder> encoder = [commands computeCommandEncoder];
    char bytes[5000] = {};
    if (rule == "large-bytes") [encoder setBytes:bytes length:sizeof bytes atIndex:0];
    if (rule == "no-bytes") [encoder setBytes:bytes length:0 atIndex:0];
    if (rule == "buffer-index") [encoder setBuffer:buffer offset:0 atIndex:31];
    if (rule == "buffer-offset") [encoder setBuffer:buffer offset:400 atIndex:0];
    if (rule == "no-pipeline")
        [encoder dispatchThreadgroups:MTLSizeMake(1, 1, 1) threadsPerThreadgroup:MTLSizeMake(1, 1, 1)];
    if (rule == "threadgroup-memory") [encoder setThreadgroupMemoryLength:100 atIndex:0];
    if (rule == "two-encoders") [commands computeCommandEncoder];
    if (rule == "commit-while-encoding") [commands commit];
    if (rule == "too-many-threads") {
        [encoder setComputePipelineState:pipeline()];
        [encoder dispatchThreadgroups:MTLSizeMake(1, 1, 1) threadsPerThreadgroup:MTLSizeMake(2048, 1, 1)];
    }
    if (rule == "empty-grid") {
        [encoder setComputePipelineState:pipeline()];
        [encoder dispatchThreadgroups:MTLSizeMake(0, 1, 1) threadsPerThreadgroup:MTLSizeMake(32, 1, 1)];
    }
    if (rule == "forgotten-end") {
        encoder = nil;
        return;
    }
    [encoder endEncoding];
    if (rule == "end-twice") [encoder endEncoding];
    if (rule == "encoder-after-end") [encoder setBuffer:buffer offset:0 atIndex:0];
    [commands commit];
    if (rule == "commit-twice") [commands commit];
    if (rule == "encode-after-commit") [commands computeCommandEncoder];
    if (rule == "handler-after-commit")
        [commands addCompletedHandler:^(id<MTLCommandBuffer>){
        }];
    printf("nobody noticed\n");
}

int main(int argc, char **argv) {
    setvbuf(stdout, nullptr, _IONBF, 0); // what was printed before an abort is part of the answer
    device = MTLCreateSystemDefaultDevice();
    const std::string rule = argc > 1 ? argv[1] : "ok";
    if (rule != "ok") {
        @autoreleasepool {
            queue = [device newCommandQueue];
            breaks(rule);
        }
        return 0;
    }
    int64_t live = 0;
    for (int round = 0; round < 3; ++round) {
        @autoreleasepool {
            queue = [device newCommandQueue];
            all_is_well();
            queue = nil;
        }
        standin_wait_idle();
        if (round == 0) live = standin_live_objects(); // singletons are there now
    }
    printf("failures %d, left over %ld, bytes %lu, errors %ld\n", failures, (long)(standin_live_objects() - live),
           (unsigned long)standin_device_bytes(), (long)standin_memory_errors());
    if (argc > 2) { // work in flight at the end
        queue = [device newCommandQueue];
        standin_set_delay(200000);
        for (int i = 0; i < 3; ++i) {
            id<MTLCommandBuffer> commands = [queue commandBuffer];
            [commands commit];
        }
    }
    return failures != 0;
}
