// Saved sessions: they go on bit for bit, belong to one model and one set of options, and damage is
// an error.
#include <doctest/doctest.h>
#include <sys/stat.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <random>
#include <thread>
#include <vector>

#include "base/error.h"
#include "base/hash.h"
#include "engine/generate.h"
#include "engine/saved_session.h"
#include "evict/registry.h"
#include "tiny_model.h"

using namespace a2sf;
using namespace a2sf_test;

namespace {

SessionOptions with(const Policy &policy, KvType kv_type) {
    SessionOptions options{.kv_type = kv_type, .n_threads = 1, .batch = 32};
    options.eviction.policy = policy.name;
    if (policy.evicts()) options.eviction.budget = Amount::of_tokens(48);
    if (policy.evicts()) options.eviction.prefill = PromptMode::Chunk;
    if (policy.evicts()) options.eviction.pinned = {{0, 3}, {10, 14}};
    return options;
}

struct TemporaryFile {
    std::string path = (std::filesystem::temp_directory_path() /
                        ("a2sf_saved_" + std::to_string(getpid()) + ".session"))
                           .string();
    ~TemporaryFile() { std::remove(path.c_str()); }

    std::vector<std::byte> bytes() const {
        std::ifstream in(path, std::ios::binary);
        const std::vector<char> chars((std::istreambuf_iterator<char>(in)), {});
        std::vector<std::byte> bytes(chars.size());
        std::memcpy(bytes.data(), chars.data(), chars.size());
        return bytes;
    }
};

std::vector<float> next_logits(Session &session, const std::vector<int32_t> &ids) {
    std::vector<float> all;
    for (const int32_t id : ids) {
        const auto logits = session.feed({&id, 1});
        all.insert(all.end(), logits.begin(), logits.end());
    }
    return all;
}

void check_same_cache(const Session &a, const Session &b) {
    for (size_t layer = 0; layer < 2; ++layer) {
        for (size_t head = 0; head < 2; ++head) {
            CHECK(a.cache().positions(layer, head) == b.cache().positions(layer, head));
            CHECK(a.cache().scores(layer, head) == b.cache().scores(layer, head));
        }
    }
    CHECK(a.cache().n_evicted() == b.cache().n_evicted());
}

void seal(std::vector<std::byte> &bytes) {
    Hash64 hash;
    hash.update(std::span(bytes).first(bytes.size() - 8));
    const uint64_t value = hash.value();
    std::memcpy(bytes.data() + bytes.size() - 8, &value, 8);
}

}  // namespace

TEST_CASE("a loaded session and a fork go on bit for bit, whatever the policy") {
    for (const Policy *policy : policies()) {
        for (const KvType kv_type : {KvType::F32, KvType::F16}) {
            CAPTURE(policy->name);
            Session session(tiny().model, with(*policy, kv_type));
            session.feed(some_ids(77));
            next_logits(session, some_ids(9, 2));  // leaves holes in the order of slots
            const TemporaryFile file;
            save_session(session, file.path, some_ids(5), "a note");
            const SavedSession saved = load_session(tiny().model, file.path, 1);
            const auto copy = session.fork();
            CHECK(saved.ids == some_ids(5));
            CHECK(saved.note == "a note");
            CHECK(saved.session->n_tokens() == 86);
            const auto last = session.logits();
            CHECK(std::equal(last.begin(), last.end(), saved.session->logits().begin()));
            const auto expected = next_logits(session, some_ids(12, 3));
            CHECK(next_logits(*saved.session, some_ids(12, 3)) == expected);
            CHECK(next_logits(*copy, some_ids(12, 3)) == expected);
            session.feed(some_ids(50, 4));
            saved.session->feed(some_ids(50, 4));
            copy->feed(some_ids(50, 4));
            check_same_cache(session, *saved.session);
            check_same_cache(session, *copy);
        }
    }
}

TEST_CASE("an empty session can be saved") {
    const Session session(tiny().model, with(find_policy("a2sf"), KvType::F16));
    const TemporaryFile file;
    save_session(session, file.path);
    const SavedSession saved = load_session(tiny().model, file.path, 1);
    CHECK(saved.session->n_tokens() == 0);
    CHECK(saved.session->logits().empty());
    saved.session->feed(some_ids(250));
    CHECK(mean_live(saved.session->cache()) == 48);
}

