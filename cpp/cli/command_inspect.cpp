// a2sf inspect: what is in a GGUF file, also in one that this build cannot run.
#include <limits>

#include "base/error.h"
#include "cli/commands.h"
#include "cli/common.h"
#include "cli/inspection.h"
#include "cli/options.h"
#include "cli/terminal.h"

namespace a2sf::cli {
namespace {

struct InspectArguments {
    SharedArguments shared;  // the model alone
    size_t budget = kDefaultBudget;
    bool json = false;
    bool all = false;
    bool tensors = false;
};

CommandLine describe(InspectArguments &arguments) {
    CommandLine line;
    line.command = "a2sf inspect";
    line.usage = "[-m] PATH [options]";
    line.summary = "show what is in a GGUF file, also in one that cannot be run here";
    line.groups = {
        model_group(arguments.shared),
        {"Output",
         {{"--all", "", "", "metadata in full: long arrays and texts are cut otherwise", "",
           to_switch(arguments.all)},
          {"--tensors", "", "", "list every tensor", "", to_switch(arguments.tensors)},
          {"--budget", "", "N", "show the size of a KV cache of N tokens", str(kDefaultBudget),
           to_count(arguments.budget, 1, std::numeric_limits<size_t>::max())},
          {"--json", "", "", "one JSON object instead", "", to_switch(arguments.json)}}}};
    line.positional = [&arguments](std::string_view path) {
        if (!arguments.shared.model.empty()) {
            throw UsageError(str("\"", path, "\": one file expected, found \"",
                                 arguments.shared.model, "\" before it"));
        }
        arguments.shared.model = path;
    };
    return line;
}

}  // namespace

void command_inspect(Arguments arguments) {
    InspectArguments parsed;
    const CommandLine line = describe(parsed);
    if (!line.parse(arguments)) return print(line.help());
    const Inspection seen = inspect(model_path(parsed.shared), parsed.budget);
    print(parsed.json ? inspection_json(seen, parsed.all, parsed.tensors)
                      : inspection_text(seen, parsed.all, parsed.tensors));
}

}  // namespace a2sf::cli
