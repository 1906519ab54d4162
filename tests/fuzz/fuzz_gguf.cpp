// libFuzzer target for the GGUF loader: any bytes parse or throw a2sf::Error, and whatever a parsed
// file claims to hold can be read.
#include <cstddef>
#include <cstdint>

#include "base/error.h"
#include "gguf/file.h"

namespace {

// Where results go, so that the compiler keeps the reads.
volatile size_t sink;

void touch(const a2sf::GgufFile &file) {
    size_t sum = file.version() + file.n_bytes() + file.name().size();
    for (const auto &[key, value] : file.metadata()) {
        sum += key.size() + value.type_name.size() + value.to_string().size();
    }
    for (const a2sf::TensorInfo &tensor : file.tensors()) {
        sum += tensor.n_elements() + tensor.shape_text().size();
        sum += static_cast<size_t>(tensor.data.front()) + static_cast<size_t>(tensor.data.back());
        sum += file.find_tensor(tensor.name) == &tensor ? 1 : 0;

        // One row decodes, if it is short enough for the stack.
        float row[1024];
        if (tensor.shape[0] <= 1024) tensor.type->decode(tensor.data.data(), row, tensor.shape[0]);
    }
    sink = sum;
}

// Typed access to keys that models have, whatever type they have here.
void look_up(const a2sf::GgufFile &file, const char *key) {
    try {
        sink = file.find_uint(key).value_or(0);
        sink = file.find_string(key).value_or("").size();
    } catch (const a2sf::GgufError &) {
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    try {
        const a2sf::GgufFile file =
            a2sf::GgufFile::parse({reinterpret_cast<const std::byte *>(data), size}, "fuzz.gguf");
        touch(file);
        look_up(file, "general.architecture");
        look_up(file, "k");
    } catch (const a2sf::Error &) {
    }
    return 0;
}
