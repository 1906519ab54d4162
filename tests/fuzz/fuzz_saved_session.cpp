// libFuzzer target for saved sessions: any bytes load or throw a2sf::Error, and a session that was
// loaded goes on and can be saved again. The model's fingerprint and the hash at the end are put
// right first, so that what lies between is reached.
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/error.h"
#include "base/hash.h"
#include "engine/saved_session.h"
#include "tiny_model.h"

using a2sf_test::tiny;

namespace {

constexpr size_t kHeader = 12;  // magic and version; the fingerprint follows

void put_right(std::vector<std::byte> &bytes) {
    static const uint64_t model = a2sf::fingerprint(*tiny().model);
    if (bytes.size() < kHeader + 2 * sizeof model) return;
    std::memcpy(bytes.data() + kHeader, &model, sizeof model);
    a2sf::Hash64 hash;
    hash.update(std::span(bytes).first(bytes.size() - 8));
    const uint64_t value = hash.value();
    std::memcpy(bytes.data() + bytes.size() - 8, &value, 8);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    std::vector<std::byte> bytes(size);
    if (size > 0) std::memcpy(bytes.data(), data, size);
    put_right(bytes);
    const std::string name = "fuzz.session";
    try {
        const a2sf::SavedSession saved = a2sf::load_session(tiny().model, bytes, name, 1);
        a2sf::MemoryWriter again;
        saved.session->save(again);
        const int32_t id = 1;
        saved.session->feed({&id, 1});
    } catch (const a2sf::Error &) {
    }
    return 0;
}
