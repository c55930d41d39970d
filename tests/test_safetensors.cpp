// safetensors: what was saved comes back, a broken file is refused with its fault, and no file appears by
// halves.
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <csignal>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <random>
#include <thread>

#include "directory.hpp"
#include "support.hpp"
#include "tensor/safetensors.hpp"

using namespace tessera;
using namespace tessera::test;
namespace fs = std::filesystem;

namespace {

std::vector<std::string> synced;  // what fsync was called for, by name

}  // namespace

/// In the place of libc's.
extern "C" int fsync(int file) {
  synced.push_back(fs::read_symlink(format("/proc/self/fd/{}", file)).string());
  return static_cast<int>(syscall(SYS_fsync, file));
}

namespace {

void write(const std::string& path, const std::string& bytes) {
  fs::remove(path);  // a file system may flush what is truncated and rewritten, at 2 ms a file
  std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
}

/// A file with this header and `data` bytes after it.
std::string file_of(const std::string& header, std::size_t data = 0) {
  return little_endian({header.size()}, 8) + header + std::string(data, '\1');
}

/// The message of the UsageError that reading these bytes throws, "" where it reads.
std::string fault(const Directory& directory, const std::string& bytes) {
  const std::string path = directory.file("broken.safetensors");
  write(path, bytes);
  try {
    load_safetensors(path);
  } catch (const UsageError& error) {
    CHECK(contains(error.what(), path));
    return error.what();
  }
  return "";
}

/// {"a": {...}} of one tensor, from the texts of its three values.
std::string one_tensor(const std::string& dtype, const std::string& shape, const std::string& offsets) {
  return R"({"a":{"dtype":)" + dtype + R"(,"shape":)" + shape + R"(,"data_offsets":)" + offsets + "}}";
}

std::map<std::string, Tensor> samples() {
  const Tensor whole =
      Tensor::of(4, 5, {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19});
  return {{"w", Tensor::of(2, 3, {0.1, -2, 3e8, 1e-30, 5, -0.0}, DType::f32)},
          {"h.0.attn.c_attn.weight", whole},
          {"view", whole.row_range(1, 3).column_range(2, 5)},
          {"ids", Tensor::of(3, 1, {-1, 2147483647, -2147483648.0}, DType::i32)},
          {"", Tensor::of(1, 1, {0.1})},
          {"no rows", Tensor::zeros(0, 7, DType::f32)},
          {"no columns", Tensor::zeros(7, 0, DType::i32)},
          {"quotes \" and \\ and \n", Tensor::of(1, 2, {1, 2})},
          {"größe λ 層 🜁", Tensor::of(1, 2, {3, 4}, DType::i32)},
          {"half", Tensor::of(3, 1, {0.1, -2, std::numeric_limits<double>::infinity()}, DType::bf16)},
          {"specials", Tensor::of(1, 3, {std::numeric_limits<double>::infinity(), 5e-324, 1.0 / 3})}};
}

}  // namespace

TEST_CASE("what was saved comes back, from every device") {
  const Directory directory;
  const std::string path = directory.file("x.safetensors");
  on_every_device([&] {
    const auto saved = samples();
    save_safetensors(path, saved);
    const auto loaded = load_safetensors(path);
    REQUIRE(loaded.size() == saved.size());
    for (const auto& entry : saved) {
      const auto& name = entry.first;
      const auto& tensor = entry.second;
      CAPTURE(name);
      REQUIRE(loaded.contains(name));
      const Tensor& other = loaded.at(name);
      CHECK(shape(other) == shape(tensor));
      CHECK(other.values() == tensor.values());
      CHECK(other.device() == Device::host());
    }
    // Files and their checks are outside of a rank's memory.
    CHECK(Device::current()->memory.now(MemoryKind::check) == 0);
  });
  CHECK(directory.names() == std::vector<std::string>{"x.safetensors"});
  save_safetensors(path, {});
  CHECK(load_safetensors(path).empty());
}

TEST_CASE("the file is what the format says") {
  const Directory directory;
  const std::string path = directory.file("x.safetensors");
  save_safetensors(path, {{"b", Tensor::of(1, 3, {1, 2, 3}, DType::f32)}, {"c", Tensor::of(2, 1, {4, 5})}});
  const std::string bytes = read_file(path);
  std::string header = R"({"b":{"data_offsets":[16,28],"dtype":"F32","shape":[1,3]},)"
                       R"("c":{"data_offsets":[0,16],"dtype":"F64","shape":[2,1]}})";
  header.resize((header.size() + 7) / 8 * 8, ' ');
  const double c[] = {4, 5};
  const float b[] = {1, 2, 3};
  const std::string data =
      std::string(reinterpret_cast<const char*>(c), 16) + std::string(reinterpret_cast<const char*>(b), 12);
  CHECK(bytes == little_endian({header.size()}, 8) + header + data);
}

