// a2sf serve: hands over to the Python package, where the server is. Knows none of its options.
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <string>
#include <system_error>
#include <vector>

#include "base/error.h"
#include "cli/commands.h"

namespace a2sf::cli {
namespace {

namespace fs = std::filesystem;

// Runs the server, or says what to install. The folder the user happens to be in is no place to
// look for the package.
constexpr const char *kServe = R"(import sys
if sys.path[:1] == ['']: del sys.path[0]
try:
    from a2sf.serve.__main__ import main
except ImportError as error:
    sys.exit("a2sf: serve: the Python package a2sf with its server expected "
             f"(pip install 'a2sf[serve]') for {sys.executable}, found: {error}")
sys.exit(main()))";

// The interpreters to try, best first: the program's own environment, then the user's PATH.
std::vector<std::string> interpreters() {
    std::vector<std::string> found;
    std::error_code error;
    const fs::path program = fs::read_symlink("/proc/self/exe", error);
    for (const char *name : {"python3", "python"}) {
        const fs::path beside = program.parent_path() / name;
        if (!error && access(beside.c_str(), X_OK) == 0) found.push_back(beside.string());
    }
    found.push_back("python3");
    return found;
}

}  // namespace

void command_serve(Arguments arguments) {
    for (const std::string &interpreter : interpreters()) {
        std::vector<const char *> line = {interpreter.c_str(), "-c", kServe};
        line.insert(line.end(), arguments.begin(), arguments.end());
        line.push_back(nullptr);
        // Returns only if it fails. exec changes nothing of what it is given; its type is C's.
        execvp(line[0], const_cast<char *const *>(line.data()));
    }
    throw Error(
        str("serve: Python beside this program or in PATH, and there the package of the "
            "server (pip install 'a2sf[serve]'), expected, found: ",
            std::generic_category().message(errno)));
}

}  // namespace a2sf::cli
