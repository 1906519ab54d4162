// Tokenizer: reads the metadata, cuts a text at its special tokens and hands the rest to the
// encoder of the model's family; joins tokens back into text. See tokenizer.h.
//
// Beyond what the encoders say, it differs from llama.cpp in these ways: bytes that are not UTF-8
// survive a round trip; text is never "cleaned up" after decoding; blanks around special tokens
// are never stripped (Phi 3).
#include "token/tokenizer.h"

#include "base/error.h"
#include "gguf/file.h"
#include "token/bpe.h"
#include "token/byte_alphabet.h"
#include "token/end_tokens.h"
#include "token/pre_tokenizer.h"
#include "token/special_tokens.h"
#include "token/spm.h"
#include "token/vocabulary.h"

namespace a2sf {
namespace {

constexpr std::string_view kSpmModel = "llama";
constexpr std::string_view kBpeModel = "gpt2";

// Escaped for SentencePiece a text grows threefold; its offsets are 32 bits.
constexpr size_t kMaxTextBytes = size_t{1} << 30;

std::string read_model(const GgufFile &file) {
    std::string model = file.get_string("tokenizer.ggml.model");
    if (model == kSpmModel || model == kBpeModel) return model;
    throw UnsupportedError(str("tokenizer.ggml.model: one of ", join(tokenizer_models()),
                               " expected, found \"", printable(model, 40), "\""));
}

// "llama" models have no pre-tokenizer whatever the key says.
const PreTokenizer &read_pre_tokenizer(const GgufFile &file, std::string_view model,
                                       std::vector<std::string> &warnings) {
    const std::optional<std::string> name = file.find_string("tokenizer.ggml.pre");
    const PreTokenizer &fallback = pre_tokenizer_registry().front();
    if (model == kSpmModel) return fallback;
    if (!name) {
        warnings.push_back("tokenizer.ggml.pre: a name expected, found none: \"default\" is used");
        return fallback;
    }
    if (const PreTokenizer *found = find_pre_tokenizer(*name)) return *found;
    warnings.push_back(str("tokenizer.ggml.pre: one of ", join(pre_tokenizers()),
                           " expected, found \"", printable(*name, 40), "\": \"default\" is used"));
    return fallback;
}

// The bytes that each token adds in the middle of a text, in one block.
class Pieces {
  public:
    Pieces(const Vocabulary &vocabulary, bool spm) {
        ends_.reserve(vocabulary.size() + 1);
        ends_.push_back(0);
        for (size_t i = 0; i < vocabulary.size(); ++i) {
            const auto id = static_cast<int32_t>(i);
            append(vocabulary.text(id), vocabulary.type(id), spm);
            ends_.push_back(block_.size());
        }
    }

    std::string_view operator[](int32_t id) const {
        const auto i = static_cast<size_t>(id);
        return std::string_view(block_).substr(ends_[i], ends_[i + 1] - ends_[i]);
    }

  private:
    void append(std::string_view text, TokenType type, bool spm) {
        const int byte = type == TokenType::Byte ? byte_of_text(text) : -1;
        // A UserDefined token of a "llama" model may be reached by merging escaped text, so it is
        // unescaped; llama.cpp shows its U+2581.
        const bool verbatim = type == TokenType::Control || type == TokenType::Unknown ||
                              (type == TokenType::UserDefined && !spm);
        if (byte >= 0) {
            block_ += static_cast<char>(byte);
        } else if (verbatim) {
            block_ += text;
        } else if (!spm) {
            append_alphabet_bytes(block_, text);
        } else {
            append_unescaped(text);
        }
    }

    void append_unescaped(std::string_view text) {
        for (size_t at = 0; at < text.size();) {
            const size_t mark = text.find(kSpaceMark, at);
            block_ += text.substr(at, mark - at);
            if (mark == std::string_view::npos) return;
            block_ += ' ';
            at = mark + kSpaceMark.size();
        }
    }

