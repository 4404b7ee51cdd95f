/* What tests ask of the stand-in and do to it: count objects, delay work, lose the device. No program for a real GPU calls
 * these. Every knob has an environment variable that sets it at start, so that a whole test run can be put under it.
 */
#ifndef MLXR_STANDIN_INSPECT_H
#define MLXR_STANDIN_INSPECT_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Objective-C objects and heap blocks that exist. Constants and classes do not count. */
int64_t standin_live_objects(void);
/* Releases of objects that were gone already, messages to them, and autoreleases without a pool. They are reported on
 * stderr; the first two kinds end the process unless standin_tolerate(1) was called. */
int64_t standin_memory_errors(void);
void standin_tolerate(int32_t tolerate);

/* Bytes of device memory that exist, and their limit, past which newBufferWithLength gives nil
 * (MLXR_STANDIN_MEMORY; default: three quarters of the machine's memory). */
uint64_t standin_device_bytes(void);
void standin_set_memory_limit(uint64_t bytes);

/* Microseconds that a queue waits before each command buffer (MLXR_STANDIN_DELAY_US; default 0). */
void standin_set_delay(uint32_t microseconds);

/* Fails the command buffer that begins after `after` others with an MTLCommandBufferError; DeviceRemoved (11) loses the
 * device: all later ones fail too, until standin_restore_device(). (MLXR_STANDIN_LOSE_AFTER=n loses the device.) */
void standin_inject_failure(int32_t error, uint32_t after);
void standin_restore_device(void);

/* The order in which threads and groups run (executor.h; MLXR_STANDIN_ORDER=forward, reverse or shuffled). */
void standin_set_order(int32_t order, uint32_t seed);

/* Waits until every queue has nothing left to run and has let go of what it ran. */
void standin_wait_idle(void);

#ifdef __cplusplus
}
#endif
#endif
