// The stand-in's Foundation: strings, numbers, collections, errors. Compiled without ARC, since it is what ARC rests on.
// Behaviour is Apple's as far as the Metal runtime can see it; strings are UTF-8 throughout.
#import <Foundation/Foundation.h>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <functional>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

extern "C" {
id class_createInstance(Class, size_t);
void object_dispose(id);
id objc_retain(id);
void objc_release(id);
id objc_autorelease(id);
size_t standin_retain_count(id);
Class object_getClass(id);
Class class_getSuperclass(Class);
const char *class_getName(Class);
bool class_respondsToSelector(Class, SEL);
bool standin_conforms(Class, void *);
}

@implementation NSObject
+ (instancetype)alloc {
    return class_createInstance((Class)self, 0);
}
+ (instancetype)new {
    return [[self alloc] init];
}
- (instancetype)init {
    return self;
}
- (void)dealloc {
    object_dispose(self);
}
+ (Class)class {
    return (Class)self;
}
- (id)copy {
    return objc_retain(self); // everything here that is copied cannot change
}
- (instancetype)retain {
    return objc_retain(self);
}
- (oneway void)release {
    objc_release(self);
}
- (instancetype)autorelease {
    return objc_autorelease(self);
}
- (NSUInteger)retainCount {
    return standin_retain_count(self);
}
- (Class)class {
    return object_getClass(self);
}
- (BOOL)isKindOfClass:(Class)aClass {
    for (Class k = object_getClass(self); k; k = class_getSuperclass(k))
        if (k == aClass) return YES;
    return NO;
}
- (BOOL)respondsToSelector:(SEL)selector {
    return class_respondsToSelector(object_getClass(self), selector);
}
- (BOOL)conformsToProtocol:(Protocol *)protocol {
    return standin_conforms(object_getClass(self), (void *)protocol);
}
- (BOOL)isEqual:(id)object {
    return self == object;
}
- (NSUInteger)hash {
    return (NSUInteger)self;
}
- (NSString *)description {
    return [NSString stringWithFormat:@"<%s: %p>", class_getName(object_getClass(self)), (void *)self];
}
@end

// ---------------------------------------------------------------- strings

// NSString is abstract: a string is one of these, or a constant that the compiler made.
@interface StandinString : NSString {
  @public
    std::string text;
}
@end

static NSString *new_string(std::string text) {
    StandinString *s = (StandinString *)class_createInstance((Class)[StandinString class], 0);
    s->text = std::move(text);
    return s;
}

static std::string format(const char *p, va_list arguments) {
    std::string out;
    while (*p) {
        if (*p != '%') {
            out += *p++;
            continue;
        }
        std::string spec = "%";
        for (++p; *p && strchr("-+ #0123456789.lhzjtq", *p); ++p)
            spec += *p;
        const char kind = *p ? *p++ : '%';
        const bool wide = spec.find_first_of("lzjtq") != std::string::npos;
        char text[512] = "";
        spec += kind;
        switch (kind) {
        case '%': out += '%'; break;
        case '@': {
            id object = va_arg(arguments, id);
            out += object ? [[object description] UTF8String] : "(null)";
            break;
        }
        case 's': {
            const char *s = va_arg(arguments, const char *);
            out += s ? s : "(null)";
            break;
        }
        case 'd':
        case 'i':
            if (wide)
                snprintf(text, sizeof text, spec.c_str(), va_arg(arguments, long));
            else
                snprintf(text, sizeof text, spec.c_str(), va_arg(arguments, int));
            break;
        case 'u':
        case 'x':
        case 'X':
        case 'o':
            if (wide)
                snprintf(text, sizeof text, spec.c_str(), va_arg(arguments, unsigned long));
            else
                snprintf(text, sizeof text, spec.c_str(), va_arg(arguments, unsigned));
            break;
        case 'f':
        case 'g':
        case 'e': snprintf(text, sizeof text, spec.c_str(), va_arg(arguments, double)); break;
        case 'c': snprintf(text, sizeof text, spec.c_str(), va_arg(arguments, int)); break;
        case 'p': snprintf(text, sizeof text, spec.c_str(), va_arg(arguments, void *)); break;
        default: out += spec;
        }
        out += text;
    }
    return out;
}

