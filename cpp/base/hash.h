// A 64-bit hash of bytes, to notice damage and mix-ups. Not made to withstand an attacker.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

namespace a2sf {

// The same for the same bytes, however they are cut into updates of whole words; only the last
// update may have a length that 8 does not divide.
class Hash64 {
  public:
    void update(std::span<const std::byte> bytes) {
        size_t i = 0;
        for (; i + 8 <= bytes.size(); i += 8) {
            uint64_t word = 0;
            std::memcpy(&word, bytes.data() + i, 8);
            add(word);
        }
        if (i == bytes.size()) return;
        uint64_t word = 0;
        std::memcpy(&word, bytes.data() + i, bytes.size() - i);
        add(word);
        add(bytes.size() - i);
    }
    template <typename T>
    void update_value(const T &value) {
        update(std::as_bytes(std::span<const T, 1>(&value, 1)));
    }

    // splitmix64's finish (https://prng.di.unimi.it/splitmix64.c).
    uint64_t value() const {
        uint64_t z = state_ + 0x9e3779b97f4a7c15ULL * (n_words_ + 1);
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
        return z ^ (z >> 31);
    }

  private:
    void add(uint64_t word) {
        state_ = std::rotl(state_ ^ word, 27) * 0x9e3779b97f4a7c15ULL + 0x632be59bd9b4e019ULL;
        ++n_words_;
    }
    uint64_t state_ = 0;
    uint64_t n_words_ = 0;
};

}  // namespace a2sf