    std::string block_;
    std::vector<size_t> ends_;  // [n_vocab + 1], ends_[0] = 0
};

}  // namespace

struct Tokenizer::State {
    explicit State(const GgufFile &file);

    bool is_spm() const { return spm.has_value(); }
    void check(int32_t id) const;
    void encode_plain(std::string_view text, bool at_start, std::vector<int32_t> &ids) const;
    void warn_of_missing_bytes();

    std::vector<std::string> warnings;
    std::string model;
    const PreTokenizer &pre_tokenizer;
    std::string pre_tokenizer_name;
    Vocabulary vocabulary;
    SpecialTokens special_tokens;
    Pieces pieces;
    int32_t bos, eos, unknown;
    bool add_bos, add_eos, add_space_prefix;
    std::vector<bool> ends;
    std::string chat_template;
    std::optional<SpmEncoder> spm;  // exactly one of the two
    std::optional<BpeEncoder> bpe;
};

// The defaults (ids 1, 2, 0 and BOS for "llama"; none for "gpt2" but for some pre-tokenizers) are
// llama.cpp's, but for "gpt2" models that name no BOS: it takes token 11, here they have none.
Tokenizer::State::State(const GgufFile &file)
    : model(read_model(file)),
      pre_tokenizer(read_pre_tokenizer(file, model, warnings)),
      pre_tokenizer_name(pre_tokenizer.name),
      vocabulary(file),
      special_tokens(vocabulary),
      pieces(vocabulary, model == kSpmModel) {
    const bool is_llama = model == kSpmModel;
    bos = vocabulary.special_id(file, "bos", is_llama ? 1 : -1);
    eos = vocabulary.special_id(file, "eos", is_llama ? 2 : -1);
    unknown = vocabulary.special_id(file, "unknown", is_llama ? 0 : -1);
    const auto flag = [&file](const char *name, bool fallback) {
        return file.find_bool(str("tokenizer.ggml.", name)).value_or(fallback);
    };
    add_bos = flag("add_bos_token", is_llama || pre_tokenizer.add_bos) && bos >= 0;
    add_eos = flag("add_eos_token", false) && eos >= 0;
    add_space_prefix = is_llama && flag("add_space_prefix", true);
    ends = find_end_tokens(file, vocabulary, eos);
    chat_template = file.find_string("tokenizer.chat_template").value_or("");
    if (is_llama) {
        spm.emplace(file, vocabulary, unknown);
    } else {
        bpe.emplace(file, vocabulary, pre_tokenizer, unknown);
    }
    warn_of_missing_bytes();
}

void Tokenizer::State::warn_of_missing_bytes() {
    const size_t n_missing = is_spm() ? spm->n_missing_bytes() : bpe->n_missing_bytes();
    // Vocabularies trained on real text lack bytes that UTF-8 never or hardly ever uses (13 are
    // never valid; SmolLM2 lacks 21). That is no news to a user.
    constexpr size_t kRareBytes = 32;
    if (n_missing <= kRareBytes) return;
    warnings.push_back(str("tokenizer.ggml.tokens: a token for each of the 256 bytes expected, ",
                           n_missing, " missing: text that needs one ",
                           unknown >= 0 ? "gives the unknown token" : "loses it"));
}

void Tokenizer::State::check(int32_t id) const {
    if (id >= 0 && static_cast<size_t>(id) < vocabulary.size()) return;
    throw OptionError(str("token id: 0 to ", vocabulary.size() - 1, " expected, found ", id));
}

void Tokenizer::State::encode_plain(std::string_view text, bool at_start,
                                    std::vector<int32_t> &ids) const {
    if (text.empty()) return;
    if (is_spm()) {
        spm->encode(text, add_space_prefix && at_start, ids);
    } else {
        bpe->encode(text, ids);
    }
}

Tokenizer::Tokenizer(const GgufFile &file) : state_(std::make_unique<const State>(file)) {}
Tokenizer::~Tokenizer() = default;
Tokenizer::Tokenizer(Tokenizer &&) noexcept = default;
Tokenizer &Tokenizer::operator=(Tokenizer &&) noexcept = default;

std::vector<int32_t> Tokenizer::encode(std::string_view text, const EncodeOptions &options) const {
    if (text.size() > kMaxTextBytes) {
        throw OptionError(
            str("text: at most ", kMaxTextBytes, " bytes expected, found ", text.size()));
    }
    if (options.add_bos.value_or(false) && state_->bos < 0) {
        throw OptionError("add_bos: a model with a BOS token expected, found one without");
    }
    std::vector<int32_t> ids;
    if (options.add_bos.value_or(state_->add_bos)) ids.push_back(state_->bos);
    size_t begin = 0;
    bool at_start =
        !options.continues_text;  // of the text or after a special token: where a space prefix goes
    for (const auto &match : state_->special_tokens.find(text, options.parse_special)) {
        state_->encode_plain(text.substr(begin, match.begin - begin), at_start, ids);
        ids.push_back(match.id);
        begin = match.end;
        at_start = true;
    }
    state_->encode_plain(text.substr(begin), at_start, ids);
    if (options.add_bos.value_or(true) && state_->add_eos) ids.push_back(state_->eos);
    return ids;
}

std::string Tokenizer::decode(std::span<const int32_t> ids, bool show_special) const {
    for (const int32_t id : ids) state_->check(id);
    std::string out;
    bool first = state_->add_space_prefix;  // the first text token loses encode()'s space
    for (const int32_t id : ids) {
        const bool hidden = state_->vocabulary.is_hidden(id);
        if (hidden && !show_special) continue;
        std::string_view piece = state_->pieces[id];
        if (first && !hidden && !piece.empty()) {
            if (piece.front() == ' ') piece.remove_prefix(1);
            first = false;
        }
        out += piece;
    }
    return out;
}

std::string Tokenizer::token_bytes(int32_t id, bool show_special) const {
    state_->check(id);
    if (state_->vocabulary.is_hidden(id) && !show_special) return {};
    return std::string(state_->pieces[id]);
}

std::string_view Tokenizer::token_text(int32_t id) const {
    state_->check(id);
    return state_->vocabulary.text(id);
}

TokenType Tokenizer::token_type(int32_t id) const {
    state_->check(id);
    return state_->vocabulary.type(id);
}

bool Tokenizer::is_end(int32_t id) const {
    return id >= 0 && static_cast<size_t>(id) < n_vocab() && state_->ends[static_cast<size_t>(id)];
}

std::optional<int32_t> Tokenizer::find(std::string_view text) const {
    const int32_t id = state_->vocabulary.find(text);
    if (id < 0) return std::nullopt;
    return id;
}

size_t Tokenizer::n_vocab() const {
    return state_->vocabulary.size();
}
int32_t Tokenizer::bos() const {
    return state_->bos;
}
int32_t Tokenizer::eos() const {
    return state_->eos;
}
int32_t Tokenizer::unknown() const {
    return state_->unknown;
}
bool Tokenizer::adds_bos() const {
    return state_->add_bos;
}
bool Tokenizer::adds_eos() const {
    return state_->add_eos;
}
const std::string &Tokenizer::model() const {
    return state_->model;
}
const std::string &Tokenizer::chat_template() const {
    return state_->chat_template;
}
const std::vector<std::string> &Tokenizer::warnings() const {
    return state_->warnings;
}
const std::string &Tokenizer::pre_tokenizer() const {
    return state_->pre_tokenizer_name;
}

std::vector<std::string> tokenizer_models() {
    return {std::string(kSpmModel), std::string(kBpeModel)};
}

std::vector<std::string> pre_tokenizers() {
    std::vector<std::string> names;
    for (const PreTokenizer &row : pre_tokenizer_registry()) names.emplace_back(row.name);
    return names;
}

}  // namespace a2sf
