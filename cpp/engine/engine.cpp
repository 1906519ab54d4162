#include "engine/engine.h"

#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <vector>

#include "base/error.h"

namespace a2sf {

namespace fs = std::filesystem;

namespace {

// The first .gguf of a folder in name order, or nothing.
std::string first_model_in(const fs::path &folder) {
    std::error_code error;
    std::vector<std::string> found;
    for (const fs::directory_entry &entry : fs::directory_iterator(folder, error)) {
        if (entry.path().extension() == ".gguf") found.push_back(entry.path().string());
    }
    return found.empty() ? "" : *std::min_element(found.begin(), found.end());
}

// Where an installed or freshly built program finds its model: beside it, in the share folder of
// its prefix, in the Python package of its prefix, in the source tree above the build.
std::vector<fs::path> model_folders(const fs::path &program) {
    const fs::path prefix = program.parent_path().parent_path();
    std::vector<fs::path> folders = {program.parent_path() / "models",
                                     prefix / "share/a2sf/models"};
    std::error_code error;
    for (const char *lib : {"lib", "lib64", "local/lib"}) {
        for (const fs::directory_entry &entry : fs::directory_iterator(prefix / lib, error)) {
            for (const char *site : {"site-packages", "dist-packages"}) {
                folders.push_back(entry.path() / site / "a2sf/models");
            }
        }
    }
    for (fs::path up = program.parent_path(); up != up.root_path(); up = up.parent_path()) {
        if (fs::exists(up / "cpp/engine/engine.cpp", error)) folders.push_back(up / "models");
    }
    return folders;
}

}  // namespace

Engine Engine::load(const std::string &path, std::string_view device) {
    Engine engine;
    engine.model = Model::load(path, find_backend(device));
    engine.tokenizer = std::make_shared<const Tokenizer>(engine.model->file());
    return engine;
}

std::string bundled_model_path() {
    if (const char *chosen = std::getenv("A2SF_MODEL"); chosen != nullptr && *chosen != '\0') {
        return chosen;
    }
    std::error_code error;
    const fs::path program = fs::read_symlink("/proc/self/exe", error);
    const std::vector<fs::path> folders = model_folders(program);
    for (const fs::path &folder : folders) {
        if (std::string model = first_model_in(folder); !model.empty()) return model;
    }
    throw Error(str("bundled model: a .gguf file expected in one of ",
                    join(std::vector<std::string>(folders.begin(), folders.end())),
                    ", found none; name a model, or set A2SF_MODEL"));
}

KvType parse_kv_type(std::string_view text) {
    for (const KvType type : kKvTypes) {
        if (text == name_of(type)) return type;
    }
    throw OptionError(str("kv_type: f32, f16 or q8_0 expected, found \"", text, "\""));
}

const char *version() {
    return A2SF_VERSION;
}

}  // namespace a2sf
