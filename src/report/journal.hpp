// Journal records what one rank did: which bytes it sent, and when. A Communicator and the groups split from
// it write one Journal.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <string>
#include <tuple>
#include <vector>

namespace tessera {

/// The bytes of one kind of call. `payload` is the full size S of the call's argument. `wire` are the bytes
/// that crossed between ranks: a transport that copies another rank's buffer counts them, for others it is
/// what a ring algorithm would send (Communicator::model_wire).
struct Traffic {
  std::int64_t calls = 0, payload = 0, wire = 0;
  bool counted = true;  // false: wire is a model
};

struct TrafficKey {
  std::string phase, group, op;
  auto operator<=>(const TrafficKey&) const = default;
};

/// One bar of a timeline, in seconds since the launch began.
struct Span {
  std::string name, category;
  double begin, end;
  std::string flow = {};  // "out:ID" and "in:ID", the ends of an arrow, one word
};

class Journal {
 public:
  explicit Journal(std::chrono::steady_clock::time_point start = std::chrono::steady_clock::now())
      : start_(start) {}

  /// The first rank of a group enters its collectives, so that a sum over ranks counts each of them once.
  void call(const std::string& group, const std::string& op, bool first_of_group, std::int64_t payload);
  void wire(const TrafficKey& key, std::int64_t bytes, bool counted);
  TrafficKey key(const std::string& group, const std::string& op) const { return {phase_, group, op}; }
  const std::map<TrafficKey, Traffic>& traffic() const { return traffic_; }

  const std::string& phase() const { return phase_; }
  double now() const;
  void span(std::string name, std::string category, double begin);  ///< Ends now.
  void span(Span whole) { spans_.push_back(std::move(whole)); }
  const std::vector<Span>& spans() const { return spans_; }
  void clear();  ///< Forgets traffic and spans. The clock goes on.

 private:
  friend class Phase;
  std::chrono::steady_clock::time_point start_;
  std::string phase_;
  std::map<TrafficKey, Traffic> traffic_;
  std::vector<Span> spans_;
};

/// Calls and time of this scope belong to the phase: "fwd", "bwd", or "check", which stays out of all tables.
class Phase {
 public:
  Phase(Journal& journal, std::string phase);
  ~Phase();
  Phase(const Phase&) = delete;
  Phase& operator=(const Phase&) = delete;

 private:
  Journal& journal_;
  std::string outer_;
  double begin_;
};

}  // namespace tessera
