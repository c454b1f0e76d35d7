// What Prometheus' own client libraries report about their process.
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

#include "serve/snapshot_metrics.h"

namespace polylora {

namespace {

prometheus::MetricFamily single(const char* name, const char* help, prometheus::MetricType type,
                                double value) {
  prometheus::ClientMetric metric;
  (type == prometheus::MetricType::Counter ? metric.counter.value : metric.gauge.value) = value;
  return {name, help, type, {std::move(metric)}};
}

/// Field `number` (from 1) of /proc/self/stat, counted after the command name, which may hold spaces.
double stat_field(int number) {
  std::ifstream file("/proc/self/stat");
  std::string line;
  std::getline(file, line);
  std::istringstream fields(line.substr(std::min(line.size(), line.rfind(')') + 2)));
  std::string field;
  for (int i = 3; i <= number; ++i) fields >> field;
  return field.empty() ? 0 : std::stod(field);
}

double start_time_seconds() {
  timespec boot{};
  clock_gettime(CLOCK_BOOTTIME, &boot);
  const double since_boot = static_cast<double>(boot.tv_sec) + static_cast<double>(boot.tv_nsec) * 1e-9;
  const double now =
      std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
  return now - since_boot + stat_field(22) / static_cast<double>(sysconf(_SC_CLK_TCK));
}

double cpu_seconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_usec) * 1e-6;
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

double open_files() {
  std::error_code error;
  double count = 0;
  for (std::filesystem::directory_iterator it("/proc/self/fd", error), end; !error && it != end;
       it.increment(error))
    ++count;
  return count;
}

double max_files() {
  rlimit limit{};
  getrlimit(RLIMIT_NOFILE, &limit);
  return static_cast<double>(limit.rlim_cur);
}

}  // namespace

std::vector<prometheus::MetricFamily> process_metrics() {
  using prometheus::MetricType;
  static const double started = start_time_seconds();
  const auto page = static_cast<double>(sysconf(_SC_PAGESIZE));
  return {
      single("process_virtual_memory_bytes", "Virtual memory size in bytes.", MetricType::Gauge,
             stat_field(23)),
      single("process_resident_memory_bytes", "Resident memory size in bytes.", MetricType::Gauge,
             stat_field(24) * page),
      single("process_start_time_seconds", "Start time of the process since unix epoch in seconds.",
             MetricType::Gauge, started),
      single("process_cpu_seconds_total", "Total user and system CPU time spent in seconds.",
             MetricType::Counter, cpu_seconds()),
      single("process_open_fds", "Number of open file descriptors.", MetricType::Gauge, open_files()),
      single("process_max_fds", "Maximum number of open file descriptors.", MetricType::Gauge, max_files()),
  };
}

}  // namespace polylora
