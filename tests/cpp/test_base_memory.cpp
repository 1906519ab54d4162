// Buffers, matrix views and the helpers of error.h.
#include <doctest/doctest.h>

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "base/buffer.h"
#include "base/error.h"

using namespace a2sf;

TEST_CASE("buffers are aligned, zeroed and move") {
    for (const size_t size : {size_t{1}, size_t{15}, size_t{1000}, size_t{1} << 20}) {
        CAPTURE(size);
        Buffer<float> buffer(size, "test");
        CHECK(reinterpret_cast<uintptr_t>(buffer.data()) % 64 == 0);
        CHECK(buffer.size() == size);
        CHECK(buffer.n_bytes() == size * sizeof(float));
        CHECK(buffer.span().size() == size);
        size_t n_nonzero = 0;
        for (const float value : buffer.span()) n_nonzero += value != 0.0f;
        CHECK(n_nonzero == 0);
        buffer[size - 1] = 3.0f;
        const float *before = buffer.data();
        Buffer<float> moved = std::move(buffer);
        CHECK(moved.data() == before);
        CHECK(moved[size - 1] == 3.0f);
    }
    CHECK(Buffer<int>().data() == nullptr);
    CHECK(Buffer<int>(0).size() == 0);
}

TEST_CASE("memory that the system does not have is a DeviceError that names its use") {
    const size_t n_bytes = std::numeric_limits<size_t>::max() / 4;
    std::string message;
    try {
        RawBuffer buffer(n_bytes, "key cache");
    } catch (const DeviceError &error) {
        message = error.what();
    }
    CHECK_MESSAGE(message.find("key cache") != std::string::npos, message);
}

TEST_CASE("matrix views step by their stride") {
    std::vector<int> values(12);
    const Matrix<int> matrix(values.data(), 3, 2, 4);
    CHECK(matrix.row(2) == values.data() + 8);
    const Matrix<const int> readable = matrix;
    CHECK(readable.row(1) == values.data() + 4);
    CHECK(Matrix<int>(values.data(), 3, 4).stride == 4);
}

TEST_CASE("messages are built from parts") {
    CHECK(str("blk.", 3, ": ", 0.5, ' ', "x") == "blk.3: 0.5 x");
    CHECK(join(std::vector<int>{1, 2, 3}) == "1, 2, 3");
    CHECK(join(std::vector<std::string>{"a", "b"}, "|") == "a|b");
    CHECK(join(std::vector<int>{}).empty());
    CHECK_THROWS_AS(throw GgufError("x"), Error);
    CHECK_THROWS_AS(throw Interrupted(), Error);
}
