#include "cli/bench_report.h"

#include <charconv>
#include <cmath>
#include <concepts>
#include <span>
#include <string_view>

#include "base/error.h"
#include "cli/json.h"
#include "cli/terminal.h"

namespace a2sf::cli {
namespace {

// THE list of columns: visit(name, value) for each.
template <typename Visit>
void visit_columns(const BenchRow &row, Visit &visit) {
    visit("model", row.model);
    visit("weight_type", row.weight_type);
    visit("n_params", row.n_params);
    visit("policy", row.policy);
    visit("budget", row.budget);
    visit("prefill", row.prefill);
    visit("kv_type", row.kv_type);
    visit("device", row.device);
    visit("isa", row.isa);
    visit("threads", row.threads);
    visit("test", row.test);
    visit("depth", row.depth);
    visit("tokens_per_s", row.tokens_per_s);
    visit("tokens_per_s_min", row.tokens_per_s_min);
    visit("tokens_per_s_max", row.tokens_per_s_max);
    visit("kv_bytes", row.kv_bytes);
    visit("kv_bytes_full", row.kv_bytes_full);
    visit("peak_rss_bytes", row.peak_rss_bytes);
    visit("device_bytes", row.device_bytes);
    visit("weight_bytes_per_token", row.weight_bytes_per_token);
    visit("read_gb_s", row.peaks.read_gb_s);
    visit("int8_gops", row.peaks.int8_gops);
    visit("float_gflops", row.peaks.float_gflops);
    visit("bfloat16_gflops", row.peaks.bfloat16_gflops);
    visit("copy_gb_s", row.copy_gb_s());
    visit("fraction_of_peak", row.fraction_of_peak);
}

// One JSON object. What there is none of is null.
struct JsonColumns {
    JsonWriter json;

    void operator()(const char *name, const std::string &text) {
        text.empty() ? json.key(name).null() : json.field(name, text);
    }
    void operator()(const char *name, const std::optional<size_t> &count) {
        count ? json.field(name, *count) : json.key(name).null();
    }
    void operator()(const char *name, const std::optional<double> &number) {
        number ? json.field(name, *number) : json.key(name).null();
    }
    void operator()(const char *name, double number) { json.field(name, number); }
    void operator()(const char *name, size_t count) { json.field(name, count); }
};

// One line of CSV (RFC 4180, but for its line ends). What there is none of is empty.
struct CsvColumns {
    std::string line;
    bool first = true;

    void cell(std::string_view text) {
        if (!first) line += ',';
        line += text;
        first = false;
    }
    void operator()(const char *, const std::string &text) {
        if (text.find_first_of(",\"\r\n") == std::string::npos) return cell(text);
        std::string quoted = "\"";
        for (const char c : text) {
            if (c == '"') quoted += '"';
            quoted += c;
        }
        cell(quoted + '"');
    }
    void operator()(const char *, const std::optional<size_t> &count) {
        cell(count ? std::to_string(*count) : "");
    }
    void operator()(const char *name, const std::optional<double> &number) {
        number ? (*this)(name, *number) : cell("");
    }
    void operator()(const char *, double number) {
        char text[32];
        const auto [end, error] = std::to_chars(text, text + sizeof(text), number);
        cell(std::isfinite(number) ? std::string_view(text, end) : std::string_view());
    }
    void operator()(const char *, size_t count) { cell(std::to_string(count)); }
};

struct CsvHeader {
    std::string line;

    template <typename T>
    void operator()(const char *name, const T &) {
        line += str(line.empty() ? "" : ",", name);
    }
};

struct TableColumn {
    const char *title;
    size_t width;
    bool right;  // numbers: aligned right
};

// After the model's, whose width is that of the name.
constexpr TableColumn kTable[] = {{"weights", 7, false},    {"policy", 10, false},
                                  {"budget", 7, true},      {"test", 7, false},
                                  {"depth", 7, true},       {"tokens/s", 9, true},
                                  {"min-max", 15, true},    {"KV cache MiB", 12, true},
                                  {"device MiB", 10, true}, {"% of peak", 9, true}};

std::string padded_text(const std::string &text, size_t width, bool right) {
    const std::string space(width > text.size() ? width - text.size() : 0, ' ');
    return right ? space + text : text + space;
}

std::string table_line(const std::string &model, size_t model_width,
                       std::span<const std::string> cells) {
    std::string line = str("| ", padded_text(model, model_width, false));
    for (size_t i = 0; i < cells.size(); ++i) {
        line += str(" | ", padded_text(cells[i], kTable[i].width, kTable[i].right));
    }
    return line + " |\n";
}

std::string table_header(size_t model_width) {
    std::string titles[std::size(kTable)];
    std::string rule = str("|", std::string(model_width + 2, '-'));
    for (size_t i = 0; i < std::size(kTable); ++i) {
        titles[i] = kTable[i].title;
        rule += str("|", std::string(kTable[i].width + 1, '-'), kTable[i].right ? ":" : "-");
    }
    return str(table_line("model", model_width, titles), rule, "|\n");
}

std::string speed(double tokens_per_s) {
    return decimals(tokens_per_s, tokens_per_s < 100 ? 2 : 1);
}

std::string mebibytes(size_t n_bytes) {
    return decimals(static_cast<double>(n_bytes) / (1 << 20), 1);
}

// A '|' in a name would end the cell.
std::string one_cell(std::string text) {
    for (char &c : text) {
        if (c == '|' || c == '\n') c = '/';
    }
    return text;
}

std::string table_row(const BenchRow &row, size_t model_width) {
    const std::string cells[std::size(kTable)] = {
        row.weight_type,
        row.policy,
        row.budget ? grouped(*row.budget) : "-",
        row.test,
        grouped(row.depth),
        speed(row.tokens_per_s),
        str(speed(row.tokens_per_s_min), "-", speed(row.tokens_per_s_max)),
        mebibytes(row.kv_bytes),
        row.device_bytes ? mebibytes(*row.device_bytes) : "-",
        decimals(100 * row.fraction_of_peak, 1)};
    return table_line(one_cell(row.model), model_width, cells);
}

std::string csv_header() {
    CsvHeader header;
    visit_columns(BenchRow{}, header);
    return header.line + "\n";
}

}  // namespace

void BenchReport::begin() {
    if (format_ == BenchFormat::Markdown) print(table_header(model_width_));
    if (format_ == BenchFormat::Csv) print(csv_header());
    if (format_ == BenchFormat::Json) print("[");
}

void BenchReport::add(const BenchRow &row) {
    if (format_ == BenchFormat::Markdown) {
        print(table_row(row, model_width_));
    } else if (format_ == BenchFormat::Csv) {
        CsvColumns csv;
        visit_columns(row, csv);
        print(csv.line + "\n");
    } else {
        JsonColumns columns;
        columns.json.begin_object();
        visit_columns(row, columns);
        columns.json.end_object();
        print(str(n_rows_ > 0 ? ",\n " : "", columns.json.text()));
    }
    ++n_rows_;
}

void BenchReport::end() {
    if (format_ == BenchFormat::Json) print("]\n");
}

}  // namespace a2sf::cli
