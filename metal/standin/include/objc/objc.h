// The types that the Objective-C compiler leaves to the runtime's headers.
#pragma once
#include <stdbool.h>
typedef struct objc_class *Class;
typedef struct objc_selector *SEL;
typedef bool BOOL;
#define YES ((BOOL)1)
#define NO ((BOOL)0)
#ifdef __cplusplus
#define nil nullptr
#define Nil nullptr
#else
#define nil ((void *)0)
#define Nil ((void *)0)
#endif
