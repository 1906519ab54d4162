// Writes JSON text (RFC 8259) without line breaks. Only a writer: nothing here reads JSON.
#pragma once

#include <concepts>
#include <cstdint>
#include <string>
#include <string_view>

namespace a2sf::cli {

// Builds one value by nested calls; the caller pairs begin and end. Numbers come out in the
// shortest form that reads back as the same number; NaN and infinities, which JSON lacks, as null.
// Strings: bytes that are no valid UTF-8 become U+FFFD.
class JsonWriter {
  public:
    JsonWriter &begin_object() { return open('{'); }
    JsonWriter &end_object() { return close('}'); }
    JsonWriter &begin_array() { return open('['); }
    JsonWriter &end_array() { return close(']'); }
    JsonWriter &key(std::string_view name);

    JsonWriter &value(std::string_view text);
    JsonWriter &value(const std::string &text) { return value(std::string_view(text)); }
    JsonWriter &value(const char *text) { return value(std::string_view(text)); }
    JsonWriter &value(bool truth) { return raw(truth ? "true" : "false"); }
    JsonWriter &value(double number);
    JsonWriter &value(float number);
    template <std::integral T>
    JsonWriter &value(T number) {
        return raw(std::to_string(number));
    }
    JsonWriter &null() { return raw("null"); }

    template <typename T>
    JsonWriter &field(std::string_view name, const T &content) {
        return key(name).value(content);
    }

    // A whole array of values.
    template <typename Range>
    JsonWriter &list(std::string_view name, const Range &items) {
        key(name).begin_array();
        for (const auto &item : items) value(item);
        return end_array();
    }

    const std::string &text() const { return text_; }

  private:
    JsonWriter &open(char bracket);
    JsonWriter &close(char bracket);
    JsonWriter &raw(std::string_view token);
    void separate();
    void quote(std::string_view text);

    std::string text_;
    bool first_ = true;  // nothing precedes the next item in its object or array
};

}  // namespace a2sf::cli