@implementation NSString
+ (instancetype)alloc {
    Class c = self == (id)[NSString class] ? (Class)[StandinString class] : (Class)self;
    return class_createInstance(c, 0);
}
+ (instancetype)string {
    return [new_string("") autorelease];
}
+ (instancetype)stringWithUTF8String:(const char *)bytes {
    return [new_string(bytes) autorelease];
}
+ (instancetype)stringWithFormat:(NSString *)f, ... {
    va_list arguments;
    va_start(arguments, f);
    std::string text = format([f UTF8String], arguments);
    va_end(arguments);
    return [new_string(std::move(text)) autorelease];
}
+ (instancetype)stringWithContentsOfFile:(NSString *)path encoding:(NSUInteger)encoding error:(NSError **)error {
    std::ifstream file([path UTF8String], std::ios::binary);
    if (!file) {
        if (error) *error = [NSError errorWithDomain:NSCocoaErrorDomain code:260 userInfo:nil];
        return nil;
    }
    std::stringstream text;
    text << file.rdbuf();
    return [new_string(text.str()) autorelease];
}
- (instancetype)initWithUTF8String:(const char *)bytes {
    ((StandinString *)self)->text = bytes;
    return self;
}
- (instancetype)initWithBytes:(const void *)bytes length:(NSUInteger)length encoding:(NSUInteger)encoding {
    ((StandinString *)self)->text.assign((const char *)bytes, length);
    return self;
}
- (const char *)UTF8String {
    return "";
}
- (NSUInteger)length {
    return strlen([self UTF8String]);
}
- (NSString *)description {
    return self;
}
- (BOOL)isEqualToString:(NSString *)other {
    return other && !strcmp([self UTF8String], [other UTF8String]);
}
- (BOOL)isEqual:(id)object {
    return [object isKindOfClass:[NSString class]] && [self isEqualToString:object];
}
- (NSUInteger)hash {
    return std::hash<std::string>()([self UTF8String]);
}
- (NSString *)stringByAppendingString:(NSString *)other {
    return [new_string(std::string([self UTF8String]) + [other UTF8String]) autorelease];
}
@end

@implementation StandinString
- (const char *)UTF8String {
    return text.c_str();
}
@end

// The compiler lays these out.
@interface NSConstantString : NSString {
    uint32_t flags, count, size, hash;
    const char *bytes;
}
@end
@implementation NSConstantString
- (const char *)UTF8String {
    return bytes;
}
@end

// Up to eight characters of seven bits, in the pointer itself.
@interface NSTinyString : NSString
@end
@implementation NSTinyString
- (const char *)UTF8String {
    const uintptr_t bits = (uintptr_t)self;
    const int length = (int)(bits >> 3 & 31);
    std::string text;
    for (int i = 0; i < length; ++i)
        text += (char)(bits >> (57 - 7 * i) & 0x7f);
    return ((StandinString *)[new_string(text) autorelease])->text.c_str();
}
@end

// ---------------------------------------------------------------- numbers and collections

@implementation NSNumber {
    double real;
    long whole;
    BOOL isReal;
}
static NSNumber *new_number(double real, long whole, BOOL isReal) {
    NSNumber *n = [[NSNumber alloc] autorelease];
    n->real = real;
    n->whole = whole;
    n->isReal = isReal;
    return n;
}
+ (NSNumber *)numberWithBool:(BOOL)value {
    return new_number(value, value, NO);
}
+ (NSNumber *)numberWithInt:(int)value {
    return new_number(value, value, NO);
}
+ (NSNumber *)numberWithUnsignedInt:(unsigned)value {
    return new_number(value, value, NO);
}
+ (NSNumber *)numberWithLong:(long)value {
    return new_number((double)value, value, NO);
}
+ (NSNumber *)numberWithUnsignedLong:(unsigned long)value {
    return new_number((double)value, (long)value, NO);
}
+ (NSNumber *)numberWithFloat:(float)value {
    return new_number(value, (long)value, YES);
}
+ (NSNumber *)numberWithDouble:(double)value {
    return new_number(value, (long)value, YES);
}
- (BOOL)boolValue {
    return isReal ? real != 0 : whole != 0;
}
- (int)intValue {
    return (int)whole;
}
- (long)longValue {
    return whole;
}
- (NSUInteger)unsignedIntegerValue {
    return (NSUInteger)whole;
}
- (double)doubleValue {
    return real;
}
- (BOOL)isEqual:(id)object {
    return [object isKindOfClass:[NSNumber class]] && ((NSNumber *)object)->real == real;
}
- (NSUInteger)hash {
    return std::hash<double>()(real);
}
- (NSString *)description {
    return isReal ? [NSString stringWithFormat:@"%g", real] : [NSString stringWithFormat:@"%ld", whole];
}
@end

