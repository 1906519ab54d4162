// Saved sessions: what a session has read, as a file. A long document is read once; what survived
// of it in the cache continues later, bit for bit, as if the session had never ended.
//
// A file belongs to one model and one set of options, and says which. It is written beside its
// place and renamed there, so that a name never stands for half a session.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "engine/session.h"

namespace a2sf {

// Of all that comes before the tensors' data (metadata, names, types, shapes) and of a sample of
// each tensor's bytes: milliseconds for any size of file.
uint64_t fingerprint(const Model &model);

// ids: tokens that were read; note: whatever belongs to them. Both are given back by load_session
// and may be empty. Throws Error with the system's reason where the file cannot be written.
void save_session(const Session &session, const std::string &path,
                  std::span<const int32_t> ids = {}, std::string_view note = {});

// Throws what save_session() would throw for this path before it writes: to be asked before a long
// text is read.
void check_save_path(const std::string &path);

struct SavedSession {
    std::unique_ptr<Session> session;
    std::vector<int32_t> ids;
    std::string note;
};

// A session with the saved one's options (n_threads: 0 = default_threads()). `eviction`: if given,
// the options that the file must have been saved with. Throws SavedSessionError for a file that is
// no saved session, is damaged, or belongs to another model or other options; Error where it cannot
// be read.
SavedSession load_session(std::shared_ptr<const Model> model, const std::string &path,
                          size_t n_threads = 0, const EvictionOptions *eviction = nullptr);

// The same from bytes; name: for messages.
SavedSession load_session(std::shared_ptr<const Model> model, std::span<const std::byte> bytes,
                          const std::string &name, size_t n_threads = 0,
                          const EvictionOptions *eviction = nullptr);

}  // namespace a2sf