TEST_CASE("other writers' files: any order, scalars, vectors, metadata, no padding") {
  const Directory directory;
  const std::string header =
      R"({"v":{"shape":[3],"dtype":"I32","data_offsets":[8,20]},"__metadata__":{"format":"pt","a":"b"},)"
      R"("s":{"dtype":"F64","data_offsets":[0,8],"shape":[],"note":"ignored"},)"
      R"("e":{"dtype":"F32","data_offsets":[8,8],"shape":[0,4]}})";
  write(directory.file("x"), file_of(header, 20));
  const auto loaded = load_safetensors(directory.file("x"));
  REQUIRE(loaded.size() == 3);
  CHECK(shape(loaded.at("v")) == "(1, 3) i32");
  CHECK(loaded.at("v").values() == std::vector<double>(3, 0x01010101));
  CHECK(shape(loaded.at("s")) == "(1, 1) f64");
  CHECK(shape(loaded.at("e")) == "(0, 4) f32");
  CHECK(fault(directory, file_of("{}")).empty());
  CHECK(fault(directory, file_of("{}      ")).empty());
}

TEST_CASE("a broken file is refused, and the message says where it is broken") {
  const Directory directory;
  const auto refuses = [&](const std::string& bytes, const std::string& message) {
    const std::string found = fault(directory, bytes);
    CHECK_MESSAGE(contains(found, message), "expected: ", message, "; found: ", found);
  };
  const std::string good = one_tensor(R"("F32")", "[2,3]", "[0,24]");
  REQUIRE(fault(directory, file_of(good, 24)).empty());

  refuses("", "the file has 0 B");
  refuses("1234567", "the file has 7 B, too few for the length of a header");
  refuses(little_endian({3}, 8) + "{}", "the header of 3 B goes beyond the file of 10 B");
  refuses(little_endian({UINT64_MAX}, 8) + "{}", "the header of 18446744073709551615 B goes beyond");
  refuses(little_endian({0}, 8), "the header is not JSON");
  refuses(file_of("{\"a\":"), "the header is not JSON");
  refuses(file_of("{} x"), "the header is not JSON");
  refuses(file_of(std::string("{}\0", 3)), "the header is not JSON");
  refuses(file_of("{\"\xff\":1}"), "the header is not JSON");
  refuses(file_of("[1,2]"), "the header is not a JSON object");
  refuses(file_of("7"), "the header is not a JSON object");
  refuses(file_of("null"), "the header is not a JSON object");
  refuses(file_of(std::string(100000, '[')), "the header is nested too deeply");
  refuses(file_of(R"({"a":[[[[[[1]]]]]]})"), "the header is nested too deeply");
  refuses(file_of(R"({"a":3})"), R"(tensor "a" is not described by an object)");
  refuses(file_of(R"({"a":{"shape":[1],"data_offsets":[0,4]}})", 4), R"(tensor "a" has no dtype)");
  refuses(file_of(R"({"a":{"dtype":"F32","data_offsets":[0,4]}})", 4), R"(tensor "a" has no shape)");
  refuses(file_of(R"({"a":{"dtype":"F32","shape":[1]}})", 4), R"(tensor "a" has no data_offsets)");
  const std::string a = R"({"dtype":"F32","shape":[1],"data_offsets":[0,4]})";
  refuses(file_of(R"({"a":)" + a + R"(,"a":)" + a + "}", 4), R"(the header has "a" twice)");

  for (const char* dtype : {"F8_E4M3", "I64", "BOOL", "f32", ""}) {
    const std::string quoted = format("\"{}\"", dtype);
    refuses(file_of(one_tensor(quoted, "[2,3]", "[0,12]"), 12),
            format("has the dtype {}; BF16, F16, F32, F64 and I32", quoted));
  }
  refuses(file_of(one_tensor("32", "[2,3]", "[0,24]"), 24), "has the dtype 32");

  refuses(file_of(one_tensor(R"("F32")", "[1,2,3]", "[0,24]"), 24), R"(tensor "a" has 3 axes; at most two)");
  refuses(file_of(one_tensor(R"("F32")", "6", "[0,24]"), 24), "a shape that is not a list");
  refuses(file_of(one_tensor(R"("F32")", "[-2,-3]", "[0,24]"), 24), "has the shape [-2,-3]");
  refuses(file_of(one_tensor(R"("F32")", "[2.5,3]", "[0,24]"), 24), "has the shape [2.5,3]");
  refuses(file_of(one_tensor(R"("F32")", R"(["2",3])", "[0,24]"), 24), "has the shape [\"2\",3]");
  // 2^62 x 8 x 4 B, and 2^64 + 6 elements, are few enough once they have wrapped around.
  refuses(file_of(one_tensor(R"("F32")", "[4611686018427387904,8]", "[0,0]")), "an axis has 0 to 2147483647");
  refuses(file_of(one_tensor(R"("F32")", "[18446744073709551622]", "[0,24]"), 24), "an axis has 0 to");
  refuses(file_of(one_tensor(R"("F32")", "[4611686018427387904,0]", "[0,0]")), "an axis has 0 to");
  refuses(file_of(one_tensor(R"("F64")", "[2147483647,2147483647]", "[0,24]"), 24), "cannot lie in 24 B");

  refuses(file_of(one_tensor(R"("F32")", "[2,3]", "[0,24]"), 20), R"(tensor "a" ends at 24 of 20 B of data)");
  refuses(file_of(one_tensor(R"("F32")", "[2,3]", "[24,0]"), 24), "reversed data_offsets [24,0]");
  refuses(file_of(one_tensor(R"("F32")", "[2,3]", "[0]"), 24), "data_offsets [0], not two byte positions");
  refuses(file_of(one_tensor(R"("F32")", "[2,3]", "[-24,0]"), 24), "not two byte positions");
  refuses(file_of(one_tensor(R"("F32")", "[2,3]", "[0,24.0]"), 24), "not two byte positions");
  refuses(file_of(one_tensor(R"("F32")", "[2,3]", "[0,18446744073709551615]"), 24),
          "ends at 18446744073709551615");
  refuses(file_of(one_tensor(R"("F32")", "[2,3]", "[0,20]"), 20), "of shape [2,3] F32 cannot lie in 20 B");
  refuses(file_of(one_tensor(R"("F32")", "[2,3]", "[0,25]"), 25), "cannot lie in 25 B");
  refuses(file_of(one_tensor(R"("F64")", "[2,3]", "[0,24]"), 24), "of shape [2,3] F64 cannot lie in 24 B");
  refuses(file_of(one_tensor(R"("BF16")", "[2,3]", "[0,24]"), 24), "of shape [2,3] BF16 cannot lie in 24 B");

  const auto two = [&](const std::string& first, const std::string& second) {
    return R"({"a":{"dtype":"F32","shape":[2],"data_offsets":)" + first +
           R"(},"b":{"dtype":"F32","shape":[2],"data_offsets":)" + second + "}}";
  };
  REQUIRE(fault(directory, file_of(two("[0,8]", "[8,16]"), 16)).empty());
  REQUIRE(fault(directory, file_of(two("[8,16]", "[0,8]"), 16)).empty());
  refuses(file_of(two("[0,8]", "[4,12]"), 12), R"(tensor "b" overlaps the one before it)");
  refuses(file_of(two("[0,8]", "[0,8]"), 8), "overlaps the one before it: it begins at 0, that ends at 8");
  refuses(file_of(two("[0,8]", "[12,20]"), 20), R"(a hole of 4 B before tensor "b")");
  refuses(file_of(two("[4,12]", "[12,20]"), 20), R"(a hole of 4 B before tensor "a")");
  refuses(file_of(good, 25), "1 B at the end belong to no tensor");
  refuses(file_of("{}", 1), "1 B at the end belong to no tensor");
  // A message stays a line, whatever the file holds.
  CHECK(fault(directory, file_of(one_tensor(format("\"{}\"", std::string(50000, 'x')), "[1]", "[0,4]"), 4))
            .size() < 400);
}

