#include "serve/http_message.h"

#include <algorithm>

namespace polylora {

namespace {

char lower(char c) {
  return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
}

}  // namespace

bool equal_ignoring_case(std::string_view a, std::string_view b) {
  return std::ranges::equal(a, b, [](char x, char y) { return lower(x) == lower(y); });
}

HttpResponse json_answer(std::string body, int status) {
  HttpResponse response;
  response.status = status;
  response.body = std::move(body);
  return response;
}

HttpResponse plain_answer(std::string body) {
  HttpResponse response;
  response.content_type.clear();
  response.body = std::move(body);
  return response;
}

std::string_view HttpHeaders::get(std::string_view name) const {
  for (const auto& [key, value] : entries_)
    if (equal_ignoring_case(key, name)) return value;
  return {};
}

bool HttpHeaders::has(std::string_view name) const {
  return std::ranges::any_of(entries_,
                             [&](const auto& entry) { return equal_ignoring_case(entry.first, name); });
}

}  // namespace polylora