@implementation NSArray {
  @public
    std::vector<id> items;
}
+ (instancetype)array {
    return [[[self alloc] init] autorelease];
}
+ (instancetype)arrayWithObjects:(const id[])objects count:(NSUInteger)count {
    NSArray *a = [[[self alloc] init] autorelease];
    for (NSUInteger i = 0; i < count; ++i)
        a->items.push_back([objects[i] retain]);
    return a;
}
- (void)dealloc {
    for (id item : items)
        [item release];
    [super dealloc];
}
- (id)copy {
    return [[NSArray arrayWithObjects:items.data() count:items.size()] retain];
}
- (NSUInteger)count {
    return items.size();
}
- (id)objectAtIndex:(NSUInteger)index {
    return items.at(index);
}
- (id)objectAtIndexedSubscript:(NSUInteger)index {
    return items.at(index);
}
- (BOOL)containsObject:(id)object {
    for (id item : items)
        if ([item isEqual:object]) return YES;
    return NO;
}
- (NSUInteger)countByEnumeratingWithState:(NSFastEnumerationState *)state
                                  objects:(id __unsafe_unretained[])buffer
                                    count:(NSUInteger)length {
    static unsigned long never;
    if (state->state) return 0;
    state->state = 1;
    state->itemsPtr = items.data();
    state->mutationsPtr = &never;
    return items.size();
}
@end

@implementation NSMutableArray
- (void)addObject:(id)object {
    self->items.push_back([object retain]);
}
- (void)removeAllObjects {
    std::vector<id> old = std::move(self->items);
    self->items.clear();
    for (id item : old)
        [item release];
}
@end

@implementation NSDictionary {
    std::vector<std::pair<id, id>> items;
}
+ (instancetype)dictionaryWithObjects:(const id[])objects forKeys:(const id[])keys count:(NSUInteger)count {
    NSDictionary *d = [[[self alloc] init] autorelease];
    for (NSUInteger i = 0; i < count; ++i)
        d->items.push_back({[keys[i] copy], [objects[i] retain]});
    return d;
}
- (void)dealloc {
    for (auto &item : items) {
        [item.first release];
        [item.second release];
    }
    [super dealloc];
}
- (NSUInteger)count {
    return items.size();
}
- (id)objectForKey:(id)key {
    for (auto &item : items)
        if ([item.first isEqual:key]) return item.second;
    return nil;
}
- (id)objectForKeyedSubscript:(id)key {
    return [self objectForKey:key];
}
@end

// ---------------------------------------------------------------- errors, URLs

NSString *const NSLocalizedDescriptionKey = @"NSLocalizedDescription";
NSString *const NSCocoaErrorDomain = @"NSCocoaErrorDomain";

@implementation NSError {
    NSString *domain;
    NSInteger code;
    NSDictionary *userInfo;
}
+ (instancetype)errorWithDomain:(NSString *)domain code:(NSInteger)code userInfo:(NSDictionary *)userInfo {
    NSError *e = [[[NSError alloc] init] autorelease];
    e->domain = [domain copy];
    e->code = code;
    e->userInfo = [userInfo retain];
    return e;
}
- (void)dealloc {
    [domain release];
    [userInfo release];
    [super dealloc];
}
- (NSInteger)code {
    return code;
}
- (NSString *)domain {
    return domain;
}
- (NSDictionary *)userInfo {
    return userInfo;
}
- (NSString *)localizedDescription {
    NSString *given = [userInfo objectForKey:NSLocalizedDescriptionKey];
    return given ? given
                 : [NSString
                       stringWithFormat:@"The operation couldn't be completed. (%@ error %ld.)", domain, (long)code];
}
- (NSString *)description {
    return [self localizedDescription];
}
@end

@implementation NSURL {
    NSString *path;
}
+ (instancetype)fileURLWithPath:(NSString *)path {
    NSURL *url = [[[NSURL alloc] init] autorelease];
    url->path = [path copy];
    return url;
}
- (void)dealloc {
    [path release];
    [super dealloc];
}
- (NSString *)path {
    return path;
}
- (NSString *)description {
    return [@"file://" stringByAppendingString:path];
}
@end

void NSLog(NSString *f, ...) {
    va_list arguments;
    va_start(arguments, f);
    fprintf(stderr, "%s\n", format([f UTF8String], arguments).c_str());
    va_end(arguments);
}