TEST_CASE("a tensor that cannot be read is refused when it is read, and hinders no other") {
  const Directory directory;
  const std::string path = directory.file("masks.safetensors");
  write(path, file_of(R"({"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
                      R"("mask":{"dtype":"F32","shape":[1,1,2,2],"data_offsets":[8,24]},)"
                      R"("bits":{"dtype":"BOOL","shape":[3],"data_offsets":[24,27]}})",
                      27));
  const SafetensorsFile file(path);
  CHECK(file.entries().size() == 3);
  CHECK(shape(file.read("w")) == "(1, 2) f32");
  CHECK(contains(message_from([&] { file.read("mask"); }), R"(tensor "mask" has 4 axes; at most two)"));
  CHECK(contains(message_from([&] { file.read("bits"); }), R"(tensor "bits" has the dtype "BOOL"; BF16,)"));
  CHECK(contains(message_from([&] { file.read("v"); }), R"(there is no tensor "v")"));
  CHECK(contains(message_from([&] { load_safetensors(path); }), "can be read"));
  write(path, file_of(R"({"mask":{"dtype":"F32","shape":[1,1,2,2],"data_offsets":[4,20]}})", 20));
  CHECK(contains(message_from([&] { SafetensorsFile{path}; }), "a hole of 4 B"));
}

