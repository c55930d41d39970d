#include "tensor/safetensors.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

#include "tensor/error.hpp"

namespace tessera {

namespace {

static_assert(std::endian::native == std::endian::little, "the data of a file is little-endian");

using nlohmann::json;

constexpr std::uint64_t prefix_bytes = 8;            // the length of the header
constexpr std::uint64_t header_limit = 100'000'000;  // that of the reference implementation
constexpr std::uint64_t axis_limit = INT32_MAX;      // a BLAS counts in int

/// An IEEE half: a sign, 5 bits of exponent with a bias of 15, 10 of mantissa.
float from_f16(std::uint16_t bits) {
  const int exponent = bits >> 10 & 31, mantissa = bits & 1023, whole = exponent == 0 ? 0 : 1024;
  const float size = exponent < 31
                         ? std::ldexp(static_cast<float>(whole + mantissa), std::max(exponent, 1) - 25)
                     : mantissa == 0 ? INFINITY
                                     : NAN;
  return bits >> 15 == 1 ? -size : size;
}

struct StoredType {
  const char* name;
  DType dtype;                              // what it is read as
  float (*widen)(std::uint16_t) = nullptr;  // for a type that no tensor has
  std::uint64_t bytes() const { return widen != nullptr ? 2 : size_of(dtype); }
};
constexpr std::array stored_types{StoredType{"BF16", DType::bf16}, StoredType{"F32", DType::f32},
                                  StoredType{"F64", DType::f64}, StoredType{"I32", DType::i32},
                                  StoredType{"F16", DType::f32, from_f16}};

const char* format_name(DType dtype) {
  return std::ranges::find(stored_types, dtype, &StoredType::dtype)->name;
}

constexpr int value_limit = 2'000'000;  // in a JSON text, of which a few bytes take a hundred in memory

/// A text or a value of JSON for a message: a broken file may hold one of any length.
std::string shorten(const std::string& text) {
  return text.size() <= 100 ? text : text.substr(0, 100) + "...";
}
std::string quote(const json& value) {
  return shorten(value.dump(-1, ' ', false, json::error_handler_t::replace));
}

template <class... Args>
[[noreturn]] void refuse(const OpenFile& file, format_string<Args...> fault, Args&&... args) {
  throw UsageError(file.path() + ": " + format(fault, std::forward<Args>(args)...));
}

/// The JSON object in `text`, which is `what` of the file. Every fault is a UsageError with the file's name.
json parse(const OpenFile& file, const char* what, const std::string& text) {
  // The parser alone stops at a zero byte, keeps the last of two equal names and follows any depth.
  if (text.find('\0') != std::string::npos) refuse(file, "{} is not JSON: it holds a zero byte", what);
  std::set<std::string> names;
  int values = 0;
  const auto watch = [&](int depth, json::parse_event_t event, json& value) {
    if (depth > 6) refuse(file, "{} is nested too deeply", what);
    if (++values > value_limit) refuse(file, "{} has more than {} values", what, value_limit);
    if (event == json::parse_event_t::key && depth == 1 && !names.insert(value.get<std::string>()).second)
      refuse(file, "{} has {} twice", what, quote(value));
    return true;
  };
  try {
    json object = json::parse(text, watch);
    if (!object.is_object()) refuse(file, "{} is not a JSON object", what);
    return object;
  } catch (const json::exception& error) {
    refuse(file, "{} is not JSON: {}", what, shorten(error.what()));
  }
}

std::map<std::string, std::string> texts(const json& object) {
  std::map<std::string, std::string> texts;
  for (const auto& [key, value] : object.items())
    texts[key] = value.is_string() ? value.get<std::string>() : value.dump();
  return texts;
}

std::string checksum(std::string_view bytes) { return format("{:08x}", crc32(bytes.data(), bytes.size())); }

/// Reads and checks one header. Every fault is a UsageError that starts with the file's name. What a message
/// needs is made after the check has failed: the header of a hostile file is long.
class Header {
 public:
  using Entry = SafetensorsFile::Entry;

  explicit Header(const OpenFile& file) : file_(file) {
    const std::uint64_t size = file.size();
    if (size < prefix_bytes) refuse(file, "the file has {} B, too few for the length of a header", size);
    std::uint64_t length = 0;
    file.read(&length, prefix_bytes, 0);
    if (length > size - prefix_bytes)
      refuse(file, "the header of {} B goes beyond the file of {} B", length, size);
    if (length > header_limit) refuse(file, "the header of {} B is over {} B", length, header_limit);
    std::string text(length, '\0');
    file.read(text.data(), length, prefix_bytes);
    data_begin_ = prefix_bytes + length;
    json_ = parse(file, "the header", text);
  }

