#include "report/journal.hpp"

#include <utility>

namespace tessera {

void Journal::call(const std::string& group, const std::string& op, bool first_of_group,
                   std::int64_t payload) {
  Traffic& row = traffic_[key(group, op)];
  if (!first_of_group) return;
  ++row.calls;
  row.payload += payload;
}

void Journal::wire(const TrafficKey& key, std::int64_t bytes, bool counted) {
  Traffic& row = traffic_[key];
  row.wire += bytes;
  row.counted = row.counted && counted;
}

double Journal::now() const {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
}

void Journal::span(std::string name, std::string category, double begin) {
  spans_.push_back({std::move(name), std::move(category), begin, now()});
}

void Journal::clear() {
  traffic_.clear();
  spans_.clear();
}

Phase::Phase(Journal& journal, std::string phase)
    : journal_(journal), outer_(std::exchange(journal.phase_, std::move(phase))), begin_(journal.now()) {}

Phase::~Phase() {
  const std::string phase = std::exchange(journal_.phase_, std::move(outer_));
  if (phase != "check") journal_.span(phase, "phase", begin_);
}

}  // namespace tessera
