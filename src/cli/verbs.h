// The verbs of the command line: one file each. They take the words after the verb and return the exit code;
// errors are thrown and reported by main.
#pragma once

#include <string>
#include <vector>

namespace polylora {

int run_serve(std::vector<std::string> words);
int run_chat(std::vector<std::string> words);

}  // namespace polylora
