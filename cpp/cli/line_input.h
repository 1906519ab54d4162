// Lines from standard input, and Ctrl-C as an event of a program that goes on after it.
#pragma once

#include <string>

namespace a2sf::cli {

// Owner: the only one of the program. While it lives, Ctrl-C never ends the program: it sets
// interrupted(), and wakes read() if that waits.
class LineInput {
  public:
    LineInput();
    ~LineInput();
    LineInput(const LineInput &) = delete;
    LineInput &operator=(const LineInput &) = delete;

    enum class Event { Line, End, Interrupt };

    // The next line without its end; End after the last one. Throws Error where standard input
    // cannot be read.
    Event read(std::string &line);

    static bool interrupted();
    static void forget_interrupt();

  private:
    bool take_line(std::string &line);

    std::string buffer_;  // read, not given out yet
    bool ended_ = false;
};

}  // namespace a2sf::cli