TEST_CASE("a session that refused its first tokens is as new") {
    SessionOptions options = with(find_policy("full"), KvType::F16);
    Session session(tiny().model, options);
    CHECK_THROWS_AS(session.feed(some_ids(257)), OptionError);
    const auto copy = session.fork();
    CHECK(copy->n_tokens() == 0);
    // A share of the budget is of the prompt that is read, not of one that was refused.
    options.eviction = {.policy = "a2sf", .budget = Amount::of_share(0.5)};
    session.set_eviction(options.eviction);
    session.feed(some_ids(120));
    CHECK(session.cache().config().budget == 60);
}

TEST_CASE("a session interrupted between the chunks of its first prompt can be saved") {
    for (const char *mode : {"chunk", "full", "token"}) {
        CAPTURE(mode);
        SessionOptions options = with(find_policy("a2sf"), KvType::F16);
        options.eviction.prefill = parse_prompt_mode(mode);
        Session session(tiny().model, options);
        const auto ids = some_ids(200);
        bool stop = false;
        const auto asked = [&](size_t n_done, size_t) { return !(stop = stop || n_done >= 96); };
        CHECK_THROWS_AS(session.feed(ids, between_chunks(asked)), Interrupted);
        REQUIRE(session.n_tokens() == 96);
        CHECK(session.logits().empty());
        const auto copy = session.fork();
        CHECK(copy->logits().empty());
        check_same_cache(session, *copy);
        const auto rest = std::span(ids).subspan(96);
        const auto expected = session.feed(rest);
        const auto found = copy->feed(rest);
        CHECK(std::equal(expected.begin(), expected.end(), found.begin()));
        check_same_cache(session, *copy);
        CHECK(mean_live(copy->cache()) == 48);
    }
}

TEST_CASE("a session interrupted in a later prompt does not know what follows") {
    Session session(tiny().model, with(find_policy("a2sf"), KvType::F16));
    session.feed(some_ids(40));
    const auto asked = [](size_t n_done, size_t) { return n_done < 64; };
    CHECK_THROWS_AS(session.feed(some_ids(200, 2), between_chunks(asked)), Interrupted);
    CHECK(session.n_tokens() == 104);
    CHECK(session.logits().empty());
    CHECK(session.fork()->logits().empty());
    CHECK_THROWS_AS(Generator(session, *tiny().tokenizer, {}).start({}), OptionError);
    CHECK(session.feed(some_ids(3)).size() == 258);
}

TEST_CASE("two threads may save to one place") {
    Session session(tiny().model, with(find_policy("a2sf"), KvType::F16));
    session.feed(some_ids(70));
    TemporaryFile file;
    const auto folder = std::filesystem::path(file.path + ".d");
    std::filesystem::create_directory(folder);
    const std::string path = (folder / "it").string();
    const auto save_often = [&] {
        for (int i = 0; i < 20; ++i) save_session(session, path);
    };
    std::thread other(save_often);
    save_often();
    other.join();
    CHECK(load_session(tiny().model, path, 1).session->n_tokens() == 70);
    const std::filesystem::directory_iterator files(folder);
    CHECK(std::distance(begin(files), end(files)) == 1);
    std::filesystem::remove_all(folder);
}

TEST_CASE("a saved session belongs to its model and its options") {
    Session session(tiny().model, with(find_policy("h2o"), KvType::F16));
    session.feed(some_ids(60));
    const TemporaryFile file;
    save_session(session, file.path);
    TinyModel other;
    other.change = [](const std::string &, std::vector<uint64_t> &, std::vector<float> &values) {
        values[0] += 0.5f;
    };
    CHECK_THROWS_AS(load_session(load_tiny(other).model, file.path), SavedSessionError);
    TinyModel other_base;  // the same weights, turned in another way
    other_base.rope_base = 20'000.0f;
    CHECK_THROWS_AS(load_session(load_tiny(other_base).model, file.path), SavedSessionError);
    EvictionOptions asked = session.options().eviction;
    CHECK_NOTHROW(load_session(tiny().model, file.path, 1, &asked));
    asked.budget = Amount::of_tokens(49);
    CHECK_THROWS_AS(load_session(tiny().model, file.path, 1, &asked), SavedSessionError);
}

