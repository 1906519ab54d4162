// Compact positions two ways, for one head while decoding: keys turned when they are read (what the
// engine does), or stored keys turned again by one place whenever an older one is evicted. Prints
// the time of a step for each, and what half precision makes of keys that are turned again and
// again.
//
//   g++ -std=c++20 -O3 -march=native -ffp-contract=off tests/bench/rotations.cpp -o rotations &&
//   ./rotations
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <vector>

namespace {

constexpr size_t kSlots = 1024, kDim = 64, kHalf = kDim / 2, kQueries = 3, kRounds = 2000;
using Half = _Float16;

struct Head {
    std::vector<Half> k = std::vector<Half>(kSlots * kDim);
    std::vector<float> cos = std::vector<float>(kSlots * kHalf);  // by place
    std::vector<float> sin = std::vector<float>(kSlots * kHalf);
    float q[kQueries][kDim];
    float dot[kQueries][kSlots];
};

float dot_of(const float *a, const float *b) {
    float lanes[16] = {};
    for (size_t i = 0; i < kDim; i += 16) {
        for (size_t j = 0; j < 16; ++j) lanes[j] += a[i + j] * b[i + j];
    }
    float sum = 0;
    for (const float lane : lanes) sum += lane;
    return sum;
}

void turn(const Half *from, const float *cos, const float *sin, float *to) {
    for (size_t i = 0; i < kHalf; ++i) {
        const float a = static_cast<float>(from[i]), b = static_cast<float>(from[i + kHalf]);
        to[i] = a * cos[i] - b * sin[i];
        to[i + kHalf] = a * sin[i] + b * cos[i];
    }
}

// Keys lie in slots without an order: place[slot] says which turn is a key's.
void read_turned(Head &head, const std::vector<uint32_t> &place) {
    float key[kDim];
    for (size_t slot = 0; slot < kSlots; ++slot) {
        const size_t at = place[slot] * kHalf;
        turn(&head.k[slot * kDim], &head.cos[at], &head.sin[at], key);
        for (size_t n = 0; n < kQueries; ++n) head.dot[n][slot] = dot_of(head.q[n], key);
    }
}

void read_plain(Head &head) {
    float key[kDim];
    for (size_t slot = 0; slot < kSlots; ++slot) {
        for (size_t i = 0; i < kDim; ++i) key[i] = static_cast<float>(head.k[slot * kDim + i]);
        for (size_t n = 0; n < kQueries; ++n) head.dot[n][slot] = dot_of(head.q[n], key);
    }
}

// Those behind the one that left move down by one place.
void turn_back(Head &head, const std::vector<uint32_t> &place, uint32_t gone) {
    float key[kDim], back[kHalf];
    for (size_t i = 0; i < kHalf; ++i) back[i] = -head.sin[kHalf + i];
    for (size_t slot = 0; slot < kSlots; ++slot) {
        if (place[slot] <= gone) continue;
        turn(&head.k[slot * kDim], &head.cos[kHalf], back, key);
        for (size_t i = 0; i < kDim; ++i) head.k[slot * kDim + i] = static_cast<Half>(key[i]);
    }
}

template <typename Step>
double median_us(const Step &step) {
    std::vector<double> times(kRounds);
    for (double &time : times) {
        const auto start = std::chrono::steady_clock::now();
        step();
        time = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    }
    std::nth_element(times.begin(), times.begin() + kRounds / 2, times.end());
    return 1e6 * times[kRounds / 2];
}

}  // namespace

int main() {
    std::mt19937 random(1);
    std::normal_distribution<float> normal;
    static Head head;
    for (Half &x : head.k) x = static_cast<Half>(normal(random));
    for (auto &q : head.q) {
        for (float &x : q) x = normal(random);
    }
    for (size_t place = 0; place < kSlots; ++place) {
        for (size_t i = 0; i < kHalf; ++i) {
            const double angle =
                static_cast<double>(place) * std::pow(1e5, -static_cast<double>(i) / kHalf);
            head.cos[place * kHalf + i] = static_cast<float>(std::cos(angle));
            head.sin[place * kHalf + i] = static_cast<float>(std::sin(angle));
        }
    }
    std::vector<uint32_t> place(kSlots);
    for (uint32_t slot = 0; slot < kSlots; ++slot) place[slot] = slot;
    std::shuffle(place.begin(), place.end(), random);
    const std::vector<Half> before = head.k;
    const double plain = median_us([&] { read_plain(head); });
    const double turned = median_us([&] { read_turned(head, place); });
    for (const double share : {0.25, 0.5, 0.75}) {
        const auto gone = static_cast<uint32_t>((1 - share) * kSlots);
        const double again = median_us([&] {
            turn_back(head, place, gone);
            read_plain(head);
        });
        std::printf(
            "%2.0f %% of the keys behind the evicted one: turned again %.1f us, turned when read "
            "%.1f us, never turned %.1f us\n",
            100 * share, again, turned, plain);
    }
    // Turned down by 1,000 places, one by one, and once.
    head.k = before;
    std::fill(place.begin(), place.end(), 1);
    double error = 0, size = 0;
    for (size_t i = 0; i < 1000; ++i) turn_back(head, place, 0);
    for (size_t slot = 0; slot < kSlots; ++slot) {
        float once[kDim], back[kHalf];
        for (size_t i = 0; i < kHalf; ++i) back[i] = -head.sin[1000 * kHalf + i];
        turn(&before[slot * kDim], &head.cos[1000 * kHalf], back, once);
        for (size_t i = 0; i < kDim; ++i) {
            const double off = static_cast<double>(head.k[slot * kDim + i]) - once[i];
            error += off * off;
            size += static_cast<double>(once[i]) * once[i];
        }
    }
    std::printf(
        "keys in half precision, turned 1,000 times: off by %.2f %% (root of the mean square)\n",
        100 * std::sqrt(error / size));
}
