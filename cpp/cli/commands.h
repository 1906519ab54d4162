// The sub-commands. Each takes the arguments after its name, throws UsageError for bad ones and
// Error for what fails later, and returns when its work is done or was ended by Ctrl-C.
#pragma once

#include <span>

namespace a2sf::cli {

using Arguments = std::span<const char *const>;

void command_run(Arguments arguments);
void command_chat(Arguments arguments);
void command_inspect(Arguments arguments);
void command_perplexity(Arguments arguments);
void command_bench(Arguments arguments);
// Becomes another program: returns only by an exception.
void command_serve(Arguments arguments);

}  // namespace a2sf::cli
