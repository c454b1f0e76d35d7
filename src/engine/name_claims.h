// One at a time for each name.
#pragma once

#include <condition_variable>
#include <mutex>
#include <set>
#include <string>

namespace polylora {

/// Thread-safe.
class NameClaims {
 public:
  /// Held by whoever works on a name; others who want the same name wait for its end.
  class Claim {
   public:
    Claim(NameClaims& claims, const std::string& name) : claims_(claims), name_(name) {
      std::unique_lock lock(claims_.mutex_);
      claims_.released_.wait(lock, [&] { return !claims_.claimed_.contains(name_); });
      claims_.claimed_.insert(name_);
    }
    ~Claim() {
      {
        const std::scoped_lock lock(claims_.mutex_);
        claims_.claimed_.erase(name_);
      }
      claims_.released_.notify_all();
    }
    Claim(const Claim&) = delete;
    Claim& operator=(const Claim&) = delete;

   private:
    NameClaims& claims_;
    const std::string name_;
  };

 private:
  std::mutex mutex_;
  std::condition_variable released_;
  std::set<std::string> claimed_;
};

}  // namespace polylora
