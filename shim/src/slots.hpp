// The table of handles: (generation << 32 | slot) -> T. A handle that was given back, or was never one, is recognised.
// Not locked: its owner does that. Knows nothing of what it holds.
#pragma once

#include "guard.hpp"

#include <deque>
#include <optional>
#include <vector>

namespace mlxr {

template <class T>
class Slots {
  public:
    // Takes a value; the caller owns the handle.
    uint64_t put(T value) {
        uint32_t index;
        if (vacant_.empty()) {
            index = static_cast<uint32_t>(slots_.size());
            // So that giving a slot back cannot fail.
            if (vacant_.capacity() <= index) vacant_.reserve(2 * (index + 1));
            slots_.push_back(Slot{std::nullopt, first_generation(index)});
        } else {
            index = vacant_.back();
            vacant_.pop_back();
        }
        auto &slot = slots_[index];
        slot.references = 1;
        slot.value.emplace(std::move(value));
        live_++;
        return static_cast<uint64_t>(slot.generation) << 32 | index;
    }

    // The value of a live handle, or nullptr. Stays valid until the handle is given back.
    T *find(uint64_t handle) {
        auto *slot = find_slot(handle);
        return slot ? &*slot->value : nullptr;
    }

    // One more owner; false if the handle is not live.
    bool retain(uint64_t handle) {
        auto *slot = find_slot(handle);
        if (!slot) return false;
        if (slot->references == UINT32_MAX) fail(MLXR_E_OVERFLOW, "too many owners of one handle");
        slot->references++;
        return true;
    }

    // Ends one ownership; false if the handle has none. The last one's value goes into `last`, to die where the caller
    // likes.
    bool give_back(uint64_t handle, std::optional<T> &last) {
        auto *slot = find_slot(handle);
        if (!slot) return false;
        if (--slot->references > 0) return true;
        last = std::move(slot->value);
        slot->value.reset();
        if (++slot->generation == 0) slot->generation = 1;
        vacant_.push_back(static_cast<uint32_t>(handle));
        live_--;
        return true;
    }

    template <class Body>
    void for_each(Body &&body) {
        for (auto &slot : slots_) {
            if (slot.references > 0) body(*slot.value);
        }
    }

    int64_t live() const { return live_; }

  private:
    struct Slot {
        std::optional<T> value;
        uint32_t generation;
        uint32_t references = 0;
    };

    // Generations start at different numbers, so that small or neighbouring integers are unlikely to be live handles.
    static uint32_t first_generation(uint32_t slot) { return (slot + 1) * 0x9E3779B9u | 1u; }

    Slot *find_slot(uint64_t handle) {
        auto index = static_cast<uint32_t>(handle);
        auto generation = static_cast<uint32_t>(handle >> 32);
        if (index >= slots_.size()) return nullptr;
        auto &slot = slots_[index];
        return slot.generation == generation && slot.references > 0 ? &slot : nullptr;
    }

    std::deque<Slot> slots_; // references stay valid while it grows
    std::vector<uint32_t> vacant_;
    int64_t live_ = 0;
};

} // namespace mlxr
