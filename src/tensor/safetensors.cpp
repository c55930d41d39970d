#include "tensor/safetensors.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>

#include "tensor/error.hpp"
#include "tensor/file.hpp"

namespace tessera {

namespace {

static_assert(std::endian::native == std::endian::little, "the data of a file is little-endian");

using nlohmann::json;

constexpr std::uint64_t prefix_bytes = 8;            // the length of the header
constexpr std::uint64_t header_limit = 100'000'000;  // that of the reference implementation
constexpr std::uint64_t axis_limit = INT32_MAX;      // a BLAS counts in int

constexpr std::array dtypes{std::pair{"BF16", DType::bf16}, std::pair{"F32", DType::f32},
                            std::pair{"F64", DType::f64}, std::pair{"I32", DType::i32}};

const char* format_name(DType dtype) {
  return std::ranges::find(dtypes, dtype, &std::pair<const char*, DType>::second)->first;
}

std::string system_message() { return std::strerror(errno); }

/// A value of the header for a message: a broken file may hold one of any length.
std::string quote(const json& value) {
  const std::string text = value.dump();
  return text.size() <= 100 ? text : text.substr(0, 100) + "...";
}

/// Reads and checks one header. Every fault is a UsageError that starts with the file's name.
class Header {
 public:
  using Entry = SafetensorsFile::Entry;

  explicit Header(const std::string& path) : path_(path) {
    std::error_code error;
    if (!std::filesystem::is_regular_file(path, error))
      throw UsageError(format("cannot read {}: {}", path, error ? error.message() : "it is not a file"));
    stream_.open(path, std::ios::binary | std::ios::ate);
    if (!stream_) throw UsageError(format("cannot read {}: {}", path, system_message()));
    size_ = static_cast<std::uint64_t>(stream_.tellg());
    stream_.seekg(0);
  }

  std::map<std::string, Entry> read() {
    require(size_ >= prefix_bytes, "the file has {} B, too few for the length of a header", size_);
    std::uint64_t length = 0;
    read(&length, prefix_bytes);
    require(length <= size_ - prefix_bytes, "the header of {} B goes beyond the file of {} B", length, size_);
    require(length <= header_limit, "the header of {} B is over {} B", length, header_limit);
    std::string text(length, '\0');
    read(text.data(), length);
    data_begin_ = prefix_bytes + length;
    data_bytes_ = size_ - data_begin_;

    const json header = parse(text);
    require(header.is_object(), "the header is not a JSON object");
    std::map<std::string, Entry> entries;
    for (const auto& [name, value] : header.items())
      if (name != "__metadata__") entries[name] = entry(name, value);
    check_layout(entries);
    return entries;
  }

 private:
  template <class... Args>
  void require(bool holds, format_string<Args...> fault, Args&&... args) const {
    if (!holds) throw UsageError(path_ + ": " + format(fault, std::forward<Args>(args)...));
  }

  void read(void* to, std::uint64_t count) {
    stream_.read(static_cast<char*>(to), static_cast<std::streamsize>(count));
    require(stream_.good(), "the file could not be read to its end");
  }

  json parse(const std::string& text) const {
    // The parser alone stops at a zero byte, keeps the last of two equal names and follows any depth.
    require(text.find('\0') == std::string::npos, "the header is not JSON: it holds a zero byte");
    std::set<std::string> names;
    const auto watch = [&](int depth, json::parse_event_t event, json& value) {
      require(depth <= 4, "the header is nested too deeply");
      if (event == json::parse_event_t::key && depth == 1)
        require(names.insert(value.get<std::string>()).second, "the header has {} twice", quote(value));
      return true;
    };
    try {
      return json::parse(text, watch);
    } catch (const json::exception& error) {
      throw UsageError(format("{}: the header is not JSON: {}", path_, error.what()));
    }
  }

