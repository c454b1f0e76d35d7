// `polylora serve` of this same binary as a child process.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstddef>
#include <filesystem>
#include <stop_token>
#include <string>
#include <vector>

#include "load/server_url.h"

namespace polylora {

/// Runs on the loopback interface and a free port as long as this object lives. It ends with its parent too,
/// however that ends, so construct it on a thread that lives as long.
class ServerProcess {
 public:
  /// `arguments` follow the verb; host and port are added. Output goes to `log`. `runtime_lora`: the routes
  /// that load and unload adapters exist. Returns at once.
  ServerProcess(const std::vector<std::string>& arguments, const std::filesystem::path& log,
                bool runtime_lora);
  ~ServerProcess();  // lets it finish, and kills it when that takes long
  ServerProcess(const ServerProcess&) = delete;
  ServerProcess& operator=(const ServerProcess&) = delete;

  /// Waits until it listens. Throws kUnavailable with the last line of its log when it ended first, took too
  /// long, or `stop` was requested.
  ServerUrl wait_until_listening(const std::stop_token& stop);

  /// 0 when it is gone.
  size_t resident_bytes() const;

 private:
  bool has_ended();

  std::filesystem::path log_;
  pid_t pid_ = -1;
  bool reaped_ = false;
};

}  // namespace polylora
