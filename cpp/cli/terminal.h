// The program's side of the terminal: output that notices when it fails, messages, the progress
// bar, Ctrl-C, and numbers for people. Every print of the project happens here.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace a2sf::cli {

bool stdin_is_terminal();
bool stdout_is_terminal();
bool stderr_is_terminal();  // and one that understands control sequences

// Writes all of it to standard output at once, unbuffered. Throws Error when it cannot be written
// (closed pipe, full disk).
void print(std::string_view text);

// Writes to standard error; failures are ignored, for there is nobody left to tell.
void print_error(std::string_view text);

// The first Ctrl-C from now on only makes interrupted() true; the second one kills the program.
void catch_interrupt();
bool interrupted();

// "1,234,567", "23.6 MiB", "1:05" or "2:03:04", "3.21"; "0.8958", to so many
// significant digits.
std::string grouped(uint64_t number);
std::string human_bytes(uint64_t n_bytes);
std::string clock_text(double time_s);
std::string decimals(double number, int n_decimals);
std::string shortened(double number, int n_digits);

// One line on standard error that is redrawn in place and erased at the end. It appears only when
// the work takes a noticeable time, so that short work leaves the terminal alone.
class ProgressBar {
  public:
    // what: "Reading the prompt". Nothing is ever drawn unless `enabled`.
    ProgressBar(std::string what, bool enabled);
    ~ProgressBar() { erase(); }
    ProgressBar(const ProgressBar &) = delete;
    ProgressBar &operator=(const ProgressBar &) = delete;

    void update(size_t n_done, size_t n_total);
    void erase();

  private:
    using Clock = std::chrono::steady_clock;

    std::string what_;
    bool enabled_;
    bool drawn_ = false;
    size_t n_done_ = 0;  // at the newest end of a chunk
    Clock::time_point start_;
    Clock::time_point chunk_end_;  // when n_done_ was reached
    Clock::time_point last_draw_;
};

// The bar's line: "Reading the prompt  45% [####    ] 460/1,024 tokens  312.0 tokens/s  0:18 left",
// elapsed_s: what n_done tokens took. Without the least important parts where `columns` are too
// few.
std::string progress_line(std::string_view what, size_t n_done, size_t n_total, double elapsed_s,
                          size_t columns);

}  // namespace a2sf::cli