  Entry entry(const std::string& name, const json& value) const {
    const auto tensor = format("tensor {}", quote(name));
    require(value.is_object(), "{} is not described by an object", tensor);
    for (const char* key : {"dtype", "shape", "data_offsets"})
      require(value.contains(key), "{} has no {}", tensor, key);

    const json &dtype = value["dtype"], &shape = value["shape"], &offsets = value["data_offsets"];
    const auto known = std::ranges::find_if(dtypes, [&](const auto& known) { return dtype == known.first; });
    Entry made;
    if (known == dtypes.end())
      made.unreadable = format(" has the dtype {}; BF16, F32, F64 and I32 can be read", quote(dtype));
    else
      made.dtype = known->second;

    require(shape.is_array(), "{} has a shape that is not a list", tensor);
    if (shape.size() > 2) made.unreadable = format(" has {} axes; at most two can be read", shape.size());
    for (const json& axis : shape)  // the parser keeps what is negative, broken or beyond 64 bits as others
      require(axis.is_number_unsigned() && axis.get<std::uint64_t>() <= axis_limit,
              "{} has the shape {}; an axis has 0 to {} elements", tensor, quote(shape), axis_limit);

    require(offsets.is_array() && offsets.size() == 2 && offsets[0].is_number_unsigned() &&
                offsets[1].is_number_unsigned(),
            "{} has data_offsets {}, not two byte positions", tensor, quote(offsets));
    const auto begin = offsets[0].get<std::uint64_t>(), end = offsets[1].get<std::uint64_t>();
    require(begin <= end, "{} has reversed data_offsets {}", tensor, quote(offsets));
    require(end <= data_bytes_, "{} ends at {} of {} B of data", tensor, end, data_bytes_);
    made.begin = data_begin_ + begin;
    made.bytes = end - begin;
    if (!made.unreadable.empty()) return made;

    std::array<std::uint64_t, 2> axes{1, 1};  // a vector is a row
    for (std::size_t i = 0; i < shape.size(); ++i) axes[2 - shape.size() + i] = shape[i].get<std::uint64_t>();
    made.rows = static_cast<std::int64_t>(axes[0]);
    made.cols = static_cast<std::int64_t>(axes[1]);
    // Both axes are below 2^31, so the elements fit; their bytes might not.
    const std::uint64_t elements = axes[0] * axes[1];
    require(made.bytes % size_of(made.dtype) == 0 && made.bytes / size_of(made.dtype) == elements,
            "{} of shape {} {} cannot lie in {} B", tensor, quote(shape), known->first, made.bytes);
    return made;
  }

  /// The tensors, sorted by their bytes, must cover the data once and wholly: no byte means two things.
  void check_layout(const std::map<std::string, Entry>& entries) const {
    std::vector<std::pair<std::string, Entry>> order(entries.begin(), entries.end());
    std::ranges::sort(order, {}, [](const auto& item) {
      return std::pair{item.second.begin, item.second.bytes};
    });
    std::uint64_t at = data_begin_;
    for (const auto& [name, entry] : order) {
      const auto tensor = format("tensor {}", quote(name));
      require(entry.begin >= at, "{} overlaps the one before it: it begins at {}, that ends at {}", tensor,
              entry.begin - data_begin_, at - data_begin_);
      require(entry.begin == at, "there is a hole of {} B before {}", entry.begin - at, tensor);
      at += entry.bytes;
    }
    require(at == size_, "{} B at the end belong to no tensor", size_ - at);
  }

  std::string path_;
  std::ifstream stream_;
  std::uint64_t size_ = 0, data_begin_ = 0, data_bytes_ = 0;
};

}  // namespace

void save_safetensors(const std::string& path, const std::map<std::string, Tensor>& tensors) {
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
    header[name] = {{"dtype", format_name(tensor.dtype())},
                    {"shape", {tensor.rows(), tensor.cols()}},
                    {"data_offsets", {at, at + tensor.bytes()}}};
    at += tensor.bytes();
  }
  std::string text;
  try {
    text = header.dump();
  } catch (const json::exception&) {
    throw UsageError(format("cannot write {}: the name of a tensor is not UTF-8", path));
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

SafetensorsFile::SafetensorsFile(const std::string& path) : path_(path), entries_(Header(path).read()) {}

const SafetensorsFile::Entry& SafetensorsFile::at(const std::string& name) const {
  const auto found = entries_.find(name);
  if (found == entries_.end()) throw UsageError(format("{}: there is no tensor {}", path_, quote(name)));
  return found->second;
}

Tensor SafetensorsFile::read(const std::string& name) const {
  const Entry& entry = at(name);
  if (!entry.unreadable.empty())
    throw UsageError(format("{}: tensor {}{}", path_, quote(name), entry.unreadable));
  const MemoryScope scope(MemoryKind::check);
  const Tensor tensor = Tensor::empty(entry.rows, entry.cols, entry.dtype, Device::host());
  std::ifstream stream(path_, std::ios::binary);  // one each: ranks are threads, and read at once
  stream.seekg(static_cast<std::streamoff>(entry.begin));
  stream.read(tensor.raw(), static_cast<std::streamsize>(entry.bytes));
  if (!stream) throw UsageError(format("{}: the file could not be read to its end", path_));
  return tensor;
}

std::map<std::string, Tensor> load_safetensors(const std::string& path) {
  const SafetensorsFile file(path);
  std::map<std::string, Tensor> tensors;
  for (const auto& [name, entry] : file.entries()) tensors.emplace(name, file.read(name));
  return tensors;
}

}  // namespace tessera
