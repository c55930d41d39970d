// Journal: what one rank did, the bytes that it sent, and when. A Communicator and the groups split from it
// write one Journal.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "tensor/device.hpp"

namespace tessera {

/// The bytes of one kind of call. `payload` is the full size S of the call's argument. `wire` is the number
/// of bytes that moved between ranks: it is counted where a transport copies another rank's buffer itself;
/// elsewhere it is what a ring would send (Communicator::model_wire).
struct Traffic {
  std::int64_t calls = 0, payload = 0, wire = 0;
  bool counted = true;  // false: wire comes from the model of a ring
};

struct TrafficKey {
  std::string phase, group, op;
  auto operator<=>(const TrafficKey&) const = default;
};

/// One bar of a timeline. Times are in seconds since the launch began.
struct Span {
  std::string name, category;
  double begin, end;
  std::string flow = {};                  // one word, "out:ID" or "in:ID": the two ends of an arrow
  Event first_mark = {}, last_mark = {};  // where a GPU knows the times, until they are read
};

/// A moment of a rank, in seconds since the launch began. On a GPU the host asks for work long before it is
/// done: where the run is traced, a mark in a stream tells when the GPU came there.
struct Moment {
  double host = 0;
  Event mark = nullptr;
};

class Journal {
 public:
  using Time = std::chrono::steady_clock::time_point;
  /// For a trace the streams of the present device must be empty now: their first mark and the host's clock
  /// are taken for one moment.
  explicit Journal(Time start = std::chrono::steady_clock::now(), bool traced = false);

  /// Enters a call. Only the first rank of the group counts a collective, so that the sum over ranks counts
  /// it once.
  void call(const TrafficKey& key, bool first_of_group, std::int64_t payload);
  /// Enters bytes that move between ranks; `counted`: as in Traffic.
  void wire(const TrafficKey& key, std::int64_t bytes, bool counted);
  const std::map<TrafficKey, Traffic>& traffic() const { return traffic_; }

  const std::string& phase() const { return phase_; }
  double now() const;  ///< Seconds since the launch began, by the host's clock.
  bool traced() const { return gpu_ != nullptr; }
  Moment moment() const;  ///< Now; where the run is traced on a GPU, with a mark in the active stream.
  void span(std::string name, std::string category, const Moment& begin) {
    span(std::move(name), std::move(category), begin, moment());
  }
  void span(std::string name, std::string category, const Moment& begin, const Moment& end);
  void span(Span whole) { spans_.push_back(std::move(whole)); }
  const std::vector<Span>& spans();  ///< Waits for the marks of those that have some.
  std::size_t span_count() const { return spans_.size(); }
  void clear();  ///< Forgets traffic and spans; the clock goes on.

 private:
  friend class Phase;
  Time start_;
  std::shared_ptr<Device> gpu_;  // null: the host's times are the device's, or nobody will read them
  Moment base_;
  std::string phase_;
  std::map<TrafficKey, Traffic> traffic_;
  std::vector<Span> spans_;
};

/// While it lives, calls and time belong to this phase: "fwd", "bwd", ... The phase "check" stays out of all
/// tables.
class Phase {
 public:
  Phase(Journal& journal, std::string phase);
  ~Phase();
  Phase(const Phase&) = delete;
  Phase& operator=(const Phase&) = delete;

 private:
  Journal& journal_;
  std::string outer_;
  Moment begin_;
};

}  // namespace tessera
