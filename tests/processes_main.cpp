// What processes without MPI agree on through files (tools/file_processes.cpp); tools/processes.sh starts
// them.
#include <array>
#include <cstdlib>
#include <iostream>

#include "comm/launch.hpp"
#include "messages.hpp"
#include "tensor/error.hpp"

using namespace tessera;
using namespace tessera::test;

int main() {
  const int rank = mpi::launched_rank(), size = mpi::launched_size();
  try {
    for (int root = 0; root < size; ++root) {
      std::array<char, 128> id{};
      if (rank == root) id.fill(static_cast<char>('a' + root));
      mpi::broadcast_bytes(id.data(), id.size(), root);
      for (const char c : id) expect_eq(c, static_cast<char>('a' + root), "a byte of a broadcast");
    }
    const auto message = [](int from, int i) { return format("{} {}", from, i) + std::string(300, '\0'); };
    for (int i = 0; i < 30; ++i)
      for (int to = 0; to < size; ++to)
        if (to != rank) mpi::send_message(message(rank, i), to);
    std::array<int, 8> received{};
    for (int left = 30 * (size - 1); left > 0;) {
      const std::optional<std::string> text = mpi::receive_message();
      if (!text) continue;
      const int from = std::atoi(text->c_str());
      expect_eq(*text, message(from, received.at(static_cast<std::size_t>(from))++), "messages in order");
      --left;
    }
    mpi::expect_processes(size);
    expect(
        contains(message_from([&] { mpi::expect_processes(size + 1); }), format("{} processes were", size)),
        "the number of processes");
    expect(contains(message_from([] { mpi::launch({}, {}); }), "--transport nccl would work"), "no MPI");
    expect(contains(message_from([] { choose_transport({}, 2, DeviceKind::cpu, Transport::threads); }),
                    format("under a launcher of {} processes", size)),
           "a launcher");
    return 0;
  } catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << std::endl;
    return 3;
  }
}
