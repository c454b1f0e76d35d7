#include "cli/server_process.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <string_view>
#include <thread>

#include "base/error.h"
#include "base/file.h"

extern char** environ;

namespace polylora {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

constexpr std::string_view kListening = "polylora is listening on ";
constexpr std::string_view kRuntimeLora = "VLLM_ALLOW_RUNTIME_LORA_UPDATING";
constexpr std::chrono::seconds kStartTimeout{600};
constexpr std::chrono::seconds kStopTimeout{10};
constexpr std::chrono::milliseconds kPoll{20};

/// Null-terminated pointers into `texts`, as exec wants them.
std::vector<char*> pointers(std::vector<std::string>& texts) {
  std::vector<char*> result;
  for (std::string& text : texts) result.push_back(text.data());
  result.push_back(nullptr);
  return result;
}

std::vector<std::string> environment(bool runtime_lora) {
  std::vector<std::string> variables;
  for (char** variable = environ; *variable != nullptr; ++variable) {
    if (!std::string_view(*variable).starts_with(kRuntimeLora)) variables.emplace_back(*variable);
  }
  if (runtime_lora) variables.push_back(std::string(kRuntimeLora) + "=1");
  return variables;
}

/// In the child: only what is allowed between fork and exec of a program with threads.
[[noreturn]] void become_server(pid_t parent, int log, char* const* arguments, char* const* variables) {
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(1);  // it ended before the line above
  setpgid(0, 0);                      // an interrupt from the terminal is for the parent, which then stops us
  dup2(log, STDOUT_FILENO);
  dup2(log, STDERR_FILENO);
  execve("/proc/self/exe", arguments, variables);
  _exit(127);
}

/// What a server said last, without the mark that the line gets again from us.
std::string last_words(std::string text) {
  constexpr std::string_view kMark = "polylora: error: ";
  while (text.ends_with('\n')) text.pop_back();
  text.erase(0, text.rfind('\n') + 1);
  return text.starts_with(kMark) ? text.substr(kMark.size()) : text;
}

}  // namespace

ServerProcess::ServerProcess(const std::vector<std::string>& arguments, const fs::path& log,
                             bool runtime_lora)
    : log_(log) {
  std::vector<std::string> command = {"polylora", "serve"};
  command.insert(command.end(), arguments.begin(), arguments.end());
  command.insert(command.end(), {"--host", "127.0.0.1", "--port", "0"});
  std::vector<std::string> variables = environment(runtime_lora);
  const std::vector<char*> argv = pointers(command), envp = pointers(variables);
  const int file = open(log.c_str(), O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0644);
  if (file < 0) fail(ErrorCode::kIo, "cannot write {}", log.string());
  const pid_t parent = getpid();
  pid_ = fork();
  if (pid_ == 0) become_server(parent, file, argv.data(), envp.data());
  close(file);
  if (pid_ < 0) fail(ErrorCode::kIo, "cannot start another process");
}

ServerProcess::~ServerProcess() {
  if (has_ended()) return;
  kill(pid_, SIGTERM);
  for (const Clock::time_point end = Clock::now() + kStopTimeout; Clock::now() < end;) {
    if (has_ended()) return;
    std::this_thread::sleep_for(kPoll);
  }
  kill(pid_, SIGKILL);
  waitpid(pid_, nullptr, 0);
}

bool ServerProcess::has_ended() {
  if (!reaped_ && waitpid(pid_, nullptr, WNOHANG) == pid_) reaped_ = true;
  return reaped_;
}

ServerUrl ServerProcess::wait_until_listening(const std::stop_token& stop) {
  for (const Clock::time_point end = Clock::now() + kStartTimeout;;) {
    const bool ended = has_ended();  // before the log is read: then it is complete
    const std::string text = read_text_file(log_);
    const size_t at = text.find(kListening), line_end = text.find('\n', at);
    if (at != std::string::npos && line_end != std::string::npos)
      return parse_server_url(
          std::string_view(text).substr(at + kListening.size(), line_end - at - kListening.size()));
    if (ended) fail(ErrorCode::kUnavailable, "a server did not start: {}", last_words(text));
    if (stop.stop_requested()) fail(ErrorCode::kUnavailable, "interrupted");
    if (Clock::now() > end)
      fail(ErrorCode::kUnavailable, "a server took too long to start: {}", last_words(text));
    std::this_thread::sleep_for(kPoll);
  }
}

size_t ServerProcess::resident_bytes() const {
  std::ifstream statm(fmt::format("/proc/{}/statm", pid_));
  size_t total = 0, resident = 0;
  statm >> total >> resident;
  return resident * static_cast<size_t>(sysconf(_SC_PAGESIZE));
}

}  // namespace polylora
