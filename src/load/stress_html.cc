// The result of a stress run as one HTML page that needs nothing else.
#include <fmt/format.h>

#include <algorithm>
#include <string_view>

#include "load/stress_plots.h"
#include "load/stress_result.h"

namespace polylora {
namespace {

constexpr std::string_view kHead = R"(<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>polylora bench stress</title>
<style>
:root { color-scheme: light dark; --ink: #1c2330; --soft: #5d6878; --line: #dfe4ea; --paper: #fff; --panel: #f6f8fa;
  --good: #1a7f4b; --bad: #c0392b; --s0: #2f6fde; --s1: #d9782d; --s2: #2c9c6a; --s3: #a04bc4; --s4: #c93c60; --s5: #7a7f29; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ee; --soft: #97a3b4; --line: #333c48; --paper: #14181e;
  --panel: #1b2129; --good: #4cc38a; --bad: #f0705f; --s0: #6ea3ff; --s1: #f0a15e; --s2: #5ecb98; --s3: #c98be6;
  --s4: #f07f9c; --s5: #bfc45a; } }
* { box-sizing: border-box; }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 0 auto;
  max-width: 1180px; padding: 2rem 1.25rem 4rem; }
h1 { font-size: 1.6rem; margin: 0 0 .25rem; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .25rem; }
p { color: var(--soft); margin: .2rem 0 .8rem; max-width: 75ch; }
.verdict { border-left: 4px solid var(--good); background: var(--panel); padding: .7rem 1rem; margin: 1rem 0; }
.verdict.bad { border-color: var(--bad); } .verdict ul { margin: .3rem 0 0; padding-left: 1.2rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1.2rem; margin: 1rem 0; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: .88rem; }
th, td { padding: .32rem .6rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { color: var(--soft); font-weight: 600; } th:first-child, td:first-child { text-align: left; }
tbody tr:hover { background: var(--panel); }
.bar { display: inline-block; width: 90px; height: .55rem; background: var(--line); border-radius: 3px; margin-left: .5rem;
  vertical-align: middle; overflow: hidden; }
.bar i { display: block; height: 100%; background: var(--s0); }
td.bad { color: var(--bad); font-weight: 600; }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(340px, 1fr)); gap: 1rem; }
figure { margin: 0; background: var(--panel); border-radius: 8px; padding: .8rem .9rem; }
figcaption { font-weight: 600; font-size: .9rem; }
svg { width: 100%; height: auto; display: block; } svg text { fill: var(--soft); font: 11px system-ui, sans-serif; }
svg .grid { stroke: var(--line); } svg .reference { stroke: var(--soft); stroke-dasharray: 5 4; }
svg polyline { fill: none; stroke: currentColor; stroke-width: 1.8; } svg circle { fill: currentColor; }
svg .range { stroke: currentColor; stroke-width: 1.2; opacity: .75; }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1rem; font-size: .82rem; }
.legend i { display: inline-block; width: .7em; height: .7em; border-radius: 50%; background: currentColor;
  margin-right: .4em; }
.s0 { color: var(--s0); } .s1 { color: var(--s1); } .s2 { color: var(--s2); } .s3 { color: var(--s3); }
.s4 { color: var(--s4); } .s5 { color: var(--s5); }
</style>
</head>
<body>
<h1>Many adapters against one merged model</h1>
<p>Two servers of the same build, one with the adapter merged into the weights, one with the base and all adapters, got
the same requests in turn, round by round. Their ratio is what serving many adapters costs.</p>
)";

std::string verdict(const StressReport& report) {
  if (report.violations.empty())
    return "<div class=\"verdict\">Every request succeeded, and every threshold that was given "
           "holds.</div>\n";
  std::string items;
  for (const std::string& line : report.violations) items += fmt::format("<li>{}</li>", html_escape(line));
  return fmt::format("<div class=\"verdict bad\"><strong>Not met:</strong><ul>{}</ul></div>\n", items);
}

std::string facts(const StressReport& report) {
  std::string items;
  for (const auto& [label, value] : report.facts)
    items += fmt::format("<dt>{}</dt><dd>{}</dd>", html_escape(label), html_escape(value));
  return fmt::format("<dl>{}</dl>\n", items);
}

std::string plots(const StressReport& report) {
  std::string text;
  for (const PlotSection& section : stress_plots(report.results)) {
    text += fmt::format("<h2>{}</h2>\n<p>{}</p>\n<div class=\"plots\">\n", html_escape(section.title),
                        html_escape(section.caption));
    for (const Plot& plot : section.plots) text += svg_plot(plot);
    text += "</div>\n";
  }
  return text;
}

std::string row(const CellResult& result) {
  const SideSummary &merged = result.merged, &adapters = result.adapters;
  const double mib = 1 << 20;
  const int failed = merged.failed + adapters.failed + result.churn.failed;
  return fmt::format(
      "<tr><td>{}</td><td>{:.3f}<span class=\"bar\"><i style=\"width:{:.0f}%\"></i></span></td><td>{:.3f} – "
      "{:.3f}</td>"
      "<td>{:.1f}</td><td>{:.1f}</td><td>{:.0f} / {:.0f}</td><td>{:.0f} / {:.0f}</td><td>{:.1f} / {:.1f}</td>"
      "<td>{:.1f} / {:.1f}</td><td>{:.3f}</td><td>{:.0f}</td><td>{:.0f}</td><td{}>{}</td></tr>\n",
      html_escape(result.cell.name()), result.ratio.median, std::clamp(result.ratio.median, 0.0, 1.0) * 100,
      result.ratio.smallest, result.ratio.largest, merged.output_throughput, adapters.output_throughput,
      merged.ttft_p50_ms, merged.ttft_p99_ms, adapters.ttft_p50_ms, adapters.ttft_p99_ms, merged.itl_p50_ms,
      merged.itl_p99_ms, adapters.itl_p50_ms, adapters.itl_p99_ms, result.fairness,
      static_cast<double>(merged.resident_bytes) / mib, static_cast<double>(adapters.resident_bytes) / mib,
      failed > 0 ? " class=\"bad\"" : "", failed);
}

std::string table(const StressReport& report) {
  std::string rows;
  for (const CellResult& result : report.results) rows += row(result);
  return "<h2>All cells</h2>\n<p>A cell is popularity / adapters / ranks / concurrency. Latencies are p50 / "
         "p99 over all "
         "rounds. Fairness is Jain's index of the adapters' tokens per second while they are served: 1 when "
         "all adapters "
         "are equally fast.</p>\n<div "
         "class=\"scroll\"><table>\n<thead><tr><th>cell</th><th>ratio</th><th>min – max</th>"
         "<th>merged tok/s</th><th>adapters tok/s</th><th>merged TTFT ms</th><th>adapters TTFT ms</th>"
         "<th>merged ITL ms</th><th>adapters ITL ms</th><th>fairness</th><th>merged MiB</th><th>adapters "
         "MiB</th>"
         "<th>failed</th></tr></thead>\n<tbody>\n" +
         rows + "</tbody>\n</table></div>\n";
}

}  // namespace

std::string stress_html(const StressReport& report) {
  return std::string(kHead) + verdict(report) + facts(report) + plots(report) + table(report) +
         "</body>\n</html>\n";
}

}  // namespace polylora
