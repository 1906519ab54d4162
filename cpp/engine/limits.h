// What fits into an amount of memory: the largest context of a full cache and the largest budget.
// On a device with memory of its own both that and the host's have to hold their parts.
// A cache's bytes are counted (Cache::slot_bytes). The backend's scratch depends on instruction
// set, threads and shapes, and is seen by running one layer of one chunk. What counts is address
// space, which is never less than what is resident.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "engine/session.h"

namespace a2sf {

// Of one way to store K and V.
struct Fit {
    KvType kv_type = KvType::F16;
    size_t slot_bytes = 0;  // of the budget's cache
    size_t context = 0;     // most tokens of a full cache, at most the model's context; 0: none
    size_t budget = 0;      // largest for a text of any length, in chunks of the batch; 0: none
};

// For each type that can store the model's heads: what would fit into n_bytes of the memory that K
// and V lie in (the device's own, else the host's) beside a session that has no cache yet. The
// policy is the options', or a2sf where that evicts nothing. Room is taken once (Session::reserve);
// growing later would take the old and the new at once.
std::vector<Fit> what_fits(const Model &model, const SessionOptions &options, size_t n_bytes);

struct Room {
    size_t n_needed = 0;   // slots used at once
    size_t n_slots = 0;    // for all that is to come
    size_t extra = 0;      // tokens that enter at once
    size_t n_scratch = 0;  // bytes that the backend has taken already
    bool advises = true;   // finding out what would fit takes seconds, which others may wait for
};

// Cache::reserve(n_slots) for a session. Where memory does not suffice, throws DeviceError that
// says what would fit; the cache keeps what it had.
void reserve_room(const Model &model, const SessionOptions &options, Cache &cache,
                  const Room &room);

// For a text of n_tokens that a full cache may not hold: "; in the 137 MiB that are left a budget
// of at most ..." where memory would not hold them either, else nothing.
std::string most_budget(const Model &model, const SessionOptions &options, size_t n_tokens);

}  // namespace a2sf
