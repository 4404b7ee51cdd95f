// What the Objective-C runtime of the stand-in has to get right: reference counts, weak references, blocks, properties,
// collections, C++ beside them. Each check prints a line if it fails; the last line counts objects that are left.
#import <Foundation/Foundation.h>

#include "inspect.h"

#include <atomic>
#include <cstdio>
#include <cstring>
#include <functional>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

static int failures = 0;
#define CHECK(...)                                                                                                     \
    do {                                                                                                               \
        if (!(__VA_ARGS__)) {                                                                                          \
            ++failures;                                                                                                \
            printf("line %d: %s\n", __LINE__, #__VA_ARGS__);                                                           \
        }                                                                                                              \
    } while (0)

static std::atomic<int> deallocated{0};

@protocol Named <NSObject>
@property(readonly) NSString *name;
@optional
- (void)sometimes;
@end

struct Wide {
    NSUInteger a, b, c, d;
};

@interface Thing : NSObject <Named> {
    std::string text; // constructed and destroyed with the object
    std::vector<int> numbers;
}
@property(nonatomic, copy) NSString *label;
@property(nonatomic, strong) Thing *next;
@property(nonatomic, weak) Thing *parent;
@property(atomic, copy) void (^handler)(int);
- (Wide)wide:(NSUInteger)n;
- (double)half:(double)x;
- (id)make:(NSUInteger)n error:(NSError **)error;
@end

@implementation Thing
- (instancetype)init {
    if ((self = [super init])) {
        text = "constructed";
        numbers.assign(3, 7);
    }
    return self;
}
- (void)dealloc {
    CHECK(text == "constructed" && numbers.size() == 3);
    ++deallocated;
}
- (NSString *)name {
    return @"a name that is longer than a pointer holds";
}
- (Wide)wide:(NSUInteger)n {
    return {n, n + 1, n + 2, n + 3};
}
- (double)half:(double)x {
    return x / 2;
}
- (id)make:(NSUInteger)n error:(NSError **)error {
    if (n == 0) {
        if (error)
            *error = [NSError errorWithDomain:@"Things" code:7 userInfo:@{NSLocalizedDescriptionKey : @"n is zero"}];
        return nil;
    }
    return [[Thing alloc] init];
}
@end

@interface Thing (Category)
- (int)added;
- (void)performUnknownThing; // which nobody implements
@end
@implementation Thing (Category)
- (int)added {
    return 42;
}
@end

@interface Derived : Thing
@property(nonatomic) int extra;
@end
@implementation Derived
- (double)half:(double)x {
    return [super half:x] + 1;
}
@end

typedef void (^Handler)(int);
static void call(Handler handler, int value) {
    handler(value);
}
static Handler keep(Handler handler) {
    return handler;
}

static void reference_counts() {
    deallocated = 0;
    {
        Thing *a = [[Thing alloc] init];
        Thing *b = a;
        a = nil;
        CHECK(deallocated == 0 && b != nil);
    }
    CHECK(deallocated == 1);
    @autoreleasepool {
        NSMutableArray *all = [[NSMutableArray alloc] init];
        for (int i = 0; i < 100; ++i)
            [all addObject:[Thing new]];
        CHECK(all.count == 100 && deallocated == 1);
    }
    CHECK(deallocated == 101);
    Thing *chain = nil;
    for (int i = 0; i < 10; ++i) {
        Thing *t = [Thing new];
        t.next = chain;
        chain = t;
    }
    chain = nil;
    CHECK(deallocated == 111);
    auto bridged = (__bridge_retained void *)[Thing new];
    CHECK(deallocated == 111);
    (void)(__bridge_transfer Thing *)bridged;
    CHECK(deallocated == 112);
}

static void weak_references() {
    __weak Thing *weak = nil;
    {
        Thing *strong = [Thing new];
        weak = strong;
        CHECK(weak == strong);
        Thing *child = [Thing new];
        child.parent = strong;
        strong.next = child;
        __weak Thing *copied = weak;
        @autoreleasepool { // a weak property's getter retains until the pool ends
            CHECK(copied == strong && child.parent == strong);
        }
        strong = nil;
        CHECK(weak == nil && copied == nil && child.parent == nil);
    }
    CHECK(weak == nil);
    // Threads that load what another lets go of get the object or nil, never something between.
    for (int round = 0; round < 200; ++round) {
        Thing *strong = [Thing new];
        __weak Thing *shared = strong;
        __weak Thing **address = &shared;
        std::thread loader([address] {
            @autoreleasepool {
                for (int i = 0; i < 20; ++i)
                    if (Thing *t = *address) CHECK([t added] == 42);
            }
        });
        strong = nil;
        loader.join();
    }
}

static void blocks() {
    int base = 10;
    __block int sum = 0;
    call(
        ^(int v) {
          sum += base + v;
        },
        1);
    CHECK(sum == 11);
    Handler kept = keep(^(int v) {
      sum += v;
    });
    Handler copy = kept;
    kept = nil;
    copy(5);
    CHECK(sum == 16);
    deallocated = 0;
    {
        Thing *captured = [Thing new];
        Handler holding = ^(int v) {
          captured.label = [NSString stringWithFormat:@"%d", v];
        };
        holding(3);
        CHECK([captured.label isEqualToString:@"3"]);
        captured = nil;
        CHECK(deallocated == 0);
    }
    CHECK(deallocated == 1);
    {
        Thing *owner = [Thing new];
        __weak Thing *weak = owner;
        owner.handler = ^(int) {
          CHECK(weak != nil);
        };
        owner.handler(1);
    }
    CHECK(deallocated == 2);
    __block Thing *changed = nil;
    call(
        ^(int) {
          changed = [Thing new];
        },
        0);
    CHECK(changed != nil);
    changed = nil;
    CHECK(deallocated == 3);
    std::function<void(int)> function = copy; // a block in a C++ object
    function(1);
    CHECK(sum == 17);
    std::vector<Handler> many;
    for (int i = 0; i < 50; ++i)
        many.push_back(^(int v) {
          sum += v + i;
        });
    for (auto &handler : many)
        handler(0);
    CHECK(sum == 17 + 49 * 50 / 2);
}

static void messages() {
    Thing *t = [Derived new];
    CHECK([t half:5.0] == 3.5 && [t added] == 42);
    Wide w = [t wide:3];
    CHECK(w.a == 3 && w.d == 6);
    Thing *nothing = nil;
    CHECK([nothing half:5.0] == 0.0 && [nothing added] == 0 && nothing.label == nil);
    CHECK([t isKindOfClass:[Thing class]] && ![t isKindOfClass:[NSString class]]);
    CHECK([t conformsToProtocol:@protocol(Named)] && ![t respondsToSelector:@selector(sometimes)]);
    CHECK([t respondsToSelector:@selector(added)] && [((id<Named>)t).name length] > 20);
    NSError *error = nil;
    CHECK([t make:0 error:&error] == nil && error.code == 7);
    CHECK(strcmp(error.localizedDescription.UTF8String, "n is zero") == 0);
    CHECK([t make:1 error:nil] != nil);
}

static void foundation() {
    NSArray *a = @[ @"short", @"somewhat longer than that", @3 ];
    NSDictionary *d = @{@"k" : @1.5, @"other" : a};
    int n = 0;
    for (id x in a)
        n += [x description] != nil;
    CHECK(n == 3 && a.count == 3 && [d[@"k"] doubleValue] == 1.5 && d[@"none"] == nil);
    CHECK([a[2] intValue] == 3 && [a containsObject:@"short"]);
    CHECK([@"abc" isEqual:[NSString stringWithFormat:@"%s%c", "ab", 'c']]);
    NSString *text = [NSString stringWithFormat:@"%@ %d %lu %5.2f %% %p", @"x", -3, 7ul, 1.5, (void *)nullptr];
    CHECK(strncmp(text.UTF8String, "x -3 7  1.50 % ", 15) == 0);
    CHECK(strcmp([NSURL fileURLWithPath:@"/tmp/x"].path.UTF8String, "/tmp/x") == 0);
    NSError *error = nil;
    CHECK([NSString stringWithContentsOfFile:@"/nowhere" encoding:NSUTF8StringEncoding error:&error] == nil && error);
}

static void exceptions_and_threads() {
    deallocated = 0;
    try {
        Thing *t = [Thing new];
        @autoreleasepool {
            [t added];
            throw std::runtime_error("through Objective-C");
        }
    } catch (const std::exception &e) {
        CHECK(strcmp(e.what(), "through Objective-C") == 0);
    }
    NSObject *lock = [NSObject new];
    int counted = 0;
    int *count = &counted;
    std::vector<std::thread> threads;
    for (int i = 0; i < 4; ++i)
        threads.emplace_back([lock, count] {
            for (int k = 0; k < 1000; ++k)
                @synchronized(lock) {
                    ++*count;
                }
        });
    for (auto &thread : threads)
        thread.join();
    CHECK(counted == 4000);
}

int main(int argc, char **argv) {
    const std::string what = argc > 1 ? argv[1] : "";
    if (what == "over-release") {
        @autoreleasepool {
            void *p = (__bridge_retained void *)[Thing new];
            (void)(__bridge_transfer Thing *)p;
            (void)(__bridge_transfer Thing *)p;
        }
        return 0;
    }
    if (what == "tolerated") {
        standin_tolerate(1);
        @autoreleasepool {
            void *p = (__bridge_retained void *)[Thing new];
            (void)(__bridge_transfer Thing *)p;
            (void)(__bridge_transfer Thing *)p;
        }
        printf("errors %ld\n", (long)standin_memory_errors());
        return 0;
    }
    if (what == "unrecognized") {
        [[Thing new] performUnknownThing];
        return 0;
    }
    for (int round = 0; round < 2; ++round) // what is made once is made in the first
        @autoreleasepool {
            reference_counts();
            weak_references();
            blocks();
            messages();
            foundation();
            exceptions_and_threads();
        }
    printf("failures %d, live %ld, errors %ld\n", failures, (long)standin_live_objects(),
           (long)standin_memory_errors());
    return failures != 0;
}
