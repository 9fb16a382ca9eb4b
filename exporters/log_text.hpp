// exporters/log_text.hpp: makes text that a producer chose harmless in a log line or a terminal.
#pragma once

#include <string>
#include <string_view>

namespace rankbus {

// Appends `text` without control characters (C0, DEL, C1), whole terminal escape sequences, line
// and paragraph separators and bidirectional controls. None of these says anything in a model's
// name, and each can forge a line, hide one, or drive the reader's terminal. What is not UTF-8
// becomes U+FFFD.
void append_log_text_untrusted(std::string_view text, std::string& out);

}  // namespace rankbus
