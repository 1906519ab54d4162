// The file, little-endian:
//   magic, version (u32), fingerprint of the model (u64), the model's name
//   options: batch (u64), kv type, policy, then each of the policy's options as given or not
//   ids: u64 count, then i32 each; a note: u64 bytes of it, then these
//   the session (Session::save)
//   hash of all that (u64)
#include "engine/saved_session.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <optional>
#include <utility>

#include "base/hash.h"
#include "engine/engine.h"
#include "gguf/mapping.h"

namespace a2sf {

namespace {

constexpr std::array<char, 8> kMagic = {'A', '2', 'S', 'F', 's', 'e', 's', 's'};
constexpr uint32_t kVersion = 2;
constexpr size_t kSampleBytes = 4096;  // of each tensor, at its start and end

// Where a name leads: through symbolic links, so that they stay.
std::string behind_links(std::string path) {
    constexpr int kMostLinks = 40;
    std::error_code error;
    for (int i = 0; i < kMostLinks && std::filesystem::is_symlink(path, error); ++i) {
        const std::filesystem::path target = std::filesystem::read_symlink(path, error);
        if (error) break;
        path = (std::filesystem::path(path).parent_path() / target).string();
    }
    return path;
}

// A file that appears under its name only when it is whole. What is there is replaced if it is a
// file, and left alone if it is anything else.
class FileWriter final : public ByteWriter {
  public:
    // Under a name that nobody else has: a process may save twice at once, and may have left
    // something behind when it was killed.
    explicit FileWriter(const std::string &path) : path_(behind_links(path)) {
        static std::atomic<uint64_t> n_files = 0;
        struct stat there = {};
        const bool replaces = ::stat(path_.c_str(), &there) == 0;
        if (replaces && !S_ISREG(there.st_mode)) {
            throw Error(str(path, ": a file to write expected, found a ",
                            S_ISDIR(there.st_mode) ? "directory" : "device, pipe or socket"));
        }
        // What was said in a conversation is nobody else's business.
        const mode_t mode = replaces ? there.st_mode & 0777 : 0600;
        do {
            temporary_ = str(path_, ".part-", ::getpid(), "-", n_files++);
            fd_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        } while (fd_ < 0 && errno == EEXIST);
        if (fd_ < 0) fail();
        if (mode != 0600) ::fchmod(fd_, mode);
    }
    ~FileWriter() override {
        if (fd_ < 0) return;
        ::close(fd_);
        ::unlink(temporary_.c_str());
    }
    FileWriter(const FileWriter &) = delete;
    FileWriter &operator=(const FileWriter &) = delete;

    // Hashed in the words of the whole file, however it is cut into writes.
    void write(std::span<const std::byte> bytes) override {
        while (!bytes.empty()) {
            const size_t n = std::min(bytes.size(), kBuffer - used_);
            std::memcpy(buffer_.data() + used_, bytes.data(), n);
            used_ += n;
            bytes = bytes.subspan(n);
            if (used_ == kBuffer) flush();
        }
    }
    void finish() {
        flush();
        const uint64_t hash = hash_.value();
        write(std::as_bytes(std::span<const uint64_t, 1>(&hash, 1)));
        flush();
        if (::fsync(fd_) != 0) fail();
        if (::close(std::exchange(fd_, -1)) != 0 ||
            std::rename(temporary_.c_str(), path_.c_str()) != 0) {
            const int error = errno;
            ::unlink(temporary_.c_str());
            errno = error;
            fail();
        }
    }

  private:
    static constexpr size_t kBuffer = size_t{1} << 20;

    void flush() {
        const auto bytes = std::as_bytes(std::span(buffer_)).first(used_);
        hash_.update(bytes);
        for (size_t done = 0; done < used_;) {
            const ssize_t n = ::write(fd_, buffer_.data() + done, used_ - done);
            if (n < 0 && errno == EINTR) continue;
            if (n <= 0) fail();
            done += static_cast<size_t>(n);
        }
        used_ = 0;
    }
    [[noreturn]] void fail() const {
        throw Error(
            str(path_, ": a file that can be written expected, found: ", std::strerror(errno)));
    }

