// How much adapter weights may take, and what they take now.
#pragma once

#include <cstddef>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>

namespace polylora {

/// Thread-safe. Shared by its reservations, which may outlive the registry that made it.
class AdapterBudget : public std::enable_shared_from_this<AdapterBudget> {
 public:
  AdapterBudget(size_t max_bytes, int max_count) : max_bytes_(max_bytes), max_count_(max_count) {}

  /// A share of the budget, given back on destruction.
  class Reservation {
   public:
    Reservation() = default;
    ~Reservation() { release(); }
    Reservation(Reservation&& other) noexcept { *this = std::move(other); }
    Reservation& operator=(Reservation&& other) noexcept {
      std::swap(budget_, other.budget_);
      std::swap(bytes_, other.bytes_);
      return *this;
    }

    /// Corrects an estimate, even beyond the budget: the memory is taken already.
    void resize(size_t bytes);

   private:
    friend class AdapterBudget;
    Reservation(std::shared_ptr<AdapterBudget> budget, size_t bytes)
        : budget_(std::move(budget)), bytes_(bytes) {}
    void release();

    std::shared_ptr<AdapterBudget> budget_;
    size_t bytes_ = 0;
  };

  /// Empty when it does not fit now.
  std::optional<Reservation> reserve(size_t bytes) {
    const std::scoped_lock lock(mutex_);
    if (bytes_ + bytes > max_bytes_ || (max_count_ > 0 && count_ >= max_count_)) return std::nullopt;
    bytes_ += bytes;
    ++count_;
    return Reservation(shared_from_this(), bytes);
  }

  size_t max_bytes() const { return max_bytes_; }
  int max_count() const { return max_count_; }
  size_t bytes() const {
    const std::scoped_lock lock(mutex_);
    return bytes_;
  }
  int count() const {
    const std::scoped_lock lock(mutex_);
    return count_;
  }

 private:
  const size_t max_bytes_;
  const int max_count_;  // 0: any
  mutable std::mutex mutex_;
  size_t bytes_ = 0;
  int count_ = 0;
};

inline void AdapterBudget::Reservation::resize(size_t bytes) {
  if (budget_ == nullptr) return;
  const std::scoped_lock lock(budget_->mutex_);
  budget_->bytes_ += bytes - bytes_;  // unsigned: wraps back when it shrinks
  bytes_ = bytes;
}

inline void AdapterBudget::Reservation::release() {
  if (budget_ == nullptr) return;
  {
    const std::scoped_lock lock(budget_->mutex_);
    budget_->bytes_ -= bytes_;
    --budget_->count_;
  }
  budget_.reset();
}

}  // namespace polylora