TEST_CASE("a file is replaced, a link is followed, and anything else is left alone") {
    namespace fs = std::filesystem;
    const auto model = tiny().model;
    Session session(model, {.n_threads = 1});
    session.feed(some_ids(5));
    const TemporaryFile file;
    const fs::path link = file.path + ".link", pipe = file.path + ".pipe";
    fs::remove(link);
    fs::remove(pipe);
    save_session(session, file.path);
    CHECK(fs::status(file.path).permissions() == (fs::perms::owner_read | fs::perms::owner_write));
    fs::permissions(file.path, fs::perms::owner_all);
    fs::create_symlink(fs::path(file.path).filename(), link);
    session.feed(some_ids(3));
    save_session(session, link.string());
    CHECK(fs::is_symlink(link));
    CHECK(fs::status(file.path).permissions() == fs::perms::owner_all);
    CHECK(load_session(model, file.path, 1).session->n_tokens() == 8);
    REQUIRE(::mkfifo(pipe.c_str(), 0600) == 0);
    CHECK_THROWS_WITH_AS(save_session(session, pipe.string()),
                         doctest::Contains("found a device, pipe or socket"), Error);
    CHECK(fs::is_fifo(pipe));
    CHECK_THROWS_WITH_AS(check_save_path(fs::temp_directory_path().string()),
                         doctest::Contains("found a directory"), Error);
    CHECK_THROWS_AS(check_save_path(file.path + "/none/s"), Error);
    check_save_path(file.path);
    CHECK(load_session(model, file.path, 1).session->n_tokens() == 8);
    fs::remove(link);
    fs::remove(pipe);
}

TEST_CASE("damage is an error, and no file is left half written") {
    Session session(tiny().model, with(find_policy("a2sf"), KvType::F16));
    session.feed(some_ids(70));
    const TemporaryFile file;
    save_session(session, file.path);
    const std::vector<std::byte> whole = file.bytes();
    std::mt19937 random(3);
    for (int round = 0; round < 300; ++round) {
        std::vector<std::byte> bytes(whole.begin(), whole.begin() + random() % whole.size());
        CHECK_THROWS_AS(load_session(tiny().model, bytes, "torn"), SavedSessionError);
        bytes = whole;
        bytes[random() % bytes.size()] ^= std::byte{1};
        CHECK_THROWS_AS(load_session(tiny().model, bytes, "altered"), SavedSessionError);
        // Whoever alters a file may seal it as well: no error need come, but nothing worse.
        bytes = whole;
        for (int i = 0; i < 3; ++i) {
            bytes[random() % std::min<size_t>(bytes.size(), 2000)] =
                static_cast<std::byte>(random());
        }
        seal(bytes);
        try {
            const SavedSession saved = load_session(tiny().model, bytes, "sealed", 1);
            saved.session->feed(some_ids(3));
        } catch (const Error &) {
        }
    }
    CHECK_THROWS_AS(save_session(session, "/nonexistent/place"), Error);
}

// A2SF_WRITE_SESSIONS=FOLDER also keeps them: seeds for fuzz_saved_session.
TEST_CASE("seeds of every policy load") {
    const char *folder = std::getenv("A2SF_WRITE_SESSIONS");
    for (const Policy *policy : policies()) {
        CAPTURE(policy->name);
        SessionOptions options = with(*policy, KvType::F16);
        if (policy->evicts()) options.eviction.budget = Amount::of_tokens(40);
        Session session(tiny().model, options);
        session.feed(some_ids(policy->evicts() ? 45 : 3));
        TemporaryFile file;
        save_session(session, file.path, some_ids(2));
        CHECK(load_session(tiny().model, file.path, 1).session->n_tokens() == session.n_tokens());
        if (folder == nullptr) continue;
        std::filesystem::copy_file(file.path, std::string(folder) + "/" + policy->name,
                                   std::filesystem::copy_options::overwrite_existing);
    }
}