TEST_CASE("all 65536 halves of either kind are read as what they are") {
  const Directory directory;
  for (const bool brain : {false, true}) {
    std::string data;
    for (int bits = 0; bits < 65536; ++bits) data += {static_cast<char>(bits), static_cast<char>(bits >> 8)};
    write(directory.file("x"),
          file_of(one_tensor(brain ? R"("BF16")" : R"("F16")", "[256,256]", "[0,131072]")) + data);
    const Tensor read = load_safetensors(directory.file("x")).at("a");
    CHECK(shape(read) == (brain ? "(256, 256) bf16" : "(256, 256) f32"));
    const auto values = read.values();
    const int fraction = brain ? 7 : 10, bias = brain ? 127 : 15, top = brain ? 255 : 31;
    int wrong = 0;
    for (int bits = 0; bits < 65536; ++bits) {
      const int exponent = bits >> fraction & top;
      const double part = std::ldexp(bits & ((1 << fraction) - 1), -fraction);  // in [0, 1)
      const double magnitude = exponent == top ? (part > 0 ? NAN : INFINITY)
                               : exponent == 0 ? std::ldexp(part, 1 - bias)
                                               : std::ldexp(1 + part, exponent - bias);
      const double value = values[static_cast<std::size_t>(bits)];
      wrong += std::isnan(magnitude) ? !std::isnan(value) : std::abs(value) != magnitude;
      wrong += std::signbit(value) != (bits >= 32768) && !std::isnan(magnitude);
    }
    CHECK(wrong == 0);
    CHECK(values[brain ? 0x3FC0 : 0x3E00] == 1.5);
  }
}

TEST_CASE("a header over the limit is refused before any of it is read") {
  const Directory directory;
  const std::string path = directory.file("broken.safetensors");
  write(path, little_endian({100'000'001}, 8));
  fs::resize_file(path, 200'000'000);  // sparse: takes no space
  refuses<UsageError>([&] { load_safetensors(path); }, "the header of 100000001 B is over 100000000 B");
}

TEST_CASE("a header made to hurt costs no more than its size") {
  const Directory directory;
  const auto began = std::clock();  // the time of this process, however busy the machine is
  std::string axes = "1", members = R"("a":"b")";
  for (int i = 1; i < 100000; ++i) axes += ",1";
  for (int i = 1; i < 1100000; ++i) members += format(R"(,"{}":"")", i);
  CHECK(fault(directory, file_of(one_tensor(R"("F32")", "[" + axes + ",-1]", "[0,4]"), 4)).size() < 400);
  CHECK(contains(fault(directory, file_of(one_tensor(R"("F32")", "[" + axes + "]", "[0,4]"), 4)),
                 "has 100000 axes"));
  CHECK(contains(fault(directory, file_of(R"({"__metadata__":{)" + members + "}}")),
                 "more than 2000000 values"));
  CHECK(
      fault(directory, file_of(R"({"__metadata__":{"a":")" + std::string(80'000'000, 'x') + "\"}}")).empty());
  CHECK(fault(directory, file_of(R"({"a":")" + std::string(1'000'000, 'x') + "\n\"}")).size() < 400);
  CHECK(static_cast<double>(std::clock() - began) / CLOCKS_PER_SEC < 20 * thinned);  // it was minutes
}

TEST_CASE("what is no file cannot be read") {
  const Directory directory;
  for (const std::string& path : {directory.file("missing"), directory.file(""), std::string()})
    refuses<UsageError>([&] { load_safetensors(path); }, format("cannot read {}: ", path));
  refuses<UsageError>([&] { load_safetensors(directory.file("missing")); }, "No such file");
  REQUIRE(mkfifo(directory.file("pipe").c_str(), 0600) == 0);
  for (const std::string& path :
       {directory.file("pipe"), std::string("/dev/zero")})  // never ends, or never begins
    refuses<UsageError>([&] { read_file(path); }, format("cannot read {}: it is no regular file", path));
}

