#include "report/journal.hpp"

#include <utility>

namespace tessera {

Journal::Journal(Time start, bool traced) : start_(start) {
  if (traced && Device::current()->kind() == DeviceKind::cuda) gpu_ = Device::current();
  base_ = moment();
}

void Journal::call(const TrafficKey& key, bool first_of_group, std::int64_t payload) {
  Traffic& row = traffic_[key];
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

Moment Journal::moment() const { return {now(), gpu_ ? gpu_->mark() : nullptr}; }

void Journal::span(std::string name, std::string category, const Moment& begin, const Moment& end) {
  spans_.push_back({std::move(name), std::move(category), begin.host, end.host, "", begin.mark, end.mark});
}

const std::vector<Span>& Journal::spans() {
  for (Span& span : spans_) {
    if (!span.first_mark || !span.last_mark) continue;
    span.begin = base_.host + gpu_->seconds_between(base_.mark, std::exchange(span.first_mark, nullptr));
    span.end = base_.host + gpu_->seconds_between(base_.mark, std::exchange(span.last_mark, nullptr));
  }
  return spans_;
}

void Journal::clear() {
  traffic_.clear();
  spans_.clear();
}

Phase::Phase(Journal& journal, std::string phase)
    : journal_(journal), outer_(std::exchange(journal.phase_, std::move(phase))), begin_(journal.moment()) {}

Phase::~Phase() {
  const std::string phase = std::exchange(journal_.phase_, std::move(outer_));
  if (phase != "check") journal_.span(phase, "phase", begin_);
}

}  // namespace tessera
