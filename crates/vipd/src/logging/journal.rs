//! Priorities for the journal, where it is what reads standard error.
//!
//! It takes `<N>` in front of a line for its priority (sd-daemon(3)), so that `journalctl -p warning` shows what it should. It also
//! notes when a line came, which needs not be written twice.

use std::borrow::Cow;
use std::fmt;
use std::io;

use rustix::fs::{FileType, fstat};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// Which stream leads to the journal: its device and inode.
const STREAM: &str = "JOURNAL_STREAM";

/// Whether standard error leads to the journal. That it did when the service was started is not enough: it may have been redirected.
pub(super) fn reads_stderr() -> bool {
    let Ok(stream) = std::env::var(STREAM) else { return false };
    let Ok(stat) = fstat(io::stderr()) else { return false };
    FileType::from_raw_mode(stat.st_mode) == FileType::Socket
        && stream == format!("{}:{}", stat.st_dev, stat.st_ino)
}

/// Each line of what is said to an operator, with its priority: errors are 3, warnings 4, and all else is information.
pub(super) fn prioritised(text: &str) -> Cow<'_, str> {
    let priority = match text.split([':', ' ']).next() {
        Some("error" | "thread") => 3,
        Some("warning") => 4,
        Some(_) | None => 6,
    };
    let lines: Vec<String> = text.lines().map(|line| format!("<{priority}>{line}")).collect();
    lines.join("\n").into()
}

/// A format of events with the priority in front, where the journal reads them.
pub(super) struct Prioritised<F> {
    pub(super) format: F,
    pub(super) journal: bool,
}

impl<S, N, F> FormatEvent<S, N> for Prioritised<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        if self.journal {
            write!(writer, "<{}>", priority(*event.metadata().level()))?;
        }
        self.format.format_event(context, writer, event)
    }
}

/// The priority of syslog(3) that a level has.
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_has_the_priority_of_the_first() {
        assert_eq!(prioritised("error: it is broken"), "<3>error: it is broken");
        assert_eq!(
            prioritised("warning: f:1:2: odd\n  help: mend it"),
            "<4>warning: f:1:2: odd\n<4>  help: mend it"
        );
        assert_eq!(prioritised("ok: f: fits"), "<6>ok: f: fits");
    }
}