TEST_CASE("a file that cannot be written leaves nothing behind") {
  const Directory directory;
  const std::map<std::string, Tensor> small{{"a", Tensor::zeros(2, 2, DType::f32)}};
  const auto fails = [&](const char* name, const char* why) {
    const std::string path = directory.file(name);
    refuses<UsageError>([&] { save_safetensors(path, small); }, format("cannot write {}: {}", path, why));
  };
  fails("missing/x", "No such file or directory");
  write(directory.file("file"), "");
  fails("file/x", "Not a directory");
  fs::create_directory(directory.file("folder"));
  fails("folder", "Is a directory");
  CHECK(directory.names().size() == 2);

  if (geteuid() != 0) {  // root may write everywhere
    fs::permissions(directory.file("folder"), fs::perms::owner_read | fs::perms::owner_exec);
    fails("folder/x", "Permission denied");
    fs::permissions(directory.file("folder"), fs::perms::owner_all);
  }

  const std::string path = directory.file("x");
  CHECK_THROWS_AS(save_safetensors(path, {{"\xff", Tensor::zeros(1, 1, DType::f32)}}), UsageError);
  CHECK_THROWS_AS(save_safetensors(path, {{"__metadata__", Tensor::zeros(1, 1, DType::f32)}}), UsageError);
  CHECK_THROWS_AS(save_safetensors(path, {{"undefined", Tensor()}}), Error);
  CHECK(directory.names().size() == 2);
}

TEST_CASE("where the disk is full, the file that was there stays") {
  const Directory directory;
  const std::string path = directory.file("x");
  const std::map<std::string, Tensor> old{{"a", Tensor::of(1, 2, {1, 2})}};
  save_safetensors(path, old);
  // A limit on the size of files fails a write just as a full disk does. One size fails while the data are
  // written, the other only when the last buffer goes out.
  for (const std::int64_t rows : {100000, 600}) {
    const std::map<std::string, Tensor> larger{{"a", Tensor::zeros(rows, 1, DType::f64)}};
    rlimit before{};
    getrlimit(RLIMIT_FSIZE, &before);
    rlimit tight = before;
    tight.rlim_cur = 2048;
    const auto handler = std::signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &tight);
    const std::string message = message_from([&] { save_safetensors(path, larger); });
    setrlimit(RLIMIT_FSIZE, &before);
    std::signal(SIGXFSZ, handler);
    CHECK_MESSAGE(contains(message, format("cannot write {}: File too large", path)), message);
    CHECK(directory.names() == std::vector<std::string>{"x"});
    CHECK(load_safetensors(path).at("a").values() == std::vector<double>{1, 2});
  }
}

TEST_CASE("crc32 is zlib's") {
  CHECK(crc32("123456789", 9) == 0xCBF43926);  // the check value of its catalogue entry, CRC-32/ISO-HDLC
  CHECK(crc32("", 0) == 0);
}

TEST_CASE("with metadata every flipped bit is noticed") {
  const Directory directory;
  const std::string path = directory.file("x"), broken = directory.file("broken.safetensors");
  const auto saved = samples();
  save_safetensors(path, saved, {{"step", "7"}, {"größe", "λ"}});
  CHECK(SafetensorsFile(path).metadata().at("größe") == "λ");
  const std::string valid = read_file(path);
  int refused = 0, harmless = 0;
  for (std::size_t bit = 0; bit < 8 * valid.size(); bit += thinned) {
    std::string bytes = valid;
    bytes[bit / 8] ^= static_cast<char>(1 << bit % 8);
    if (!fault(directory, bytes).empty()) {
      ++refused;
      continue;
    }
    const auto read = load_safetensors(broken);
    for (const auto& [name, tensor] : saved) REQUIRE(read.at(name).values() == tensor.values());
    CHECK(SafetensorsFile(broken).metadata().at("step") == "7");
    ++harmless;
  }
  MESSAGE(refused << " flipped bits refused, " << harmless << " harmless");
  CHECK(harmless <= 8 * 16);  // in the name "header crc32"
}

TEST_CASE("a file reaches the disk before its name, and the name before the call returns") {
  const Directory directory;
  synced.clear();
  write_file(directory.file("x"), "1");
  REQUIRE(synced.size() == 2);
  CHECK(synced[0].starts_with(directory.file("x.")));
  CHECK(synced[1] == directory.path().string());
}

