// aggregator/connector_pool.hpp: from the samples of connectors' streams to their statistics.
//
// A stream named `connector:NAME` or `connector:NAME:PART` is what the connector NAME reports.
// vLLM's connectors have statistics of their own; any other is a user's, whose counters and
// distributions are pooled under the names of their fields.
#pragma once

#include <rankbus/aggregator/connector_stats.hpp>
#include <rankbus/aggregator/segment_reader.hpp>
#include <string>

namespace rankbus {

// Takes one record of the connector into its statistics.
void pool_connector_sample(const std::string& connector, const SegmentReader& reader,
                           const Sample& sample, MultiConnectorStats& stats);

}  // namespace rankbus
