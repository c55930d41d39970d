// An all-reduce for each of the many gradients of a model would pay many latencies, and a single one for all
// gradients could start only at the end of the backward. So they are summed in buckets: contiguous ranges of
// the row that holds all gradients (GradientBuffer). The backward runs from the last layer to the first; the
// all-reduce of a bucket starts as soon as all gradients in it are complete. PyTorch's
// DistributedDataParallel does the same (Li et al. 2020, section 3.2).
#pragma once

#include <algorithm>
#include <vector>

#include "gpt/builder.hpp"

namespace tessera::data_parallel {

using gpt::Parameter;

class Buckets {
 public:
  Buckets() = default;
  /// `all` (1, Psi) holds the gradients of `parameters` in their order. Each bucket but the last has at least
  /// `bytes`; where experts begin or end (lesson 12), so does a bucket.
  Buckets(const Tensor& all, const std::vector<Parameter>& parameters, std::int64_t bytes) : all_(all) {
    std::int64_t end = all.size();
    for (std::size_t i = parameters.size(); i-- > 0;) {
      const std::int64_t at = offset(parameters, i);
      if ((end - at) * static_cast<std::int64_t>(size_of(all.dtype())) < bytes && i > 0 &&
          parameters[i - 1].expert == parameters[i].expert)
        continue;
      ranges_.push_back({at, end}), of_experts_.push_back(parameters[i].expert);
      end = at;
    }
  }

  // begin buckets
  // task 07.bucket (function, 2 points, 20 min): every gradient from `offset` on is final: post what can be
  // summed, over dp, or over expert_dp where of_experts_ says so. Hint: buckets lie from the back to the
  // front, and next_ is the first that is not posted.
  void ready_from(std::int64_t offset, Communicator& dp, Communicator& expert_dp) {
    for (; next_ < ranges_.size() && ranges_[next_].begin >= offset; ++next_)
      posted_.push_back((of_experts_[next_] ? expert_dp : dp)
                            .iall_reduce(all_.column_range(ranges_[next_].begin, ranges_[next_].end)));
  }
  // end task
  void ready_from(std::int64_t offset, Communicator& dp) { ready_from(offset, dp, dp); }

  /// Waits until every bucket has been summed.
  void finish() {
    for (Request& request : posted_) request.wait();
    posted_.clear();
    next_ = 0;
  }
  // end buckets

  std::size_t count(bool experts = false) const { return std::ranges::count(of_experts_, experts); }
  std::size_t posted() const { return next_; }

  /// The place in the row where the gradient of parameter `index` begins.
  static std::int64_t offset(const std::vector<Parameter>& parameters, std::size_t index) {
    std::int64_t at = 0;
    for (std::size_t i = 0; i < index; ++i) at += parameters[i].value.size();
    return at;
  }

 private:
  Tensor all_;
  std::vector<Range> ranges_;  // from the last gradients to the first
  std::vector<bool> of_experts_;
  std::vector<Request> posted_;
  std::size_t next_ = 0;
};

}  // namespace tessera::data_parallel
