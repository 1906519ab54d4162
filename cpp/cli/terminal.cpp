// Terminal output, signals and the progress bar, for POSIX systems.
#include "cli/terminal.h"

#include <signal.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <system_error>

#include "base/error.h"

namespace a2sf::cli {
namespace {

using namespace std::chrono_literals;

constexpr auto kFirstDraw = 300ms;  // shorter work shows no bar
constexpr auto kRedraw = 100ms;

volatile sig_atomic_t interrupt_seen = 0;

void on_interrupt(int) {
    interrupt_seen = 1;
}

// Returns 0 or the errno of the failure.
int write_all(int descriptor, std::string_view text) {
    while (!text.empty()) {
        const ssize_t n = ::write(descriptor, text.data(), text.size());
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return errno;
        text.remove_prefix(static_cast<size_t>(n));
    }
    return 0;
}

size_t stderr_columns() {
    winsize size{};
    if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
    return 80;
}

double seconds(std::chrono::steady_clock::duration duration) {
    return std::chrono::duration<double>(duration).count();
}

// format: of a precision and a number.
std::string printed(const char *format, int precision, double number) {
    char text[64];
    const int n = std::snprintf(text, sizeof(text), format, precision, number);
    return std::string(text, std::min<size_t>(static_cast<size_t>(n), sizeof(text) - 1));
}

}  // namespace

bool stdin_is_terminal() {
    return isatty(STDIN_FILENO) == 1;
}
bool stdout_is_terminal() {
    return isatty(STDOUT_FILENO) == 1;
}

bool stderr_is_terminal() {
    const char *kind = std::getenv("TERM");
    return isatty(STDERR_FILENO) == 1 && kind != nullptr && std::string_view(kind) != "dumb";
}

void print(std::string_view text) {
    const int error = write_all(STDOUT_FILENO, text);
    if (error != 0) {
        throw Error(str("standard output: cannot write: ", std::generic_category().message(error)));
    }
}

void print_error(std::string_view text) {
    write_all(STDERR_FILENO, text);
}

void catch_interrupt() {
    struct sigaction action{};
    action.sa_handler = on_interrupt;
    sigemptyset(&action.sa_mask);
    action.sa_flags = static_cast<int>(SA_RESETHAND);  // the second Ctrl-C takes its usual course
    sigaction(SIGINT, &action, nullptr);
}

bool interrupted() {
    return interrupt_seen != 0;
}

std::string grouped(uint64_t number) {
    std::string digits = std::to_string(number);
    for (size_t at = digits.size(); at > 3;) {
        at -= 3;
        digits.insert(at, 1, ',');
    }
    return digits;
}

std::string decimals(double number, int n_decimals) {
    return printed("%.*f", n_decimals, number);
}

std::string shortened(double number, int n_digits) {
    return printed("%.*g", n_digits, number);
}

std::string human_bytes(uint64_t n_bytes) {
    static constexpr const char *kUnits[] = {"bytes", "KiB", "MiB", "GiB", "TiB"};
    double amount = static_cast<double>(n_bytes);
    size_t unit = 0;
    while (amount >= 1024.0 && unit + 1 < std::size(kUnits)) {
        amount /= 1024.0;
        ++unit;
    }
    if (unit == 0) return str(n_bytes, " bytes");
    return decimals(amount, amount < 100.0 ? 1 : 0) + ' ' + kUnits[unit];
}

std::string clock_text(double time_s) {
    const auto total = static_cast<uint64_t>(time_s + 0.5);
    const uint64_t minutes = total / 60 % 60;
    const auto two = [](uint64_t n) { return str(n < 10 ? "0" : "", n); };
    if (total >= 3600) return str(total / 3600, ":", two(minutes), ":", two(total % 60));
    return str(minutes, ":", two(total % 60));
}

std::string progress_line(std::string_view what, size_t n_done, size_t n_total, double elapsed_s,
                          size_t columns) {
    const double share =
        n_total > 0 ? static_cast<double>(n_done) / static_cast<double>(n_total) : 0.0;
    const std::string percent = std::to_string(static_cast<int>(share * 100.0));
    std::string line =
        str(what, " ", std::string(4 - std::min<size_t>(4, percent.size()), ' '), percent, "%");
    std::string counts = str(" ", grouped(n_done), "/", grouped(n_total), " tokens");
    std::string speed;
    if (n_done > 0 && elapsed_s > 0) {
        const double per_s = static_cast<double>(n_done) / elapsed_s;
        speed = str("  ", decimals(per_s, 1), " tokens/s  ",
                    clock_text(static_cast<double>(n_total - n_done) / per_s), " left");
    }
    // 12 columns are the shortest bar worth drawing; the last column stays free, or some
    // terminals would wrap.
    const size_t room = columns > 0 ? columns - 1 : 0;
    if (line.size() > room) line = percent + "%";
    if (line.size() + counts.size() > room) counts.clear();
    if (line.size() + counts.size() + speed.size() > room) speed.clear();
    const size_t used = line.size() + counts.size() + speed.size();
    if (used + 12 <= room) {
        const size_t width = std::min<size_t>(room - used - 3, 30);
        const auto filled = static_cast<size_t>(share * static_cast<double>(width));
        line += " [" + std::string(filled, '#') + std::string(width - filled, ' ') + "]";
    }
    return (line + counts + speed).substr(0, room);
}

ProgressBar::ProgressBar(std::string what, bool enabled)
    : what_(std::move(what)), enabled_(enabled && stderr_is_terminal()), start_(Clock::now()) {}

void ProgressBar::update(size_t n_done, size_t n_total) {
    if (!enabled_) return;
    const Clock::time_point now = Clock::now();
    // Between the ends of chunks n_done stands still, and a speed taken then would fall.
    if (n_done != n_done_) {
        n_done_ = n_done;
        chunk_end_ = now;
    }
    if (now - start_ < kFirstDraw || (drawn_ && now - last_draw_ < kRedraw)) return;
    print_error(str(
        "\r", progress_line(what_, n_done, n_total, seconds(chunk_end_ - start_), stderr_columns()),
        "\x1b[K"));
    last_draw_ = now;
    drawn_ = true;
}

void ProgressBar::erase() {
    if (drawn_) print_error("\r\x1b[K");
    drawn_ = false;
}

}  // namespace a2sf::cli
