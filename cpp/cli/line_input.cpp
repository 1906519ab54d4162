// Standard input and SIGINT for POSIX systems. See line_input.h.
#include "cli/line_input.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <system_error>

#include "base/error.h"

namespace a2sf::cli {
namespace {

// Any thread may get the signal.
std::atomic<bool> interrupt_seen = false;
static_assert(std::atomic<bool>::is_always_lock_free);

// The handler writes a byte here: any thread may get the signal, and only this wakes the one that
// waits for input.
int wake_read = -1;
int wake_write = -1;

struct sigaction action_before;

void on_interrupt(int) {
    const int error = errno;
    interrupt_seen = true;
    const char byte = 0;
    [[maybe_unused]] const ssize_t n = ::write(wake_write, &byte, 1);
    errno = error;
}

void drain_wakes() {
    char bytes[64];
    while (::read(wake_read, bytes, sizeof(bytes)) > 0) {
    }
}

[[noreturn]] void fail(const char *action) {
    throw Error(
        str("standard input: cannot ", action, ": ", std::generic_category().message(errno)));
}

}  // namespace

LineInput::LineInput() {
    int ends[2];
    if (::pipe(ends) != 0) fail("wait");
    for (const int end : ends) {
        ::fcntl(end, F_SETFL, O_NONBLOCK);
        ::fcntl(end, F_SETFD, FD_CLOEXEC);
    }
    wake_read = ends[0];
    wake_write = ends[1];
    interrupt_seen = false;
    struct sigaction action{};
    action.sa_handler = on_interrupt;
    sigemptyset(&action.sa_mask);
    action.sa_flags = SA_RESTART;
    sigaction(SIGINT, &action, &action_before);
}

LineInput::~LineInput() {
    sigaction(SIGINT, &action_before, nullptr);
    ::close(wake_read);
    ::close(wake_write);
}

bool LineInput::interrupted() {
    return interrupt_seen;
}

void LineInput::forget_interrupt() {
    interrupt_seen = false;
    drain_wakes();
}

bool LineInput::take_line(std::string &line) {
    const size_t end = buffer_.find('\n');
    if (end == buffer_.npos && (!ended_ || buffer_.empty())) return false;
    line = buffer_.substr(0, end);
    buffer_.erase(0, end == buffer_.npos ? end : end + 1);
    if (!line.empty() && line.back() == '\r') line.pop_back();
    return true;
}

LineInput::Event LineInput::read(std::string &line) {
    while (!take_line(line)) {
        if (ended_) return Event::End;
        pollfd waits[] = {{STDIN_FILENO, POLLIN, 0}, {wake_read, POLLIN, 0}};
        if (::poll(waits, 2, -1) < 0 && errno != EINTR) fail("wait");
        if (interrupted()) return Event::Interrupt;
        if (waits[0].revents == 0) continue;
        char part[4096];
        const ssize_t n = ::read(STDIN_FILENO, part, sizeof(part));
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) fail("read");
        ended_ = n == 0;
        buffer_.append(part, static_cast<size_t>(n));
    }
    return Event::Line;
}

}  // namespace a2sf::cli