  std::map<std::string, Entry> entries() const {
    std::map<std::string, Entry> entries;
    for (const auto& [name, value] : json_.items())
      if (name != "__metadata__") entries[name] = entry(name, value);
    check_layout(entries);
    return entries;
  }

  std::map<std::string, std::string> metadata() const {
    if (!json_.contains("__metadata__")) return {};
    const json& all = json_["__metadata__"];
    if (!all.is_object()) refuse(file_, "__metadata__ is not an object");
    if (all.contains("header crc32")) {
      json checked = json_;
      checked["__metadata__"].erase("header crc32");
      if (all["header crc32"] != checksum(checked.dump()))
        refuse(file_, "the header is damaged: its CRC-32 does not match");
    }
    return texts(all);
  }

 private:
  Entry entry(const std::string& name, const json& value) const {
    const auto tensor = format("tensor {}", quote(name));
    if (!value.is_object()) refuse(file_, "{} is not described by an object", tensor);
    for (const char* key : {"dtype", "shape", "data_offsets"})
      if (!value.contains(key)) refuse(file_, "{} has no {}", tensor, key);

    const json &dtype = value["dtype"], &shape = value["shape"], &offsets = value["data_offsets"];
    const auto known =
        std::ranges::find_if(stored_types, [&](const auto& known) { return dtype == known.name; });
    Entry made;
    if (known == stored_types.end())
      made.unreadable = format(" has the dtype {}; BF16, F16, F32, F64 and I32 can be read", quote(dtype));
    else
      made.dtype = known->dtype, made.widen = known->widen;

    if (!shape.is_array()) refuse(file_, "{} has a shape that is not a list", tensor);
    if (shape.size() > 2) made.unreadable = format(" has {} axes; at most two can be read", shape.size());
    for (const json& axis : shape)  // the parser keeps what is negative, broken or beyond 64 bits as others
      if (!axis.is_number_unsigned() || axis.get<std::uint64_t>() > axis_limit)
        refuse(file_, "{} has the shape {}; an axis has 0 to {} elements", tensor, quote(shape), axis_limit);

    if (!offsets.is_array() || offsets.size() != 2 || !offsets[0].is_number_unsigned() ||
        !offsets[1].is_number_unsigned())
      refuse(file_, "{} has data_offsets {}, not two byte positions", tensor, quote(offsets));
    const auto begin = offsets[0].get<std::uint64_t>(), end = offsets[1].get<std::uint64_t>();
    const std::uint64_t data = file_.size() - data_begin_;
    if (begin > end) refuse(file_, "{} has reversed data_offsets {}", tensor, quote(offsets));
    if (end > data) refuse(file_, "{} ends at {} of {} B of data", tensor, end, data);
    made.begin = data_begin_ + begin;
    made.bytes = end - begin;
    if (!made.unreadable.empty()) return made;

    std::array<std::uint64_t, 2> axes{1, 1};  // a vector is a row
    for (std::size_t i = 0; i < shape.size(); ++i) axes[2 - shape.size() + i] = shape[i].get<std::uint64_t>();
    made.rows = static_cast<std::int64_t>(axes[0]);
    made.cols = static_cast<std::int64_t>(axes[1]);
    // Both axes are below 2^31, so the elements fit; their bytes might not.
    if (made.bytes % known->bytes() != 0 || made.bytes / known->bytes() != axes[0] * axes[1])
      refuse(file_, "{} of shape {} {} cannot lie in {} B", tensor, quote(shape), known->name, made.bytes);
    return made;
  }

  /// The tensors, sorted by their bytes, must cover the data once and wholly: no byte means two things.
  void check_layout(const std::map<std::string, Entry>& entries) const {
    std::vector<const std::pair<const std::string, Entry>*> order;
    for (const auto& item : entries) order.push_back(&item);
    std::ranges::sort(order, {}, [](const auto* item) {
      return std::pair{item->second.begin, item->second.bytes};
    });
    std::uint64_t at = data_begin_;
    for (const auto* item : order) {
      const auto& [name, entry] = *item;
      if (entry.begin < at)
        refuse(file_, "tensor {} overlaps the one before it: it begins at {}, that ends at {}", quote(name),
               entry.begin - data_begin_, at - data_begin_);
      if (entry.begin > at)
        refuse(file_, "there is a hole of {} B before tensor {}", entry.begin - at, quote(name));
      at += entry.bytes;
    }
    if (at != file_.size()) refuse(file_, "{} B at the end belong to no tensor", file_.size() - at);
  }