    std::string path_, temporary_;
    int fd_ = -1;
    Hash64 hash_;
    std::vector<std::byte> buffer_ = std::vector<std::byte>(kBuffer);
    size_t used_ = 0;
};

template <typename T>
void put_optional(ByteWriter &out, const std::optional<T> &value) {
    out.put<uint8_t>(value.has_value());
    if constexpr (std::is_same_v<T, Amount>) {
        if (value) put_optional(out, value->tokens), put_optional(out, value->share);
    } else {
        if (value) out.put(*value);
    }
}

template <typename T>
void get_optional(ByteReader &in, const char *field, std::optional<T> &value) {
    value.reset();
    const auto given = in.get<uint8_t>(field);
    if (given > 1) in.fail(field, ": 0 or 1 expected, found ", int{given});
    if (given == 0) return;
    if constexpr (std::is_same_v<T, Amount>) {
        Amount amount;
        get_optional(in, field, amount.tokens);
        get_optional(in, field, amount.share);
        value = amount;
    } else {
        value = in.get<T>(field);
    }
}

template <typename T>
void put_optional(ByteWriter &out, const std::vector<T> &values) {
    out.put<uint64_t>(values.size());
    out.put_all(std::span(values));
}

template <typename T>
void get_optional(ByteReader &in, const char *field, std::vector<T> &values) {
    const auto n = in.get<uint64_t>(field);
    if (n > in.remaining() / sizeof(T)) {
        in.fail(field, ": at most ", in.remaining() / sizeof(T), " of them expected, found ", n);
    }
    values.resize(static_cast<size_t>(n));
    in.get_all(std::span(values), field);
}

// Every option by name, for writing and for reading.
template <typename Options, typename Visit>
void visit_options(Options &options, const Visit &visit) {
    visit("budget", options.budget);
    visit("forgetting_factor", options.forgetting_factor);
    visit("sinks", options.sinks);
    visit("recent", options.recent);
    visit("window", options.window);
    visit("scope", options.scope);
    visit("pooling", options.pooling);
    visit("prefill", options.prefill);
    visit("positions", options.positions);
    visit("pinned", options.pinned);
    visit("guard", options.guard);
    visit("division", options.division);
    visit("allocation", options.allocation);
}

SessionOptions get_options(ByteReader &in) {
    SessionOptions options;
    options.batch = static_cast<size_t>(in.get<uint64_t>("batch"));
    try {
        options.kv_type = parse_kv_type(in.get_text("kv type"));
        options.eviction.policy = in.get_text("policy");
        visit_options(options.eviction,
                      [&](const char *field, auto &value) { get_optional(in, field, value); });
        const auto &e = options.eviction;
        if (e.scope && *e.scope != Scope::Head && *e.scope != Scope::Layer) {
            in.fail("scope: head or layer expected, found ", static_cast<int>(*e.scope));
        }
        if (e.prefill && (*e.prefill < PromptMode::Token || *e.prefill > PromptMode::Full)) {
            in.fail("prefill: token, chunk or full expected, found ", static_cast<int>(*e.prefill));
        }
        if (e.positions && *e.positions != Positions::Original &&
            *e.positions != Positions::Compact) {
            in.fail("positions: original or compact expected, found ",
                    static_cast<int>(*e.positions));
        }
        if (e.division && *e.division != Division::Equal && *e.division != Division::Auto) {
            in.fail("division: equal or auto expected, found ", static_cast<int>(*e.division));
        }
        e.validate();
    } catch (const OptionError &error) {
        in.fail(error.what());
    }
    return options;
}

}  // namespace

uint64_t fingerprint(const Model &model) {
    Hash64 hash;
    const GgufFile &file = model.file();
    hash.update_value<uint64_t>(file.n_bytes());
    hash.update(file.head());
    for (const TensorInfo &tensor : file.tensors()) {
        const size_t n = std::min(kSampleBytes, tensor.data.size());
        hash.update(tensor.data.first(n));
        hash.update(tensor.data.last(n));
    }
    return hash.value();
}

void check_save_path(const std::string &path) {
    FileWriter probe(path);
}

void save_session(const Session &session, const std::string &path, std::span<const int32_t> ids,
                  std::string_view note) {
    FileWriter out(path);
    const SessionOptions &options = session.options();
    out.put(kMagic);
    out.put(kVersion);
    out.put(fingerprint(session.model()));
    out.put_text(session.model().config().name);
    out.put<uint64_t>(options.batch);
    out.put_text(name_of(options.kv_type));
    out.put_text(options.eviction.policy);
    visit_options(options.eviction,
                  [&](const char *, const auto &value) { put_optional(out, value); });
    out.put<uint64_t>(ids.size());
    out.put_all(ids);
    out.put_text(note);
    session.save(out);
    out.finish();
}

SavedSession load_session(std::shared_ptr<const Model> model, std::span<const std::byte> bytes,
                          const std::string &name, size_t n_threads,
                          const EvictionOptions *eviction) {
    ByteReader whole(bytes, name);
    if (whole.remaining() < sizeof kMagic || whole.get<std::array<char, 8>>("magic") != kMagic) {
        whole.fail("a saved session expected, found something else");
    }
    if (const auto version = whole.get<uint32_t>("version"); version != kVersion) {
        whole.fail("version ", kVersion, " of saved sessions expected, found ", version);
    }
    if (bytes.size() < 8 + sizeof kMagic + sizeof kVersion) whole.take(8, "hash");
    const auto body = bytes.first(bytes.size() - 8);
    Hash64 hash;
    hash.update(body);
    uint64_t expected = 0;
    std::memcpy(&expected, body.data() + body.size(), sizeof expected);
    if (hash.value() != expected) {
        whole.fail("bytes as they were saved expected, found others (truncated or damaged file)");
    }
    ByteReader in(body, name);
    in.take(sizeof kMagic + sizeof kVersion, "header");
    const uint64_t of_model = in.get<uint64_t>("fingerprint");
    const std::string model_name = in.get_text("model name");
    if (of_model != fingerprint(*model)) {
        in.fail("a session of the model '", model->config().name, "' expected, found one of ",
                model_name == model->config().name ? "another version of it"
                                                   : str("'", model_name, "'"));
    }
    SessionOptions options = get_options(in);
    if (eviction != nullptr && !(*eviction == options.eviction)) {
        in.fail("a session with the eviction options asked for expected, found policy '",
                options.eviction.policy, "' with others; leave them out to take the file's");
    }
    options.n_threads = n_threads;
    SavedSession saved;
    const uint64_t n_ids = in.get<uint64_t>("ids");
    if (n_ids > in.remaining() / sizeof(int32_t)) {
        in.fail("ids: at most ", in.remaining() / sizeof(int32_t), " expected, found ", n_ids);
    }
    saved.ids.resize(static_cast<size_t>(n_ids));
    in.get_all(std::span(saved.ids), "ids");
    saved.note = in.get_text("note");
    try {
        saved.session = std::make_unique<Session>(std::move(model), options);
    } catch (const OptionError &error) {
        in.fail(error.what());
    }
    saved.session->load(in);
    if (in.remaining() > 0) in.fail("the end expected, found ", in.remaining(), " more bytes");
    return saved;
}

SavedSession load_session(std::shared_ptr<const Model> model, const std::string &path,
                          size_t n_threads, const EvictionOptions *eviction) {
    const FileMapping file(path);
    return load_session(std::move(model), file.bytes(), path, n_threads, eviction);
}

}  // namespace a2sf
