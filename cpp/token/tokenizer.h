// Text to token ids and back, as the GGUF metadata of a model prescribes.
// Two families: SentencePiece-BPE ("llama") and byte-level BPE ("gpt2").
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace a2sf {

class GgufFile;

// What tokenizer.ggml.token_type says of a token.
enum class TokenType : uint8_t {
    Normal = 1,
    Unknown = 2,
    Control = 3,
    UserDefined = 4,
    Unused = 5,
    Byte = 6
};

// UserDefined tokens written in the text become their ids in any case.
struct EncodeOptions {
    bool parse_special = true;    // so do Control and Unknown tokens
    std::optional<bool> add_bos;  // nullopt: as the model's metadata says; false: no EOS either
    bool continues_text = false;  // comes after ordinary text: no space goes before it
};

// Immutable after construction: shared by all sessions and threads.
class Tokenizer {
  public:
    // Reads tokenizer.ggml.*; copies what it needs, so the file may be closed. Throws GgufError
    // when the metadata contradicts itself, UnsupportedError for an unknown tokenizer model (lists
    // the known). An unknown pre-tokenizer is taken as "default" and noted in warnings().
    explicit Tokenizer(const GgufFile &file);
    ~Tokenizer();
    Tokenizer(Tokenizer &&) noexcept;
    Tokenizer &operator=(Tokenizer &&) noexcept;

    // Any bytes are accepted, invalid UTF-8 too. Throws OptionError for add_bos = true when the
    // model has no BOS token, and for a text over 1 GiB.
    std::vector<int32_t> encode(std::string_view text, const EncodeOptions &options = {}) const;

    // The text of ids. Control and Unknown tokens (<s>, <|im_end|>) give nothing unless
    // show_special. May hold invalid UTF-8 if the ids do. The space that encode() puts before a
    // text ("llama" models) is dropped again. Throws OptionError for an id outside [0, n_vocab).
    std::string decode(std::span<const int32_t> ids, bool show_special = false) const;

    // The raw bytes that one token adds in the middle of a text.
    std::string token_bytes(int32_t id, bool show_special = false) const;

    // The vocabulary entry as stored ("\u0120the", "<0x0A>").
    std::string_view token_text(int32_t id) const;
    TokenType token_type(int32_t id) const;

    size_t n_vocab() const;
    int32_t bos() const;  // -1 when the model has none
    int32_t eos() const;
    int32_t unknown() const;
    bool adds_bos() const;
    bool adds_eos() const;
    bool is_end(int32_t id) const;  // ends a generation: eos, eot, eom and their like
    std::optional<int32_t> find(std::string_view token_text) const;

    const std::string &model() const;          // "gpt2" or "llama"
    const std::string &pre_tokenizer() const;  // "smollm"
    const std::string &chat_template() const;  // empty when there is none
    const std::vector<std::string> &warnings() const;

  private:
    struct State;
    std::unique_ptr<const State> state_;
};

// Joins the bytes of successive tokens into text without ever giving half a UTF-8 character:
// bytes that may still become a character are held back until the next token or finish().
// Invalid sequences come out as U+FFFD. The joined result is decode() of the ids; with
// continues_text, of the ids in the middle of a text: the first keeps its leading space, as the
// answer to a prompt needs. Owner: one generation.
class StreamDecoder {
  public:
    explicit StreamDecoder(const Tokenizer &tokenizer, bool show_special = false,
                           bool continues_text = false);
    std::string push(int32_t id);
    std::string finish();
    bool holds_bytes() const { return !pending_.empty(); }

  private:
    const Tokenizer *tokenizer_;
    bool show_special_;
    bool first_;           // no text so far
    std::string pending_;  // a character's first bytes, at most 3
};

// Names for messages and Python: tokenizer models and pre-tokenizers this build knows.
std::vector<std::string> tokenizer_models();
std::vector<std::string> pre_tokenizers();

}  // namespace a2sf