TEST_CASE("the next save removes what killed writers have left, and nothing else") {
  const Directory directory;
  for (const char* name : {"x.12-3.tmp", "x.999999-0.tmp", "x.old.tmp", "y.12-3.tmp", "x.12-3", "x.tmp"})
    write(directory.file(name), "1");
  NewFile alive(directory.file("x"));
  write_file(directory.file("x"), "2");
  alive.write("3", 1);
  alive.finish();
  CHECK(read_file(directory.file("x")) == "3");
  CHECK(directory.names() == std::vector<std::string>{"x", "x.12-3", "x.old.tmp", "x.tmp", "y.12-3.tmp"});
}

TEST_CASE("of several writers of a path none loses its file to another one that begins") {
  const Directory directory;
  std::vector<pid_t> writers(4);
  for (pid_t& writer : writers)
    if (writer = fork(); writer == 0) {
      int lost = 0;
      for (int i = 0; i < 500; ++i)
        lost += !message_from([&] { write_file(directory.file("x"), "1"); }).empty();
      _exit(lost > 0);
    }
  for (const pid_t writer : writers) {
    int status = 0;
    waitpid(writer, &status, 0);
    CHECK(status == 0);
  }
  CHECK(directory.names() == std::vector<std::string>{"x"});
}

TEST_CASE("90 kills while saving lose nothing: the file is whole, and the next save removes the rest") {
  const Directory directory;
  const std::string path = directory.file("x");
  const auto content = [](double k) {
    return std::map<std::string, Tensor>{{"a", Tensor::of(1, 1, {k})},
                                         {"b", Tensor::of(1, 40'000, std::vector<double>(40'000, k))}};
  };
  const auto began = std::chrono::steady_clock::now();
  save_safetensors(path, content(0), {{"k", "0"}});
  const auto a_save =
      std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::steady_clock::now() - began);
  std::mt19937 dice(7);
  int orphans = 0;
  double last = 0;
  for (int kill_number = 0; kill_number < 90; ++kill_number) {
    const pid_t child = fork();
    if (child == 0)
      [&]() noexcept {
        for (double k = last + 1;; ++k) save_safetensors(path, content(k), {{"k", "1"}});
      }();
    REQUIRE(child > 0);
    if (kill_number < 60)
      std::this_thread::sleep_for(a_save * (dice() % 1000) / 200);
    else  // the moment that a temporary file appears
      for (const auto start = std::chrono::steady_clock::now();
           directory.names().size() == 1 &&
           std::chrono::steady_clock::now() - start < std::chrono::seconds(20);)
        std::this_thread::yield();
    kill(child, SIGKILL);
    waitpid(child, nullptr, 0);
    orphans += directory.names().size() > 1;
    const auto found = load_safetensors(path);
    const double k = found.at("a").values()[0];
    const auto all = found.at("b").values();
    REQUIRE(std::ranges::all_of(all, [&](double value) { return value == k; }));
    CHECK(k >= last);
    last = k;
    save_safetensors(path, content(last), {{"k", "0"}});
    REQUIRE(directory.names() == std::vector<std::string>{"x"});
  }
  MESSAGE("90 kills, " << orphans << " of them with a temporary file, " << last << " saves");
  CHECK(orphans >= 10);
  CHECK(last > 0);
}

TEST_CASE("2000 broken copies of a valid file: each loads or is refused") {
  const Directory directory;
  const std::string path = directory.file("broken.safetensors");
  save_safetensors(path, samples());
  const std::string valid = read_file(path);
  const std::size_t header =
      8 + static_cast<unsigned char>(valid[0]) + 256u * static_cast<unsigned char>(valid[1]);
  std::mt19937 random(5);
  const auto below = [&](std::size_t n) { return static_cast<std::size_t>(random() % n); };
  int loaded = 0, refused = 0;
  for (int i = 0; i < 2000; ++i) {
    std::string bytes = valid;
    if (i % 4 == 0)
      bytes.resize(below(valid.size()));
    else
      for (std::size_t flips = 1 + below(3); flips > 0; --flips)
        bytes[below(i % 4 == 3 ? bytes.size() : header)] ^= static_cast<char>(1 << below(8));
    ++(fault(directory, bytes).empty() ? loaded : refused);  // anything else that is thrown ends the test
  }
  CHECK(loaded > 100);
  CHECK(refused > 1000);
}