  const OpenFile& file_;
  std::uint64_t data_begin_ = 0;
  json json_;
};

}  // namespace

void save_safetensors(const std::string& path, const std::map<std::string, Tensor>& tensors,
                      const std::map<std::string, std::string>& metadata,
                      const std::set<std::string>& vectors) {
  const MemoryScope scope(MemoryKind::check);
  // Wide elements first: then each tensor starts at a multiple of its element, which mapped readers need.
  std::vector<std::pair<std::string, Tensor>> order(tensors.begin(), tensors.end());
  std::ranges::stable_sort(order, std::greater{},
                           [](const auto& item) { return size_of(item.second.dtype()); });

  json header = json::object();  // keeps its keys sorted
  std::int64_t at = 0;
  for (const auto& [name, tensor] : order) {
    expect(tensor.defined(), format("cannot write {}: the tensor '{}' is undefined", path, name));
    if (name == "__metadata__")
      throw UsageError(format("cannot write {}: no tensor may be called {}", path, name));
    if (!metadata.empty()) {
      const Tensor host = tensor.to(Device::host()).contiguous();
      header["__metadata__"]["crc32 " + name] =
          checksum({host.raw(), static_cast<std::size_t>(host.bytes())});
    }
    header[name] = {{"dtype", format_name(tensor.dtype())},
                    {"shape", {tensor.rows(), tensor.cols()}},
                    {"data_offsets", {at, at + tensor.bytes()}}};
    if (vectors.contains(name)) header[name]["shape"] = {tensor.size()};
    at += tensor.bytes();
  }
  std::string text;
  try {
    for (const auto& [key, value] : metadata) header["__metadata__"][key] = value;
    if (!metadata.empty()) header["__metadata__"]["header crc32"] = checksum(header.dump());
    text = header.dump();
  } catch (const json::exception&) {
    throw UsageError(format("cannot write {}: a name is not UTF-8", path));
  }
  text.resize((text.size() + prefix_bytes - 1) / prefix_bytes * prefix_bytes, ' ');

  NewFile file(path);
  const std::uint64_t length = text.size();
  file.write(&length, prefix_bytes);
  file.write(text.data(), length);
  for (const auto& [name, tensor] : order) {
    const Tensor host = tensor.to(Device::host()).contiguous();
    file.write(host.raw(), static_cast<std::uint64_t>(host.bytes()));
  }
  file.finish();
}

SafetensorsFile::SafetensorsFile(const std::string& path) : file_(path) {
  const Header header(file_);
  entries_ = header.entries();
  metadata_ = header.metadata();
}

const SafetensorsFile::Entry& SafetensorsFile::at(const std::string& name) const {
  const auto found = entries_.find(name);
  if (found == entries_.end()) throw UsageError(format("{}: there is no tensor {}", path(), quote(name)));
  return found->second;
}

Tensor SafetensorsFile::read(const std::string& name) const {
  const Entry& entry = at(name);
  if (!entry.unreadable.empty())
    throw UsageError(format("{}: tensor {}{}", path(), quote(name), entry.unreadable));
  const MemoryScope scope(MemoryKind::check);
  const Tensor tensor = Tensor::empty(entry.rows, entry.cols, entry.dtype, Device::host());
  std::vector<std::uint16_t> narrow(entry.widen == nullptr ? 0 : entry.bytes / 2);
  char* const stored = entry.widen == nullptr ? tensor.raw() : reinterpret_cast<char*>(narrow.data());
  file_.read(stored, entry.bytes, entry.begin);
  if (const auto sum = metadata_.find("crc32 " + name);
      sum != metadata_.end() && sum->second != checksum({stored, entry.bytes}))
    refuse(file_, "tensor {} is damaged: its CRC-32 does not match", quote(name));
  std::ranges::transform(narrow, reinterpret_cast<float*>(tensor.raw()), entry.widen);
  return tensor;
}

std::map<std::string, std::string> read_json(const std::string& path) {
  const OpenFile file(path);
  return texts(parse(file, "the file", read_file(path)));
}

std::map<std::string, Tensor> load_safetensors(const std::string& path) {
  const SafetensorsFile file(path);
  std::map<std::string, Tensor> tensors;
  for (const auto& [name, entry] : file.entries()) tensors.emplace(name, file.read(name));
  return tensors;
}

}  // namespace tessera
